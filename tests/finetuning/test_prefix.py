from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hfft
from hfft import UserError


@pytest.mark.parametrize("strategy", ["gradual", "full"])
def test_frozen_layers_are_computed_once_and_nothing_else_changes(strategy, tiny_bert, text_folder, tmp_path: Path):
    settings = {"model": str(tiny_bert), "data": str(text_folder), "strategy": strategy, "num_train_epochs": 8}
    settings |= {"cache_dir": str(tmp_path / "cache"), "freeze": ["2"] if strategy == "full" else None}
    # a solved head leaves gradients of the size of rounding, which Adam makes steps of
    settings |= {"head_start": "random", "eval_on_start": True}
    cached = hfft.finetune(output_dir=str(tmp_path / "cached"), **settings)
    kept = {path.name for path in (tmp_path / "cache" / "hfft").glob("activations-*")}
    assert kept
    again = hfft.finetune(output_dir=str(tmp_path / "again"), **settings)
    plain = hfft.finetune(output_dir=str(tmp_path / "plain"), cache_activations=False, **settings)
    assert {path.name for path in (tmp_path / "cache" / "hfft").glob("activations-*")} == kept
    one, same, other = (load_file(Path(run.output_dir) / "model.safetensors") for run in (cached, again, plain))
    for name, value in other.items():
        assert torch.equal(one[name], same[name]), name
        torch.testing.assert_close(one[name], value, atol=1e-5, rtol=1e-3, msg=name)
    losses = [[entry["eval_loss"] for entry in run.record.history if "eval_loss" in entry] for run in (cached, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(losses[0]) == 9


def test_cached_views_need_views(tiny_bert, text_folder, tmp_path: Path):
    with pytest.raises(UserError, match="cached_views has no place with augment none"):
        hfft.finetune(model=str(tiny_bert), data=str(text_folder), output_dir=str(tmp_path / "out"), cached_views=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("strategy", ["full", "lp-ft"])  # of which one evaluates its start, with the channels last
def test_augmented_pictures_start_from_cached_views(strategy: str, tiny_timm, image_folder, tmp_path: Path):
    settings = {"model": str(tiny_timm), "data": str(image_folder), "freeze": ["3"], "num_train_epochs": 8}
    settings["strategy"] = strategy
    settings |= {"augment": "light", "cached_views": 2, "cache_dir": str(tmp_path / "cache")}
    cached = hfft.finetune(output_dir=str(tmp_path / "cached"), **settings)
    assert list((tmp_path / "cache" / "hfft").glob("activations-*"))
    plain = hfft.finetune(output_dir=str(tmp_path / "plain"), cache_activations=False, **settings)
    one, other = (load_file(Path(run.output_dir) / "model.safetensors") for run in (cached, plain))
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, atol=1e-5, rtol=1e-3, msg=name)
