"""cross_validate(): each training example predicted by a model that has not seen it; a given test stays untouched."""

from __future__ import annotations

import dataclasses
import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from hfft import output
from hfft.apart import Ranks, apart
from hfft.arguments import CrossValidationArguments
from hfft.data import LabelledData
from hfft.data.divisions import Fold, data_of_fold, plan_folds
from hfft.errors import ProcessError, UserError
from hfft.evaluation import metric_rows
from hfft.evaluation.intervals import nadeau_bengio_interval
from hfft.failures import writing
from hfft.finetuning import fine_tune
from hfft.parsing import split_settings, training_arguments
from hfft.preparing import read_data
from hfft.record import CROSSVAL_FILE, CROSSVAL_SETTINGS, FOLDS, METRICS_FILE, PREDICTIONS_FILE, RUN_HEADER
from hfft.resuming import binds_result, differences
from hfft.settling import is_of_once, plain
from hfft.targets import Target
from hfft.task import Task
from hfft.terminal import figure, make_console, print_metrics


@dataclass
class CrossValidationResult:
    """What a cross-validation gives back.

    Attributes:
        metrics: flat name -> value, as in ``crossval.json``: ``crossval_accuracy``, the mean over the folds,
            ``crossval_accuracy_ci_low``, ``crossval_accuracy_ci_high``, ``baseline_crossval_accuracy``, ...
        folds: of each fold its name, how many examples it was trained and tested on, and its test metrics.
        output_dir: the folder with ``crossval.json``, ``predictions.parquet`` (out of fold) and the run of each fold.
    """

    metrics: dict[str, float]
    folds: list[dict[str, Any]]
    output_dir: str

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics as rows: name, mean, low and high of the interval, and the baseline's mean."""
        names = [name.removeprefix("crossval_") for name in self.metrics if name.startswith("crossval_")]
        return metric_rows(self.metrics, [n for n in names if not n.endswith(("_ci_low", "_ci_high"))], "crossval")


