"""The command line under torchrun, on two CPU ranks; what they train is compared in test_equality.py."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas
import torch
from safetensors.torch import load_file

from tests.forkserver import run_ranks


def launch(argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
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


def train_late(folder: str, model: str, data: str) -> None:
    """Train on this rank, which finds no checkpoint unless it is the first: they have been renamed before it looks."""
    import hfft

    if os.environ["RANK"] != "0":
        exists = os.path.exists
        os.path.exists = lambda path: "checkpoint-" not in os.fspath(path) and exists(path)  # type: ignore[assignment]
    settings = {"strategy": "full", "num_train_epochs": 2, "learning_rate": 1e-2, "disable_tqdm": True}
    result = hfft.finetune(model=model, data=data, output_dir=f"{folder}/out", **settings)
    Path(folder, os.environ["RANK"]).write_text(str(result.trainer.state.best_model_checkpoint), "utf-8")


def test_a_process_that_looks_too_late_for_the_best_checkpoint_is_told_of_it(tiny_bert, text_folder, tmp_path: Path):
    run_ranks(2, train_late, str(tmp_path), str(tiny_bert), str(text_folder))
    first, second = ((tmp_path / rank).read_text() for rank in "01")
    assert first == second
    assert "checkpoint-" in first


def cross_validate(argv: list[str], folder: Path) -> None:
    """Run ``hfft crossval`` on this rank, and write down what it says."""
    from hfft.cli import main

    (folder / os.environ["WORLD_SIZE"]).mkdir(exist_ok=True)
    said = folder / os.environ["WORLD_SIZE"] / os.environ["RANK"]
    with said.open("w") as file, contextlib.redirect_stdout(file):
        assert main(["crossval", *argv]) == 0


def test_two_processes_cross_validate_as_one_does(tiny_bert, text_folder, tmp_path: Path):
    """Each runs folds of its own, alone; the first one trains the model of every example."""
    flags = ["--strategy", "lp-ft", "--num_train_epochs", "1", "--folds", "3", "--refit", "--seed", "3"]
    argv = ["--model", str(tiny_bert), "--data", str(text_folder / "train.csv"), *flags]
    for ranks in (2, 1):
        own = ["--output_dir", str(tmp_path / f"out-{ranks}"), "--cache_dir", str(tmp_path / f"cache-{ranks}")]
        run_ranks(ranks, cross_validate, [*argv, *own], tmp_path)
    said, other = ((tmp_path / "2" / rank).read_text() for rank in "01")
    assert said.count("Cross-validation, 3 folds, 36 examples") == 1
    assert [f"fold-{fold}: " in said for fold in (1, 2, 3)] == [True, False, True]  # those of the first process
    assert not other  # one voice
    two, one = (json.loads((tmp_path / f"out-{ranks}" / "crossval.json").read_text()) for ranks in (2, 1))
    assert len(one["folds"]) == 3
    for fold in (*two["folds"], *one["folds"]):
        del fold["train_runtime"]
    assert two == one
    tables = [pandas.read_parquet(tmp_path / f"out-{ranks}" / "predictions.parquet") for ranks in (2, 1)]
    assert len(tables[0]) == 36
    pandas.testing.assert_frame_equal(*tables, check_exact=True)
    weights, expected = (load_file(tmp_path / f"out-{ranks}" / "refit" / "model.safetensors") for ranks in (2, 1))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
