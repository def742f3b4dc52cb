from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, ModelCardData

from hfft.evaluation import summarize
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
