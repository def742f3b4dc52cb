from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hfft import UserError, layerwise_optimizer
from hfft.optim.factory import LayerwiseOptimizerFactory
from tests.forkserver import call

STEPS, BATCH = 6, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + torch.tanh(self.dense(x)))


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 5)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


class Toy(nn.Module):
    """A stem, two blocks and a head; small enough that a plain loop beside it is exact."""

    base_model_prefix = "trunk"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = Trunk()
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.head(self.trunk(x))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def toy_data() -> Dataset:
    torch.manual_seed(1)
    x = torch.randn(STEPS * BATCH, 3)
    return Dataset.from_dict({"x": x.tolist(), "labels": (x.sum(1) > 0).long().tolist()}).with_format("torch")


class InOrder(Trainer):
    """Draws the examples in their order, for the reference loop to do the same."""

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Rates(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.seen.append({group["layer"]: group["lr"] for group in optimizer.param_groups})


def run_trainer(tmp_path: Path, rates: Rates | None = None, **options: Any) -> Toy:
    model = Toy()
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        lr_scheduler_type="linear",
        warmup_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    InOrder(
        model,
        args,
        train_dataset=toy_data(),
        optimizer_cls_and_kwargs=layerwise_optimizer(**options),
        callbacks=[rates] if rates else None,
    ).train()
    return model


def test_the_stock_trainer_with_the_factory_equals_a_plain_loop_bit_for_bit(tmp_path: Path):
    trained = run_trainer(tmp_path, optimizer="adamw", lr=0.1, layer_decay=0.5, weight_decay=0.01)
    model = Toy()
    height = {"embed": 3, "blocks.0": 2, "blocks.1": 1, "head": 0}
    groups = [
        {
            "params": [parameter],
            "lr": 0.1 * 0.5 ** next(value for part, value in height.items() if part in name),
            "weight_decay": 0.01 if parameter.ndim > 1 else 0.0,
        }
        for name, parameter in model.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups)
    base = [group["lr"] for group in groups]
    data = toy_data()
    for step in range(STEPS):
        factor = step / 2 if step < 2 else (STEPS - step) / (STEPS - 2)
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * factor
        batch = data[step * BATCH : (step + 1) * BATCH]
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for (name, expected), actual in zip(model.state_dict().items(), trained.state_dict().values(), strict=True):
        assert torch.equal(expected, actual), name
        assert not torch.equal(expected, Toy().state_dict()[name]), name


def test_every_schedule_step_keeps_the_ratios_between_layers(tmp_path: Path):
    rates = Rates()
    run_trainer(tmp_path, rates, optimizer="sgd", lr=0.1, layer_decay=0.5, head_lr=0.7)
    factors = [0, 0.5, 1, 0.75, 0.5, 0.25]
    peak = {"head": 0.7, "trunk.blocks.1": 0.05, "trunk.blocks.0": 0.025, "stem": 0.0125}
    assert len(rates.seen) == STEPS
    for seen, factor in zip(rates.seen, factors, strict=True):
        assert seen == pytest.approx({layer: rate * factor for layer, rate in peak.items()})


def test_options_reach_the_optimizer():
    factory, kwargs = layerwise_optimizer("sgd", lr=0.1, momentum=0.8, nesterov=True)
    optimizer = factory()(Toy(), **kwargs)
    assert factory is LayerwiseOptimizerFactory
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["momentum"] == 0.8 and group["nesterov"] for group in optimizer.param_groups)


def test_an_unknown_optimizer_is_an_error_with_the_nearest_name():
    with pytest.raises(UserError, match=r"no optimizer 'adamww'.*'adamw'"):
        layerwise_optimizer("adamww", lr=0.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("adamw", "AdamW"), ("lamb", "Lamb"), ("adafactor", "Adafactor"), ("adamw_torch", "AdamW"), ("lion", "Lion")],
)
def test_names_of_torch_timm_and_transformers_are_known(name, expected):
    factory, kwargs = layerwise_optimizer(name, lr=0.1, layer_decay=0.5)
    optimizer = factory()(Toy(), **kwargs)
    assert type(optimizer).__name__ == expected
    assert {group["layer"]: group["lr"] for group in optimizer.param_groups} == pytest.approx(
        {"head": 0.1, "trunk.blocks.1": 0.05, "trunk.blocks.0": 0.025, "stem": 0.0125}
    )


@torch.compiler.set_stance("force_eager")  # timm's Kron compiles what it computes for each shape
def test_every_optimizer_of_torch_and_timm_steps_with_layer_wise_groups():
    from timm.optim import list_optimizers

    in_torch = [
        name.lower()
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    ]
    batch = toy_data()[:BATCH]
    stepped, refused = [], {}
    for name in sorted({*in_torch, *list_optimizers()}):
        model = Toy()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        try:
            factory, kwargs = layerwise_optimizer(name, lr=0.1, layer_decay=0.5)
            optimizer = factory()(model, **kwargs)
        except UserError as error:
            refused[name] = str(error)
            continue
        for _ in range(2):  # some do not move in their first step
            model(**batch)["loss"].backward()
            optimizer.step()
        moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert {"trunk.embed.weight", "head.weight"} <= moved, name
        stepped.append(name)
    assert len(stepped) > 80
    elsewhere = {name for name, reason in refused.items() if "CUDA required" in reason or "No module" in reason}
    assert refused.keys() - elsewhere == {"adahessian", "lbfgs", "sparseadam"}


@pytest.mark.parametrize(
    ("made", "options"),
    [(torch.optim.AdamW, {"params": []}), (torch.optim.AdamW, {"optimizer_dict": {}}), (lambda model: None, {})],
)
def test_optimizers_with_groups_of_their_own_are_refused(made, options, monkeypatch):
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", lambda args: (made, options))
    with pytest.raises(UserError, match="galore_adamw makes its own parameter groups"):
        layerwise_optimizer("galore_adamw", lr=0.1)


@pytest.mark.parametrize(
    ("name", "message"), [("lbfgs", "takes a single parameter group"), ("sparseadam", "takes sparse gradients only")]
)
def test_optimizers_that_do_not_take_such_groups_are_refused_with_the_reason(name, message):
    with pytest.raises(UserError, match=f"optim: {name} {message}"):
        layerwise_optimizer(name, lr=0.1)


def test_an_optimizer_whose_package_is_missing_is_refused():
    with pytest.raises(UserError, match="optim: lomo cannot be used"):
        layerwise_optimizer("lomo", lr=0.1)


def test_options_that_the_optimizer_does_not_have_are_an_error():
    factory, kwargs = layerwise_optimizer("adamw", lr=0.1, momentum=0.9)
    with pytest.raises(UserError, match=r"AdamW cannot be made.*momentum"):
        factory()(Toy(), **kwargs)


def test_optimizers_of_torch_and_transformers_are_found_without_timm():
    """It takes 40 MB of memory, and trackers with it."""
    made = 'hfft.FineTuningArguments(use_cpu=True), hfft.layerwise_optimizer("adamw", lr=1e-3)'
    assert call(exec, f"import sys, hfft; {made}; assert 'timm' not in sys.modules", {}) == 0
