"""Runs that hold frozen layers in 4 bits while adapters train: what ships is made of the base model's own weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import hfft
from hfft import FineTuningArguments, FineTuningTrainer, UserError
from hfft.adapters import quantizing
from hfft.adapters.models import add_adapters, trained_parameters
from tests.conftest import save_timm_model, save_tiny_bert
from tests.distributed.test_two_processes import launch
from tests.finetuning.test_adapters import assert_pipeline_answers_as_the_run, run_in, shipped
from tests.without_hfft import Pipelines

pytest.importorskip("bitsandbytes")

QLORA: dict[str, Any] = {"load_in_4bit": True, "lora_dropout": None}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT whose rows are whole blocks of 64 weights."""
    return save_tiny_bert(tmp_path_factory.mktemp("models") / "bert", hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def text_run(bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> hfft.FineTuneResult:
    return run_in(tmp_path_factory.mktemp("text"), bert, text_folder, **QLORA, pooling="model")


def expected_weights(run: hfft.FineTuneResult, base: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return what plain products make of the base model's weights and the adapters that were kept, by their names."""
    folder = Path(run.output_dir) / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    adapters = load_file(folder / "adapter_model.safetensors")
    found = {}
    for name, value in base.items():
        path = f"base_model.model.{prefix}{name.removesuffix('.weight')}"
        if f"{path}.ia3_l" in adapters:
            found[name] = value * adapters[f"{path}.ia3_l"]
        elif f"{path}.lora_A.weight" in adapters:
            added = adapters[f"{path}.lora_B.weight"] @ adapters[f"{path}.lora_A.weight"]
            found[name] = value + added * config["lora_alpha"] / config["r"]
            if config["use_dora"]:
                scale = adapters[f"{path}.lora_magnitude_vector"] / found[name].norm(dim=1)
                found[name] = found[name] * scale[:, None]
    return found


def test_what_ships_is_the_base_in_full_precision_and_the_product(text_run, bert: Path):
    weights, base = shipped(text_run), load_file(bert / "model.safetensors")
    expected = expected_weights(text_run, base, "bert.")
    assert len(expected) == 12
    assert all(value.dtype == torch.float32 for value in weights.values())
    for name, value in base.items():
        found = weights[f"bert.{name}"]
        if name in expected:
            assert (found - value).abs().max() > 1e-4
            torch.testing.assert_close(found, expected[name], atol=1e-6, rtol=0)
        elif "pooler" not in name:  # which is of the head
            assert torch.equal(found, value), name


def test_the_artefact_is_an_ordinary_model(text_run, text_folder: Path, pipelines: Pipelines):
    folder = Path(text_run.output_dir)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert_pipeline_answers_as_the_run(text_run, pipelines)
    found = hfft.evaluate(model=str(folder), data=str(text_folder)).metrics
    assert found["test_log_loss"] == pytest.approx(text_run.metrics["test_log_loss"], rel=1e-5)


def test_the_figures_are_those_of_what_ships(text_run):
    model, validation = text_run.trainer.model, text_run.trainer.eval_dataset
    assert not any(quantizing.is_in_4bit(parameter) for parameter in model.parameters())
    predicted = text_run.trainer.predict(validation, metric_key_prefix="validation")
    assert text_run.metrics["validation_loss"] == pytest.approx(predicted.metrics["validation_loss"])
    logged = [entry["eval_loss"] for entry in text_run.record.history if "eval_loss" in entry]
    assert text_run.metrics["validation_loss"] != logged[-1]  # of the rounded weights
    (told,) = (note for note in text_run.record.notes if "12 linear layers are held in 4 bits" in note)
    assert "in place of" in told
    assert yaml.safe_load((Path(text_run.output_dir) / "run.yaml").read_text())["load_in_4bit"] is True


def test_only_linear_layers_between_stem_and_head_are_rounded(bert: Path, tmp_path: Path):
    model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=3)
    args = FineTuningArguments(
        output_dir=str(tmp_path), strategy="lora", load_in_4bit=True, learning_rate=0.05, max_steps=3,
        eval_strategy="no", load_best_model_at_end=False, disable_tqdm=True,
    )  # fmt: skip
    batch = {"input_ids": torch.ones(2, 5).long()}
    small, _ = quantizing.quantize(model, args, batch)
    packed = {name for name, parameter in small.named_parameters() if quantizing.is_in_4bit(parameter)}
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert packed == {name for name in linear if ".encoder.layer." in name}
    for name, parameter in small.named_parameters():
        if name in packed:
            state = parameter.quant_state
            assert (state.quant_type, state.nested, state.dtype) == ("nf4", True, torch.float32)
        else:
            assert torch.equal(parameter, model.get_parameter(name))
    assert not any(quantizing.is_in_4bit(parameter) for parameter in model.parameters())

    plain, _ = add_adapters(AutoModelForSequenceClassification.from_pretrained(bert, num_labels=3), args, batch)
    wrapped, _ = add_adapters(small, args, batch)
    assert trained_parameters(wrapped) == trained_parameters(plain)
    before = {name: value.clone() for name, value in wrapped.state_dict().items()}
    data = Dataset.from_dict({"input_ids": [[2, i, 3] for i in range(4, 16)], "labels": [i % 3 for i in range(12)]})
    FineTuningTrainer(wrapped, args, train_dataset=data.with_format("torch")).train()
    trains = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    for name, value in wrapped.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in trains), name


@pytest.mark.parametrize("strategy", ["dora", "ia3"])
def test_timm_models_and_other_adapters(strategy: str, image_folder: Path, tmp_path: Path, pipelines: Pipelines):
    timm = save_timm_model(tmp_path / "timm", "test_vit")
    settings = {"load_in_4bit": True, "lora_dropout": None, "learning_rate": 1e-3}
    run = run_in(tmp_path, timm, image_folder, strategy=strategy, **settings)
    assert_pipeline_answers_as_the_run(run, pipelines)
    weights, base = shipped(run), load_file(timm / "model.safetensors")
    expected = expected_weights(run, base, "timm_model.")
    assert expected
    for name, value in expected.items():
        assert not torch.equal(weights[name], base[name])
        torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=0)


