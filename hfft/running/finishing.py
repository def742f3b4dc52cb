"""The model that ships, made of the one that was trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hfft.data import LabelledData
from hfft.evidence import PartOfCrossValidation
from hfft.hardware.processes import from_first_process
from hfft.record import RunRecord
from hfft.running.gathering import note_down
from hfft.running.preparing import Preparation
from hfft.strategies import load_strategy
from hfft.targets.temperature import calibrate, logit_layers
from hfft.trainer import FineTuningTrainer


def finish_model(
    trainer: FineTuningTrainer,
    prepared: Preparation,
    record: RunRecord,
    part: PartOfCrossValidation | None,
    solved: np.ndarray | None = None,
) -> bool:
    """Make the model that ships: the stock architecture, units of numbers, thresholds of classes.

    Args:
        trainer, prepared, record: of the run.
        part: what the run is to a cross-validation, if it is part of one.
        solved: (examples, outputs) validation logits of the solved head, where that ships and may have learned from
            these examples since.

    Returns:
        whether something was settled by which the model answers otherwise than in training.
    """
    console, data, args = prepared.console, prepared.data, trainer.args
    chose = load_strategy(args.strategy).trains and args.load_best_model_at_end and args.eval_on_start
    if args.starts_solved and chose and solved is None and not trainer.state.best_global_step:
        better = f"no better validation {str(args.metric_for_best_model).removeprefix('eval_')}"
        note_down(record.notes, f"Training has brought {better}: the solved head ships as it was.", console)
    finished = prepared.task.finished(trainer.accelerator.unwrap_model(trainer.model))
    if finished is not trainer.accelerator.unwrap_model(trainer.model):
        trainer.model = trainer.model_wrapped = finished

    model = trainer.accelerator.unwrap_model(trainer.model)
    if args.calibration != "none":
        logits = _predicted(trainer) if solved is None else solved
        layers = logit_layers(model, prepared.few_inputs())
        record.temperature, fitted = calibrate(data.target, model, layers, data.labels("validation"), logits)
        note_down(record.notes, fitted, console)

    record.target, told = from_first_process(data.target.finish(model, _held_out(trainer, record, data, part, solved)))
    note_down(record.notes, told, console)
    return told is not None or record.temperature is not None or args.load_in_4bit


def _predicted(trainer: FineTuningTrainer) -> np.ndarray:
    """Return (examples, outputs) the logits of the validation split."""
    return np.asarray(trainer.predict(trainer.eval_dataset).predictions)


def _held_out(
    trainer: FineTuningTrainer,
    record: RunRecord,
    data: LabelledData,
    part: PartOfCrossValidation | None,
    solved: np.ndarray | None,
) -> Callable[[], tuple[np.ndarray, np.ndarray]] | None:
    """Return what gives array labels and outputs of examples that were not trained on, or ``None`` without any."""

    def predict() -> tuple[np.ndarray, np.ndarray]:
        logits = _predicted(trainer) if solved is None else solved / (record.temperature or 1.0)
        return data.labels("validation"), data.target.outputs(logits)

    if "validation" in data.splits:
        return predict
    found = None if part is None else part.held_out
    return None if found is None else lambda: found
