"""The report of a run that goes on: written anew with the log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

PAUSE = 5.0
"""Seconds for which the report is not written again."""


class LiveReport(TrainerCallback):
    """Calls a function that writes the report; where that cannot be written training goes on.

    Args:
        write: given the state of the training.
    """

    def __init__(self, write: Callable[[TrainingArguments, TrainerState], None]) -> None:
        self._write, self._next = write, 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the first one."""
        self.on_log(args, state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write it anew."""
        if state.is_world_process_zero and time.monotonic() >= self._next:
            self._next = time.monotonic() + PAUSE
            with contextlib.suppress(OSError):  # a full disk is told of where something is lost by it
                self._write(args, state)
