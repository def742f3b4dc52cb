"""Weights, gradients and optimizer state that two ranks share: the model is the one that a single process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hfft
from tests.distributed.sharded import KINDS, RATES, RESUMED, train

SCRIPT = Path(__file__).parent / "sharded.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def runs(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script has written; one launch, because it takes seconds to import what training needs."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [*TORCHRUN, str(SCRIPT), str(folder), str(tiny_bert), str(text_folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_unfreezing_and_resuming_under_fsdp_trains_the_model_of_one_process(runs: Path, kind: str, tmp_path: Path):
    single = train(str(tmp_path / "single"), 4).model.state_dict()
    for name in ("whole", *(f"resumed-{step}" for step in RESUMED)):
        trained = load_file(runs / kind / name / "model" / "model.safetensors")
        assert trained.keys() == single.keys()
        for key, value in single.items():
            torch.testing.assert_close(trained[key], value, atol=1e-6, rtol=1e-5, msg=f"{name}: {key}")


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
