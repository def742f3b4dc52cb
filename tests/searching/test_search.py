"""Searches: what a trial is worth, what it may not look at, what goes wrong, and what goes on."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml
from transformers import PreTrainedModel

import hfft
from hfft import UserError, cli
from hfft.running.preparing import Preparation
from hfft.searching import attempt, cases, running
from hfft.searching.attempt import Objective, Part
from hfft.searching.space import grid_of, read_space
from tests.conftest import counted_features, garbage_collected_as_before, make_sentences, write_csv

pytest.importorskip("optuna")

GRID = {"head_penalty": [1e-3, 10.0], "head_solver": ["ridge", "prototypes"]}


@pytest.fixture(scope="module")
def settings(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("texts")
    write_csv(folder / "data" / "train.csv", make_sentences(45, 1))
    write_csv(folder / "data" / "test.csv", make_sentences(9, 2))
    return {
        "model": str(tiny_bert), "data": str(folder / "data"), "strategy": "linear-probe", "disable_tqdm": True,
        "seed": 3, "cache_dir": str(folder / "cache"), "pooling": "mean", "metric_for_best_model": "log_loss",
        "validation_size": 0.2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def counts() -> Iterator[list[int]]:
    with counted_features() as found:
        yield found


@pytest.fixture(scope="module")
def result(settings, counts, tmp_path_factory: pytest.TempPathFactory) -> hfft.SearchResult:
    own = {name: value for name, value in settings.items() if name != "validation_size"}
    out = tmp_path_factory.mktemp("search") / "out"
    return hfft.search(**own, output_dir=str(out), space=GRID, sampler="grid")


def values(result: hfft.SearchResult) -> list[float | None]:
    return [row["value"] for row in result.trials]


def test_the_best_of_a_grid_is_made_a_run_and_tested(result):
    assert [row["parameters"] for row in result.trials] == grid_of(read_space(GRID))
    assert result.value == min(values(result))
    assert result.best == result.trials[values(result).index(result.value)]["parameters"]
    folder = Path(result.output_dir)
    run = yaml.safe_load((folder / "run.yaml").read_text())
    assert {name: run[name] for name in result.best} == result.best
    assert result.metrics == json.loads((folder / "metrics.json").read_text())
    assert (result.metrics["train_examples"], result.metrics["test_examples"]) == (45, 9)  # all that a probe has
    assert (folder / "model.safetensors").is_file()
    for table in (pandas.read_csv(folder / "trials.csv"), pandas.read_parquet(folder / "trials.parquet")):
        assert table["value"].tolist() == pytest.approx(values(result))
        assert table["number"].tolist() == [1, 2, 3, 4]
        assert {"state", "duration", "reason", *GRID} <= set(table.columns)
    page = (folder / "report.html").read_text()
    assert f"trial {values(result).index(result.value) + 1}, the best of 4 by log loss on the validation split" in page


def test_the_run_is_that_of_hfft_train(result, settings, tmp_path):
    run = Path(result.output_dir) / "run.yaml"
    assert cli.main(["train", "--config", str(run), "--output_dir", str(tmp_path / "out")]) == 0
    again = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert again["test_log_loss"] == result.metrics["test_log_loss"]


def test_the_settings_that_are_written_make_the_search_again(result, tmp_path, capsys):
    config = str(Path(result.output_dir) / "search.yaml")
    assert cli.main(["search", "--config", config, "--output_dir", str(tmp_path / "again")]) == 0
    assert "The best of 4 trials" in capsys.readouterr().out
    table = pandas.read_csv(tmp_path / "again" / "trials.csv")
    assert table["value"].tolist() == pytest.approx(values(result))
    assert table["head_solver"].tolist() == [row["parameters"]["head_solver"] for row in result.trials]


def test_features_are_computed_once_for_all_trials(result, counts):
    assert counts == [45, 3]  # the examples, and the names of the classes


def test_a_probe_is_worth_what_its_model_scores_on_the_validation_split(result, settings, tmp_path, monkeypatch):
    case = cases.make_case({**settings, "validation_size": 0.1, "output_dir": "unused"}, arguments(space=GRID), quiet())
    (part,) = case.parts
    for name, split in (("train", "train"), ("test", "validation")):
        rows = [(row["text"], case.labelled.class_names[row["label"]]) for row in part.data.splits[split]]
        write_csv(tmp_path / "data" / f"{name}.csv", rows)
    own = {**settings, "data": str(tmp_path / "data")}
    del own["validation_size"]
    for row in result.trials[1:3]:
        by_hand = hfft.finetune(**own, **row["parameters"], output_dir=str(tmp_path / f"out-{row['number']}"))
        assert row["value"] == pytest.approx(by_hand.metrics["test_log_loss"], abs=1e-4)


def arguments(**given: Any) -> Any:
    from hfft.command_arguments import SearchArguments

    return SearchArguments(**given)


def quiet() -> Any:
    from rich.console import Console

    return Console(quiet=True)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "full"},
        {"strategy": "lora", "keep_adapter": True, "pooling": None},
    ],
    ids=["full", "lora"],
)
def test_a_trained_trial_is_worth_what_its_run_reports_and_its_last_run_is_tested(options, settings, tmp_path):
    own = {**settings, "num_train_epochs": 3, "pooling": "model", **options}
    space = {"learning_rate": [1e-2, 1e-3]}
    found = hfft.search(**own, output_dir=str(tmp_path / "out"), space=space, sampler="grid", pruner="none")
    by_hand = hfft.finetune(**own, learning_rate=1e-3, output_dir=str(tmp_path / "hand"))
    assert values(found)[1] == by_hand.metrics["validation_log_loss"]
    assert found.value == found.metrics["validation_log_loss"]
    assert not [path for path in (tmp_path / "out" / "search").rglob("*") if path.suffix == ".safetensors"]


def test_without_a_choice_of_checkpoints_a_trial_is_worth_its_last_step(settings, tmp_path):
    own = {**settings, "strategy": "full", "max_steps": 3, "pooling": "model", "output_dir": "unused"}
    own |= {"load_best_model_at_end": False, "save_strategy": "no", "learning_rate": 1e-2, "dropout": 0.0}
    case = cases.make_case(own, arguments(space={"weight_decay": [0.0]}), quiet())

    def worth(**options: Any) -> float | None:
        settings = {**own, **options}
        return attempt.attempt(case.task, case.parts, settings, case.objective, lambda value, step: False).value

    last = worth(eval_strategy="steps", eval_steps=3)
    assert last is not None
    assert worth(eval_strategy="steps", eval_steps=2) == worth(eval_strategy="no", eval_on_start=True) == last


def test_a_trial_stops_early_where_its_run_does(settings):
    own = {**settings, "strategy": "lp-ft", "pooling": "model", "output_dir": "unused", "num_train_epochs": 5}
    own |= {"learning_rate": 1.0, "warmup_steps": 0, "early_stopping_patience": 1}
    case = cases.make_case(own, arguments(space={"weight_decay": [0.0]}), quiet())
    steps: list[int] = []
    attempt.attempt(case.task, case.parts, own, case.objective, lambda value, step: bool(steps.append(step)))
    assert steps == [1, 2]  # the second is worse than the first


def test_the_direction_that_was_given_is_that_of_the_metric_that_was_given(settings):
    own = {name: value for name, value in settings.items() if name != "metric_for_best_model"}
    own |= {"output_dir": "unused", "greater_is_better": False}
    assert cases.make_case(own, arguments(space=GRID), quiet()).objective == Objective("accuracy", False)
    assert Objective.of("log_loss", True) == Objective("log_loss", True)
    assert Objective.of("of_mine", False) == Objective("of_mine", True)


def test_a_run_that_is_no_search_is_not_replaced_by_resuming(settings, tmp_path):
    out = tmp_path / "out"
    hfft.finetune(**settings, output_dir=str(out))
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(UserError, match="begun by another command"):
        hfft.search(**settings, output_dir=str(out), space=GRID, sampler="grid", resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("own", [True, False])
def test_what_a_program_has_set_aside_stays_aside(settings, tmp_path, own, monkeypatch):
    counts, real = [], running.attempt
    monkeypatch.setattr(running, "attempt", lambda *args: (counts.append(gc.get_freeze_count()), real(*args))[1])
    with garbage_collected_as_before(own):
        hfft.search(**settings, output_dir=str(tmp_path / "out"), trials=1)
    assert min(counts) > 10_000


def test_no_trial_depends_on_the_test_split(result, settings, tmp_path):
    rows = [(text.replace("of 2", "of 5"), "animal") for text, _ in make_sentences(9, 2)]
    write_csv(tmp_path / "data" / "test.csv", rows)
    (tmp_path / "data" / "train.csv").write_text((Path(settings["data"]) / "train.csv").read_text())
    own = {**settings, "data": str(tmp_path / "data")}
    del own["validation_size"]
    other = hfft.search(**own, output_dir=str(tmp_path / "out"), space=GRID, sampler="grid")
    assert values(other) == values(result)
    assert other.metrics["test_log_loss"] != result.metrics["test_log_loss"]


def test_with_folds_trials_are_worth_the_mean_of_a_cross_validation(settings, tmp_path):
    own = {**settings, "strategy": "full", "num_train_epochs": 2, "pooling": "model", "learning_rate": 1e-2}
    found = hfft.search(**own, output_dir=str(tmp_path / "out"), folds=3, space={"weight_decay": [0.0, 0.1]}, trials=1)
    (row,) = found.trials
    by_hand = hfft.cross_validate(**own, **row["parameters"], folds=3, output_dir=str(tmp_path / "hand"))
    assert row["value"] == pytest.approx(by_hand.metrics["crossval_log_loss"], abs=1e-6)
    assert (found.metrics["train_examples"], found.metrics["validation_examples"]) == (36, 9)


def test_what_fails_is_written_down_and_the_others_go_on(settings, tmp_path, capsys):
    own = {name: value for name, value in settings.items() if name not in ("pooling", "validation_size")}
    found = hfft.search(**own, output_dir=str(tmp_path / "out"), space={"pooling": ["mean", "sum"]}, sampler="grid")
    assert [row["state"] for row in found.trials] == ["complete", "failed"]
    assert "not as 'sum'" in found.trials[1]["reason"]
    assert "not as 'sum'" in pandas.read_csv(tmp_path / "out" / "trials.csv")["reason"][1]


def test_where_all_fail_the_command_says_so(settings, tmp_path, capsys, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(Preparation, "start", fail)
    flags = [word for name in ("model", "data", "strategy", "cache_dir") for word in (f"--{name}", settings[name])]
    assert cli.main(["search", *flags, "--trials", "2", "--output_dir", str(tmp_path / "out")]) == 2
    assert (
        "None of the 2 trials has come to a value. failed: RuntimeError: CUDA out of memory" in capsys.readouterr().err
    )
    assert len(pandas.read_csv(tmp_path / "out" / "trials.csv")) == 2


def test_an_interrupted_search_goes_on_as_if_nothing_had_been(settings, tmp_path, monkeypatch):
    own = {name: value for name, value in settings.items() if name not in ("pooling", "validation_size")}
    whole = hfft.search(**own, output_dir=str(tmp_path / "whole"), trials=5)
    real, calls = running.attempt, []

    def interrupt(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(running, "attempt", interrupt)
    flags = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    out = str(tmp_path / "out")
    assert cli.main(["search", *flags, "--trials", "5", "--output_dir", out]) == 75
    with pytest.raises(UserError, match="holds a run"):
        hfft.search(**own, output_dir=out, trials=5)
    with pytest.raises(UserError, match="another search: sampler was tpe, now random"):
        hfft.search(**own, output_dir=out, trials=5, sampler="random", resume=True)
    found = hfft.search(**own, output_dir=out, trials=5, resume=True)
    assert [row["state"] for row in found.trials] == ["complete", "complete", "failed", "complete", "complete"]
    assert found.trials[2]["reason"] == "interrupted."
    assert [row["parameters"] for row in found.trials] == [row["parameters"] for row in whole.trials]
    before = (tmp_path / "out" / "metrics.json").stat().st_mtime_ns
    again = hfft.search(**own, output_dir=out, trials=5, resume=True)
    assert again.trials == found.trials
    assert (tmp_path / "out" / "metrics.json").stat().st_mtime_ns == before
    more = hfft.search(**own, output_dir=out, trials=6, resume=True)
    assert more.trials[:5] == found.trials


def test_a_hopeless_trial_ends_early_but_not_behind_its_last_evaluation(settings, tmp_path):
    own = {**settings, "strategy": "full", "num_train_epochs": 3, "pooling": "model", "output_dir": "unused"}
    case = cases.make_case(own, arguments(space={"weight_decay": [0.0]}), quiet())
    seen: list[tuple[float, int]] = []

    def report(value: float, step: int, last: int = 2) -> bool:
        seen.append((value, step))
        return step >= last

    found = attempt.attempt(case.task, case.parts, own, case.objective, report)
    assert (found.state, [step for _, step in seen]) == ("pruned", [1, 2])
    assert "after evaluation 2" in found.reason
    done = attempt.attempt(case.task, case.parts, own, case.objective, lambda value, step: step >= 3)
    assert done.state == "complete"
    assert done.value == pytest.approx(min(seen[0][0], seen[1][0], done.value))
    # parts of a cross-validation: the mean so far decides
    parts = [Part(case.parts[0].data, "validation", False)] * 3
    found = attempt.attempt(case.task, parts, own, Objective("accuracy", False), lambda value, step: step >= 1)
    assert (found.state, found.reason) == ("pruned", "after fold 1 of 3.")


def test_nothing_of_a_trial_stays_in_memory(settings):
    own = {**settings, "strategy": "full", "max_steps": 2, "pooling": "model", "output_dir": "unused"}
    case = cases.make_case(own, arguments(space={"weight_decay": [0.0]}), quiet())
    sizes = []
    for _ in range(4):
        assert attempt.attempt(case.task, case.parts, own, case.objective, lambda value, step: False).value is not None
        models = sum(issubclass(type(each), PreTrainedModel) for each in gc.get_objects())
        sizes.append((models, len(gc.get_objects())))
    assert sizes[-1][0] == sizes[0][0]
    assert sizes[-1][1] - sizes[1][1] < 200  # of some hundred thousand


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"backend": "hyperopt"}, "backend must be one of optuna, ray"),
        ({"sampler": "grd"}, "Did you mean 'grid'"),
        ({"pruner": "asha"}, "pruner must be one of"),
        ({"workers": 2}, "workers has no place with backend optuna"),
        ({"space": {"head_penalty": [1.0, 2.0, 3.0]}, "sampler": "grid", "trials": 2}, "has 3 points, more than the 2"),
        ({"space": "nowhere.yaml"}, "--space: there is no file or folder"),
        ({"validation_size": 0.0}, "use --folds"),
        ({"metric_for_best_model": "log_los"}, "Did you mean 'log_loss'"),
        ({"data": "nowhere"}, "no file or folder 'nowhere'"),
        ({"strategy": "linear-prob"}, "no strategy 'linear-prob'"),
        ({"dropout": 0.2}, "dropout has no place in the strategy 'linear-probe'"),
        ({"strategy": "lora", "keep_adapter": True}, "pooling mean is folded into the model"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_folder_is_made(options, message, settings, tmp_path):
    with pytest.raises(UserError, match=message):
        hfft.search(**{**settings, **options}, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_its_extra(settings, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'pip install "hfft\[search\]"'):
        hfft.search(**settings, output_dir=str(tmp_path / "out"))
