"""The command line under torchrun, on two CPU ranks; what they train is compared in test_equality.py."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path


def launch(argv: list[str], folder: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    return subprocess.run(
        [*command, "-m", "hfft", *argv], capture_output=True, text=True, cwd=folder, env=environment, timeout=240
    )


def test_the_command_line_trains_on_two_processes_with_one_voice(tiny_bert, text_folder, tmp_path: Path):
    out = tmp_path / "out"
    flags = ["--num_train_epochs", "1", "--validation_size", "0"]
    tracks = importlib.util.find_spec("tensorboard") is not None
    flags += ["--report_to", "tensorboard"] if tracks else []
    places = ["--model", str(tiny_bert), "--data", str(text_folder), "--output_dir", str(out)]
    done = launch(["train", *places, *flags], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Test split, 15 examples") == 1
    assert len(list(out.glob("runs/*/*.tfevents.*.0"))) == tracks  # the first process alone reports
    assert {"model.safetensors", "metrics.json", "run.yaml", "report.html"} <= {path.name for path in out.iterdir()}
    assert json.loads((out / "metrics.json").read_text())["test_examples"] == 15
