"""Stop where the process is asked to: finish the step, save, and leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_WHOLE = 1e-6  # of an epoch: what is nearer to its end is its end


class StopOnSignal(TrainerCallback):
    """Saves a checkpoint and stops after the step in which SIGTERM or SIGINT came.

    Schedulers and spot machines send the one, Ctrl-C the other. All processes stop after the same step. A second signal
    is not waited for: it raises ``KeyboardInterrupt``.

    Attributes:
        caught: the signal, or ``None``.
    """

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the signals over; only the main thread may."""
        self.caught = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._catch) for number in self.signals}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop, and save unless the end of the epoch will, after what it has to evaluate."""
        if not self._any_caught(args):
            return
        control.should_training_stop = True
        if args.save_total_limit == 1:
            # with 1 the Trainer deletes in the end what is not the best one, the newest as well
            args.save_total_limit = 2
        if _is_within_epoch(state):
            control.should_save = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave out what belongs to the end of an epoch that is none."""
        if control.should_training_stop and self.caught and _is_within_epoch(state):
            control.should_log = control.should_evaluate = control.should_save = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the signals back."""
        self.release()

    def release(self) -> None:
        """Give the signals back, also where training broke off."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            self.release()
            raise KeyboardInterrupt
        self.caught = number

    def _any_caught(self, args: TrainingArguments) -> bool:
        if args.world_size > 1:
            told = torch.tensor(self.caught or 0, device=args.device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            self.caught = int(told) or self.caught
        return self.caught is not None


def _is_within_epoch(state: TrainerState) -> bool:
    epoch = state.epoch or 0
    return abs(round(epoch) - epoch) > _WHOLE
