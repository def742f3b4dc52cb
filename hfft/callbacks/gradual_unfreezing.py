"""GradualUnfreezing: the head first, then layer group by layer group from the top; also in a stock ``Trainer``."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hfft.callbacks.unfreezing_checkpoints import (
    frozen_as_saved,
    kept_schedule,
    require_same_schedule,
    stored_schedule,
)
from hfft.callbacks.unfreezing_checks import require_in_optimizer, require_search_for_unused
from hfft.callbacks.unfreezing_stages import UnfreezeStages
from hfft.errors import listed
from hfft.freezing import UnfreezeSchedule, put_frozen_in_eval_mode
from hfft.hardware.launching import require_unfreezable
from hfft.layers import LayerStack

logger = logging.getLogger(__name__)


class GradualUnfreezing(TrainerCallback, ExportableState):
    """Freezes all layer groups but the head when training begins, and thaws them from the top down.

    What is frozen in a step follows from the step alone, so a resumed run goes on as the first one would have. The
    parameters must require gradients when the trainer is made, so that the optimizer holds them from the start (and
    DistributedDataParallel their buckets): the callback freezes them when training begins, and leaves them trainable
    when it ends. Frozen modules run in eval mode. A group's learning rate is 0 while it is frozen and rises to its
    full value over ``rewarm_steps`` after its thaw. That needs an optimizer whose groups hold one layer each, such as
    those of :func:`hfft.layerwise_optimizer`; with the Trainer's own a thawed layer has its full rate at once. With
    DeepSpeed it has to be such an optimizer, since what is frozen is stepped as well, by a rate that has to be 0.

    Args:
        epochs_per_group: length of a stage in epochs, fractions allowed; left out, everything is thawed by half of
            the run.
        steps_per_group: or its length in optimizer steps.
        groups_per_stage: how many groups thaw together.
        start_steps: or the step at which each group thaws, head first (its step is 0); groups left out never train.
        start_epochs: or the epoch at which each group thaws, head first.
        rewarm_steps: steps over which a group's rate rises after its thaw; 0 gives it its full rate at once.
        layer_patterns: see :meth:`hfft.LayerStack.from_model`.

    Raises:
        UserError: for values that exclude each other; when training begins, for parameters that the optimizer does not
            hold, a checkpoint that was made with another schedule, reentrant activation checkpointing, under which
            a thawed layer would silently not train, and settings of DistributedDataParallel that a thaw breaks.
    """

    def __init__(
        self,
        epochs_per_group: float | None = None,
        steps_per_group: float | None = None,
        groups_per_stage: int = 1,
        start_steps: Sequence[int] | None = None,
        start_epochs: Sequence[float] | None = None,
        rewarm_steps: int = 10,
        layer_patterns: Sequence[str] | None = None,
    ) -> None:
        self._stages = UnfreezeStages(
            epochs_per_group, steps_per_group, groups_per_stage, start_steps, start_epochs, rewarm_steps
        )
        self._patterns = layer_patterns
        self.stack: LayerStack | None = None
        self.schedule: UnfreezeSchedule | None = None
        self._members: list[list[nn.Parameter]] = []
        self._group_of: dict[int | str, int] = {}  # id of a parameter, or name of a group -> index of the group
        self._hook: RemovableHandle | None = None
        self._scheduled: list[tuple[dict[str, Any], float]] = []  # the optimizer's groups and their rates before ours

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Order the layers, check that all of them can be trained, and freeze what is frozen now."""
        self.release()  # what a training that broke off has left
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        require_unfreezable(args, type(self).__name__)
        require_search_for_unused(args)
        parameters = dict(model.named_parameters())
        stack = LayerStack.from_model(model, self._patterns)
        # what does not require a gradient now is frozen for good, by its owner
        members = [[parameters[name] for name in group.parameter_names] for group in stack]
        self._members = [[p for p in group if p.requires_grad or getattr(p, _MARK, False)] for group in members]
        self._group_of = {group.name: index for index, group in enumerate(stack)}
        self._group_of |= {id(parameter): index for index, group in enumerate(self._members) for parameter in group}
        require_in_optimizer(stack, self._members, optimizer)
        self.stack = stack
        batches = len(kwargs["train_dataloader"]) if _has_length(kwargs.get("train_dataloader")) else state.max_steps
        steps_per_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
        # groups without anything to train, such as those frozen for good, take up no stage
        active = [index for index, group in enumerate(self._members) if group]
        built = self._stages.schedule(len(active), state.max_steps, steps_per_epoch)
        starts: list[int | None] = [None] * len(stack)
        for index, start in zip(active, built.starts, strict=True):
            starts[index] = start
        self.schedule = UnfreezeSchedule(tuple(starts), built.rewarm_steps)
        if state.global_step > 0:
            require_same_schedule(stored_schedule(state, type(self).__name__), self._kept())
        state.stateful_callbacks = {type(self).__name__: self.state(), **(state.stateful_callbacks or {})}
        for group in self.schedule.never(state.max_steps):
            if self._members[group]:
                logger.warning("Layer group %s never trains: its turn would come after the run.", stack[group].name)
        self._apply(state.global_step)
        self._hook = model.register_forward_pre_hook(_freeze_modes)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Thaw what is due, and give each group the rate of this step."""
        assert self.schedule is not None
        assert self.stack is not None
        step = state.global_step
        self._apply(step)
        if thawed := self.schedule.thaws_at(step):
            names = listed([self.stack[group].name for group in reversed(thawed)])
            logger.info("Step %d: %s thaws; %s", step, names, self.describe(step))
            if args.torch_compile:
                torch.compiler.reset()  # torch 2.10 goes on with the graph in which the group gets no gradient
        self._scheduled = [(group, group["lr"]) for group in kwargs["optimizer"].param_groups]
        for group, rate in self._scheduled:
            group["lr"] = rate * self._factor(group, step)

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Give the schedule its own rates back: some schedules compute the next rate from the last."""
        self._give_rates_back()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave everything trainable that was so before."""
        self.release()

    def release(self) -> None:
        """Thaw everything, also where training ended with an error."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        for parameter in (parameter for group in self._members for parameter in group):
            _set(parameter, True)
        self._give_rates_back()

    def describe(self, step: int) -> str:
        """Return how many layer groups train in a step, for people."""
        return f"{self.trained_groups(step)} of {len(self._members)} layer groups train"

    def trained_groups(self, step: int) -> int:
        """Return how many layer groups train in a step."""
        assert self.schedule is not None
        return sum(bool(group) and self.schedule.trains(i, step) for i, group in enumerate(self._members))

    def rate_factors(self, optimizer: Any, step: int) -> list[float]:
        """Return what the schedule's rate of each of the optimizer's groups is multiplied by in a step."""
        return [self._factor(group, step) for group in optimizer.param_groups]

    def thaws_at(self, step: int) -> bool:
        """Say whether a group thaws at this step."""
        return self.schedule is not None and bool(self.schedule.thaws_at(step))

    @contextlib.contextmanager
    def as_at(self, step: int, now: int) -> Iterator[None]:
        """Freeze for a moment what is frozen in another step than the present one."""
        self._apply(step)
        try:
            yield
        finally:
            self._apply(now)

    def as_saved(self, model: nn.Module, state: TrainerState) -> AbstractContextManager[None]:
        """Freeze for a moment what was frozen in the last step before a checkpoint: see :func:`frozen_as_saved`."""
        kept = stored_schedule(state, type(self).__name__)
        return frozen_as_saved(kept, LayerStack.from_model(model, self._patterns), model, state.global_step)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, for a resumed run to be compared with."""
        arguments = {**dataclasses.asdict(self._stages), "layer_patterns": self._patterns}
        return {"args": arguments, "attributes": {"kept": self._kept()}}

    def _kept(self) -> dict[str, Any]:
        if self.schedule is None or self.stack is None:
            return {}
        return kept_schedule([group.name for group in self.stack], self.schedule)

    def _give_rates_back(self) -> None:
        for group, rate in self._scheduled:
            group["lr"] = rate
        self._scheduled = []

    def _apply(self, step: int) -> None:
        assert self.schedule is not None
        for index, group in enumerate(self._members):
            trains = self.schedule.trains(index, step)
            for parameter in group:
                if parameter.requires_grad != trains:
                    _set(parameter, trains)

    def _factor(self, group: dict[str, Any], step: int) -> float:
        """An optimizer's group may hold parameters of several layer groups: frozen ones have no gradient, so the
        factor is that of the layer group which trains longest."""
        assert self.schedule is not None
        indices = {self._group_of[id(parameter)] for parameter in group["params"] if id(parameter) in self._group_of}
        if not indices and group.get("layer") in self._group_of:  # DeepSpeed steps copies of the parameters
            indices = {self._group_of[group["layer"]]}
        return max((self.schedule.factor(index, step) for index in indices), default=1.0)


_MARK = "_frozen_by_schedule"


def _set(parameter: nn.Parameter, trains: bool) -> None:
    """Freeze or thaw, and leave a mark: a training that broke off leaves layers frozen that are not so for good."""
    parameter.requires_grad_(trains)
    setattr(parameter, _MARK, not trains)


def _has_length(loader: Any) -> bool:
    try:
        return len(loader) > 0
    except TypeError:  # of a stream
        return False


def _freeze_modes(model: nn.Module, inputs: Any) -> None:
    """Before each forward pass: the Trainer has just put the whole model into train mode."""
    if model.training:
        put_frozen_in_eval_mode(model)
