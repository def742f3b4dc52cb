"""The scripts in examples/ do what their docstrings say, with what ships alone."""

from __future__ import annotations

import itertools
import json
import os
import runpy
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

import hfft
from hfft.demonstrations import ASSETS
from tests.hub_server import TOKEN, Hub, serve

EXAMPLES = Path(__file__).parents[2] / "examples"
VIT, BERT = ASSETS / "tiny-vit-glyphs", ASSETS / "tiny-bert-docs"

pytestmark = pytest.mark.document


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a script as ``python examples/NAME.py`` would, in an empty folder and this process."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *argv: str) -> None:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *argv])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")

    return run


def metrics_of(folder: str) -> dict[str, float]:
    return json.loads(Path(folder, "metrics.json").read_text())


def moved(folder: str, base: Path) -> set[str]:
    """Return the parameters of the trunk that are not what they were."""
    before, now = (load_file(Path(where, "model.safetensors")) for where in (base, folder))
    prefix = {name: next((other for other in now if other.endswith(name)), None) for name in before}
    return {name for name, other in prefix.items() if other and not torch.equal(before[name], now[other])}


def test_image_folder(run, capsys):
    run("image_folder")
    metrics = metrics_of("example-image-folder")
    assert metrics["test_examples"] == 500
    assert metrics["test_accuracy_ci_low"] > metrics["baseline_test_accuracy"] + 0.4
    assert "digits/test/7/" in capsys.readouterr().out
    assert moved("example-image-folder", VIT)


def test_csv_text(run, capsys):
    run("csv_text")
    metrics = metrics_of("example-csv-text")
    assert (metrics["test_examples"], metrics["train_examples"]) == (67, 239)
    assert metrics["test_accuracy_ci_low"] > metrics["baseline_test_accuracy"] + 0.1
    assert "'label': 'linear algebra'" in capsys.readouterr().out


def test_multi_label(run, capsys):
    run("multi_label")
    metrics = metrics_of("example-multi-label")
    assert metrics["test_micro_f1_ci_low"] > metrics["baseline_test_micro_f1"]
    assert pandas.read_csv("pairs-of-topics.csv")["label"].str.contains(";").mean() > 0.6
    assert "{'image processing': 0." in capsys.readouterr().out


def test_sentence_pairs(run, capsys):
    run("sentence_pairs")
    metrics = metrics_of("example-sentence-pairs")
    assert metrics["test_accuracy_ci_low"] > metrics["baseline_test_accuracy"]
    inputs = pandas.read_parquet("example-sentence-pairs/predictions.parquet")["input"]
    assert inputs.str.contains(" | This is about ", regex=False).all()
    assert "'label': 'yes'" in capsys.readouterr().out


def test_stock_trainer(run, capsys):
    run("stock_trainer")
    told = dict(line.split(": ") for line in capsys.readouterr().out.splitlines() if ": " in line and "{" not in line)
    assert float(told["accuracy"]) > 0.6
    rates = [float(value.rpartition(" ")[2]) for name, value in told.items() if "rate" in value]
    assert len(rates) == 6  # embeddings, four blocks, head
    assert all(lower == pytest.approx(0.75 * higher, rel=1e-2) for lower, higher in itertools.pairwise(rates))
    assert AutoModelForImageClassification.from_pretrained("example-stock-trainer").num_labels == 10


def test_ulmfit(run, capsys):
    run("ulmfit")
    metrics = metrics_of("example-ulmfit")
    assert metrics["test_accuracy_ci_low"] > metrics["baseline_test_accuracy"]
    thaws = [
        float(line.split("epoch ")[1].split(",")[0])
        for line in capsys.readouterr().out.splitlines()
        if "thawed" in line
    ]
    assert sorted(thaws) == pytest.approx(list(range(len(thaws))), abs=0.1)


