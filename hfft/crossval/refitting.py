"""The refit: one model from every training example, after cross-validation has told how good such models are."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from hfft.adapters.settings import ADAPTER_ARGUMENTS
from hfft.crossval.result import CrossValidationResult, held_out_predictions
from hfft.data import LabelledData
from hfft.errors import UserError
from hfft.evidence import PartOfCrossValidation
from hfft.features.start import MODEL
from hfft.finetuning import fine_tune
from hfft.optim.schedules import FOLLOW_METRICS
from hfft.run_folder import CROSSVAL_SETTINGS
from hfft.running import output
from hfft.strategies import load_strategy
from hfft.task import Task
from hfft.training_arguments import FineTuningArguments

# What is asked of a validation split. A refit without one has no use for it: the folds have chosen.
_OF_VALIDATION = (
    *("early_stopping_patience", "metric_for_best_model", "greater_is_better", "load_best_model_at_end"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start"),
)
# What is asked of training, and has no place where the solved head ships.
_OF_TRAINING = (
    *("head_start", "epochs_per_group", "dropout", "drop_path_rate", "patch_drop_rate", *ADAPTER_ARGUMENTS),
    *("optim", "optim_args", "optim_target_modules"),
)


def require_refit(data: LabelledData, args: FineTuningArguments) -> None:
    """Raise :class:`UserError` where a model cannot be made from every example as the folds make theirs."""
    if "validation" in data.splits:
        return
    asked = "--calibration" if args.calibration != "none" else None
    asked = f"--lr_scheduler_type {args.schedule_name}" if args.schedule_name in FOLLOW_METRICS else asked
    if asked is not None:
        raise UserError(
            f"--refit trains on every example, and leaves none for {asked}. Give the data a validation split, or leave "
            "out one of the two."
        )


def refit(
    task: Task,
    data: LabelledData,
    settings: dict[str, Any],
    args: FineTuningArguments,
    result: CrossValidationResult,
    place: Path,
) -> None:
    """Train one model on every training example, and write its run folder; go on where a part of it is there.

    A validation split that was given chooses the checkpoint, as in the folds. Without one every example trains, for the
    median of the epochs that the folds' own validation splits have found best. A test split that was given tests the
    model; without one its figures are those of the cross-validation.
    """
    evidence, notes = result.evidence(data), list[str]()
    own = output.settings_within(settings, place)
    if "validation" not in data.splits:
        chosen, notes = _chosen_by_folds(result.folds, args)
        own = {name: value for name, value in own.items() if name not in _OF_VALIDATION}
        own = {name: value for name, value in (own | {"validation_size": 0.0} | chosen).items() if value is not None}
    part = PartOfCrossValidation(
        command=f"hfft crossval --config ../{CROSSVAL_SETTINGS} --output_dir ANOTHER_FOLDER",
        folds=evidence,
        held_out=held_out_predictions(Path(result.output_dir), data.target),
        notes=(*((evidence.sentence(),) if "test" in data.splits else ()), *notes),
    )
    fine_tune(task, data, own, Console(quiet=True), part)


def _chosen_by_folds(folds: list[dict[str, Any]], args: FineTuningArguments) -> tuple[dict[str, Any], list[str]]:
    """Return the settings that follow from the folds, ``None`` for what falls away, and what to tell of them."""
    chosen: dict[str, Any] = {"load_best_model_at_end": False}  # else transformers wants it saved when it is evaluated
    if args.save_strategy == "best":
        chosen["save_strategy"] = None
    ends_early = args.load_best_model_at_end or args.early_stopping_patience is not None
    if not (ends_early and all(fold.get("validation_examples") for fold in folds)):
        return chosen, []
    shipped = [fold.get("shipped_epoch", 0.0) for fold in folds]
    if load_strategy(args.strategy).cautious:  # where the solved head ships that is a decision, and no number of epochs
        trained = [epochs for epochs in shipped if epochs > 0]
        shipped = trained if 2 * len(trained) > len(folds) else [0.0]
    epochs = statistics.median(shipped)
    if epochs == 0 and args.starts_solved:
        note = "No training after the solved head, which is what half of the folds or more ship."
        chosen |= {"strategy": "linear-probe", **dict.fromkeys(_OF_TRAINING)}
        return chosen | ({"pooling": MODEL} if args.keep_adapter else {}), [note]  # as adapters by themselves need it
    epochs = epochs or 1.0  # a head that is drawn at random has to be trained
    ended = "the training of the median fold ended, which its validation split may stop early"
    if args.load_best_model_at_end:
        ended = "the checkpoint was made that was best on the validation split of the median fold"
    note = f"Trained on every example for {epochs:g} epochs: after so many {ended}."
    return {**chosen, "num_train_epochs": epochs, "max_steps": None}, [note]
