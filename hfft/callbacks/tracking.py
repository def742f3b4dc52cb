"""Trackers follow a run from before its first step until its test is done; where one fails the run goes on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hfft.callbacks.gradual_unfreezing import GradualUnfreezing
from hfft.errors import UserError, one_line
from hfft.hardware.processes import from_first_process
from hfft.record import RunRecord
from hfft.run_folder import METRICS_FILE, REPORT_FILE, RUN_FILE
from hfft.trackers import Finished, TensorBoard, Tracker, tracker_of

logger = logging.getLogger(__name__)

_HANDED_OVER = (REPORT_FILE, RUN_FILE, METRICS_FILE)  # predictions hold the whole test split, and stay
_TOLD = ("task", "model", "data")
_OPEN: list[Trackers] = []


class Trackers(TrainerCallback):
    """Stands before the trackers of a trainer, on the first process alone.

    The Trainer would end their runs with the training, and show them predictions of any split as those of the test.
    Here they are opened before the first step, and closed by :meth:`finish` after the test.

    Args:
        trainer: whose trackers these are from now on.
        settings: of the run, by name.
    """

    def __init__(self, trainer: Any, settings: dict[str, Any]) -> None:
        told = {name: str(settings[name]) for name in _TOLD if name in settings}
        found = [tracker_of(callback, trainer, told) for callback in trainer.callback_handler.callbacks]
        # TensorBoard writes to the run's folder, which is to stay empty where another one cannot be started
        self._trackers = sorted((t for t in found if t is not None), key=lambda t: isinstance(t, TensorBoard))
        for tracker in self._trackers:
            trainer.remove_callback(tracker.callback)
        if not trainer.is_world_process_zero():
            self._trackers.clear()
        self._unfreezing: GradualUnfreezing | None = trainer.unfreezing
        self._failed: set[str] = set()
        trainer.add_callback(self)

    def begin(self) -> None:
        """Open the runs; raises :class:`UserError` on all processes where that fails."""
        _OPEN.append(self)
        told = None
        for tracker in self._trackers:
            try:
                tracker.begin()
            except Exception as error:  # of any library
                told = (
                    f"report_to: {tracker.name} cannot be started: {_reason(error)}. Mend it, or leave report_to out."
                )
                break
        if (told := from_first_process(told)) is not None:
            raise UserError(told)

    def finish(self, record: RunRecord, folder: Path) -> None:
        """Hand over what came of the run, and close."""
        thaws = {f"thaw_epoch/{layer}": epoch for layer, epoch in record.thaws.items()}
        steps = [int(entry["step"]) for entry in record.history if "step" in entry]
        finished = Finished(
            metrics=record.metrics | thaws,
            files=[folder / name for name in _HANDED_OVER],
            step=max(steps, default=0),
        )
        for tracker in self._trackers:
            with self._told(tracker):
                tracker.hand_over(finished)
        self.close(failed=False)

    def close(self, failed: bool) -> None:
        """Close the runs."""
        _OPEN.remove(self)
        for tracker in self._trackers:
            with self._told(tracker):
                tracker.close(failed)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how many layer groups train, where that changes."""
        step, unfreezing = state.global_step, self._unfreezing
        if unfreezing is not None and (step == 0 or unfreezing.thaws_at(step)):
            self._send("on_log", logs={"layer_groups_training": unfreezing.trained_groups(step)})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on losses, metrics of the validation split and the rate of each layer group."""
        self._send("on_log", logs=dict(logs or {}))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass on that a step is done."""
        self._send("on_step_end")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on metrics of the validation split, for trackers that take them from here."""
        self._send("on_evaluate", metrics=metrics)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass on that there is a checkpoint."""
        self._send("on_save")

    def _send(self, event: str, **told: Any) -> None:
        for tracker in self._trackers:
            with self._told(tracker):
                tracker.send(event, **told)

    @contextlib.contextmanager
    def _told(self, tracker: Tracker) -> Iterator[None]:
        """Tell of what goes wrong with a tracker, once."""
        try:
            yield
        except Exception as error:  # of any library: no tracker is worth a run
            if tracker.name not in self._failed:
                self._failed.add(tracker.name)
                logger.warning("%s did not take everything: %s. The run goes on.", tracker.name, _reason(error))


@contextlib.contextmanager
def closing_trackers() -> Iterator[None]:
    """Close, as failed, what a run that breaks off has opened."""
    try:
        yield
    except BaseException:
        for trackers in list(_OPEN):
            trackers.close(failed=True)
        raise


def _reason(error: Exception) -> str:
    return (one_line(error) or type(error).__name__).removesuffix(".")
