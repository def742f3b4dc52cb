"""hfft's parts under torch's ``fully_shard``, in a plain loop: the Trainer shards on accelerators alone.

Gradual unfreezing with layer-wise rates, sharded over the CPU ranks of a process group, against the same loop without
sharding; and from checkpoints before, at and after each thaw, whole and sharded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed.checkpoint as checkpoint
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from transformers import BertConfig, BertForSequenceClassification, TrainerControl

from hfft import GradualUnfreezing, layerwise_param_groups

BATCH, STEPS, STAGE = 12, 9, 2
SCHEDULES: dict[str, dict[str, Any]] = {
    "full": {"start_steps": [0] * 5},
    "gradual": {"steps_per_group": STAGE, "rewarm_steps": 1},
    "freeze": {"start_steps": [0] * 3},
}
OPTIMIZERS = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=1e-3, eps=1e-3),
}


def make_model() -> BertForSequenceClassification:
    """Return the same model on every rank: five layer groups, no dropout."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(**sizes, **dropout, vocab_size=30, num_labels=3))


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens and labels of a step, over all ranks."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 30, (BATCH, 7), generator=generator), torch.randint(0, 3, (BATCH,), generator=generator)


@dataclass
class Training:
    """A model in the middle of gradual unfreezing."""

    schedule: str
    optimizer_name: str
    is_sharded: bool

    def __post_init__(self) -> None:
        self.model: Any = make_model()
        if self.is_sharded:
            for layer in self.model.bert.encoder.layer:
                fully_shard(layer)
            fully_shard(self.model)
        self.optimizer = OPTIMIZERS[self.optimizer_name](layerwise_param_groups(self.model, lr=0.05))
        self.unfreezing = GradualUnfreezing(**SCHEDULES[self.schedule])
        kept = {"GradualUnfreezing": {"attributes": {"kept": {}}}}
        self.state = SimpleNamespace(global_step=0, max_steps=STEPS, epoch=0.0, stateful_callbacks=kept)
        self._tell("on_train_begin")

    def _tell(self, event: str) -> None:
        arguments = SimpleNamespace(
            gradient_accumulation_steps=1,
            torch_compile=False,
            ddp_static_graph=None,
            ddp_find_unused_parameters=None,
            activation_checkpointing=False,
            distributed_state=None,
        )
        getattr(self.unfreezing, event)(
            arguments, self.state, TrainerControl(), model=self.model, optimizer=self.optimizer
        )

    def train(self, until: int) -> None:
        """Make the steps up to one."""
        rank, ranks = (distributed.get_rank(), distributed.get_world_size()) if self.is_sharded else (0, 1)
        for step in range(self.state.global_step, until):
            self.state.global_step = step
            tokens, labels = (part[rank::ranks] for part in batch_of(step))
            self.model.train()
            self._tell("on_step_begin")
            nn.functional.cross_entropy(self.model(input_ids=tokens).logits, labels).backward()
            frozen = [layer for layer in self.model.bert.encoder.layer if not next(layer.parameters()).requires_grad]
            assert not any(module.training for layer in frozen for module in layer.modules())
            self.optimizer.step()
            self._tell("on_optimizer_step")
            self.optimizer.zero_grad()
        self.state.global_step = until

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the whole of every parameter."""
        parameters = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        return {name: p.full_tensor() if self.is_sharded else p.clone() for name, p in parameters.items()}

    def save(self, folder: Path, whole: bool) -> None:
        """Write model and optimizer: whole, by the first rank, or each rank its shards."""
        options = StateDictOptions(full_state_dict=whole, cpu_offload=whole)
        state = {
            "model": get_model_state_dict(self.model, options=options),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer, options=options),
        }
        if not whole:
            checkpoint.save(state, checkpoint_id=folder)
        elif distributed.get_rank() == 0:
            torch.save(state, folder.with_suffix(".pt"))
        distributed.barrier()

    @classmethod
    def load(cls, name: str, step: int, folder: Path, whole: bool) -> Training:
        """Return a gradual training that goes on from what was saved before a step."""
        training = cls("gradual", name, is_sharded=True)
        # the optimizer has state for what trained in the step before
        training.unfreezing._apply(step - 1)
        options = StateDictOptions(full_state_dict=whole, broadcast_from_rank0=whole)
        if whole:
            first = distributed.get_rank() == 0
            state = torch.load(folder.with_suffix(".pt")) if first else {"model": {}, "optimizer": {}}
        else:
            state = {
                "model": get_model_state_dict(training.model),
                "optimizer": get_optimizer_state_dict(training.model, training.optimizer),
            }
            checkpoint.load(state, checkpoint_id=folder)
        set_model_state_dict(training.model, state["model"], options=options)
        set_optimizer_state_dict(training.model, training.optimizer, state["optimizer"], options=options)
        training.state.global_step = step
        return training


def run_job(job: dict[str, Any], rank: int) -> None:
    """Measure all differences from one process, and write them down."""
    from tests.distributed.jobs import write_facts

    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    folder = Path(job["facts"]).with_suffix(".checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    distributed.barrier()
    found: dict[str, Any] = {}
    for name in job["optimizers"]:
        for schedule in SCHEDULES:
            plain, sharded = (Training(schedule, name, is_sharded=sharded) for sharded in (False, True))
            thaws = [step for step in range(STEPS) if sharded.unfreezing.thaws_at(step)][: job["thaws"]]
            around = sorted({step + offset for step in thaws for offset in (-1, 0, 1)} & set(range(1, STEPS)))
            for step in range(1, STEPS + 1):
                plain.train(step)
                sharded.train(step)
                for whole in (True, False) if step in around else ():
                    sharded.save(folder / f"{name}-{step}-{whole}", whole)
            found[f"{schedule}, {name}"] = _difference(sharded, plain)
            for whole in (True, False) if around else ():
                resumed = []
                for step in around:
                    training = Training.load(name, step, folder / f"{name}-{step}-{whole}", whole)
                    training.train(STEPS)
                    resumed.append(_difference(training, plain))
                kind = "whole" if whole else "sharded"
                found[f"{schedule}, {name}, from {len(resumed)} {kind} checkpoints"] = max(resumed)
    write_facts(job, rank, found)


def _difference(training: Training, plain: Training) -> float:
    from tests.distributed.launching import relative_difference

    weights, expected, start = training.weights(), plain.weights(), make_model().state_dict()
    stack, schedule = plain.unfreezing.stack, plain.unfreezing.schedule
    assert stack is not None
    assert schedule is not None
    for group, thaw in zip(stack, schedule.starts, strict=True):
        moved = any(not torch.equal(expected[name], start[name]) for name in group.parameter_names)
        assert moved == (thaw is not None)
    return max(relative_difference(weights[name].numpy(), expected[name].numpy()) for name in expected)
