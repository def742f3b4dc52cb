"""What a trainer tells the frozen prefix: what is frozen when, and how batches are made."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from hfft.adapters.models import is_adapted
from hfft.errors import UserError
from hfft.failures import computing
from hfft.features.activations import without_targets
from hfft.features.cuts import Inputs
from hfft.features.prefix import FrozenPrefix
from hfft.features.stages import Run
from hfft.layers import LayerStack
from hfft.storage.caching import Cache

logger = logging.getLogger(__name__)

TRAIN, VALIDATION = "training", "validation"


class PrefixInTraining:
    """The frozen prefix of one training, found at its first step.

    Args:
        trainer: a ``FineTuningTrainer``, in the course of ``train()``.
        cache: where activations are kept.
        data: its training examples as they are loaded.
        run: how long it trains.
    """

    def __init__(self, trainer: Any, cache: Cache, data: Any, run: Run) -> None:
        self._trainer, self._cache = trainer, cache
        self._splits = {TRAIN: data, VALIDATION: trainer.eval_dataset}
        self._prefix = _prefix(trainer)
        if self._prefix is not None:
            precision = f"{trainer.accelerator.mixed_precision} {trainer.args.device.type}"
            training = trainer.model.training  # not in an evaluation before the first step
            self._prefix.find_cuts(cache, data, self._collate, run, precision)
            trainer.set_modes(training)

    def starting_point(self, rows: list[int], inputs: Any) -> AbstractContextManager[None]:
        """Return the context for the forward pass over rows of the training or the validation split."""
        if self._prefix is None:
            return nullcontext()
        trainer, step = self._trainer, self._trainer.state.global_step
        training = trainer.model.training
        name = TRAIN if training else VALIDATION
        if not self._prefix.has(name):
            share = trainer.args.process_index, trainer.args.world_size
            batch_size = trainer.args.per_device_eval_batch_size
            with computing("Lower --per_device_eval_batch_size, with which frozen layers are computed once."):
                self._prefix.record(name, self._cache, self._splits[name], self._collate, batch_size, step, share)
            trainer.set_modes(training)
        return self._prefix.starting_point(name, step, rows, inputs)

    def _collate(self, examples: list[Any]) -> Inputs:
        inputs: Inputs = self._trainer._prepare_inputs(without_targets(self._trainer.data_collator(examples)))
        return inputs


def _prefix(trainer: Any) -> FrozenPrefix | None:
    """Return what is frozen when in a training, ``None`` where nothing is, or it has to be computed all the same."""
    args, model, unfreezing = trainer.args, trainer.model, trainer.unfreezing
    if all(parameter.requires_grad for parameter in model.parameters()) and unfreezing is None:
        return None
    obstacle = _obstacle(trainer)
    if obstacle is not None:
        logger.warning("Frozen layers are computed in each step, because of %s.", obstacle)
        return None
    try:
        stack = LayerStack.from_model(model, args.layer_patterns)
    except UserError:  # without an order of its layers a model is trunk and head
        stack = LayerStack.trunk_and_head(model)
    if unfreezing is not None:
        starts = unfreezing.schedule.starts
    else:
        trains = [any(model.get_parameter(name).requires_grad for name in group.parameter_names) for group in stack]
        if is_adapted(model) and all(trains[1:]):
            return None  # what a stem alone gives is computed about as fast as it is read
        starts = tuple(0 if any_trains else None for any_trains in trains)

    @contextmanager
    def frozen_as_at(step: int) -> Iterator[None]:
        now = trainer.state.global_step
        with unfreezing.as_at(step, now) if unfreezing is not None else nullcontext():
            trainer.set_modes()
            yield

    return FrozenPrefix(model, stack, starts, frozen_as_at)


def _obstacle(trainer: Any) -> str | None:
    """Return what of the training does not go together with steps that start in the middle of the model."""
    args = trainer.args
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # also by the launcher alone
        return "fsdp" if trainer.is_fsdp_enabled else "deepspeed"
    return next((name for name in ("torch_compile", "activation_checkpointing") if getattr(args, name, None)), None)
