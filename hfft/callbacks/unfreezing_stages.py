"""How a gradual unfreezing is told to thaw: in stages of so many epochs or steps, or group by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hfft.errors import UserError, listed
from hfft.freezing import UnfreezeSchedule

THAWED_BY = 0.5
"""Share of the run by which everything is thawed, unless the length of the stages is given."""

_LENGTHS = ("epochs_per_group", "steps_per_group", "start_steps", "start_epochs")


@dataclass(frozen=True)
class UnfreezeStages:
    """When layer groups thaw, before the length of a run and its layers are known.

    Attributes:
        epochs_per_group, steps_per_group, groups_per_stage, start_steps, start_epochs, rewarm_steps: see
            :class:`hfft.GradualUnfreezing`.

    Raises:
        UserError: for values that exclude each other, or cannot be meant.
    """

    epochs_per_group: float | None = None
    steps_per_group: float | None = None
    groups_per_stage: int = 1
    start_steps: Sequence[int] | None = None
    start_epochs: Sequence[float] | None = None
    rewarm_steps: int = 10

    def __post_init__(self) -> None:
        given = [name for name in _LENGTHS if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"GradualUnfreezing takes one of {listed(_LENGTHS)}, got {listed(given)}.")
        for name in ("epochs_per_group", "steps_per_group"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be more than 0, got {value}.")
        if self.groups_per_stage < 1 or self.rewarm_steps < 0:
            raise UserError("groups_per_stage must be at least 1 and rewarm_steps at least 0.")

    def schedule(self, groups: int, total_steps: int, steps_per_epoch: float) -> UnfreezeSchedule:
        """Return the schedule for so many groups that can train and a run of so many steps.

        Raises :class:`UserError` where nothing would train in the first step.
        """
        starts = self.start_steps
        if self.start_epochs is not None:
            starts = [round(epoch * steps_per_epoch) for epoch in self.start_epochs]
        if starts is not None:
            if not starts or starts[0] != 0 or any(step != int(step) for step in starts):
                raise UserError(f"The steps of a thaw are whole numbers, and the head's is 0; got {list(starts)}.")
            return UnfreezeSchedule.at_steps(groups, starts, self.rewarm_steps)
        if self.steps_per_group is not None:
            stage = self.steps_per_group
        elif self.epochs_per_group is not None:
            stage = self.epochs_per_group * steps_per_epoch
        else:
            stages = math.ceil((groups - 1) / self.groups_per_stage)
            stage = THAWED_BY * total_steps / max(1, stages)
        return UnfreezeSchedule.in_stages(groups, stage, self.groups_per_stage, self.rewarm_steps)
