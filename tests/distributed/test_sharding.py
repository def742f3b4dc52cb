"""Weights, gradients and optimizer state that two ranks share: the model is the one that a single process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.sharded import RESUMED, train

SCRIPT = Path(__file__).parent / "sharded.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.parametrize("kind", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_unfreezing_and_resuming_under_fsdp_trains_the_model_of_one_process(kind: str, tmp_path: Path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TORCHRUN, str(SCRIPT), str(tmp_path), kind], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    single = train(str(tmp_path / "single"), 4).model.state_dict()
    for name in ("whole", *(f"resumed-{step}" for step in RESUMED)):
        trained = load_file(tmp_path / name / "model" / "model.safetensors")
        assert trained.keys() == single.keys()
        for key, value in single.items():
            torch.testing.assert_close(trained[key], value, atol=1e-6, rtol=1e-5, msg=f"{name}: {key}")
