"""Weights, gradients and optimizer state that two ranks share: the model is the one that a single process trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hfft
from tests.distributed.sharded import KINDS, RATES, RESUMED, run, train
from tests.forkserver import run_ranks


@pytest.fixture(scope="module")
def runs(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks have written."""
    folder = tmp_path_factory.mktemp("sharded")
    run_ranks(2, run, str(folder), str(tiny_bert), str(text_folder))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_unfreezing_and_resuming_under_fsdp_trains_the_model_of_one_process(runs: Path, kind: str, tmp_path: Path):
    single = train(str(tmp_path / "single"), 4).model.state_dict()
    for name in ("whole", *(f"resumed-{step}" for step in RESUMED)):
        trained = load_file(runs / kind / name / "model" / "model.safetensors")
        assert trained.keys() == single.keys()
        for key, value in single.items():
            torch.testing.assert_close(trained[key], value, atol=1e-6, rtol=1e-5, msg=f"{name}: {key}")


def test_a_sharded_run_of_auto_starts_from_a_random_head_and_tells_so(runs: Path, text_folder: Path):
    out = runs / "auto"
    told = json.loads((out / "metrics.json").read_text())
    assert hfft.evaluate(model=str(out), data=str(text_folder)).metrics["test_log_loss"] == pytest.approx(
        told["test_log_loss"], abs=1e-6
    )
    assert not any(name.startswith("baseline_probe") for name in told)
    assert "hat is trained ships in any case: no head was solved." in (out / "report.html").read_text()


def test_a_sharded_run_of_auto_from_a_solved_head_that_was_asked_for_decides_nothing_and_tells_so(runs: Path):
    out = runs / "auto-solved"
    assert "hat is trained ships in any case: no process has the whole model." in (out / "report.html").read_text()
    trained, solved = (
        json.loads((runs / name / "metrics.json").read_text()) for name in ("auto-solved", "rate-0.0002")
    )
    assert trained["baseline_probe_test_log_loss"] == solved["baseline_probe_test_log_loss"]


@pytest.mark.parametrize("rate", RATES)
def test_what_a_sharded_run_ships_has_the_metrics_that_it_tells(runs: Path, text_folder: Path, rate: float):
    out = runs / f"rate-{rate}"
    told = json.loads((out / "metrics.json").read_text())
    found = hfft.evaluate(model=str(out), data=str(text_folder)).metrics
    assert found["test_log_loss"] == pytest.approx(told["test_log_loss"], abs=1e-6)
    assert told["test_accuracy"] > 0.6  # of three classes
    if rate > 1:
        for name in ("log_loss", "accuracy"):
            assert told[f"test_{name}"] == pytest.approx(told[f"baseline_probe_test_{name}"], abs=1e-6)
