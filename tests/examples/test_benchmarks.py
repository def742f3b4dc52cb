"""The benchmarks of the examples run, and say what they claim to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forkserver import call

ROOT = Path(__file__).parents[2]


@pytest.mark.document
def test_the_input_pipelines_are_measured_beside_each_other(image_folder: Path, tmp_path: Path):
    flags = ["--image_size", "32", "--epochs", "1", "--cores", "1", "--output", str(tmp_path / "speed.json")]
    script = ROOT / "examples" / "benchmarks" / "input_pipeline.py"
    argv = [str(script), "--data", str(image_folder), *flags]
    said = tmp_path / "said"
    program = f"import runpy, sys; sys.argv = {argv!r}; sys.stdout = open({str(said)!r}, 'w'); "
    assert call(exec, program + "runpy.run_path(sys.argv[0], run_name='__main__'); sys.stdout.close()", {}) == 0
    told = json.loads((tmp_path / "speed.json").read_text())
    assert told["images"] == 36
    assert [(row["pipeline"], row["workers"]) for row in told["rows"]] == [
        ("datasets + PIL", 0),
        ("datasets + PIL", 1),
        ("hfft, first epoch", 0),
        ("hfft, later epochs", 0),
        ("hfft, later epochs", 1),
    ]
    assert all(row["images_per_second"] > 0 for row in told["rows"])
    assert "datasets + PIL" in said.read_text()


@pytest.mark.sweep
def test_fifty_trials_need_no_more_memory_than_five(tmp_path: Path):
    pytest.importorskip("optuna")
    script = ROOT / "examples" / "benchmarks" / "search_memory.py"
    command = [sys.executable, str(script), "--trials", "50", "--output", str(tmp_path / "memory.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "memory.json").read_text())
    assert len(told["megabytes"]) == 50
    assert told["growth"] <= 0.05
    assert "trial  50" in done.stdout


@pytest.mark.sweep
def test_ranks_are_measured_beside_threads(tmp_path: Path):
    sizes = ["--batch_size", "4", "--steps", "1", "--layers", "1", "--width", "12", "--image_size", "32"]
    script = ROOT / "examples" / "benchmarks" / "cpu_ranks.py"
    command = [sys.executable, str(script), *sizes, "--repetitions", "1", "--output", str(tmp_path / "ranks.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "ranks.json").read_text())
    assert list(told["images_per_second"]) == ["1 rank x 2 threads", "2 ranks x 1 thread"]
    assert min(told["images_per_second"].values()) > 0
