"""Runs whose head is solved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file

import hfft
from tests.finetuning.test_finetune import QUICK
from tests.without_hfft import Pipelines


@pytest.fixture(scope="module")
def probe(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> hfft.FineTuneResult:
    root = tmp_path_factory.mktemp("probe")
    return hfft.finetune(
        model=str(tiny_bert),
        data=str(text_folder),
        output_dir=str(root / "out"),
        cache_dir=str(root / "cache"),
        strategy="linear-probe",
        pooling="mean",
        seed=3,
    )


def test_a_probe_learns_from_every_training_example(probe):
    assert probe.metrics["train_examples"] == 36
    assert "validation_examples" not in probe.metrics
    assert probe.metrics["test_accuracy"] > 0.8
    assert any("head solved on 32 features" in note for note in probe.record.notes)


def test_the_mean_of_the_tokens_ships_in_the_stock_architecture(probe, pipelines: Pipelines):
    config = json.loads((Path(probe.output_dir) / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    assert config["architectures"] == ["BertForSequenceClassification"]
    table = Dataset.from_parquet(str(Path(probe.output_dir) / "predictions.parquet"), keep_in_memory=True)
    answers = pipelines.probabilities("text-classification", probe.output_dir, table["input"][:6])
    for row, answer in zip(table.select(range(6)), answers, strict=True):
        for name, probability in answer.items():
            assert row[f"probability_{name}"] == pytest.approx(probability, abs=1e-5)


def test_a_probe_leaves_the_trunk_bit_for_bit(probe, tiny_bert: Path):
    before, after = load_file(tiny_bert / "model.safetensors"), load_file(Path(probe.output_dir) / "model.safetensors")
    trunk = [name for name in before if "pooler" not in name]
    assert len(trunk) > 30
    assert all(torch.equal(before[name], after[f"bert.{name}"]) for name in trunk)


def test_run_yaml_solves_the_same_head_again(probe, tmp_path: Path):
    settings = yaml.safe_load((Path(probe.output_dir) / "run.yaml").read_text())
    assert settings["strategy"] == "linear-probe"
    assert settings["pooling"] == "mean"
    assert settings["validation_size"] == 0  # or `hfft evaluate` would draw one from what was trained on
    hfft.finetune(**{**settings, "output_dir": str(tmp_path / "again"), "cache_dir": str(tmp_path / "cold")})
    first, again = (Path(folder) / "model.safetensors" for folder in (probe.output_dir, tmp_path / "again"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("strategy", [{"strategy": "lp-ft"}, {"strategy": "full", "head_start": "solved"}])
def test_lp_ft_starts_from_a_quarter_of_the_probe_and_trains_every_layer(
    tiny_bert, text_folder, tmp_path: Path, strategy: dict[str, str]
):
    rate = {
        "load_best_model_at_end": False,
        "learning_rate": 1e-6,
        "warmup_steps": 0,
        "max_steps": 1,
        "validation_size": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    common = {"model": str(tiny_bert), "data": str(text_folder), "pooling": "model", **QUICK, **rate}
    tuned = hfft.finetune(output_dir=str(tmp_path / "tuned"), **strategy, **common)
    solved = hfft.finetune(
        output_dir=str(tmp_path / "solved"),
        strategy="linear-probe",
        model=str(tiny_bert),
        data=str(text_folder),
        pooling="model",
        seed=QUICK["seed"],
    )
    one, other = (load_file(Path(run.output_dir) / "model.safetensors") for run in (tuned, solved))
    assert all(not torch.equal(one[name], other[name]) for name in one if name.endswith("weight"))
    for name in ("classifier.weight", "classifier.bias"):
        torch.testing.assert_close(one[name], other[name] / 4, atol=2e-6, rtol=0)


def evaluated(run: hfft.FineTuneResult) -> list[int]:
    return [entry["step"] for entry in run.record.history if "eval_loss" in entry]


@pytest.mark.parametrize("strategy", ["lp-ft", "gradual"])
def test_where_training_only_harms_the_solved_head_ships(tiny_bert, text_folder, tmp_path: Path, strategy: str):
    settings = {**QUICK, "model": str(tiny_bert), "data": str(text_folder), "pooling": "model", "strategy": strategy}
    out = tmp_path / "out"
    run = hfft.finetune(output_dir=str(out), learning_rate=3.0, warmup_steps=0, **settings)
    assert run.trainer.state.best_model_checkpoint == str(out / "checkpoint-0")
    shipped, start = (
        load_file(tmp_path / "out" / path) for path in ("model.safetensors", "checkpoint-0/model.safetensors")
    )
    factors = {name: 4 if strategy == "lp-ft" and name.startswith("classifier.") else 1 for name in start}
    assert all(torch.equal(shipped[name], start[name] * factors[name]) for name in start)
    entry = next(entry for entry in run.record.history if entry.get("step") == 0)
    assert run.metrics["validation_loss"] == entry["eval_loss"]
    found = run.trainer.evaluate()  # of what ships, which the start was judged by
    assert found["eval_loss"] == pytest.approx(entry["eval_loss"], rel=1e-6)
    assert any("the solved head ships" in note for note in run.record.notes)


def test_what_ships_with_its_mean_folded_is_trained_further_as_it_was(tiny_bert, text_folder, tmp_path: Path):
    own = {**QUICK, "data": str(text_folder), "pooling": "mean", "strategy": "full", "learning_rate": 1e-3}
    first = hfft.finetune(model=str(tiny_bert), output_dir=str(tmp_path / "first"), **own)
    again = {**own, "model": first.output_dir, "pooling": "auto", "warmup_steps": 0}
    same, further = (
        hfft.finetune(**{**again, "learning_rate": rate, "output_dir": str(tmp_path / str(rate))})
        for rate in (1e-9, 1e-3)
    )
    assert same.metrics["test_log_loss"] == pytest.approx(first.metrics["test_log_loss"], rel=1e-3)
    losses = [entry["loss"] for entry in further.record.history if "loss" in entry]
    before = [entry["loss"] for entry in first.record.history if "loss" in entry]
    assert losses[0] < before[-1] * 1.2
    shipped, other = (load_file(Path(run.output_dir) / "model.safetensors") for run in (first, further))
    assert shipped.keys() == other.keys()
    moved = {name for name in shipped if not torch.equal(shipped[name], other[name])}
    assert "bert.encoder.layer.1.output.dense.weight" in moved
    assert not any("pooler" in name or "encoder.layer.2." in name for name in moved)  # which stand for the mean


def test_lp_ft_goes_on_where_it_was_interrupted(tiny_bert, text_folder, tmp_path: Path):
    settings = {
        **QUICK,
        "model": str(tiny_bert),
        "data": str(text_folder),
        "strategy": "lp-ft",
        "pooling": "mean",
        "learning_rate": 1e-3,
        "num_train_epochs": 4,
        "save_seconds": 0,
        "save_total_limit": 5,
    }
    whole = hfft.finetune(output_dir=str(tmp_path / "whole"), **settings)
    for name in ("model.safetensors", "metrics.json"):
        (tmp_path / "whole" / name).rename(tmp_path / name)
    checkpoints = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    for checkpoint in checkpoints[2:]:
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    resumed = hfft.finetune(output_dir=str(tmp_path / "whole"), resume=True, **settings)
    assert (
        evaluated(resumed) == evaluated(whole) == [0, *(int(path.name.partition("-")[2]) for path in checkpoints[1:])]
    )
    again = load_file(tmp_path / "whole" / "model.safetensors")
    before = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], again[name]) for name in before)
    assert whole.metrics["test_accuracy"] > 0.5


def test_a_run_that_finds_its_features_is_the_same_bit_for_bit(tiny_timm: Path, image_folder: Path, tmp_path: Path):
    """Computing them lays the weights of convolutions out otherwise for the time."""
    settings = {"model": str(tiny_timm), "data": str(image_folder), "strategy": "lp-ft", **QUICK}
    settings["cache_dir"] = str(tmp_path / "cache")
    cold, warm = (hfft.finetune(output_dir=str(tmp_path / name), **settings) for name in ("cold", "warm"))
    first, second = (load_file(Path(run.output_dir) / "model.safetensors") for run in (cold, warm))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {**cold.metrics, "train_runtime": None} == {**warm.metrics, "train_runtime": None}
