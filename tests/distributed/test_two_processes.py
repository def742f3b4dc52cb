"""Real processes: torchrun on two CPU ranks."""

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
from tests.conftest import make_sentences, write_csv

FLAGS = "--num_train_epochs 2 --seed 3 --learning_rate 1e-2 --optim sgd --validation_size 0"


def launch(argv: list[str], folder: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    return subprocess.run(
        [*command, "-m", "hfft", *argv], capture_output=True, text=True, cwd=folder, env=environment, timeout=240
    )


def without_dropout(model: Path, folder: Path) -> Path:
    """Copy a model with dropout off: ranks draw different masks than one process does."""
    import shutil

    copy = folder / "model"
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    )
    return copy


@pytest.mark.parametrize("strategy", ["full", "gradual", "lp-ft", "linear-probe"])
def test_two_processes_train_the_model_that_one_would_and_write_one_folder(strategy, tiny_bert, tmp_path: Path):
    # texts of unlike length, drawn by it, and 11 of them left for the last step of two ranks
    text_folder = tmp_path / "texts"
    rows = [(f"{text} {'and this ' * (index % 6)}", name) for index, (text, name) in enumerate(make_sentences(35, 1))]
    write_csv(text_folder / "train.csv", rows)
    write_csv(text_folder / "test.csv", make_sentences(15, 2))
    model = without_dropout(tiny_bert, tmp_path)
    out = tmp_path / "out"
    flags = [*FLAGS.split(), "--per_device_train_batch_size", "6", "--strategy", strategy]
    done = launch(
        ["train", "--model", str(model), "--data", str(text_folder), "--output_dir", str(out), *flags], tmp_path
    )
    assert done.returncode == 0, done.stderr
    # one voice: each line stands once
    assert done.stdout.count("Test split, 15 examples") == 1
    assert {"model.safetensors", "metrics.json", "run.yaml", "report.html"} <= {path.name for path in out.iterdir()}
    single = hfft.finetune(
        model=str(model),
        data=str(text_folder),
        output_dir=str(tmp_path / "single"),
        num_train_epochs=2,
        seed=3,
        learning_rate=1e-2,
        optim="sgd",
        validation_size=0,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        strategy=strategy,
    )
    both, one = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "single"))
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, atol=1e-5, rtol=1e-4, msg=name)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["test_examples"] == single.metrics["test_examples"] == 15
    assert abs(metrics["test_log_loss"] - single.metrics["test_log_loss"]) < 1e-5


def test_bad_input_is_reported_once_and_leaves_no_folder(tiny_bert, tmp_path: Path):
    argv = ["train", "--model", str(tiny_bert), "--data", "nowhere", "--output_dir", str(tmp_path / "out")]
    done = launch(argv, tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("hfft: --data: there is no file or folder 'nowhere'") == 1
    assert not (tmp_path / "out").exists()
