"""What every trial of a search has in common: the data, read, checked and divided once, the space, what is measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from hfft.command_arguments import SearchArguments
from hfft.data import LabelledData
from hfft.data.divisions import data_of_fold, plan_folds
from hfft.data.drawing import draw_split
from hfft.data.leaks import settle_leaks
from hfft.errors import UserError, listed, nearest
from hfft.features.heads.solvers import SOLVERS
from hfft.findings import Findings
from hfft.running.reading import read_data
from hfft.running.settling import measure_function
from hfft.searching.attempt import Objective, Part, first_model
from hfft.searching.space import Space, first_settings, fitting, grid_of, read_space
from hfft.settings import split_settings, training_arguments, with_implied
from hfft.strategies import load_strategy
from hfft.task import Task


@dataclass(frozen=True)
class Case:
    """What trials share.

    Attributes:
        task: of all trials, and of the run that the best settings make in the end.
        labelled: all data, the test split among them.
        validation_size: that they were read with.
        parts: what trials are trained and judged on.
        settings: of every trial, before its own.
        space: what is searched.
        objective: what is measured.
        notes: what is to be told, a sentence each.
    """

    task: Task
    labelled: LabelledData
    validation_size: float | None
    parts: list[Part]
    settings: dict[str, Any]
    space: Space
    objective: Objective
    notes: list[str]


def make_case(settings: dict[str, Any], arguments: SearchArguments, console: Console) -> Case:
    """Read and check everything that trials need; raises :class:`UserError` for what does not fit."""
    _, data_arguments, chosen = split_settings(settings)
    args = training_arguments(chosen)
    given = None if arguments.space is None else read_space(arguments.space)
    # of folds every example is to be held out once: validation splits are drawn from the rest of each
    reading = with_implied(settings) | ({} if arguments.folds is None else {"validation_size": 0.0})
    task, labelled = read_data(reading, console)
    notes: list[str] = []
    if arguments.folds is None:
        parts = [_validation(labelled, data_arguments.validation_size, args.seed)]
    else:
        plan, notes = plan_folds(labelled, arguments.folds, 1, args.seed)
        share = data_arguments.validation_size if args.chooses else 0.0
        parts = [Part(data_of_fold(labelled, fold, share, args.seed), "test", True) for fold in plan]
    asked = chosen.get("metric_for_best_model")
    name = str(asked or labelled.target.metrics.headline).removeprefix("eval_")
    known = ["loss", *measure_function(labelled.target, args)(*labelled.target.sample())]
    if name not in known:
        raise UserError(
            f"--metric_for_best_model: there is no metric '{name}'.{nearest(name, known)} Known: {listed(known)}."
        )
    objective = Objective.of(name, chosen.get("greater_is_better") if asked else None)
    space = given or read_space(load_strategy(args.strategy).space)
    model = first_model(task, {**settings, **first_settings(space)}, parts[0].data, console)
    if given is None:
        numbers = SOLVERS[labelled.target.head_solver].numbers
        solvers = [name for name, solver in SOLVERS.items() if solver.numbers or not numbers]
        space = fitting(space, {"pooling": task.poolings(model), "head_solver": solvers})
    if arguments.sampler == "grid" and (size := len(grid_of(space))) > arguments.trials:
        raise UserError(f"--sampler grid: the space has {size} points, more than the {arguments.trials} of --trials.")
    return Case(task, labelled, reading.get("validation_size"), parts, settings, space, objective, notes)


def _validation(labelled: LabelledData, share: float, seed: int) -> Part:
    """Return the data without the test split; a validation split is drawn where the run itself has none."""
    train = labelled.splits["train"]
    splits = {name: split for name, split in labelled.splits.items() if name != "test"}
    found = dataclasses.replace(labelled, splits=splits, inspected=dict(labelled.inspected), findings=Findings())
    if "validation" in splits:
        return Part(found, "validation", False)
    if not share > 0:
        raise UserError("--validation_size 0 leaves no validation split to judge trials on: raise it, or use --folds.")
    draw_split(found, "validation", share, seed)
    settle_leaks(found, {"train"}, "skip")
    return Part(dataclasses.replace(found, pool=train), "validation", True)
