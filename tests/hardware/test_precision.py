from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

import hfft
from hfft import FineTuningArguments, FineTuningTrainer, UserError
from hfft.hardware import precision
from hfft.hardware.precision import suited_attention


@pytest.fixture
def fast_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the processor for one with instructions for bfloat16; any can compute in it."""
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device_type: True)


@pytest.mark.parametrize(
    ("wanted", "switches", "launcher", "resolved"),
    [
        ("auto", {}, "no", "bf16"),
        (None, {}, "no", "fp32"),
        (None, {"bf16": True}, "no", "bf16"),
        (None, {}, "bf16", "bf16"),
        ("fp32", {}, "no", "fp32"),
        ("bf16", {}, "no", "bf16"),
        ("bf16", {"bf16": True}, "bf16", "bf16"),
        ("auto", {"bf16": True}, "no", "bf16"),
        ("auto", {}, "bf16", "bf16"),
    ],
)
def test_the_trainers_switches_follow_the_precision(
    fast_bf16, tmp_path, monkeypatch, wanted, switches, launcher, resolved
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    args = FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, precision=wanted, **switches)
    assert (args.precision, args.bf16, args.fp16) == (resolved, resolved == "bf16", False)
    assert args.mixed_precision == {"fp32": "no"}.get(resolved, resolved)


def test_without_instructions_for_bf16_auto_is_fp32(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device_type: False)
    assert FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, precision="auto").precision == "fp32"
    switched = FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, bf16=True)
    assert (switched.precision, switched.bf16) == ("bf16", True)


@pytest.mark.parametrize(
    ("options", "launcher", "message"),
    [
        ({"precision": "fp32", "bf16": True}, "no", "precision fp32 and bf16 true contradict each other"),
        ({"precision": "bf16", "fp16": True}, "no", "precision bf16 and fp16 true contradict each other"),
        ({"precision": "fp32"}, "bf16", "precision fp32 and --mixed_precision bf16 of the launcher contradict"),
        ({"bf16": True, "fp16": True}, "no", "bf16 true, fp16 true exclude each other"),
        ({"precision": "fp16"}, "no", "precision fp16 needs a GPU"),
        ({"fp16": True}, "no", "precision fp16 needs a GPU"),
        ({}, "fp8", "hfft trains in fp32, bf16 or fp16"),
        ({"precision": "bf61"}, "no", "Did you mean 'bf16'?"),
    ],
)
def test_contradictions_and_what_the_device_lacks_are_refused(tmp_path, monkeypatch, options, launcher, message):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, **options)


def test_an_accelerator_without_bf16_is_refused(monkeypatch):
    monkeypatch.setattr(precision, "is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(UserError, match="this cuda device lacks it"):
        precision.resolve_precision("bf16", bf16=False, fp16=False, device_type="cuda")


def test_the_self_test_passes_and_draws_no_random_numbers():
    state = torch.get_rng_state()
    assert precision.computes_in_bf16.__wrapped__(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("spoil", [lambda g: g * 1.1, lambda g: g * float("nan"), lambda g: g * 0])
def test_auto_is_fp32_where_bf16_computes_something_else(fast_bf16, monkeypatch, spoil):
    right = precision._gradients

    def gradients(device: torch.device, context: Any) -> list[torch.Tensor]:
        found = right(device, context)
        return found if context is contextlib.nullcontext else [spoil(g) for g in found]

    monkeypatch.setattr(precision, "_gradients", gradients)
    assert not precision.computes_in_bf16.__wrapped__(torch.device("cpu"))


def test_auto_is_fp32_where_bf16_cannot_be_computed(monkeypatch):
    def refuse(*args: Any) -> Any:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(precision.functional, "conv2d", refuse)
    assert not precision.computes_in_bf16.__wrapped__(torch.device("cpu"))


def make_trainer(tiny_timm: Path, out: Path, **options: Any) -> FineTuningTrainer:
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_pretrained(tiny_timm, num_labels=2)
    pixels = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)).tolist()
    data = Dataset.from_dict({"pixel_values": pixels, "labels": [0, 1] * 8}).with_format("torch")
    args = FineTuningArguments(
        output_dir=str(out), max_steps=3, per_device_train_batch_size=4, eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, disable_tqdm=True, use_cpu=True, learning_rate=1e-2, **options,
    )  # fmt: skip
    return FineTuningTrainer(model, args, train_dataset=data, eval_dataset=data)


def assert_predicts_in_float32(trainer: FineTuningTrainer, model: Path) -> None:
    """Hold the logits against those of the plain model with the trained weights."""
    stored = AutoModelForImageClassification.from_pretrained(model, num_labels=2)
    stored.load_state_dict(trainer.model.state_dict())
    with torch.no_grad():
        plain = stored.eval()(trainer.eval_dataset["pixel_values"][:]).logits.numpy()
    np.testing.assert_allclose(trainer.predict(trainer.eval_dataset).predictions, plain, rtol=0, atol=1e-5)


def test_training_computes_in_bf16_and_predicting_in_fp32(fast_bf16, tiny_timm, tmp_path):
    trainer = make_trainer(tiny_timm, tmp_path, precision="auto")
    seen: list[torch.dtype] = []
    convolution = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.predict(trainer.eval_dataset)  # before training, which is to be mixed all the same
    assert set(seen) == {torch.float32}
    seen.clear()
    trainer.train()
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    seen.clear()
    assert_predicts_in_float32(trainer, tiny_timm)
    assert set(seen) == {torch.float32}
    seen.clear()
    trainer.evaluate()
    assert set(seen) == {torch.bfloat16}


def test_the_same_seed_gives_the_same_weights_in_bf16_and_others_than_in_fp32(fast_bf16, tiny_timm, tmp_path):
    weights = []
    for chosen in ("auto", "auto", "fp32"):
        trainer = make_trainer(tiny_timm, tmp_path, precision=chosen)
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.testing.assert_close(weights[0], weights[2], rtol=0, atol=0.05)


@pytest.mark.parametrize("strategy", ["full", "linear-probe"])
def test_predictions_of_a_bf16_run_are_those_of_the_pipeline(
    fast_bf16, tiny_bert, text_folder, tmp_path, capsys, strategy
):
    from datasets import load_dataset

    out = tmp_path / "out"
    result = hfft.finetune(
        model=str(tiny_bert), data=str(text_folder), output_dir=str(out), strategy=strategy, num_train_epochs=2,
        use_cpu=True, cache_dir=str(tmp_path / "cache"), precision="auto",
    )  # fmt: skip
    assert "; bf16" in " ".join(capsys.readouterr().out.split())
    assert yaml.safe_load((out / "run.yaml").read_text())["precision"] == "bf16"
    texts = load_dataset("csv", data_files=str(text_folder / "test.csv"), split="train")["text"]
    answers = pipeline("text-classification", model=str(out), device="cpu")(list(texts), top_k=None)
    probabilities = result.record.predictions.outputs
    names = result.record.target.output_names
    told = [[next(a["score"] for a in answer if a["label"] == name) for name in names] for answer in answers]
    np.testing.assert_allclose(probabilities, told, rtol=0, atol=1e-5)
    again = AutoModelForSequenceClassification.from_pretrained(out)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_a_compiled_model_trains_to_the_same_weights(tiny_timm, tmp_path, chosen):
    compiled = make_trainer(
        tiny_timm, tmp_path, precision=chosen, torch_compile=True, torch_compile_backend="aot_eager"
    )
    plain = make_trainer(tiny_timm, tmp_path, precision=chosen)
    for trainer in (compiled, plain):
        trainer.train()
    state = plain.model.state_dict()
    assert compiled.model.state_dict().keys() == state.keys()
    for name, value in compiled.model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-5 if chosen == "fp32" else 2e-2, msg=name)
    assert_predicts_in_float32(compiled, tiny_timm)


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_vision_models_attend_with_plain_products_in_bfloat16_on_a_cpu_and_not_after(kind):
    if kind == "timm":
        model = TimmWrapperForImageClassification(
            TimmWrapperConfig(
                architecture="vit_tiny_patch16_224", num_labels=3, model_args={"img_size": 32, "depth": 2}
            )
        )
        fused = lambda: {m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")}  # noqa: E731
    else:
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = ViTForImageClassification(ViTConfig(image_size=32, **small, attn_implementation="sdpa"))
        fused = lambda: {model.config._attn_implementation == "sdpa"}  # noqa: E731
    model.eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(pixel_values=pixels).logits
        for number_format, expected in (("bf16", {False}), ("fp32", {True})):
            with suited_attention(model, torch.device("cpu"), number_format):
                assert fused() == expected
                torch.testing.assert_close(model(pixel_values=pixels).logits, before, atol=1e-5, rtol=1e-4)
        assert fused() == {True}