def cross_validate(
    task: str | Task | None = None,
    model: str | None = None,
    data: Any = None,
    output_dir: str = "out",
    *,
    folds: int = 5,
    repeats: int = 1,
    keep_models: bool = False,
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
        **settings: as for :func:`hfft.finetune`. ``resume`` goes on with the folds that are not done, and
            ``validation_size`` is the share of a fold's training examples that its checkpoint is chosen on.

    Raises:
        UserError: as :func:`hfft.finetune`, and where nothing can be held out.
    """
    arguments = CrossValidationArguments(folds, repeats, keep_models)
    settings = {"task": task, "model": model, "data": data, "output_dir": output_dir, **settings}
    settings = {name: value for name, value in settings.items() if value is not None}
    with apart() as ranks:
        return _cross_validate(settings, arguments, ranks)


def _cross_validate(
    settings: dict[str, Any], arguments: CrossValidationArguments, ranks: Ranks
) -> CrossValidationResult:
    model_arguments, data_arguments, chosen = split_settings(settings)
    args = training_arguments(chosen)
    if args.push_to_hub:
        raise UserError("push_to_hub has no place in cross-validation, which keeps no model to be pushed.")
    folder = Path(str(args.output_dir))
    console = make_console() if ranks.rank == 0 else Console(quiet=True)
    if ranks.rank == 0:
        inputs = (model_arguments.model, data_arguments.data)
        output.require_free(folder, resume=args.resume, overwrite=args.overwrite, inputs=inputs)
    task, labelled = read_data(settings, console, draw=False)  # every training example is to be predicted
    plan, notes = plan_folds(labelled, arguments.folds, arguments.repeats, args.seed)
    for note in notes:
        console.print(f"  {note}")
    if ranks.rank == 0:
        _begin(folder, settings, arguments)
        ranks.tell("begun")
    ranks.wait_for("begun")

    share = data_arguments.validation_size if args.chooses else 0.0
    for number, fold in enumerate(plan):
        place = folder / FOLDS / fold.name
        if number % ranks.size == ranks.rank and not _is_done(place):
            own = {name: value for name, value in settings.items() if name != "overwrite"}
            own |= {"output_dir": str(place), "seed": fold.seed, "resume": output.is_run(place)}
            try:
                fine_tune(task, data_of_fold(labelled, fold, share, args.seed), own, Console(quiet=True))
            except UserError as error:
                raise ProcessError(f"{fold.name}: {error}") from error
            output.mark_fold(place)
            if not arguments.keep_models:
                output.drop_model(place)
            gc.collect()  # a trainer and its model hold each other
        if number % ranks.size == ranks.rank:
            ranks.tell(fold.name)
            console.print(f"  {fold.name}: {_headline(place, labelled.target)}")
    ranks.wait_for(*(fold.name for fold in plan))
    result = _join(folder, plan, labelled)
    if ranks.rank == 0:
        with writing(folder, "the results"):
            _write(result, folder, plan, labelled, notes)
        output.discard(folder)
        title = f"Cross-validation, {len(plan)} folds, {len(labelled.splits['train'])} examples"
        print_metrics(console, result.rows(), title, labelled.target.baseline_name)
        console.print(f"Results and out-of-fold predictions: {folder}")
    return result


def _begin(folder: Path, settings: dict[str, Any], arguments: CrossValidationArguments) -> None:
    """Write the settings; raises :class:`UserError` where others are gone on with."""
    recipe = {name: value for name, value in settings.items() if not is_of_once(name) and name != "output_dir"}
    if isinstance(recipe.get("task"), Task):
        recipe["task"] = recipe["task"].name
    if not isinstance(recipe["data"], str | Path):
        del recipe["data"]  # data sets in memory have no name to read them by again
    for name in ("data", "model"):
        if name in recipe and Path(recipe[name]).exists():
            recipe[name] = Path(recipe[name]).absolute()
    recipe = {name: plain(value) for name, value in recipe.items()}
    text = yaml.safe_dump({**recipe, **dataclasses.asdict(arguments)}, sort_keys=False, allow_unicode=True)
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


def _join(folder: Path, plan: list[Fold], data: LabelledData) -> CrossValidationResult:
    """Read what the folds have written, and put means and intervals to their metrics."""
    folds: list[dict[str, Any]] = []
    for fold in plan:
        metrics = json.loads((folder / FOLDS / fold.name / METRICS_FILE).read_text("utf-8"))
        sizes = {"name": fold.name, "train": metrics["train_examples"], "test": len(fold.held)}
        folds.append({**sizes, **metrics})
    flat: dict[str, float] = {}
    ratio = float(np.mean([fold["test"] / (len(data.splits["train"]) - fold["test"]) for fold in folds]))
    for name in data.target.metrics.functions:
        values = [fold[f"test_{name}"] for fold in folds if f"test_{name}" in fold]
        if len(values) < len(folds):
            continue  # a metric that some fold has no value for has no mean
        flat[f"crossval_{name}"] = float(np.mean(values))
        flat[f"crossval_{name}_ci_low"], flat[f"crossval_{name}_ci_high"] = nadeau_bengio_interval(values, ratio)
        baseline = [fold[f"baseline_test_{name}"] for fold in folds if f"baseline_test_{name}" in fold]
        if len(baseline) == len(folds):
            flat[f"baseline_crossval_{name}"] = float(np.mean(baseline))
    return CrossValidationResult(flat, folds, str(folder))


def _write(result: CrossValidationResult, folder: Path, plan: list[Fold], data: LabelledData, notes: list[str]) -> None:
    """Write the metrics, and the out-of-fold predictions in the order of the training examples."""
    import pandas

    told = {"metrics": result.metrics, "folds": result.folds, "notes": [*data.notes, *notes]}
    (folder / CROSSVAL_FILE).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    tables = []
    for fold in plan:
        table = pandas.read_parquet(folder / FOLDS / fold.name / PREDICTIONS_FILE)
        tables.append(table.assign(fold=fold.name).set_index(fold.held))
    joined = pandas.concat(tables).sort_index(kind="stable")
    joined.to_parquet(folder / PREDICTIONS_FILE, index=False)
