"""What a checkpoint keeps of gradual unfreezing, and what a run that goes on from it makes of that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from transformers import TrainerState

from hfft.errors import UserError, listed
from hfft.freezing import UnfreezeSchedule
from hfft.layers import LayerStack


def kept_schedule(names: Sequence[str], schedule: UnfreezeSchedule) -> dict[str, Any]:
    """Return a schedule as a checkpoint keeps it: ``starts`` (layer group -> step) and ``rewarm_steps``."""
    return {"starts": dict(zip(names, schedule.starts, strict=True)), "rewarm_steps": schedule.rewarm_steps}


def stored_schedule(state: TrainerState, callback: str) -> dict[str, Any] | None:
    """Return what :func:`kept_schedule` gave a checkpoint, ``None`` where it was made without the callback.

    Args:
        state: the checkpoint's.
        callback: name of the callback's class.
    """
    stored = (state.stateful_callbacks or {}).get(callback)
    stored = stored[0] if isinstance(stored, list) else stored
    return None if stored is None else stored.get("attributes", {}).get("kept") or {}


@contextlib.contextmanager
def frozen_as_saved(kept: dict[str, Any] | None, stack: LayerStack, model: nn.Module, step: int) -> Iterator[None]:
    """Freeze for a moment what was frozen in the last step before a checkpoint.

    FSDP2 finds no state of that in the saved optimizer, and asks for the state of all that requires a gradient.

    Args:
        kept: by the checkpoint: see :func:`stored_schedule`.
        stack: the model's layers.
        model: as it is trained, nothing of it frozen by a schedule.
        step: of the checkpoint.
    """
    starts = (kept or {}).get("starts", {})
    names = [
        name
        for group in stack
        if group.name in starts and (starts[group.name] is None or starts[group.name] >= step)
        for name in group.parameter_names
    ]
    frozen = [parameter for parameter in map(model.get_parameter, names) if parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def require_same_schedule(before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Raise :class:`UserError` where a resumed run would freeze and thaw otherwise than the run before it.

    Args:
        before: ``starts`` (layer group -> step) and ``rewarm_steps`` of the checkpoint; ``None`` where it was made
            without gradual unfreezing.
        now: those of this run.
    """
    if before is None:
        raise UserError(
            "The checkpoint was made without gradual unfreezing: layers that it has trained would be frozen again. "
            "Resume without it, or start afresh."
        )
    if before == now:
        return
    old, new = before.get("starts", {}), now["starts"]
    differing = [
        f"{name} from step {old.get(name)} there, {new.get(name)} now"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ] or [f"rewarm_steps {before.get('rewarm_steps')} there, {now['rewarm_steps']} now"]
    raise UserError(
        f"The checkpoint was made with another unfreezing schedule: {listed(differing, 4)}. Resume with the same "
        "number of epochs, batch size and unfreezing, or start afresh."
    )
