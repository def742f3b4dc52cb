"""What of a model trains at which step: a pure function of the step, applied to the model by a callback.

Gradual unfreezing is from Howard & Ruder 2018 (ULMFiT, arXiv:1801.06146, section 3.3): first the head alone, then one
more layer group from the top at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from hfft.errors import UserError, listed, nearest
from hfft.layers import LayerStack
from hfft.patterns import compiled


@dataclass(frozen=True)
class UnfreezeSchedule:
    """The first optimizer step at which each layer group trains.

    Attributes:
        starts: one for each group, input first: a global step, counted from 0, or None for a group that never trains.
        rewarm_steps: steps over which a group's learning rate rises after its thaw, before it has its full rate. Adam's
            first steps after a thaw rest on few gradients, and the layers above have just fitted what lies below.
    """

    starts: tuple[int | None, ...]
    rewarm_steps: int = 10

    @classmethod
    def in_stages(
        cls, groups: int, steps_per_stage: float, groups_per_stage: int = 1, rewarm_steps: int = 10
    ) -> UnfreezeSchedule:
        """Thaw the head at once, then ``groups_per_stage`` more groups from the top after each stage.

        Args:
            groups: how many layer groups there are.
            steps_per_stage: optimizer steps, fractions allowed (a third of an epoch).
            groups_per_stage: how many thaw together.
            rewarm_steps: see the class; never longer than a stage.
        """
        stages = [math.ceil(height / groups_per_stage) for height in reversed(range(groups))]
        if not math.isfinite(steps_per_stage * groups):
            raise UserError(f"A stage of {steps_per_stage} steps cannot be meant.")
        starts = tuple(math.ceil(stage * steps_per_stage) for stage in stages)
        return cls(starts, min(rewarm_steps, int(steps_per_stage)))

    @classmethod
    def at_steps(cls, groups: int, steps: Sequence[int], rewarm_steps: int = 10) -> UnfreezeSchedule:
        """Thaw at the given steps, head first; groups for which there is none never train.

        Raises :class:`UserError` for more steps than groups, and for steps that are negative or fall.
        """
        if len(steps) > groups or any(step < 0 for step in steps) or list(steps) != sorted(steps):
            raise UserError(
                f"The steps of a thaw rise from the head down, one for each of at most {groups} layer groups; got "
                f"{listed(map(str, steps), 12)}."
            )
        below: list[int | None] = [None] * (groups - len(steps))
        return cls((*below, *reversed(steps)), rewarm_steps)

    def trains(self, group: int, step: int) -> bool:
        """Say whether a group trains in the given step."""
        start = self.starts[group]
        return start is not None and step >= start

    def factor(self, group: int, step: int) -> float:
        """Return what a group's learning rate is multiplied by: 0 while frozen, then rising, 1 after its re-warming.

        Groups that train from step 0 follow the schedule of the run alone.
        """
        start = self.starts[group]
        if start is None or step < start:
            return 0.0
        return 1.0 if start == 0 else min(1.0, (step - start + 1) / (self.rewarm_steps + 1))

    def thaws_at(self, step: int) -> list[int]:
        """Return the groups that train from this step on and did not before; at step 0 none thaws."""
        return [group for group, start in enumerate(self.starts) if start == step and step > 0]

    def never(self, last_step: int) -> list[int]:
        """Return the groups that train in no step of a run of ``last_step`` steps."""
        return [group for group, start in enumerate(self.starts) if start is None or start >= last_step]


def select_parameters(model: nn.Module, stack: LayerStack, freeze: Sequence[str | int]) -> list[str]:
    """Return the names of the parameters that ``freeze`` keeps from ever training, in the order of the model.

    Args:
        model: the model.
        stack: its layers.
        freeze: each a number (that many layer groups from the input), the name of a layer group, or a regular
            expression that parameter names are searched for.

    Raises:
        UserError: for what matches nothing, and where nothing would be left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    groups = {group.name: group.parameter_names for group in stack}
    chosen: set[str] = set()
    for item in freeze:
        if str(item).isdecimal():
            if int(item) > len(stack):
                raise UserError(f"freeze: the model has {len(stack)} layer groups, got {item}.")
            chosen.update(name for group in stack[: int(item)] for name in group.parameter_names)
        elif item in groups:
            chosen.update(groups[str(item)])
        else:
            chosen.update(_matching(str(item), names, list(groups)))
    if chosen >= set(names):
        raise UserError("freeze: nothing would be left to train.")
    return [name for name in names if name in chosen]


def _matching(pattern: str, names: list[str], groups: list[str]) -> list[str]:
    expression = compiled(pattern, "freeze")
    found = [name for name in names if expression.search(name)]
    if not found:
        raise UserError(
            f"freeze: '{pattern}' is no layer group and matches no parameter.{nearest(pattern, groups)} "
            f"Layer groups: {listed(groups, 40)}."
        )
    return found


def put_frozen_in_eval_mode(module: nn.Module) -> bool:
    """Put every module whose parameters are all frozen in eval mode, and say whether the module itself is so.

    A frozen layer is to give the same output for the same input: BatchNorm would else go on to move its statistics,
    and dropout to drop. Call it after ``model.train()``.
    """
    own = list(module.parameters(recurse=False))
    children = [child for child in module.children() if next(child.parameters(), None) is not None]
    frozen = [put_frozen_in_eval_mode(child) for child in children]
    is_frozen = all(frozen) and not any(parameter.requires_grad for parameter in own)
    if is_frozen:
        module.eval()
    return is_frozen
