"""cross_validate(): each training example predicted by a model that has not seen it; a given test stays untouched."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from hfft.command_arguments import CrossValidationArguments
from hfft.crossval.refitting import refit, require_refit
from hfft.crossval.result import CrossValidationResult, join_folds, write_result
from hfft.data import LabelledData
from hfft.data.divisions import Fold, data_of_fold, plan_folds
from hfft.errors import ProcessError, UserError
from hfft.evidence import PartOfCrossValidation
from hfft.failures import writing
from hfft.finetuning import fine_tune
from hfft.hardware.apart import Ranks, apart
from hfft.run_folder import CROSSVAL_SETTINGS, FOLDS, METRICS_FILE, PREDICTIONS_FILE, REFIT, RUN_HEADER
from hfft.running import output
from hfft.running.collecting import libraries_out_of_the_collector
from hfft.running.opening import open_run
from hfft.running.reading import read_data
from hfft.running.recipes import recipe
from hfft.running.resuming import binds_result, differences
from hfft.settings import given_settings
from hfft.strategies import DEFAULT_STRATEGY
from hfft.targets import Target
from hfft.task import Task
from hfft.terminal import figure, make_console, print_metrics
from hfft.training_arguments import FineTuningArguments


def cross_validate(
    task: str | Task | None = None,
    model: str | None = None,
    data: Any = None,
    output_dir: str = "out",
    *,
    folds: int = 5,
    repeats: int = 1,
    keep_models: bool = False,
    refit: bool = False,
    **settings: Any,
) -> CrossValidationResult:
    """Fine-tune a fresh model for each fold of the training examples, and predict the examples outside it.

    Folds are stratified; groups (``group_column``), and examples that are copies of each other, are held out together.
    A test split that was given is looked at by none of them. Intervals are those of Nadeau and Bengio (2003,
    https://doi.org/10.1023/A:1024068626366), which count that folds share most of their training examples. Where a
    launcher has started several processes, each runs folds of its own.

    Args:
        task, model, data, output_dir: as for :func:`hfft.finetune`.
        folds: at least 2; fewer where no class has so many examples, or groups.
        repeats: how often the examples are dealt into folds anew.
        keep_models: keep the weights of every fold's model.
        refit: train one model on every training example after the folds, in the folder ``refit`` of ``output_dir``. A
            test split that was given tests it once; without one its card shows the figures of the folds.
        **settings: as for :func:`hfft.finetune`. ``resume`` goes on with the folds that are not done, and
            ``validation_size`` is the share of a fold's training examples that its checkpoint is chosen on.

    Raises:
        UserError: as :func:`hfft.finetune`, and where nothing can be held out.
    """
    arguments = CrossValidationArguments(folds, repeats, keep_models, refit)
    settings = given_settings(task=task, model=model, data=data, output_dir=output_dir, **settings)
    with apart() as ranks:
        return _cross_validate(settings, arguments, ranks)


def _cross_validate(
    settings: dict[str, Any], arguments: CrossValidationArguments, ranks: Ranks
) -> CrossValidationResult:
    if settings.get("push_to_hub"):
        raise UserError("push_to_hub has no place in cross-validation. `hfft push` pushes the model of a --refit.")
    model_arguments, data_arguments, args = open_run(settings, speaks=ranks.rank == 0, settings_file=CROSSVAL_SETTINGS)
    folder = Path(str(args.output_dir))
    console = make_console() if ranks.rank == 0 else Console(quiet=True)
    task, labelled = read_data(settings, console, draw=False)  # every training example is to be predicted
    if arguments.refit:
        require_refit(labelled, args)
    for finding in task.check_model(model_arguments, labelled.splits):
        console.print(f"  {finding.message}")
    plan, notes = plan_folds(labelled, arguments.folds, arguments.repeats, args.seed)
    for note in notes:
        console.print(f"  {note}")
    if ranks.rank == 0:
        _begin(folder, settings, arguments)
        ranks.tell("begun")
    ranks.wait_for("begun")

    share = data_arguments.validation_size if args.chooses else 0.0
    for fold in plan[ranks.rank :: ranks.size]:
        place = folder / FOLDS / fold.name
        if not _is_done(place):
            with _naming(fold.name), libraries_out_of_the_collector():
                _run_fold(task, data_of_fold(labelled, fold, share, args.seed), settings, fold, place)
            if not arguments.keep_models:
                output.drop_model(place)
        ranks.tell(fold.name)
        console.print(f"  {fold.name}: {_headline(place, labelled.target)}")
    ranks.wait_for(*(fold.name for fold in plan))
    result = join_folds(folder, plan, labelled)
    if ranks.rank == 0:
        with writing(folder, "the results"):
            write_result(result, folder, plan, labelled, notes)
        title = f"Cross-validation, {len(plan)} folds, {len(labelled.splits['train'])} examples"
        print_metrics(console, result.rows(), title, labelled.target.baseline_name)
        console.print(f"Results and out-of-fold predictions: {folder}")
    if arguments.refit:
        result.refit_dir = str(folder / REFIT)
        if ranks.rank == 0:
            _refit(task, labelled, settings, args, result, console)
            ranks.tell("refit")
        ranks.wait_for("refit")
    if ranks.rank == 0:
        output.discard(folder)
    return result


def _run_fold(task: Task, data: LabelledData, settings: dict[str, Any], fold: Fold, place: Path) -> None:
    """Train and test the model of a fold; go on where a part of it is there."""
    own = {**output.settings_within(settings, place), "seed": fold.seed}
    command = f"hfft crossval --config ../../{CROSSVAL_SETTINGS} --output_dir ANOTHER_FOLDER"
    fine_tune(task, data, own, Console(quiet=True), PartOfCrossValidation(command))
    gc.collect()  # a trainer and its model hold each other


def _refit(
    task: Task,
    data: LabelledData,
    settings: dict[str, Any],
    args: FineTuningArguments,
    result: CrossValidationResult,
    console: Console,
) -> None:
    """Train the model of every example, unless it is there, and say where it is."""
    place = Path(str(result.refit_dir))
    if not output.is_complete(place):
        with _naming("refit"):
            refit(task, dataclasses.replace(data), settings, args, result, place)
    if "test" in data.splits:
        console.print(f"  refit: test {_headline(place, data.target)}")
    console.print(f"Model of all {len(data.splits['train'])} examples, its card and report: {place}")


@contextlib.contextmanager
def _naming(part: str) -> Iterator[None]:
    """Say in which part something went wrong, and let the process that met it say so."""
    try:
        yield
    except UserError as error:
        raise ProcessError(f"{part}: {error}") from error


def _begin(folder: Path, settings: dict[str, Any], arguments: CrossValidationArguments) -> None:
    """Write the settings; raises :class:`UserError` where others are gone on with."""
    again = {"strategy": DEFAULT_STRATEGY, **recipe(settings)}  # another version may have another default
    again = {name: value for name, value in again.items() if name != "output_dir"}
    text = yaml.safe_dump({**again, **dataclasses.asdict(arguments)}, sort_keys=False, allow_unicode=True)
    file = folder / CROSSVAL_SETTINGS
    if settings.get("overwrite"):
        output.set_aside(folder)
    if settings.get("resume") and file.is_file():
        old = yaml.safe_load(file.read_text("utf-8")) or {}
        if changed := differences(old, yaml.safe_load(text), binds_result):
            raise UserError(f"--resume: '{folder}' holds another cross-validation: {'; '.join(changed)}.")
    folder.mkdir(parents=True, exist_ok=True)
    rerun = f"{RUN_HEADER} Again: hfft crossval --config {CROSSVAL_SETTINGS} --output_dir ANOTHER_FOLDER"
    with writing(folder, "the settings"):
        file.write_text(f"{rerun}\n{text}", "utf-8")


def _is_done(place: Path) -> bool:
    """Say whether a fold has been tested; the metrics are written behind the predictions."""
    return all((place / name).is_file() for name in (PREDICTIONS_FILE, METRICS_FILE))


def _headline(place: Path, target: Target) -> str:
    metrics, name = json.loads((place / METRICS_FILE).read_text("utf-8")), target.metrics.headline
    return f"{name.replace('_', ' ')} {figure(metrics[f'test_{name}'])}"