def test_lp_ft(run, capsys):
    run("lp_ft")
    probe, tuned = (metrics_of(f"example-{name}")["test_accuracy"] for name in ("linear-probe", "lp-ft"))
    assert not moved("example-linear-probe", VIT)
    assert f"linear-probe {probe:.3f}, lp-ft {tuned:.3f}: {tuned - probe:+.3f}" in capsys.readouterr().out


def test_lora(run, capsys):
    run("lora")
    told = capsys.readouterr().out.splitlines()[-1]
    assert float(told.rpartition(" ")[2].rstrip(".")) < 1e-4
    assert moved("example-lora", BERT)
    assert Path("example-lora/adapter/adapter_model.safetensors").stat().st_size < 1e6


def test_cross_validation(run):
    run("cross_validation")
    found = pandas.read_parquet("example-cross-validation/predictions.parquet")
    assert len(found) == 333
    assert (found["label"] == found["predicted"]).mean() > 0.4
    assert {"model.safetensors", "README.md"} <= {
        path.name for path in Path("example-cross-validation/refit").iterdir()
    }


def test_search(run, capsys):
    pytest.importorskip("optuna")
    run("search")
    trials = pandas.read_csv("example-search/trials.csv")
    assert len(trials) == 8
    assert f"{trials['value'].max():.3f} on the validation split" in capsys.readouterr().out
    assert metrics_of("example-search")["test_accuracy"] > 0.4


def test_push_to_hub(run, monkeypatch, capsys):
    hub = Hub()
    server = serve(hub)
    for name, value in {"HF_HUB_OFFLINE": False, "ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run("push_to_hub", "me/topics")
    server.shutdown()
    server.server_close()
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/me/topics"
    assert hub.visibility == {"me/topics": "private"}
    arrived = hub.files["me/topics", "main"]
    assert arrived["model.safetensors"] == Path("example-push-to-hub/model.safetensors").read_bytes()
    assert not {"predictions.parquet", "report.html"} & set(arrived)


def test_custom_task(run):
    run("custom_task")
    assert metrics_of("example-custom-task")["test_accuracy_ci_low"] > 0.7
    task: Any = runpy.run_path(str(EXAMPLES / "custom_task.py"))["GridClassification"]()
    table = pandas.DataFrame({"grid": [[1.0] * 64, [1.0] * 63] * 20, "label": [0, 1] * 20})
    with pytest.raises(hfft.UserError, match="no grid of 64 readings"):
        hfft.finetune(task=task, model=str(VIT), data=table, output_dir="refused")


def test_what_accelerate_launches_is_one_world(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    world, script = Path(__file__).with_name("world.py"), EXAMPLES / "train_with_accelerate.py"
    argv = ["--model", tiny_bert, "--data", text_folder, "--output_dir", "out", "--num_train_epochs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port", "0"]
    command += ["--config_file", str(EXAMPLES / "accelerate" / "cpu.yaml")]
    command += map(str, [world, tmp_path, script, *argv])
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    one = {"world_size": 2, "wrapped": "DistributedDataParallel", "find_unused_parameters": True}
    assert seen == [{**one, "rank": rank} for rank in range(2)]
    assert done.stdout.count("test_examples: 15") == 1  # the script tells the metrics once


def test_the_pretraining_script_draws_no_digit_and_writes_such_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = EXAMPLES / "pretraining" / "pretrain_vit.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--output", str(tmp_path / "vit"), "--steps", "2"])
    names = runpy.run_path(str(script), run_name="__main__")
    made, shipped = (load_file(folder / "model.safetensors") for folder in (tmp_path / "vit", VIT))
    assert {name: tensor.shape for name, tensor in made.items()} == {name: t.shape for name, t in shipped.items()}
    for name in ("config.json", "preprocessor_config.json"):
        assert json.loads((tmp_path / "vit" / name).read_text()) == json.loads((VIT / name).read_text())
    glyphs = names["glyph_bank"]()[2]
    assert len(glyphs) > 1000
    numbers = [unicodedata.numeric(unicodedata.normalize("NFKD", glyph)[0], None) for glyph in glyphs]
    assert set(numbers) == {None}
