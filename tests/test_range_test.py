"""The learning-rate range test: rates that rise in proportion, and nothing left behind."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import hfft
from hfft import range_test
from hfft.callbacks.learning_rate_range import LearningRateRange, smooth
from hfft.cli import main
from hfft.range_test import suggest
from tests.conftest import save_timm_model


@pytest.fixture
def settings(tiny_bert: Path, text_folder: Path) -> dict[str, Any]:
    return {"model": str(tiny_bert), "data": str(text_folder), "per_device_train_batch_size": 8, "precision": "fp32"}


@pytest.fixture
def seen(monkeypatch) -> list[dict[str, Any]]:
    """What each step of a test has: the rate of every layer, and which parameters train."""
    steps, begin = [], LearningRateRange.on_step_begin

    def recorded(self: LearningRateRange, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        begin(self, args, state, control, **kwargs)
        rates = {group["layer"]: group["lr"] for group in kwargs["optimizer"].param_groups}
        steps.append({"rates": rates, "frozen": [p for p in kwargs["model"].parameters() if not p.requires_grad]})

    monkeypatch.setattr(LearningRateRange, "on_step_begin", recorded)
    return steps


def test_the_rates_of_all_layers_rise_in_proportion(settings, seen):
    found = hfft.lr_find(
        **settings, lowest_rate=1e-6, highest_rate=1e-3, steps=10, layer_decay=0.5, head_learning_rate=4e-3,
        learning_rate=1e-3,
    )  # fmt: skip
    assert found.rates == pytest.approx([1e-6 * 1000 ** (k / 9) for k in range(10)])
    assert len(found.losses) == len(found.smoothed) == len(seen) == 10
    for rate, step in zip(found.rates, seen, strict=True):
        rates = list(step["rates"].values())  # input first
        height = len(rates) - 1
        expected = [rate / 4 * 0.5 ** (height - place) for place in range(height)]
        assert rates == pytest.approx([*expected, rate])


def test_the_losses_are_those_of_a_run_at_such_rates(settings, tmp_path):
    found = hfft.lr_find(**settings, lowest_rate=1e-3, highest_rate=1e-3 * (1 + 1e-9), steps=10)
    run = hfft.finetune(
        **settings, output_dir=str(tmp_path / "out"), learning_rate=1e-3, max_steps=10, lr_scheduler_type="constant",
        warmup_steps=0, logging_strategy="steps", logging_steps=1, disable_tqdm=True, eval_strategy="no",
        load_best_model_at_end=False,
    )  # fmt: skip
    assert found.losses == pytest.approx([entry["loss"] for entry in run.record.history if "loss" in entry], rel=1e-5)


def test_it_ends_where_the_loss_diverges(settings):
    found = hfft.lr_find(**settings, lowest_rate=1e-2, highest_rate=1e3, steps=40)
    assert found.diverged
    assert 5 <= len(found.losses) < 40
    assert len(found.rates) == len(found.smoothed) == len(found.losses)


def test_random_state_weights_and_folders_stay_as_they_are(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(hfft.FineTuningTrainer, "evaluation_loop", None)  # the loss of training batches is all it needs
    before = {path: path.read_bytes() for path in Path(settings["model"]).iterdir()}
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    expected = [random.random(), np.random.rand(), float(torch.rand(1))]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    hfft.lr_find(**settings, steps=10, strategy="lp-ft", output_dir=str(tmp_path / "out"))
    assert [random.random(), np.random.rand(), float(torch.rand(1))] == expected
    assert {path: path.read_bytes() for path in Path(settings["model"]).iterdir()} == before
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "temporary").iterdir())


def test_all_layers_train_also_with_gradual_unfreezing(settings, seen):
    hfft.lr_find(**settings, steps=10, strategy="gradual", epochs_per_group=5.0)
    assert all(min(step["rates"].values()) > 0 for step in seen)
    assert not any(step["frozen"] for step in seen)


def test_adapters_are_what_a_test_of_adapters_trains(settings, seen):
    hfft.lr_find(**settings, steps=10, strategy="lora", lora_rank=2)
    trunk = transformers.AutoModel.from_pretrained(settings["model"], add_pooling_layer=False)
    assert all(sum(p.numel() for p in step["frozen"]) >= trunk.num_parameters() for step in seen)


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_least_loss():
    rates = np.geomspace(1e-6, 1, 61)
    valley = np.log10(rates / 1e-2) ** 2 / 16 + 0.5
    assert suggest(rates, valley, smooth(list(valley), 61), True) == (1e-3, [])
    falling = np.linspace(2, 1, 61)
    assert suggest(rates, falling, smooth(list(falling), 61), False) == (
        0.1, ["The loss still falls at the highest rate: raise --highest_rate."],
    )  # fmt: skip
    noise = 1 + 0.1 * np.random.default_rng(0).standard_normal(61)
    suggestion, notes = suggest(rates, noise, smooth(list(noise), 61), False)
    assert suggestion is None
    assert "no more than it differs from batch to batch" in notes[0]


def test_smoothing_leaves_a_minimum_where_it_is():
    losses = np.abs(np.arange(100) - 40.0)
    assert smooth(list(losses), 100).argmin() == 40


def test_the_command_names_the_flags_and_draws(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--model", settings["model"], "--data", settings["data"], "--per_device_train_batch_size", "8"]
    flags += ["--strategy", "full"]
    assert main(["lr-find", *flags, "--steps", "30", "--highest_rate", "0.1", "--output", "lr.png"]) == 0
    out = capsys.readouterr().out
    assert "--learning_rate 0.0" in out
    assert range_test.FOR_TRANSFORMERS in out
    with Image.open("lr.png") as picture:
        assert picture.size[0] > 300
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]


def test_only_a_transformer_is_warned_of(tiny_vit: Path, image_folder: Path, tmp_path: Path):
    resnet = save_timm_model(tmp_path / "resnet", "test_resnet")
    noted = {
        model: range_test.FOR_TRANSFORMERS in hfft.lr_find(model=str(model), data=str(image_folder), steps=10).notes
        for model in (tiny_vit, resnet)
    }
    assert noted == {tiny_vit: True, resnet: False}


def test_a_head_with_a_rate_of_its_own_is_suggested_with_the_rest(tiny_timm: Path, image_folder: Path):
    found = hfft.lr_find(model=str(tiny_timm), data=str(image_folder), steps=30)
    assert found.suggestion is not None
    assert found.settings["head_learning_rate"] == found.suggestion
    assert found.settings["learning_rate"] == pytest.approx(found.suggestion / 100, rel=0.05)  # the task's defaults


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"strategy": "linear-probe"}, "has no learning rate to be found"),
        ({"lowest_rate": 1e-2, "highest_rate": 1e-3}, "highest_rate must be more than 0.01"),
        ({"steps": 3}, "steps must be at least 10"),
        ({"output": "lr.gif"}, "must end in .png or .svg or .pdf"),
    ],
)
def test_what_cannot_be_tested_is_refused(given, told, settings):
    with pytest.raises(hfft.UserError, match=told):
        hfft.lr_find(**settings, **given)


def test_several_processes_are_refused(settings, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(hfft.UserError, match="runs in one process"):
        hfft.lr_find(**settings)


def test_its_help_leaves_out_what_the_test_settles_itself(capsys):
    assert main(["lr-find", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--highest_rate" in shown
    assert "--weight_decay" in shown
    for name in ("output_dir", "max_steps", "report_to", "overwrite", "calibration"):
        assert f"--{name}" not in shown
