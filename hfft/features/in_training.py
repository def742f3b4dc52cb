"""What a trainer tells the frozen prefix: what is frozen when, and how batches are made."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from hfft.caching import Cache
from hfft.errors import UserError
from hfft.features.activations import without_targets
from hfft.features.prefix import FrozenPrefix
from hfft.layers import LayerStack

logger = logging.getLogger(__name__)


def recorded_prefix(trainer: Any, cache: Cache, data: Any, steps_per_epoch: int) -> FrozenPrefix:
    """Return the frozen prefix of a training whose first step is due, its activations recorded.

    Args:
        trainer: a ``FineTuningTrainer``, in the course of ``train()``.
        cache: where activations are kept.
        data: its training examples, encoded.
        steps_per_epoch: optimizer steps.
    """
    args, model, unfreezing, step = trainer.args, trainer.model, trainer.unfreezing, trainer.state.global_step
    nothing = FrozenPrefix(model, LayerStack([]), (), lambda other_step: nullcontext())
    if all(parameter.requires_grad for parameter in model.parameters()) and unfreezing is None:
        return nothing
    obstacle = _obstacle(trainer)
    if obstacle is not None:
        logger.warning("Frozen layers are computed in each step, because of %s.", obstacle)
        return nothing
    try:
        stack = LayerStack.from_model(model, args.layer_patterns)
    except UserError:  # without an order of its layers a model is trunk and head
        stack = LayerStack.trunk_and_head(model)
    if unfreezing is not None:
        starts = unfreezing.schedule.starts
    else:
        trains = [any(model.get_parameter(name).requires_grad for name in group.parameter_names) for group in stack]
        starts = tuple(0 if any_trains else None for any_trains in trains)

    @contextmanager
    def frozen_as_at(other_step: int) -> Iterator[None]:
        frozen: AbstractContextManager[None] = unfreezing.as_at(other_step, step) if unfreezing else nullcontext()
        with frozen:
            trainer.set_modes()
            yield

    prefix = FrozenPrefix(model, stack, starts, frozen_as_at)
    prefix.record(
        cache,
        data,
        collate=lambda examples: trainer._prepare_inputs(without_targets(trainer.data_collator(examples))),
        steps=trainer.state.max_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=args.per_device_eval_batch_size,
        first_step=step,
        precision=f"{trainer.accelerator.mixed_precision} {args.device.type}",
        share=(args.process_index, args.world_size),
    )
    trainer.set_modes()
    return prefix


def _obstacle(trainer: Any) -> str | None:
    """Return what of the training does not go together with steps that start in the middle of the model."""
    args = trainer.args
    names = ("torch_compile", "gradient_checkpointing", "deepspeed")
    found = next((name for name in names if getattr(args, name, None)), None)
    return "fsdp" if found is None and trainer.is_fsdp_enabled else found
