"""lr_find(): a few steps at rising learning rates, to see at which the training loss falls and where it diverges."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hfft.callbacks.gradual_unfreezing import GradualUnfreezing
from hfft.callbacks.learning_rate_range import LearningRateRange, smooth
from hfft.command_arguments import RangeTestArguments
from hfft.errors import UserError
from hfft.failures import computing, writing_output
from hfft.hardware.seeding import random_state_kept
from hfft.paths import require_writable
from hfft.running.assembling import make_trainer
from hfft.running.preparing import prepare
from hfft.running.reading import read_data
from hfft.settings import given_settings, split_settings, training_arguments
from hfft.strategies import load_strategy
from hfft.task import Task
from hfft.terminal import make_console, progress_bar
from hfft.trainer import FineTuningTrainer
from hfft.training_arguments import FineTuningArguments

_TIMES_NOISE = 3  # that the loss has to fall by
FOR_TRANSFORMERS = (
    "This model is a transformer, for which the test is not reliable: it tends to suggest rates near 1e-3 where a "
    "whole run is best near 1e-5 (issue 16013 of transformers). Take the suggestion as an upper bound, not as the best "
    "rate."
)


@dataclass(frozen=True)
class LearningRateTest:
    """What a learning-rate range test has found.

    Attributes:
        rates: of the head, a step each; the other layers have theirs in the same proportion as in a run.
        losses: of the training batch of each step, before its update.
        smoothed: the same without most of the noise between batches.
        suggestion: a tenth of the rate with the least smoothed loss, for the head; ``None`` where no rate brought the
            loss down.
        settings: the suggestion as settings of a run: ``learning_rate``, and ``head_learning_rate`` where the profile
            has one.
        diverged: whether the loss did before the highest rate.
        notes: what is to be known of it, a sentence each.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    settings: dict[str, float] = field(default_factory=dict)
    diverged: bool = False
    notes: list[str] = field(default_factory=list)


def lr_find(
    task: str | Task | None = None,
    model: str | None = None,
    data: Any = None,
    *,
    lowest_rate: float = 1e-6,
    highest_rate: float = 1.0,
    steps: int = 100,
    output: str | None = None,
    **settings: Any,
) -> LearningRateTest:
    """Train for a few steps at rising learning rates, and suggest one.

    The learning-rate range test of Smith (2015, https://arxiv.org/abs/1506.01186): the rate of step k is
    ``lowest_rate * (highest_rate / lowest_rate) ** (k / (steps - 1))`` for the head, and that of every other layer
    rises in proportion, so that the profile of layer-wise rates is that of the run. It ends where the loss diverges.
    Suggested is a tenth of the rate with the least loss (Gugger 2018,
    https://sgugger.github.io/how-do-you-find-a-good-learning-rate.html). With gradual unfreezing all layers train in
    the test. Weights, random state and ``output_dir`` stay as they are.

    Args:
        task, model, data: as for :func:`hfft.finetune`.
        lowest_rate, highest_rate: of the head, in the first step and in the last.
        steps: optimizer steps.
        output: picture to draw, ``.png``, ``.svg`` or ``.pdf``.
        **settings: as for :func:`hfft.finetune`.

    Raises:
        UserError: as :func:`hfft.finetune`; for a strategy that trains nothing by gradient; under several processes.
    """
    span = RangeTestArguments(lowest_rate, highest_rate, steps, output)
    if output is not None:
        require_writable(Path(output), (".png", ".svg", ".pdf"))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "The learning-rate test runs in one process: the batch of several is had by "
            "--gradient_accumulation_steps as many."
        )
    console = make_console()
    with random_state_kept(), tempfile.TemporaryDirectory() as folder:
        own = {**span.settled, "output_dir": folder, "max_steps": steps}
        given = given_settings(**{"task": task, "model": model, "data": data, **settings, **own})
        result = _test(given, span, console)
    if output is not None:
        from hfft.report.figures import draw_range_test

        with writing_output(Path(output)):
            draw_range_test(result.rates, result.losses, result.smoothed, result.suggestion, Path(output))
    return result


def _test(settings: dict[str, Any], span: RangeTestArguments, console: Console) -> LearningRateTest:
    trainer = _trainer(settings, console)
    args, rates = trainer.args, np.geomspace(span.lowest_rate, span.highest_rate, span.steps)
    head = args.head_learning_rate or args.learning_rate
    with progress_bar(console) as bar:
        row = bar.add_task("Learning rates", total=span.steps)
        rising = LearningRateRange(rates, head, lambda: bar.advance(row))
        trainer.add_callback(rising)
        with computing("Lower --per_device_train_batch_size and raise --gradient_accumulation_steps as much."):
            trainer.train()
    tried, smoothed = rates[: len(rising.losses)], smooth(rising.losses, span.steps)
    suggestion, notes = suggest(tried, np.asarray(rising.losses), smoothed, rising.diverged)
    if suggestion is not None and _is_transformer(trainer.model):
        notes.append(FOR_TRANSFORMERS)
    return LearningRateTest(
        *(tried.tolist(), rising.losses, smoothed.tolist(), suggestion),
        settings=_as_settings(suggestion, args),
        diverged=rising.diverged,
        notes=notes,
    )


def _trainer(settings: dict[str, Any], console: Console) -> FineTuningTrainer:
    """Return the trainer that a run with these settings would have, with all layers thawed."""
    strategy = load_strategy(training_arguments(split_settings(settings)[2]).strategy)
    if not strategy.trains:
        raise UserError(
            f"--strategy: {strategy.name} solves the head and makes no steps, so it has no learning rate to be found."
        )
    prepared = prepare(*read_data(settings, console), settings, console)
    start = prepared.start()
    prepared.adapt()
    trainer = make_trainer(prepared, start)
    trainer.remove_callback(GradualUnfreezing)
    return trainer


def suggest(
    rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, diverged: bool
) -> tuple[float | None, list[str]]:
    """Return a tenth of the rate with the least smoothed loss, and what is to be known of it.

    ``None`` where the loss has not fallen by more than it differs from batch to batch.
    """
    if len(losses) < 2:
        return None, ["The loss was no number from the first steps on: lower --lowest_rate."]
    best = int(smoothed.argmin())
    noise = 1.4826 * float(np.median(np.abs(losses - smoothed)))  # a standard deviation that a divergence leaves alone
    if smoothed[0] - smoothed[best] <= _TIMES_NOISE * noise:
        return None, [
            "No rate is suggested: the loss falls by no more than it differs from batch to batch. A head that was "
            "solved before may leave little to be learned."
        ]
    notes = []
    if best == len(losses) - 1 and not diverged:
        notes.append("The loss still falls at the highest rate: raise --highest_rate.")
    return float(f"{rates[best] / 10:.2g}"), notes


def _as_settings(suggestion: float | None, args: FineTuningArguments) -> dict[str, float]:
    if suggestion is None:
        return {}
    if args.head_learning_rate is None:
        return {"learning_rate": suggestion}
    below = suggestion * args.learning_rate / args.head_learning_rate
    return {"learning_rate": float(f"{below:.2g}"), "head_learning_rate": suggestion}


def _is_transformer(model: Any) -> bool:
    return any("attention" in type(module).__name__.lower() for module in model.modules())
