"""What is settled between the arguments as they were given and the first step of training."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from hfft.arguments import ModelArguments, column_settings
from hfft.data import LabelledData
from hfft.errors import UserError, listed, nearest
from hfft.evaluation.metrics import LOWER_IS_BETTER
from hfft.optim.schedules import FOLLOW_METRICS, schedule_factor
from hfft.strategies import DEFAULT_STRATEGY, load_strategy
from hfft.targets import Target
from hfft.task import Task
from hfft.training_arguments import FineTuningArguments, enough_epochs, schedule_name

# What another version of hfft might choose otherwise stands in run.yaml, also where nobody asked for it.
_RECORDED_DEFAULTS = (
    *(
        "strategy",
        "layer_decay",
        "learning_rate",
        "head_learning_rate",
        "num_train_epochs",
        "weight_decay",
        "warmup_steps",
        "seed",
    ),
    *("per_device_train_batch_size", "augment", "freeze_batch_norm", "lr_scheduler_type"),
    *("train_sampling_strategy", "precision"),
    *("lora_rank", "lora_alpha", "lora_dropout", "adapter_config"),
)


Measure = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""(labels, outputs), a row for each example -> name -> value."""


def measure_function(target: Target, args: FineTuningArguments) -> Measure:
    """Return the target's metrics and those that the user asked for; tried out here, before anything slow."""
    more = []
    if args.metrics:
        from hfft.evaluation.modules import EvaluateMetric

        more = [EvaluateMetric(specification) for specification in args.metrics]

    def measure(labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        predictions = target.decide(outputs)
        asked_for = {name: value for metric in more for name, value in metric.compute(labels, predictions).items()}
        return {**asked_for, **target.metrics.compute(labels, outputs)}

    measure(*target.sample())
    return measure


def settle(args: FineTuningArguments, task: Task, data: LabelledData, measure: Measure, chosen: dict[str, Any]) -> None:
    """Settle what depends on the task and on which splits there are."""
    if not {"num_train_epochs", "max_steps"} & chosen.keys():
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        args.num_train_epochs = enough_epochs(len(data.splits["train"]), step, args.num_train_epochs)
    if args.augment == "auto":
        args.augment = task.augmentations[min(1, len(task.augmentations) - 1)]
    if args.augment not in task.augmentations:
        raise UserError(f"--augment: {task.name} knows {listed(task.augmentations)}, got '{args.augment}'.")
    if args.cached_views is not None and args.augment == "none":
        raise UserError("--cached_views has no place with augment none: every epoch sees the same inputs.")
    evaluates = "validation" in data.splits and str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no"
    if args.early_stopping_patience is not None and not evaluates:
        raise UserError("--early_stopping_patience needs a validation split and an eval_strategy other than no.")
    if args.calibration != "none":
        if "log_loss" not in data.target.metrics.functions:
            raise UserError("--calibration has no place here: a number has no probability that could be calibrated.")
        if "validation" not in data.splits:
            raise UserError("--calibration needs a validation split: leave --validation_size at more than 0.")
    if "validation" not in data.splits:
        args.eval_strategy = type(args.eval_strategy)("no")
        args.load_best_model_at_end = False
        args.metric_for_best_model = None
    if args.starts_solved and args.load_best_model_at_end:
        args.eval_on_start = True  # what is trained has to be better than the probe, or the probe ships
    if args.metric_for_best_model is not None:
        name = args.metric_for_best_model.removeprefix("eval_")
        known = ["loss", *measure(*data.target.sample())]
        if name not in known:
            raise UserError(
                f"--metric_for_best_model: there is no metric '{name}'.{nearest(name, known)} Known: {listed(known)}."
            )
        if name in LOWER_IS_BETTER:
            args.greater_is_better = False


def task_defaults(task: Task, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of task and strategy; a learning rate that the user gave is the head's as well."""
    strategy = load_strategy(chosen.get("strategy", DEFAULT_STRATEGY))
    defaults = dict(task.defaults)
    if "learning_rate" in chosen:
        return {name: value for name, value in defaults.items() if name != "head_learning_rate"}
    if strategy.rate != 1:
        rate = defaults.get("learning_rate", FineTuningArguments.learning_rate)
        defaults |= {
            "learning_rate": rate * strategy.rate,
            "head_learning_rate": defaults.get("head_learning_rate", rate),
        }
    return defaults


def rerunnable(
    settings: dict[str, Any], task: Task, data: LabelledData, chosen: dict[str, Any], args: FineTuningArguments
) -> dict[str, Any]:
    """Return the settings that make this run again, from any folder, also where the defaults will have changed."""
    resolved = {name: getattr(args, name) for name in _RECORDED_DEFAULTS}
    named = {"task": task.name, "problem_type": data.target.problem_type}
    merged = {**settings, **named, **column_settings(data.columns), **chosen, **resolved}
    if not isinstance(merged["data"], str | Path):
        del merged["data"]  # data sets in memory have no name to read them by again
    merged = {name: plain(value) for name, value in from_anywhere(merged).items() if not is_of_once(name)}
    return {name: value for name, value in merged.items() if value is not None}


def from_anywhere(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the paths of what is there such that they are found from any folder."""
    there = {
        name: str(Path(value).absolute())
        for name in ("data", "model", "cache_dir", "adapter_config")
        if isinstance(value := settings.get(name), str | Path) and os.path.exists(value)  # noqa: PTH110  (of a text too long for a name Path raises)
    }
    return {**settings, **there}


def is_of_once(name: str) -> bool:
    """Say whether a setting belongs to this one start of a run: a run made again is not to be pushed over the first."""
    return name in ("resume", "overwrite", "push_to_hub") or name.startswith("hub_")  # a token among them


def plain(value: Any) -> Any:
    """Return a value as YAML knows it: NumPy scalars, enumerations and paths are of other libraries."""
    value = getattr(value, "value", value)
    value = value.item() if isinstance(value, np.generic) else value
    return str(value) if isinstance(value, Path) else value


def require_use(arguments: ModelArguments, args: FineTuningArguments) -> None:
    """Raise :class:`UserError` for rates of training where nothing is trained."""
    if arguments.rates() and not load_strategy(args.strategy).trains:
        raise UserError(
            f"{listed(arguments.rates())} has no place in the strategy '{args.strategy}', which solves the head and "
            "trains nothing."
        )


def require_schedule(args: FineTuningArguments) -> None:
    """Build the learning-rate schedule on trial: the Trainer does it when the folder is made already."""
    name, options = schedule_name(args), args.lr_scheduler_kwargs
    if name not in FOLLOW_METRICS:
        schedule_factor(name, 10, 1, options)
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        get_scheduler(name, optimizer, 1, 10, options)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"--lr_scheduler_type: {error}. See lr_scheduler_kwargs.") from error
