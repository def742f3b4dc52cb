"""Print the page of what several processes make of it: ``python -m tests.distributed.table > docs/equality.md``.

It runs every cell, which takes some minutes; ``pytest -m sweep tests/distributed`` tests the same.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.distributed.cells import FEATURES, LAUNCHERS
from tests.distributed.fully_sharded import OPTIMIZERS
from tests.distributed.launching import TOLERANCE, Runs, by_processes, cells_of

INTRODUCTION = f"""# What is the same on several processes

Each cell is a run of `hfft train` on several real processes (CPU, gloo), against one process with the same global batch
of 12: small models without dropout, 36 examples and a few more, a validation split of 13 and a test split of 17.
"equal to 3e-7" is the largest difference that was found in any weight, prediction, metric or loss, as a share of the
largest number of its tensor or column (below 0.1, of 0.1); beyond {TOLERANCE:.0e} a cell fails. In each the processes
stopped after the same step, chose the same checkpoint, pooling and head, left the same examples out, predicted every
test example once and in its order, and those that train were wrapped by `DistributedDataParallel`. Metrics of ranks
(AUROC, average precision) are left out: of outputs that hardly differ rounding decides which is the larger.

- **2 ranks**, **3 ranks**: `torchrun --standalone`, 36 training examples, three steps an epoch.
- **uneven**: the last step of an epoch has one example for two ranks, two for three.
- **accumulation 2**: two micro-batches of three on each rank.
- **two nodes**: two agents of `torchrun --nnodes 2` that meet on loopback.
- **fully_shard**: torch's own, on a CPU mesh of two ranks and of three (the larger difference), in a plain loop with
  `layerwise_param_groups` and `GradualUnfreezing`.
- **FSDP2 in the Trainer**: accelerate keeps it for accelerators. What stands there was run on two CPU ranks that
  `tests/distributed/test_sharding.py` declares to be such.

SIGTERM reaches the last rank alone; all stop after the same step with exit code 75, and `--resume` ends in the weights
of a run that nothing stopped. In "processes that disagree" all but the first are made to find another head, pooling
and metrics: what the first one decides counts. In "batches too large" all but the first run out of memory in the
backward pass, with more than two examples or one; in "a gradient that is no number" the last one has such a loss once.

Made by `python -m tests.distributed.table`, tested by `pytest -m sweep`.
"""

NEEDS_GPU = "not run here: needs a GPU"
# what tests/distributed/test_sharding.py asserts, on two CPU ranks that it declares to be GPUs
UNDER_FSDP2 = {
    "gradual unfreezing, AdamW": "equal to within 1e-06",
    "resume between thaws": "equal to within 1e-06",
    "lp-ft": "ships the metrics that it tells",
    "auto": "from a random head; ships the metrics that it tells",
    **dict.fromkeys(("lora", "lora, SIGTERM and --resume"), "refused: adapters are merged into the whole model"),
}
SHARDED = {
    "layer-wise rates (full), SGD": "full, SGD",
    "layer-wise rates (full), AdamW": "full, AdamW",
    "gradual unfreezing, SGD": "gradual, SGD",
    "gradual unfreezing, AdamW": "gradual, AdamW",
    "freeze": "freeze, SGD",
    "resume between thaws": "gradual, AdamW, from",
}
"""Feature -> what the names of its measurements under ``fully_shard`` begin with."""


def table(runs: Runs) -> Iterator[str]:
    """Yield the lines of the page."""
    for cells in by_processes(cells_of(LAUNCHERS)):
        runs.launch(cells, shards=list(OPTIMIZERS) if LAUNCHERS[cells[0][1]].nodes == 1 else [])
    yield INTRODUCTION
    yield "| | " + " | ".join([*LAUNCHERS, "fully_shard", "FSDP2 in the Trainer", "DeepSpeed"]) + " |"
    yield "|---" * (len(LAUNCHERS) + 4) + "|"
    for feature in FEATURES:
        cells = [_cell(runs, feature, launcher) for launcher in LAUNCHERS]
        by_trainer = UNDER_FSDP2.get(feature, NEEDS_GPU)
        yield f"| {feature} | " + " | ".join([*cells, _sharded_cell(runs, feature), by_trainer, NEEDS_GPU]) + " |"
    yield ""
    yield "From a checkpoint before, at and after each of four thaws, whole and sharded, `fully_shard` goes on to:"
    yield ""
    sharded = {name: max(runs.sharded(ranks)[name] for ranks in (2, 3)) for name in runs.sharded(2)}
    yield from (f"- {name}: {_told(value)}" for name, value in sharded.items() if "from" in name)


def _cell(runs: Runs, feature: str, launcher: str) -> str:
    if fault := runs.fault(feature, launcher):
        return f"**differs**: {fault.splitlines()[0]}"
    if FEATURES[feature].refused:
        return f"refused: {FEATURES[feature].refused.format(ranks=LAUNCHERS[launcher].ranks)}"
    return _told(runs.difference(feature, launcher))


def _sharded_cell(runs: Runs, feature: str) -> str:
    if feature not in SHARDED:
        return "not run here: the Trainer's part"
    name = SHARDED[feature]
    found = [runs.sharded(ranks) for ranks in (2, 3)]
    chosen = [value for facts in found for key, value in facts.items() if key == name or key.startswith(f"{name} ")]
    return _told(max(chosen))


def _told(difference: float) -> str:
    return f"equal to {difference:.0e}" if difference else "equal"


if __name__ == "__main__":
    page = sys.stdout
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(sys.stderr):
        for line in table(Runs(Path(root))):
            print(line, file=page)
