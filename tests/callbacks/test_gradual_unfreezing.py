from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hfft import FineTuningArguments, FineTuningTrainer, GradualUnfreezing, LayerStack, UserError, layerwise_optimizer

STEPS, BATCH, FEATURES = 9, 4, 6
STARTS = {"stem": 6, "trunk.blocks.0": 4, "trunk.blocks.1": 2, "head": 0}
REWARM = 1


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, FEATURES)
        self.norm = nn.BatchNorm1d(FEATURES)
        self.second = nn.Linear(FEATURES, FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.tanh(self.norm(self.first(x))))


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, FEATURES)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


class Net(nn.Module):
    """A stem, two blocks with BatchNorm, and a head: small enough for a plain loop beside it to be exact."""

    base_model_prefix = "trunk"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = Trunk()
        self.head = nn.Linear(FEATURES, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.head(self.trunk(x))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def net_data(rows: int) -> Dataset:
    torch.manual_seed(1)
    x = torch.randn(rows, 3)
    return Dataset.from_dict({"x": x.tolist(), "labels": (x.sum(1) > 0).long().tolist()}).with_format("torch")


class ConvBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(FEATURES, FEATURES, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(FEATURES)
        self.second = nn.Conv2d(FEATURES, FEATURES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.norm(self.first(x))))


class ConvNet(Net):
    """The same with convolutions over small pictures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk.embed = nn.Conv2d(3, FEATURES, 3)
        self.trunk.blocks = nn.ModuleList([ConvBlock(), ConvBlock()])

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.head(self.trunk(x).mean(dim=(2, 3)))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def picture_data(rows: int) -> Dataset:
    torch.manual_seed(1)
    x = torch.randn(rows, 3, 6, 6)
    labels = (x.mean((1, 2, 3)) > 0).long()
    return Dataset.from_dict({"x": x.tolist(), "labels": labels.tolist()}).with_format("torch")


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=30,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def bert_data(rows: int) -> Dataset:
    torch.manual_seed(1)
    ids = torch.randint(0, 30, (rows, 8))
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] > 14).long().tolist()}).with_format(
        "torch"
    )


BERT_STARTS = {"stem": 6, "bert.encoder.layer.0": 4, "bert.encoder.layer.1": 2, "head": 0}
MODELS = {
    "net": (Net, net_data, STARTS),
    "cnn": (ConvNet, picture_data, STARTS),
    "bert": (bert, bert_data, BERT_STARTS),
}


class InOrder(Trainer):
    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class InOrderFineTuning(InOrder, FineTuningTrainer):
    pass


class Watch(TrainerCallback):
    """Keeps, for each step, the rates that the optimizer steps with and the state of the model before and after."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []
        self.states: list[dict[str, torch.Tensor]] = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if not self.states:
            self.states.append(copy.deepcopy(model.state_dict()))

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append({group["layer"]: group["lr"] for group in optimizer.param_groups})

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.states.append(copy.deepcopy(model.state_dict()))


def arguments(tmp_path: Path, cls: type = TrainingArguments, **options: Any) -> TrainingArguments:
    settings = {
        "output_dir": str(tmp_path),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "lr_scheduler_type": "linear",
        "warmup_steps": 2,
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return cls(**{**settings, **options})


OPTIMIZER: dict[str, Any] = {"lr": 0.1, "layer_decay": 0.5, "weight_decay": 0.01}


def train(tmp_path: Path, kind: str, watch: Watch | None = None, **options: Any) -> nn.Module:
    make, data, starts = MODELS[kind]
    model = make()
    unfreezing = GradualUnfreezing(start_steps=list(reversed(starts.values())), rewarm_steps=REWARM)
    InOrder(
        model,
        arguments(tmp_path, **options),
        train_dataset=data(STEPS * BATCH * options.get("gradient_accumulation_steps", 1)),
        eval_dataset=data(8),
        optimizer_cls_and_kwargs=layerwise_optimizer("adamw", **OPTIMIZER),
        callbacks=[unfreezing, *([watch] if watch else [])],
    ).train()
    return model


def rates_by_formula(starts: dict[str, int], step: int) -> dict[str, float]:
    schedule = step / 2 if step < 2 else (STEPS - step) / (STEPS - 2)
    rates = {}
    for height, (layer, start) in enumerate(reversed(starts.items())):
        rewarm = 0.0 if step < start else 1.0 if start == 0 else min(1.0, (step - start + 1) / (REWARM + 1))
        rates[layer] = 0.1 * 0.5**height * schedule * rewarm
    return rates


def plain_loop(kind: str, accumulation: int) -> nn.Module:
    """The same training, with nothing of hfft but the names of the layers."""
    make, make_data, starts = MODELS[kind]
    model, data = make(), make_data(STEPS * BATCH * accumulation)
    heights = {layer: height for height, layer in enumerate(reversed(starts))}

    def layer_of(name: str) -> str:
        return next((layer for layer in starts if name.startswith(f"{layer}.")), "stem" if "embed" in name else "head")

    layers = {name: layer_of(name) for name, _ in model.named_parameters()}
    groups = []
    for layer in starts:
        for decayed in (True, False):
            members = [
                parameter
                for name, parameter in model.named_parameters()
                if layers[name] == layer and decayed == (parameter.ndim > 1)
            ]
            groups.append({"params": members, "lr": 0.1 * 0.5 ** heights[layer], "layer": layer})
            groups[-1]["weight_decay"] = 0.01 if decayed else 0.0
    optimizer = torch.optim.AdamW(groups)
    for step in range(STEPS):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(step >= starts[layers[name]])
        for group in optimizer.param_groups:
            # as products of the same factors in the same order, so that not a bit differs
            schedule = step / 2 if step < 2 else (STEPS - step) / (STEPS - 2)
            rewarm = (
                1.0 if starts[group["layer"]] == 0 else min(1.0, (step - starts[group["layer"]] + 1) / (REWARM + 1))
            )
            group["lr"] = 0.1 * 0.5 ** heights[group["layer"]] * schedule * max(0.0, rewarm)
        optimizer.zero_grad()
        for part in range(accumulation):
            first = (step * accumulation + part) * BATCH
            model.train()
            for name, module in model.named_modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and step < starts[layer_of(f"{name}.weight")]:
                    module.eval()
            outputs = model(**data[first : first + BATCH])
            # the Trainer takes BERT's loss for one over the whole step, which it is not, and does not divide it
            (outputs["loss"] / (1 if kind == "bert" else accumulation)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_stock_trainer_with_our_parts_equals_a_plain_loop_bit_for_bit(kind, accumulation, tmp_path: Path):
    trained = train(tmp_path, kind, gradient_accumulation_steps=accumulation, eval_strategy="steps", eval_steps=1)
    expected = plain_loop(kind, accumulation)
    untrained = MODELS[kind][0]().state_dict()
    for (name, actual), value in zip(trained.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(actual, value), name
        if "position_ids" not in name and "token_type" not in name:
            assert not torch.equal(actual, untrained[name]), name


@pytest.mark.parametrize("kind", MODELS)
def test_the_rate_of_every_group_at_every_step_is_the_formula_s(kind, tmp_path: Path):
    watch = Watch()
    train(tmp_path, kind, watch)
    assert len(watch.rates) == STEPS
    for step, rates in enumerate(watch.rates):
        assert rates == pytest.approx(rates_by_formula(MODELS[kind][2], step))


@pytest.mark.parametrize("accumulation", [1, 3])
def test_frozen_parameters_and_buffers_stay_bit_for_bit_and_all_move_after_their_thaw(accumulation, tmp_path: Path):
    watch = Watch()
    options = {"gradient_accumulation_steps": accumulation, "eval_strategy": "steps", "eval_steps": 1}
    model = train(tmp_path, "net", watch, warmup_steps=0, **options)
    stack = LayerStack.from_model(model)
    owner = {name: group.name for group in stack for name in group.parameter_names}
    for name in model.state_dict():
        owner.setdefault(name, next((g.name for g in stack if name.startswith(f"{g.name}.")), "stem"))
    assert any("running_mean" in name for name in owner)
    for step, (before, after) in enumerate(itertools.pairwise(watch.states)):
        for name, value in before.items():
            moved = not torch.equal(value, after[name])
            assert moved == (step >= STARTS[owner[name]]), (step, name)


def test_everything_is_trainable_again_when_training_ends(tmp_path: Path):
    make, data, _ = MODELS["net"]
    model = make()
    model.trunk.embed.bias.requires_grad_(False)  # frozen by its owner, and left so
    unfreezing = GradualUnfreezing(start_steps=[0, 3])
    InOrder(model, arguments(tmp_path), train_dataset=data(STEPS * BATCH), callbacks=[unfreezing]).train()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["trunk.embed.bias"]
    assert not model._forward_pre_hooks


def fine_tune(folder: Path, checkpoint: Path | None = None, **options: Any) -> FineTuningTrainer:
    settings = {
        "strategy": "gradual",
        "learning_rate": 0.05,
        "layer_decay": 0.5,
        "freeze_batch_norm": False,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": None,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "lr_scheduler_type": "slanted_triangular",
    }
    args = arguments(folder, FineTuningArguments, **{**settings, **options})
    trainer = InOrderFineTuning(Net(), args, train_dataset=net_data(STEPS * BATCH))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> FineTuningTrainer:
    return fine_tune(tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resuming_at_before_and_after_every_thaw_gives_the_uninterrupted_run(step, uninterrupted, tmp_path: Path):
    assert [s for s in range(STEPS) if uninterrupted.unfreezing.thaws_at(s)] == [2, 3, 5]
    checkpoint = Path(uninterrupted.args.output_dir) / f"checkpoint-{step}"
    resumed = fine_tune(tmp_path, checkpoint)
    for (name, actual), expected in zip(
        resumed.model.state_dict().items(), uninterrupted.model.state_dict().values(), strict=True
    ):
        assert torch.equal(actual, expected), name


def test_another_schedule_on_resume_is_refused_with_what_differs(uninterrupted, tmp_path: Path):
    checkpoint = Path(uninterrupted.args.output_dir) / "checkpoint-4"
    with pytest.raises(UserError, match=r"trunk\.blocks\.0 from step 3 there, 6 now"):
        fine_tune(tmp_path, checkpoint, epochs_per_group=1 / 3)


def test_a_checkpoint_without_unfreezing_cannot_be_resumed_with_it(tmp_path: Path):
    fine_tune(tmp_path / "full", strategy="full")
    with pytest.raises(UserError, match="made without gradual unfreezing"):
        fine_tune(tmp_path / "gradual", tmp_path / "full" / "checkpoint-4")


def test_patience_can_be_added_on_resume(tmp_path: Path):
    fine_tune(tmp_path / "first", strategy="full")
    args = arguments(
        tmp_path / "second",
        FineTuningArguments,
        strategy="full",
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        early_stopping_patience=50,
    )
    data = net_data(STEPS * BATCH)
    trainer = InOrderFineTuning(Net(), args, train_dataset=data, eval_dataset=net_data(8))
    trainer.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-4"))
    assert trainer.state.global_step == STEPS


def test_the_log_has_the_head_s_rate_and_that_of_every_layer(uninterrupted):
    rows = [row for row in uninterrupted.state.log_history if "learning_rate" in row]
    assert len(rows) == STEPS
    assert set(rows[0]) >= {"lr/stem", "lr/trunk.blocks.0", "lr/trunk.blocks.1", "lr/head"}
    for row in rows:
        assert row["learning_rate"] == row["lr/head"] > 0
    assert [row["lr/stem"] > 0 for row in rows] == [step >= 5 for step in range(STEPS)]
    assert rows[-1]["lr/stem"] == pytest.approx(rows[-1]["lr/head"] * 0.5**3)


def test_what_a_checkpoint_keeps_makes_the_same_callback():
    unfreezing = GradualUnfreezing(start_steps=(0, 3, 7), rewarm_steps=2, layer_patterns=["a", "b"])
    stored = json.loads(json.dumps(unfreezing.state()))
    again = GradualUnfreezing(**stored["args"])
    assert json.loads(json.dumps(again.state())) == stored
    assert stored["args"]["start_steps"] == [0, 3, 7]


def test_a_schedule_that_never_thaws_a_group_says_so(tmp_path: Path, caplog):
    model = Net()
    unfreezing = GradualUnfreezing(steps_per_group=4)
    InOrder(model, arguments(tmp_path), train_dataset=net_data(STEPS * BATCH), callbacks=[unfreezing]).train()
    assert "stem never trains" in caplog.text
    assert "trunk.blocks.0 never trains" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs_per_group": 1, "start_steps": [0]}, "takes one of"),
        ({"epochs_per_group": 0}, "more than 0"),
        ({"groups_per_stage": 0}, "at least 1"),
    ],
)
def test_values_that_cannot_be_meant_are_an_error(options, message):
    with pytest.raises(UserError, match=message):
        GradualUnfreezing(**options)


def test_layers_that_were_frozen_when_the_optimizer_was_made_are_refused(tmp_path: Path):
    model = Net()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    trainer = Trainer(
        model,
        arguments(tmp_path),
        train_dataset=net_data(STEPS * BATCH),
        optimizers=(optimizer, None),
        callbacks=[GradualUnfreezing()],
    )
    with pytest.raises(UserError, match=r"does not hold the parameters of stem, trunk\.blocks\.0"):
        trainer.train()


def test_reentrant_checkpointing_is_refused(tmp_path: Path):
    options = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(UserError, match="use_reentrant"):
        train(tmp_path, "bert", **options)


def test_activation_checkpointing_changes_nothing(tmp_path: Path):
    plain = train(tmp_path / "plain", "bert")
    checkpointed = train(tmp_path / "checkpointed", "bert", activation_checkpointing=True)
    for (name, expected), actual in zip(plain.state_dict().items(), checkpointed.state_dict().values(), strict=True):
        assert torch.allclose(expected, actual, atol=1e-6), name


def test_compiling_changes_nothing(tmp_path: Path):
    plain = train(tmp_path / "plain", "net")
    torch._dynamo.reset()
    compiled = train(tmp_path / "compiled", "net", torch_compile=True, torch_compile_backend="aot_eager")
    for (name, expected), actual in zip(plain.state_dict().items(), compiled.state_dict().values(), strict=True):
        assert torch.allclose(expected, actual, atol=1e-5), name


def test_patience_starts_anew_at_a_thaw_and_survives_a_resume(tmp_path: Path):
    """Validation that never improves: three evaluations without improvement stop, unless a layer thaws before."""

    def run(folder: Path, checkpoint: str | None = None, **options: Any) -> FineTuningTrainer:
        args = arguments(
            folder,
            FineTuningArguments,
            **{
                "max_steps": 12,
                "learning_rate": 1e-9,
                "eval_strategy": "steps",
                "eval_steps": 1,
                "save_strategy": "steps",
                "save_steps": 1,
                "save_total_limit": None,
                "early_stopping_patience": 3,
                "load_best_model_at_end": True,
                "metric_for_best_model": "accuracy",
                **options,
            },
        )
        trainer = InOrderFineTuning(
            Net(),
            args,
            train_dataset=net_data(12 * BATCH),
            eval_dataset=net_data(8),
            compute_metrics=lambda prediction: {"accuracy": 0.5},
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    # the first evaluation counts as the best, so three more are needed
    assert run(tmp_path / "full", strategy="full").state.global_step == 4
    gradual = run(tmp_path / "gradual", strategy="gradual", epochs_per_group=1 / 6)  # thaws at 2, 4, 6
    assert gradual.state.global_step == 9  # after step 6 the count starts for the last time
    resumed = run(tmp_path / "again", str(tmp_path / "full" / "checkpoint-3"), strategy="full")
    assert resumed.state.global_step == 4


class BreaksOff(TrainerCallback):
    def __init__(self) -> None:
        self.breaks = True

    def on_step_end(self, args, state, control, **kwargs):
        if self.breaks:
            raise KeyboardInterrupt


def test_layers_that_a_broken_training_left_frozen_are_not_frozen_for_good(tmp_path: Path):
    model, breaks = Net(), BreaksOff()
    callbacks = [GradualUnfreezing(), breaks]
    trainer = InOrder(model, arguments(tmp_path), train_dataset=net_data(STEPS * BATCH), callbacks=callbacks)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not model.trunk.embed.weight.requires_grad
    # another trainer makes its optimizer without them, and is told so
    again = InOrder(model, arguments(tmp_path), train_dataset=net_data(STEPS * BATCH), callbacks=[GradualUnfreezing()])
    with pytest.raises(UserError, match="does not hold the parameters of stem"):
        again.train()
    # the same one goes on with all
    before = model.trunk.embed.weight.detach().clone()
    breaks.breaks = False
    trainer.train()
    assert not torch.equal(before, model.trunk.embed.weight)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_our_trainer_leaves_everything_trainable_where_training_breaks_off(tmp_path: Path):
    args = arguments(
        tmp_path, FineTuningArguments, strategy="gradual", eval_strategy="no", load_best_model_at_end=False
    )
    trainer = InOrderFineTuning(Net(), args, train_dataset=net_data(STEPS * BATCH), callbacks=[BreaksOff()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_fractions_of_epochs_are_those_of_the_data_also_where_a_run_ends_within_one(tmp_path: Path):
    data = net_data(10 * BATCH)  # ten steps an epoch
    for options in ({"max_steps": 15}, {"max_steps": -1, "num_train_epochs": 0.9}, {"max_steps": 20}):
        unfreezing = GradualUnfreezing(epochs_per_group=0.2)
        callbacks = [unfreezing, BreaksOff()]  # the schedule is there with the first step
        trainer = InOrder(Net(), arguments(tmp_path, **options), train_dataset=data, callbacks=callbacks)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert unfreezing.schedule.starts == (6, 4, 2, 0)


@pytest.mark.parametrize("freeze", [["head"], ["trunk.blocks.1"], ["2"]])
def test_what_is_frozen_for_good_takes_up_no_stage(freeze, tmp_path: Path):
    args = arguments(
        tmp_path,
        FineTuningArguments,
        strategy="gradual",
        freeze=freeze,
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    trainer = InOrderFineTuning(Net(), args, train_dataset=net_data(STEPS * BATCH))
    trainer.train()
    starts = [start for start in trainer.unfreezing.schedule.starts if start is not None]
    assert len(starts) == (2 if freeze == ["2"] else 3)
    assert starts[-1] == 0
    assert trainer.unfreezing.describe(STEPS) == f"{len(starts)} of 4 layer groups train"


def test_restoring_callbacks_from_the_checkpoint_changes_nothing(uninterrupted, tmp_path: Path):
    checkpoint = Path(uninterrupted.args.output_dir) / "checkpoint-4"
    resumed = fine_tune(tmp_path, checkpoint, restore_callback_states_from_checkpoint=True)
    for name, value in uninterrupted.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
