"""The model of every training example, after the folds have told how good such models are."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import pipeline

import hfft
from hfft import UserError, cli
from hfft.crossval import refitting
from hfft.crossval.refitting import _chosen_by_folds
from hfft.evaluation.multi_label import best_thresholds
from hfft.targets.target import THRESHOLDS
from tests.conftest import make_sentences, write_csv
from tests.finetuning.test_targets import tagged, write_jsonl

TRAINED = {"strategy": "full", "num_train_epochs": 3, "validation_size": 0.3, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = make_sentences(30, 1)
    rows[0] = (rows[0][0], rows[1][1])  # one label is wrong, so that the folds differ
    return write_csv(tmp_path_factory.mktemp("untested") / "train.csv", rows)


@pytest.fixture(scope="module")
def settings(tiny_bert: Path, train_file: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_bert), "data": str(train_file), "strategy": "linear-probe", "disable_tqdm": True, "seed": 3,
        "cache_dir": str(train_file.parent / "cache"), "pooling": "mean",
    }  # fmt: skip


@pytest.fixture(scope="module")
def untested(settings, tmp_path_factory: pytest.TempPathFactory) -> hfft.CrossValidationResult:
    out = tmp_path_factory.mktemp("untested") / "out"
    return hfft.cross_validate(**settings, output_dir=str(out), folds=3, refit=True)


def weights(folder: Path | str | None) -> dict[str, torch.Tensor]:
    return dict(load_file(Path(str(folder)) / "model.safetensors"))


def metrics(folder: Path | str | None) -> dict[str, float]:
    return dict(json.loads((Path(str(folder)) / "metrics.json").read_text()))


def run_file(folder: Path | str | None) -> dict[str, Any]:
    return dict(yaml.safe_load((Path(str(folder)) / "run.yaml").read_text()))


def assert_same_weights(one: Path | str | None, other: Path | str | None) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def with_test(folder: Path, train_file: Path) -> Path:
    """Return a folder with the same training split and a test split."""
    folder.mkdir()
    shutil.copy(train_file, folder / "train.csv")
    write_csv(folder / "test.csv", make_sentences(9, 2))
    return folder


def test_the_model_is_that_of_every_training_example(untested, settings, train_file, tmp_path):
    data = with_test(tmp_path / "data", train_file)
    hfft.finetune(**{**settings, "data": str(data)}, output_dir=str(tmp_path / "by-hand"))
    assert metrics(untested.refit_dir)["train_examples"] == 30
    assert_same_weights(untested.refit_dir, tmp_path / "by-hand")
    answer = pipeline("text-classification", model=untested.refit_dir, device="cpu")("this is red and blue")
    assert answer[0]["label"] == "colour"


def test_without_a_test_split_its_figures_are_those_of_the_folds(untested):
    folder = Path(str(untested.refit_dir))
    assert folder == Path(untested.output_dir) / "refit"
    found = metrics(folder)
    added = ("train_examples", "train_runtime")
    assert {name: value for name, value in found.items() if name not in added} == untested.metrics
    assert not (folder / "predictions.parquet").exists()
    row = untested.rows()[0]
    interval = f"{row['low']:.4f} to {row['high']:.4f}"
    card, report = (folder / "README.md").read_text(), (folder / "report.html").read_text()
    assert f"| {row['value']:.4f} | {interval} |" in card
    assert f"{row['value']:.4f}</td><td>{interval}</td>" in report
    for page in (card, report):
        assert "each of them made from 67% of the 30 training examples and tested on the rest" in page
        assert "has been tested on none" in page
        assert "Nadeau and Bengio" in page
        assert "test examples" not in page
    (row,) = hfft.runs(folder)
    assert (row["metric"], row["value"]) == ("accuracy", found["crossval_accuracy"])
    metadata = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]
    assert metadata["dataset"]["split"] == "train"
    assert metadata["metrics"][0]["name"].startswith("accuracy, mean over 3 folds (95 % interval")


def test_a_model_of_every_example_is_not_tested_on_them(untested, settings):
    with pytest.raises(UserError, match="part of a cross-validation and was trained on most"):
        hfft.evaluate(str(untested.refit_dir), settings["data"])


def test_a_given_test_split_tests_the_model_once(settings, train_file, tmp_path):
    data = with_test(tmp_path / "data", train_file)
    own = {**settings, "data": str(data)}
    result = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, refit=True)
    found = metrics(result.refit_dir)
    assert (found["train_examples"], found["test_examples"]) == (30, 9)
    assert found.items() >= result.metrics.items()
    card = (tmp_path / "out" / "refit" / "README.md").read_text()
    assert "Results on the test split" in card
    assert "Cross-validation, 2 folds, 30 examples: accuracy" in card
    config = str(tmp_path / "out" / "refit" / "run.yaml")
    assert "hfft crossval --config ../crossval.yaml" in Path(config).read_text().splitlines()[0]
    assert cli.main(["train", "--config", config, "--output_dir", str(tmp_path / "again")]) == 0
    assert_same_weights(result.refit_dir, tmp_path / "again")
    assert hfft.evaluate(str(result.refit_dir), str(data)).metrics["test_log_loss"] == pytest.approx(
        found["test_log_loss"], abs=1e-6
    )


def test_every_example_trains_for_the_epochs_of_the_median_fold(settings, train_file, tmp_path):
    own = {**settings, **TRAINED, "early_stopping_patience": 2, "save_strategy": "best"}
    result = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=3, refit=True)
    epochs = [fold["shipped_epoch"] for fold in result.folds]
    assert all(fold["validation_examples"] and 1 <= fold["shipped_epoch"] <= 3 for fold in result.folds)
    found = metrics(result.refit_dir)
    assert found["train_examples"] == 30
    assert "validation_examples" not in found
    assert run_file(result.refit_dir)["num_train_epochs"] == found["shipped_epoch"] == statistics.median(epochs)
    report = (Path(str(result.refit_dir)) / "report.html").read_text()
    assert f"Trained on every example for {statistics.median(epochs):g} epochs" in report
    data = with_test(tmp_path / "data", train_file)
    recipe = {**run_file(result.refit_dir), "data": str(data), "output_dir": str(tmp_path / "by-hand")}
    hfft.finetune(**recipe)
    assert_same_weights(result.refit_dir, tmp_path / "by-hand")


@pytest.mark.parametrize(
    ("epochs", "chosen"),
    [
        ([0.0, 0.0, 12.0, 12.0], {"strategy": "linear-probe"}),
        ([0.0, 8.0, 12.0], {"num_train_epochs": 10.0}),
        ([0.0, 0.0, 12.0], {"strategy": "linear-probe"}),
    ],
)
def test_folds_that_ship_the_solved_head_vote_for_it_and_count_as_no_epochs(epochs, chosen):
    folds = [{"shipped_epoch": each, "validation_examples": 9} for each in epochs]
    found, notes = _chosen_by_folds(folds, hfft.FineTuningArguments(strategy="auto"))
    assert {name: found[name] for name in chosen} == chosen
    assert len(notes) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "gradual", "epochs_per_group": 1, "optim": "lion"},
        {"strategy": "lora", "lora_rank": 2, "adapter_layers": "1", "dropout": 0.2, "head_start": "solved"},
    ],
    ids=["gradual", "lora"],
)
def test_where_training_only_harms_the_solved_head_is_what_ships(options, settings, untested, tmp_path):
    own = {**settings, **TRAINED, "learning_rate": 3.0, "warmup_steps": 0, **options}
    result = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, refit=True)
    assert [fold["shipped_epoch"] for fold in result.folds] == [0, 0]
    assert_same_weights(result.refit_dir, untested.refit_dir)


def test_a_refit_asks_for_no_evaluation_that_the_folds_were_saved_by(settings, tmp_path):
    often = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    own = {**settings, **TRAINED, **often, "max_steps": 2, "logging_strategy": "no"}
    result = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, refit=True)
    epochs = statistics.median(fold["shipped_epoch"] for fold in result.folds)
    assert run_file(result.refit_dir)["num_train_epochs"] == epochs


def test_a_refit_trains_no_longer_than_folds_that_stopped_early(settings, tmp_path):
    harmful = {"learning_rate": 3.0, "warmup_steps": 0, "num_train_epochs": 6, "head_start": "solved"}
    own = {**settings, **TRAINED, **harmful, "early_stopping_patience": 1, "load_best_model_at_end": False}
    result = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, refit=True)
    epochs = statistics.median(fold["shipped_epoch"] for fold in result.folds)
    assert epochs < 6
    assert metrics(result.refit_dir)["shipped_epoch"] == epochs


def test_a_file_of_adapters_stands_in_the_settings_as_it_was_read(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loha.yaml").write_text("peft_type: LOHA\nr: 2\n")
    own = {**settings, **TRAINED, "num_train_epochs": 1, "strategy": "peft", "adapter_config": "loha.yaml"}
    hfft.cross_validate(**own, output_dir="out", folds=2)
    monkeypatch.chdir(tmp_path / "out")
    assert cli.main(["crossval", "--config", "crossval.yaml", "--output_dir", "../again"]) == 0
    told = [(tmp_path / name / "crossval.json").read_text() for name in ("out", "again")]
    one, other = (json.loads(text)["metrics"] for text in told)
    assert one == other


def test_a_given_validation_split_chooses_as_in_the_folds(settings, train_file, tmp_path):
    shutil.copy(train_file, tmp_path / "train.csv")
    write_csv(tmp_path / "validation.csv", make_sentences(12, 4))
    own = {**settings, **TRAINED, "data": str(tmp_path / "*.csv"), "calibration": "temperature"}
    result = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, refit=True)
    found = metrics(result.refit_dir)
    assert (found["train_examples"], found["validation_examples"]) == (30, 12)
    evaluated = [fold["validation_examples"] for fold in result.folds]
    assert evaluated == [12, 12]
    assert run_file(result.refit_dir)["num_train_epochs"] == 3


def test_thresholds_are_those_of_the_predictions_out_of_fold(settings, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", tagged(60, 1))
    own = {**settings, "data": str(tmp_path / "train.jsonl"), "cache_dir": str(tmp_path / "cache")}
    result = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=3, refit=True)
    table = pandas.read_parquet(tmp_path / "out" / "predictions.parquet")
    names = ["animal", "colour", "number"]
    labels = np.array([[name in label for name in names] for label in table["label"]])
    expected = best_thresholds(labels, table[[f"probability_{name}" for name in names]].to_numpy())
    config = json.loads((Path(str(result.refit_dir)) / "config.json").read_text())
    assert config[THRESHOLDS] == pytest.approx(expected.tolist())


def test_what_is_done_is_not_done_again(settings, untested, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = hfft.cross_validate(**settings, output_dir=str(out), folds=3)
    assert first.refit_dir is None
    assert not (out / "refit").exists()
    stays = (out / "folds" / "fold-1" / "metrics.json").stat().st_mtime_ns
    again = hfft.cross_validate(**settings, output_dir=str(out), folds=3, resume=True, refit=True)
    assert (out / "folds" / "fold-1" / "metrics.json").stat().st_mtime_ns == stays
    assert_same_weights(again.refit_dir, untested.refit_dir)
    (out / "refit" / "README.md").unlink()  # as where the process was killed before the end
    hfft.cross_validate(**settings, output_dir=str(out), folds=3, resume=True, refit=True)
    assert (out / "refit" / "README.md").is_file()
    monkeypatch.setattr(refitting, "fine_tune", None)
    hfft.cross_validate(**settings, output_dir=str(out), folds=3, resume=True, refit=True)


def test_a_refit_goes_on_from_its_checkpoint(settings, tmp_path):
    own = {**settings, **TRAINED, "validation_size": 0.0, "save_total_limit": 5}
    result = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, refit=True)
    place = Path(str(result.refit_dir))
    before = weights(place)
    for name in ("model.safetensors", "README.md"):
        (place / name).unlink()
    checkpoints = sorted(place.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    for checkpoint in checkpoints[1:]:
        shutil.rmtree(checkpoint)
    kept = (checkpoints[0] / "checkpoint.json").stat().st_mtime_ns
    hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, refit=True, resume=True)
    assert (checkpoints[0] / "checkpoint.json").stat().st_mtime_ns == kept
    after = weights(place)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_part_of_it_is_not_gone_on_with_by_itself(settings, untested):
    for folder in (untested.output_dir, untested.refit_dir, Path(untested.output_dir) / "folds" / "fold-1"):
        with pytest.raises(UserError, match="begun by another command"):
            hfft.finetune(**settings, output_dir=str(folder), resume=True)


def test_a_run_is_not_gone_on_with_as_a_cross_validation(settings, tmp_path):
    (tmp_path / "run.yaml").write_text("# Written by hfft. To make this run again: hfft train\n")
    with pytest.raises(UserError, match="begun by another command"):
        hfft.cross_validate(**settings, output_dir=str(tmp_path), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": "temperature"}, "leaves none for --calibration. Give the data a validation split"),
        ({**TRAINED, "lr_scheduler_type": "reduce_lr_on_plateau"}, "none for --lr_scheduler_type reduce_lr_on_plateau"),
    ],
)
def test_what_needs_a_validation_split_is_refused_before_a_folder_is_made(options, message, settings, tmp_path):
    with pytest.raises(UserError, match=message):
        hfft.cross_validate(**{**settings, **options}, output_dir=str(tmp_path / "out"), refit=True)
    assert not (tmp_path / "out").exists()
