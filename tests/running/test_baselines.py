"""The solved head beside the result of a run that trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hfft
from hfft import UserError, finetuning
from hfft.running import baselines
from hfft.targets.target import THRESHOLDS
from tests.conftest import counted_features, make_sentences, write_csv
from tests.finetuning.test_targets import rated, tagged, write_jsonl

LONG = {"num_train_epochs": 20, "max_steps": -1, "save_strategy": "no", "load_best_model_at_end": False}


@pytest.fixture(scope="module")
def settings(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = str(tmp_path_factory.mktemp("cache"))
    return {
        "model": str(tiny_bert), "data": str(text_folder), "cache_dir": cache, "seed": 3, "disable_tqdm": True,
        "per_device_train_batch_size": 8, "learning_rate": 1e-3,
    }  # fmt: skip


@pytest.fixture(scope="module")
def probed(settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The metrics of the linear probe itself."""
    own = {**settings, "strategy": "linear-probe", "output_dir": str(tmp_path_factory.mktemp("probe") / "out")}
    return hfft.finetune(**own).metrics


def beside(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics of the solved head, by the names that a run of it alone gives them."""
    prefix = "baseline_probe_"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def of_test(metrics: dict[str, float], names: Any) -> dict[str, float]:
    return {name: metrics[name] for name in names}


CASES = pytest.mark.parametrize(
    "options",
    [
        {"strategy": "lp-ft", "num_train_epochs": 1},
        {"strategy": "gradual", "num_train_epochs": 1},
        {"strategy": "full", **LONG},
    ],
    ids=["lp-ft", "gradual", "full"],
)


@CASES
def test_it_is_the_linear_probe_and_changes_no_weight(options, settings, probed, text_folder, tmp_path, monkeypatch):
    own = {**settings, **options, "cache_dir": str(tmp_path / "cold")}
    own["validation_size"] = 0  # as many examples for the head as the probe has
    run = hfft.finetune(**own, output_dir=str(tmp_path / "with"))
    found = beside(run.metrics)
    assert {"test_accuracy", "test_log_loss", "test_macro_f1"} <= found.keys()
    assert found == pytest.approx(of_test(probed, found), abs=1e-5)
    assert found["test_log_loss"] != pytest.approx(run.metrics["test_log_loss"], abs=1e-6)
    monkeypatch.setattr(finetuning, "probe_test", lambda *_: None)
    write_csv(tmp_path / "data" / "train.csv", make_sentences(36, 1))
    write_csv(tmp_path / "data" / "test.csv", make_sentences(12, 7))  # another test, and no look at it
    without = hfft.finetune(**{**own, "data": str(tmp_path / "data")}, output_dir=str(tmp_path / "without"))
    assert not beside(without.metrics)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_stands_beside_the_result_wherever_that_is_shown(settings, tmp_path, capsys):
    run = hfft.finetune(**{**settings, "strategy": "lp-ft", "num_train_epochs": 1}, output_dir=str(tmp_path / "out"))
    value = run.metrics["baseline_probe_test_log_loss"]
    lines = capsys.readouterr().out.splitlines()
    assert any("majority class" in line and line.rstrip(" ┃").endswith("solved head") for line in lines)
    assert any("log loss" in line and f"{value:.3f}" in line for line in lines)
    report, card = ((tmp_path / "out" / name).read_text() for name in ("report.html", "README.md"))
    headline = f"with nothing else trained, reaches {run.metrics['baseline_probe_test_accuracy']:.3f}."
    assert headline in report
    assert f"<td>{value:.4f}</td>" in report
    assert "| majority class | solved head |\n|---|---|---|---|---|\n" in card
    assert f" {value:.4f} |\n" in card


def test_a_short_training_is_not_held_up_by_it(settings, tmp_path, capsys):
    run = hfft.finetune(**{**settings, "strategy": "full", "max_steps": 2}, output_dir=str(tmp_path / "out"))
    assert not beside(run.metrics)
    assert "solved head" not in capsys.readouterr().out
    assert "solved head" not in (tmp_path / "out" / "README.md").read_text()


def test_a_trunk_that_is_read_otherwise_is_so_for_the_head_too(settings, tmp_path):
    own = {**settings, "pooling": "mean"}
    probe = hfft.finetune(**own, strategy="linear-probe", output_dir=str(tmp_path / "probe"))
    full = hfft.finetune(**own, **LONG, strategy="full", validation_size=0, output_dir=str(tmp_path / "full"))
    found = beside(full.metrics)
    assert found == pytest.approx(of_test(probe.metrics, found), abs=1e-5)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ((baselines, "start_head"), UserError("The head cannot be solved.")),
        ((baselines.copy, "deepcopy"), RuntimeError("Only leaf tensors can be copied.")),
    ],
    ids=["not solved", "not copied"],
)
def test_a_head_that_cannot_be_had_is_left_out(place, error, settings, tmp_path, monkeypatch):
    inner = getattr(*place)

    def fail(first: Any, *rest: Any, **options: Any) -> Any:
        if place[1] == "deepcopy" and not isinstance(first, torch.nn.Module):
            return inner(first, *rest, **options)
        raise error

    monkeypatch.setattr(*place, fail)
    run = hfft.finetune(**settings, **LONG, strategy="full", validation_size=0, output_dir=str(tmp_path / "out"))
    assert run.metrics["test_examples"] == 15
    assert not beside(run.metrics)


def test_numbers_are_in_their_unit(tiny_bert, tmp_path):
    for split, count, seed in (("train", 60, 1), ("test", 30, 2)):
        write_csv(tmp_path / "data" / f"{split}.csv", [(t, str(v)) for t, v in rated(count, seed)], ("text", "label"))
    own = {"model": str(tiny_bert), "data": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache"), "seed": 3}
    own |= {"problem_type": "regression", "validation_size": 0, "pooling": "model"}
    probe = hfft.finetune(**own, strategy="linear-probe", output_dir=str(tmp_path / "probe"))
    tuned = hfft.finetune(**own, strategy="lp-ft", num_train_epochs=1, output_dir=str(tmp_path / "tuned"))
    found = beside(tuned.metrics)
    assert found["test_rmse"] < tuned.metrics["baseline_test_rmse"]
    assert found == pytest.approx(of_test(probe.metrics, found), rel=1e-3)


def test_thresholds_are_tuned_as_those_of_the_model_are(tiny_bert, tmp_path):
    for split, count, seed in (("train", 60, 1), ("validation", 30, 2), ("test", 30, 3)):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", tagged(count, seed))
    own = {"model": str(tiny_bert), "data": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache"), "seed": 3}
    own |= {"pooling": "model", "head_penalty": 10.0}  # so that no probability is near 1
    probe = hfft.finetune(**own, strategy="linear-probe", output_dir=str(tmp_path / "probe"))
    assert not any("Training has brought" in note for note in probe.record.notes)
    tuned = hfft.finetune(**own, strategy="lp-ft", num_train_epochs=1, output_dir=str(tmp_path / "tuned"))
    thresholds = json.loads((tmp_path / "probe" / "config.json").read_text())[THRESHOLDS]
    assert any(threshold != 0.5 for threshold in thresholds)
    found = beside(tuned.metrics)
    assert found == pytest.approx(of_test(probe.metrics, found), abs=1e-5)


@pytest.fixture
def computed() -> Iterator[list[int]]:
    """How many examples features were computed of, each time."""
    with counted_features() as counts:
        yield counts


def test_folds_have_it_from_features_that_are_there(settings, computed, text_folder, tmp_path):
    own = {**settings, "data": str(text_folder / "train.csv"), "strategy": "lp-ft", "num_train_epochs": 1}
    own |= {"cache_dir": str(tmp_path / "cache"), "pooling": "mean"}
    result = hfft.cross_validate(**own, folds=2, output_dir=str(tmp_path / "out"))
    assert computed == [36, 3]  # the examples, and the names of the classes
    values = [fold["baseline_probe_test_log_loss"] for fold in result.folds]
    assert result.metrics["baseline_probe_crossval_log_loss"] == pytest.approx(np.mean(values))
    assert {row["name"]: row["probe"] for row in result.rows()}["log_loss"] == pytest.approx(np.mean(values))