def test_the_mean_of_the_tokens_is_folded_in_behind_whole_layers(
    bert: Path, text_folder: Path, tmp_path: Path, pipelines: Pipelines
):
    run = run_in(tmp_path, bert, text_folder, **QLORA, pooling="mean", keep_adapter=False)
    assert json.loads((Path(run.output_dir) / "config.json").read_text())["num_hidden_layers"] == 3
    assert_pipeline_answers_as_the_run(run, pipelines)
    weights, base = shipped(run), load_file(bert / "model.safetensors")
    assert torch.equal(weights["bert.encoder.layer.1.output.dense.bias"], base["encoder.layer.1.output.dense.bias"])


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(bert: Path, text_folder: Path, tmp_path: Path):
    class CutOffError(Exception):
        pass

    settings = {**QLORA, "num_train_epochs": 3, "save_total_limit": 5, "load_best_model_at_end": True}
    whole = run_in(tmp_path / "whole", bert, text_folder, **settings)
    original = FineTuningTrainer._determine_best_metric

    def determine(self: Any, *args: Any, **kwargs: Any) -> bool:
        if self.state.epoch >= 2:
            raise CutOffError
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuningTrainer, "_determine_best_metric", determine)
        with pytest.raises(CutOffError):
            run_in(tmp_path / "part", bert, text_folder, **settings)
    resumed = run_in(tmp_path / "part", bert, text_folder, resume=True, **settings)
    first, second = shipped(whole), shipped(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    checkpoint = next(Path(resumed.output_dir).glob("checkpoint-*"))
    assert not (checkpoint / "model.safetensors").exists()


def test_a_device_that_does_not_compute_in_4_bits_is_refused(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("no kernel for it")

    monkeypatch.setattr("bitsandbytes.nn.Linear4bit", refuse)
    monkeypatch.setattr(quantizing, "_obstacle", quantizing._obstacle.__wrapped__)  # which forgets nothing
    with pytest.raises(UserError, match=r"does not compute in 4 bits on this \w+: no kernel for it"):
        FineTuningArguments(strategy="lora", load_in_4bit=True)


def test_heads_are_solved_on_features_of_the_rounded_layers(bert: Path, text_folder: Path, tmp_path: Path):
    settings = {"lora_dropout": None, "max_steps": 1, "pooling": "model", "overwrite": True}
    kept = []
    for in_4bit in (False, True, True):
        run = run_in(tmp_path, bert, text_folder, load_in_4bit=in_4bit, **settings)
        kept.append(_features(tmp_path, round(run.metrics["train_examples"])))
    assert len(kept[0]) == 1
    assert len(kept[1]) == 2
    assert kept[2].keys() == kept[1].keys()
    exact = kept[0].keys()
    rounded = kept[1].keys() - exact
    exact_features, rounded_features = (torch.from_numpy(kept[1][name]) for names in (exact, rounded) for name in names)
    assert 0 < (exact_features - rounded_features).norm() < 0.3 * exact_features.norm()


def _features(folder: Path, examples: int) -> dict[str, np.ndarray]:
    """Return the features that are kept of so many examples, which are those of the training split, by their key."""
    files = (folder / "cache" / "hfft").glob("features-*/*.npy")
    arrays = {file.parent.name: np.load(file) for file in files}
    return {name: array for name, array in arrays.items() if len(array) == examples}


def test_two_processes_ship_what_one_does(text_folder: Path, tmp_path: Path):
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    bert = save_tiny_bert(tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
    settings = {**QLORA, "pooling": "model", "learning_rate": 1e-3, "keep_adapter": False}
    one = run_in(tmp_path, bert, text_folder, **settings)
    settings = {**yaml.safe_load((Path(one.output_dir) / "run.yaml").read_text()), "output_dir": str(tmp_path / "two")}
    settings |= {"per_device_train_batch_size": 4}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings))
    done = launch(["train", "--config", str(tmp_path / "two.yaml")], tmp_path)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "two" / "model.safetensors")
    for name, value in shipped(one).items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["without linear layers", "in parts of blocks"])
def test_a_model_that_holds_nothing_in_4_bits_is_refused(
    family: str, tiny_timm: Path, tiny_vit: Path, image_folder: Path, tmp_path: Path
):
    with pytest.raises(UserError, match="no linear layer whose inputs are a multiple of 64"):
        run_in(tmp_path, tiny_timm if family == "without linear layers" else tiny_vit, image_folder, **QLORA)
    assert not (tmp_path / "out").exists()
