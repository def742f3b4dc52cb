from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hfft import FineTuningArguments, FineTuningTrainer, UserError
from hfft.running.settling import enough_epochs


def image_trainer(tiny_timm: Path, out: Path, **options: Any) -> FineTuningTrainer:
    model = AutoModelForImageClassification.from_pretrained(tiny_timm, num_labels=2)
    generator = torch.Generator().manual_seed(0)
    data = Dataset.from_dict(
        {"pixel_values": torch.randn(16, 3, 32, 32, generator=generator).tolist(), "labels": [0, 1] * 8}
    )
    args = FineTuningArguments(
        output_dir=str(out), max_steps=4, per_device_train_batch_size=4, eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, disable_tqdm=True, **options,
    )  # fmt: skip
    return FineTuningTrainer(model, args, train_dataset=data.with_format("torch"))


def buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_frozen_batch_norm_statistics_stay_bit_for_bit_while_weights_move(tiny_timm, tmp_path, accumulation):
    trainer = image_trainer(tiny_timm, tmp_path, gradient_accumulation_steps=accumulation)
    before, weights = buffers(trainer.model), {n: p.clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    assert before
    assert all(torch.equal(before[name], value) for name, value in buffers(trainer.model).items())
    assert all(not torch.equal(weights[name], p) for name, p in trainer.model.named_parameters())


def test_batch_norm_statistics_move_where_they_are_not_frozen(tiny_timm, tmp_path):
    trainer = image_trainer(tiny_timm, tmp_path, freeze_batch_norm=False)
    before = buffers(trainer.model)
    trainer.train()
    assert all(not torch.equal(before[name], value) for name, value in buffers(trainer.model).items())


def test_dropout_stays_on_while_batch_norm_is_frozen(tiny_timm, tmp_path):
    trainer = image_trainer(tiny_timm, tmp_path)
    trainer.model.timm_model.probe = torch.nn.Dropout()
    modes: list[bool] = []
    trainer.model.timm_model.register_forward_pre_hook(lambda module, _: modes.append(module.probe.training))
    trainer.train()
    assert modes == [True] * 4


def test_only_evaluations_compute_with_the_channels_last(tiny_timm, tmp_path):
    trainer = image_trainer(tiny_timm, tmp_path)
    trainer.predict(trainer.train_dataset)  # a first time: what accelerate moves, it moves now
    places = {name: (value.data_ptr(), value.stride()) for name, value in trainer.model.named_parameters()}
    first = next(module for module in trainer.model.modules() if isinstance(module, torch.nn.Conv2d))
    seen: list[bool] = []
    first.register_forward_hook(
        lambda module, inputs, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    found = trainer.predict(trainer.train_dataset).predictions
    assert seen == [True] * len(seen) != []
    assert {name: (value.data_ptr(), value.stride()) for name, value in trainer.model.named_parameters()} == places
    seen.clear()
    with torch.no_grad():
        plain = trainer.model(pixel_values=torch.stack(list(trainer.train_dataset["pixel_values"]))).logits
    torch.testing.assert_close(torch.as_tensor(found), plain)
    trainer.train()
    assert seen == [False] * 5


def test_the_arguments_set_the_rate_of_every_layer(tiny_timm, tmp_path):
    trainer = image_trainer(tiny_timm, tmp_path, learning_rate=0.1, layer_decay=0.5, head_learning_rate=0.3)
    trainer.train()
    rates = [layer["lr"] for layer in trainer.layer_rates()]
    heights = range(len(rates) - 1, 0, -1)
    assert rates == pytest.approx([*(0.1 * 0.5**height for height in heights), 0.3])
    total = sum(p.numel() for p in trainer.model.parameters())
    assert sum(layer["parameters"] for layer in trainer.layer_rates()) == total


def test_a_decay_of_one_is_the_stock_optimizer(tiny_timm, tmp_path):
    trainer = image_trainer(tiny_timm, tmp_path, learning_rate=0.1, layer_decay=1)
    trainer.train()
    assert len(trainer.optimizer.param_groups) == 2
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {0.1}


def test_a_saved_model_has_no_pickle_beside_it(tiny_timm, tmp_path):
    trainer = image_trainer(tiny_timm, tmp_path)
    trainer.save_model(str(tmp_path / "saved"))
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors"}
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    state = {name.removeprefix("timm_model."): value for name, value in trainer.model.state_dict().items()}
    assert all(torch.equal(saved[name], state[name]) for name in saved)


def gradient(tiny_bert: Path, out: Path, batch: int, accumulation: int, **options: Any) -> dict[str, torch.Tensor]:
    """The gradient of one step over the same 16 rows of unequal length."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_bert, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    rows = [{"input_ids": [2, *range(5, 6 + index % 5), 3], "labels": index % 3} for index in range(16)]

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        ids = torch.tensor([e["input_ids"] + [0] * (longest - len(e["input_ids"])) for e in examples])
        return {
            "input_ids": ids,
            "attention_mask": (ids > 0).long(),
            "labels": torch.tensor([e["labels"] for e in examples]),
        }

    args = FineTuningArguments(
        output_dir=str(out), max_steps=1, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        learning_rate=1.0, layer_decay=1, optim="sgd", warmup_steps=0, weight_decay=0, max_grad_norm=0,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False, disable_tqdm=True, **options,
    )  # fmt: skip
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    FineTuningTrainer(model, args, train_dataset=rows, data_collator=collate).train()
    return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(tiny_bert, tmp_path, smoothing):
    whole = gradient(tiny_bert, tmp_path, 16, 1, label_smoothing_factor=smoothing)
    parts = gradient(tiny_bert, tmp_path, 4, 4, label_smoothing_factor=smoothing)
    assert any(value.abs().max() > 1e-3 for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_optimizers_with_groups_of_their_own_are_refused_before_a_folder_is_made(tiny_timm, tmp_path):
    with pytest.raises(UserError, match="optim: galore_adamw"):
        image_trainer(tiny_timm, tmp_path / "out", optim="galore_adamw")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("examples", "batch_size", "epochs", "enough"),
    [
        (100_000, 32, 5, 5),  # 15,625 steps are enough
        (220, 16, 5, 29),  # 14 steps an epoch, 406 in all
        (48, 32, 5, 40),  # never more than 40 passes over the same few examples
        (48, 32, 50, 50),  # nor fewer than asked for
    ],
)
def test_few_examples_are_seen_more_often(examples, batch_size, epochs, enough):
    assert enough_epochs(examples, batch_size, epochs) == enough


def test_optimizers_of_torch_and_timm_can_be_named_in_the_arguments(tiny_timm, tmp_path):
    from hfft.training.optimizers import layerwise_optimizer_from_arguments

    args = FineTuningArguments(output_dir=str(tmp_path), optim="sgdw", optim_args="momentum=0.8", layer_decay=1.0)
    factory, kwargs = layerwise_optimizer_from_arguments(args)
    model = AutoModelForImageClassification.from_pretrained(tiny_timm, num_labels=2)
    optimizer = factory()(model, **kwargs)
    assert type(optimizer).__name__ == "SGDW"
    assert {group["momentum"] for group in optimizer.param_groups} == {0.8}
    with pytest.raises(UserError, match="Did you mean 'lamb'"):
        FineTuningArguments(output_dir=str(tmp_path), optim="lambb")
    with pytest.raises(UserError, match="name=value"):
        layerwise_optimizer_from_arguments(
            FineTuningArguments(output_dir=str(tmp_path), optim="sgdw", optim_args="momentum=os.system")
        )
