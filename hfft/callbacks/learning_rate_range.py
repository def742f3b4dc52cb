"""The learning-rate range test as a callback: the rates rise with each step until the loss diverges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

DIVERGED = 4.0
"""Of so many times the least smoothed loss training is broken off."""

_WIDTH = 0.02  # of the Gaussian by which losses are smoothed, as a share of the steps
_FEWEST = 5  # losses before one counts as diverged


class LearningRateRange(TrainerCallback):
    """Multiplies the rates of all groups by a factor that rises from step to step by the same ratio.

    The profile of layer-wise rates stays as it is. Training stops where the loss is no number, or more than four times
    the least one before, both smoothed. It needs ``logging_steps=1`` and a constant schedule.

    Args:
        rates: that of the head in each step.
        reference: the head's rate that the optimizer was made with.
        told: called after each step.

    Attributes:
        losses: of the training batch of each step, before its update.
        diverged: whether the loss did.
    """

    def __init__(self, rates: np.ndarray, reference: float, told: Callable[[], None] = lambda: None) -> None:
        self.losses: list[float] = []
        self.diverged = False
        self._factors, self._told = rates / reference, told

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give every group its rate of this step."""
        for group in kwargs["optimizer"].param_groups:
            group["lr"] = group["initial_lr"] * self._factors[state.global_step]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the loss, and stop where it has diverged."""
        if "loss" not in (logs or {}):
            return
        self._told()
        loss = float((logs or {})["loss"])
        if math.isfinite(loss):
            self.losses.append(loss)
            smoothed = smooth(self.losses, len(self._factors))
            self.diverged = len(smoothed) >= _FEWEST and smoothed[-1] > DIVERGED * smoothed.min()
        else:
            self.diverged = True
        control.should_training_stop = control.should_training_stop or self.diverged


def smooth(losses: list[float], steps: int) -> np.ndarray:
    """Return (losses,) the losses smoothed to both sides, which moves no minimum to higher rates.

    Args:
        losses: as they were measured.
        steps: of the whole test, by which the width is chosen.
    """
    return gaussian_filter1d(np.asarray(losses, np.float64), max(1.0, _WIDTH * steps), mode="nearest")
