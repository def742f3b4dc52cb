"""The training itself: gone on with, reported on the way, broken off without loss."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hfft.adapters.models import Adapter, is_adapted, merge
from hfft.adapters.quantizing import beside_whole_weights
from hfft.callbacks.interruption import StopOnSignal
from hfft.callbacks.live_report import LiveReport
from hfft.callbacks.progress import TrainingProgress
from hfft.errors import RunInterrupted
from hfft.failures import computing
from hfft.record import RunRecord
from hfft.running.gathering import report_progress
from hfft.storage.checkpoints import newest_whole
from hfft.trainer import FineTuningTrainer


def train(trainer: FineTuningTrainer, record: RunRecord, checkpoint: str | None, whole: Any) -> Adapter | None:
    """Train, and leave an ordinary model in the trainer.

    Args:
        trainer: of the run.
        record: is reported on from time to time.
        checkpoint: to go on from.
        whole: the model into which adapters are merged that trained beside layers in 4 bits.

    Returns:
        the adapters by themselves, if there are any.

    Raises:
        RunInterrupted: on a signal, where there is a checkpoint to go on from.
        UserError: for a memory that is too small, and adapters that cannot be merged.
    """
    trainer.add_callback(LiveReport(partial(report_progress, record, trainer, Path(str(trainer.args.output_dir)))))
    _make_steps(trainer, checkpoint)
    return _merge_adapters(trainer, whole)


def _make_steps(trainer: FineTuningTrainer, checkpoint: str | None) -> None:
    stop = StopOnSignal()
    trainer.add_callback(stop)
    try:
        with computing(
            "--auto_batch_size true computes batches in parts, with the same result; or lower "
            "--per_device_train_batch_size and raise --gradient_accumulation_steps as much."
        ):
            trainer.train(resume_from_checkpoint=checkpoint)
        if stop.caught:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        newest, _ = newest_whole(Path(str(trainer.args.output_dir)))
        if newest is None:
            raise
        raise RunInterrupted(newest) from None
    finally:  # signals and terminal are given back also after an error
        stop.release()
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrainingProgress):
                callback.close()


def _merge_adapters(trainer: FineTuningTrainer, whole: Any) -> Adapter | None:
    """Put the ordinary model in the place of one with adapters; return them by themselves, if there are any.

    ``whole`` is the model whose layers were held in 4 bits, if they were.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_adapted(model):
        return None
    if trainer.args.load_in_4bit:
        model = beside_whole_weights(whole, model)
    trainer.model, adapter = merge(model)
    trainer.model_wrapped = trainer.model
    return adapter
