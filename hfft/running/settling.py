"""What is settled between the arguments as they were given and the first step of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from hfft.arguments import ModelArguments
from hfft.data import LabelledData
from hfft.errors import UserError, listed, nearest
from hfft.evaluation.metrics import LOWER_IS_BETTER
from hfft.optim.schedules import FOLLOW_METRICS, schedule_factor
from hfft.strategies import DEFAULT_STRATEGY, load_strategy
from hfft.targets import Target
from hfft.task import Task
from hfft.training_arguments import FineTuningArguments

FEWEST_STEPS = 400
MOST_EPOCHS = 40

Measure = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""(labels, outputs), a row for each example -> name -> value."""


def measure_function(target: Target, args: FineTuningArguments) -> Measure:
    """Return the target's metrics and those that the user asked for; tried out here, before anything slow."""
    more = []
    if args.metrics:
        from hfft.evaluation.chosen_metrics import EvaluateMetric

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


def require_use(arguments: ModelArguments, args: FineTuningArguments) -> None:
    """Raise :class:`UserError` for rates of training where nothing is trained."""
    if arguments.rates() and not load_strategy(args.strategy).trains:
        raise UserError(
            f"{listed(arguments.rates())} has no place in the strategy '{args.strategy}', which solves the head and "
            "trains nothing."
        )


def require_schedule(args: FineTuningArguments) -> None:
    """Build the learning-rate schedule on trial: the Trainer does it when the folder is made already."""
    name, options = args.schedule_name, args.lr_scheduler_kwargs
    if name not in FOLLOW_METRICS:
        schedule_factor(name, 10, 1, options)
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        get_scheduler(name, optimizer, 1, 10, options)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"--lr_scheduler_type: {error}. See lr_scheduler_kwargs.") from error


def enough_epochs(examples: int, batch_size: int, epochs: float) -> float:
    """Return ``epochs``, or as many more as make 400 optimizer steps, at most 40.

    A few passes over a few dozen examples are too few steps to train a new head.

    Args:
        examples: in the training split.
        batch_size: examples of one optimizer step, over all ranks and accumulation steps.
        epochs: the least number.
    """
    steps_per_epoch = math.ceil(examples / batch_size)
    return float(max(epochs, min(MOST_EPOCHS, math.ceil(FEWEST_STEPS / steps_per_epoch))))
