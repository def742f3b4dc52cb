from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfft.base_model import BaseModel
from hfft.evaluation import summarize
from hfft.evidence import Evidence
from hfft.record import Predictions, RunRecord
from hfft.report import write_card, write_report
from hfft.targets import SingleLabel

EVIL = "<script>alert(1)</script>|x"


@pytest.fixture
def record() -> RunRecord:
    labels, probabilities = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    target = SingleLabel([EVIL, "b"])
    baseline = target.baseline(np.array([0, 1]), labels)
    metrics = summarize(target.metrics, labels, probabilities, baseline) | {"test_examples": 3}
    return RunRecord(
        settings={"task": "text-classification", "model": EVIL, "data": EVIL, "output_dir": "runs/mine", "seed": 1},
        task="text-classification",
        target=target,
        counts={"train": {EVIL: 4, "b": 5}, "test": {EVIL: 1, "b": 2}},
        evidence=Evidence.of_test(3),
        notes=[f"note {EVIL}"],
        layers=[{"name": EVIL, "parameters": 12, "lr": 1e-3}],
        history=[
            {"step": 1, "epoch": 1.0, "loss": 0.5},
            {"step": 1, "epoch": 1.0, "eval_loss": 0.4, "eval_accuracy": 0.7},
        ],
        metrics=metrics,
        metric_names=["accuracy", "log_loss"],
        interval_notes=[f"Interval of {EVIL}: by chance."],
        details=target.details(labels, probabilities),
        predictions=Predictions(["x", "y", "z"], labels, probabilities),
    )


def test_the_report_shows_the_figures_and_escapes_what_users_wrote(record, tmp_path: Path):
    html = write_report(record, tmp_path).read_text("utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert f"{record.metrics['test_accuracy']:.4f}" in html
    assert "0.5000" in html  # the epoch's training loss, in the same row as
    assert "0.4000" in html  # its validation loss
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|x: by chance." in html
    assert "<td>0.500</td><td>1.000</td><td>0.667</td><td>1</td>" in html  # precision, recall, F1 and rows of a class
    assert "http" not in html.replace("http-equiv", "")


def test_the_card_s_metadata_survive_a_round_trip(record, tmp_path: Path):
    record.settings |= {"model": "owner/name", "data": "photos"}
    card = ModelCard.load(write_card(record, tmp_path))
    again = ModelCardData(**card.data.to_dict())
    assert again.pipeline_tag == "text-classification"
    assert again.base_model == "owner/name"
    assert {(r.metric_type, r.metric_value) for r in card.data.eval_results} == {
        (name, record.metrics[f"test_{name}"]) for name in record.metric_names
    }


def test_the_card_escapes_what_users_wrote(record, tmp_path: Path):
    text = write_card(record, tmp_path).read_text("utf-8").split("---\n", 2)[2]
    assert "<script" not in text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;\|x" in text


def test_a_local_model_s_path_stays_at_home(record, tmp_path: Path):
    local = tmp_path / "private" / "model"
    local.mkdir(parents=True)
    record.settings |= {"model": str(local), "data": str(local)}
    text = write_card(record, tmp_path).read_text("utf-8")
    assert "private" not in text
    assert "base_model" not in text


def test_the_card_s_metadata_say_all_that_the_hub_reads(record, tmp_path: Path):
    record.settings |= {"model": "owner/name", "data": "owner/photos:small@v1"}
    record.base = BaseModel("owner/name", "owner/name", "other", "acme", "https://acme.example", ("en",))
    data = ModelCard.load(write_card(record, tmp_path)).data
    assert ModelCardData(**data.to_dict()).to_dict() == data.to_dict()
    assert (data.license, data.license_name, data.license_link) == ("other", "acme", "https://acme.example")
    assert (data.library_name, data.language, data.datasets) == ("transformers", ["en"], ["owner/photos"])
    assert data.metrics == record.metric_names
    assert data.model_name == "mine"
    result = next(result for result in data.eval_results if result.metric_type == "accuracy")
    assert isinstance(result, EvalResult)
    assert (result.dataset_type, result.dataset_config, result.dataset_revision) == ("owner/photos", "small", "v1")
    assert (result.task_type, result.dataset_split) == ("text-classification", "test")
    low, high = (record.metrics[f"test_accuracy_ci_{end}"] for end in ("low", "high"))
    assert result.metric_name == f"accuracy (95 % interval {low:.4f} to {high:.4f})"


def test_a_metric_that_is_no_number_stays_out_of_the_metadata(record, tmp_path: Path):
    record.metrics["test_log_loss"] = float("nan")
    data = ModelCard.load(write_card(record, tmp_path)).data
    assert [result.metric_type for result in data.eval_results] == ["accuracy"]
    assert data.metrics == ["accuracy"]


@pytest.mark.parametrize("name", [EVIL, "a: b", "--- x", "!!python/object x", "{x", "'", "x\n---\ny", "über"])
def test_names_that_yaml_would_take_for_more_come_back_as_they_are(record, tmp_path: Path, name: str):
    record.settings |= {"data": name}
    card = ModelCard.load(write_card(record, tmp_path))
    assert card.data.eval_results[0].dataset_name == name
    assert "## Results on the test split" in card.text


def test_the_card_repeats_the_licence_s_limits(record, tmp_path: Path):
    record.base = BaseModel("owner/name", "owner/name", "cc-by-nc-4.0")
    card = ModelCard.load(write_card(record, tmp_path))
    assert f"**Licence:** {record.base.restriction()}".replace("_", r"\_") in card.text
    record.base = BaseModel("owner/name", "owner/name", "mit")
    assert "**Licence:**" not in ModelCard.load(write_card(record, tmp_path)).text


def found(check: str, count: int, split: str = "train") -> dict[str, object]:
    message = f"{check}: /home/me/patients/jane.png"
    return {"check": check, "severity": "warning", "message": message, "split": split, "count": count}


def test_the_card_counts_what_was_found_and_names_no_file(record, tmp_path: Path):
    findings = [found("leak into test", 3), found("repeated input", 2), found("leak into test", 1, "validation")]
    record.data_report = {"findings": findings}
    record.notes = [*(str(finding["message"]) for finding in findings), "a decision"]
    record.settings |= {"metrics": ["/home/me/own.py", "f1:average=macro"]}
    text = write_card(record, tmp_path).read_text("utf-8")
    assert "- 3 train examples were copies of test examples, and were left out." in text
    assert "- 1 validation examples were copies of test examples, and were left out." in text
    assert "| repeated input (warning) | train | 2 |" in text
    assert "- a decision" in text
    assert "own.py" in text
    assert "/home" not in text
    assert "jane" not in text
    record.settings["on_problem"] = "warn"
    assert "stayed in: the figures are too good" in write_card(record, tmp_path).read_text("utf-8")
    record.data_report = {"findings": []}
    assert "No copies of test examples were found" in write_card(record, tmp_path).read_text("utf-8")


def test_the_card_tells_what_the_figures_say(record, tmp_path: Path):
    text = write_card(record, tmp_path).read_text("utf-8")
    assert "They come from 3 test examples, on which nothing was trained and nothing chosen." in text
    assert "hfft predict --model THIS_FOLDER_OR_REPOSITORY" in text
    low, high = (f"{record.metrics[f'test_accuracy_ci_{end}']:.4f}" for end in ("low", "high"))
    assert f"| {low} to {high} |" in text
