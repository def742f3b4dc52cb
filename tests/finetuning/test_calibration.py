"""Runs whose logits are divided by a temperature after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import pipeline

import hfft
from hfft import UserError
from hfft.evaluation.metrics import METRICS
from hfft.targets.target import TEMPERATURE
from tests.conftest import COLOURS, WORDS, make_sentences, write_csv, write_picture

QUICK: dict[str, Any] = {"num_train_epochs": 8, "per_device_train_batch_size": 8, "seed": 3, "validation_size": 0.4}


@pytest.fixture(scope="module")
def noisy_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of which a fifth has the label of another class: nobody can be right about all of them."""
    root, generator = tmp_path_factory.mktemp("noisy"), np.random.default_rng(0)
    for split, count, seed in (("train", 120, 1), ("test", 30, 2)):
        names = sorted(WORDS)
        rows = [
            (text, str(generator.choice(names)) if generator.random() < 0.3 else label)
            for text, label in make_sentences(count, seed)
        ]
        write_csv(root / f"{split}.csv", rows)
    return root


@pytest.fixture(scope="module")
def runs(tiny_bert: Path, noisy_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[hfft.FineTuneResult]:
    """The same run as it is trained, and calibrated."""
    root = tmp_path_factory.mktemp("runs")
    settings = {"model": str(tiny_bert), "data": str(noisy_texts), "learning_rate": 2e-2, **QUICK}
    return [
        hfft.finetune(output_dir=str(root / name), calibration=name, **settings) for name in ("none", "temperature")
    ]


def probabilities(run: hfft.FineTuneResult) -> np.ndarray:
    table = Dataset.from_parquet(str(Path(run.output_dir) / "predictions.parquet"), keep_in_memory=True)
    return np.stack([table[f"probability_{name}"] for name in run.record.class_names], axis=1)


def test_only_the_last_layer_is_divided_and_the_configuration_says_by_what(runs):
    plain, calibrated = (load_file(Path(run.output_dir) / "model.safetensors") for run in runs)
    temperature = runs[1].record.temperature
    assert runs[0].record.temperature is None
    assert abs(np.log(temperature)) > 0.05
    for name, value in plain.items():
        expected = value / temperature if name.startswith("classifier") else value
        torch.testing.assert_close(calibrated[name], expected, rtol=1e-6, atol=0)
    configs = [json.loads((Path(run.output_dir) / "config.json").read_text()) for run in runs]
    assert TEMPERATURE not in configs[0]
    assert configs[1][TEMPERATURE] == temperature
    assert any(f"temperature of {temperature:.3g}" in note for note in runs[1].record.notes)


def test_the_metrics_are_those_of_the_folded_model(runs, noisy_texts: Path):
    plain, calibrated = runs
    logits = np.log(probabilities(plain)) / calibrated.record.temperature
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities(calibrated), expected, atol=1e-5)
    labels = calibrated.record.predictions.labels
    assert calibrated.metrics["test_log_loss"] == pytest.approx(METRICS["log_loss"](labels, expected), rel=1e-4)
    assert calibrated.metrics["test_accuracy"] == plain.metrics["test_accuracy"]
    assert calibrated.metrics["validation_log_loss"] < plain.metrics["validation_log_loss"]
    assert calibrated.metrics["validation_loss"] == pytest.approx(calibrated.metrics["validation_log_loss"], rel=1e-4)
    assert calibrated.metrics.keys() == plain.metrics.keys()
    again = hfft.evaluate(calibrated.output_dir, str(noisy_texts), seed=QUICK["seed"])
    assert again.metrics["test_log_loss"] == pytest.approx(calibrated.metrics["test_log_loss"], rel=1e-5)
    assert again.details["per_class"] == calibrated.record.details["per_class"]


def test_a_pipeline_gives_the_calibrated_probabilities(runs):
    run = runs[1]
    texts = run.record.predictions.inputs[:5]
    answers = pipeline("text-classification", model=run.output_dir, top_k=None, device="cpu")(texts)
    for answer, row in zip(answers, probabilities(run), strict=False):
        scores = {found["label"]: found["score"] for found in answer}
        assert [scores[name] for name in run.record.class_names] == pytest.approx(row, abs=1e-5)


