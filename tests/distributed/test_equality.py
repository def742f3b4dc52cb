"""What holds on one process holds on several: real processes, each run compared with one process.

A few of the cells of docs/equality.md; ``pytest -m sweep`` runs all of them.
"""

from __future__ import annotations

import pytest

from tests.distributed.cells import FEATURES, LAUNCHERS
from tests.distributed.fully_sharded import OPTIMIZERS
from tests.distributed.launching import TOLERANCE, Cell, Runs, by_processes, cells_of, forked

# the last step of an epoch has one example for two ranks, or two for three
FEW = {
    "2 ranks, uneven": [
        *("layer-wise rates (full), AdamW", "gradual unfreezing, SGD", "cached views", "multi-label, smoothed"),
        *(
            "SIGTERM and --resume",
            "lora",
            "processes that disagree",
            "batches too large for one",
            "a gradient that is no number",
            "other files on one machine",
            "no such data",
            "machines of other precisions",
        ),
    ],
    "3 ranks, uneven": ["processes that disagree, linear-probe", "regression", "auto"],
}
CELLS = [(feature, launcher) for launcher, features in FEW.items() for feature in features]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs of a few cells, in two launches."""
    runs = Runs(tmp_path_factory.mktemp("few"))
    for cells in by_processes(CELLS):
        shards = ["AdamW"] if LAUNCHERS[cells[0][1]].ranks == 2 else []
        runs.launch(cells, shards, start=forked, thaws=2)
    return runs


@pytest.mark.parametrize(("feature", "launcher"), CELLS)
def test_several_processes_train_the_model_that_one_would(few: Runs, feature: str, launcher: str):
    if FEATURES[feature].refused:
        few.refusal(feature, launcher)
    else:
        few.difference(feature, launcher)


def test_sharded_layers_thaw_and_resume_as_on_one_process(few: Runs):
    found = few.sharded(2)
    assert {name for name in found if "checkpoints" in name} == {
        f"gradual, AdamW, from 5 {kind} checkpoints" for kind in ("whole", "sharded")
    }
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.sweep
@pytest.mark.parametrize("cells", by_processes(cells_of(LAUNCHERS)), ids=lambda cells: cells[0][1])
def test_all_cells(cells: list[Cell], tmp_path_factory: pytest.TempPathFactory):
    runs = Runs(tmp_path_factory.mktemp("all"))
    runs.launch(cells, shards=list(OPTIMIZERS))
    sharded = runs.sharded(LAUNCHERS[cells[0][1]].ranks)
    assert max(sharded.values()) < TOLERANCE, sharded
    wrong = [f"{launcher}: {feature}: {told}" for feature, launcher in cells if (told := runs.fault(feature, launcher))]
    assert not wrong