def test_what_stands_behind_the_metrics_is_in_the_record(runs):
    record = runs[1].record
    assert [row["class"] for row in record.details["per_class"]] == record.class_names
    assert np.sum(record.details["confusion_matrix"]) == record.metrics["test_examples"] == 30
    assert sum(point["count"] for point in record.details["reliability_curve"]) == 30
    assert record.details["accuracy_at_coverage"][-1]["accuracy"] == pytest.approx(record.metrics["test_accuracy"])
    card = (Path(runs[1].output_dir) / "README.md").read_text()
    for note in record.interval_notes:
        assert note.split(" by ")[0].split(": ")[0].replace("_", r"\_") in card
    assert all(type(value) in (int, float) for value in record.metrics.values())  # metrics.json stays flat


def test_a_calibrated_run_compares_with_the_plain_one(runs):
    found = hfft.compare(*(run.output_dir for run in runs))
    assert not found.identical
    assert found.metrics["accuracy"]["difference"] == 0
    assert found.metrics["log_loss"]["difference"] == pytest.approx(
        runs[1].metrics["test_log_loss"] - runs[0].metrics["test_log_loss"]
    )
    assert found.mcnemar == {"only_first_right": 0, "only_second_right": 0, "p_value": 1.0}


def test_training_goes_on_from_a_calibrated_model_without_its_temperature(runs, noisy_texts: Path, tmp_path: Path):
    run = hfft.finetune(
        model=runs[1].output_dir, data=str(noisy_texts), output_dir=str(tmp_path / "out"), max_steps=1, seed=3
    )
    assert TEMPERATURE not in json.loads((Path(run.output_dir) / "config.json").read_text())


def test_a_probe_holds_a_validation_split_back_for_its_temperature(tiny_bert: Path, noisy_texts: Path, tmp_path: Path):
    run = hfft.finetune(
        model=str(tiny_bert),
        data=str(noisy_texts),
        output_dir=str(tmp_path / "out"),
        cache_dir=str(tmp_path / "cache"),
        strategy="linear-probe",
        pooling="mean",
        calibration="temperature",
        seed=3,
    )
    assert run.metrics["validation_examples"] == 12
    assert any("temperature" in note for note in run.record.notes)


def test_pictures_are_calibrated_in_a_timm_model(tiny_timm: Path, tmp_path: Path):
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 4)):
        for place, name in enumerate(COLOURS):
            for index in range(count):
                shown = list(COLOURS)[(place + (index % 4 == 0)) % 3]
                write_picture(tmp_path / "data" / split / name / f"{index}.png", COLOURS[shown], generator)
    run = hfft.finetune(
        model=str(tiny_timm),
        data=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        calibration="temperature",
        learning_rate=3e-2,
        **QUICK,
    )
    assert run.record.temperature is not None
    model = pipeline("image-classification", model=run.output_dir, device="cpu")
    answer = {found["label"]: found["score"] for found in model(run.record.predictions.inputs[0])}
    assert [answer[name] for name in run.record.class_names] == pytest.approx(probabilities(run)[0], abs=1e-4)


def test_several_classes_are_calibrated_before_their_thresholds_are_tuned(tiny_bert: Path, tmp_path: Path):
    generator = np.random.default_rng(0)
    for split, count, seed in (("train", 120, 1), ("test", 30, 2)):
        rows = [(text, f"{label};{generator.choice(sorted(WORDS))}") for text, label in make_sentences(count, seed)]
        write_csv(tmp_path / "data" / f"{split}.csv", rows)
    run = hfft.finetune(
        model=str(tiny_bert),
        data=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        label_delimiter=";",
        calibration="temperature",
        learning_rate=2e-2,
        **QUICK,
    )
    told = [
        index
        for index, note in enumerate(run.record.notes)
        for word in ("temperature of", "threshold of")
        if word in note
    ]
    assert told == sorted(told)
    assert len(told) == 2
    config = json.loads((Path(run.output_dir) / "config.json").read_text())
    assert config[TEMPERATURE] == run.record.temperature
    assert config["label_thresholds"] == run.record.target.thresholds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_size": 0}, "--calibration needs a validation split: leave --validation_size at more than 0"),
        ({"calibration": "platt"}, "calibration must be one of none, temperature, got 'platt'"),
        (
            {"problem_type": "regression", "label_column": "number"},
            "--calibration has no place here: a number has no probability",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_a_folder_is_made(
    settings: dict[str, Any], message: str, tiny_bert: Path, tmp_path: Path
):
    rows = [(text, str(index / 7), label) for index, (text, label) in enumerate(make_sentences(36, 1))]
    data = write_csv(tmp_path / "data.csv", rows, ("text", "number", "label"))
    given = {"calibration": "temperature", "label_column": "label", **settings}
    with pytest.raises(UserError, match=message):
        hfft.finetune(model=str(tiny_bert), data=str(data), output_dir=str(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()
