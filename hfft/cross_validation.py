"""cross_validate(): each training example predicted by a model that has not seen it; a given test stays untouched."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from hfft import output
from hfft.arguments import CrossValidationArguments, DataArguments
from hfft.arrays import encode_column, other_rows, select_rows
from hfft.data import LabelledData
from hfft.data.copies import find_repeats
from hfft.data.drawing import draw_split
from hfft.data.folds import ALWAYS_TRAINED, draw_folds
from hfft.data.leaks import settle_leaks
from hfft.data.split_names import GROUP
from hfft.errors import ProcessError, UserError
from hfft.evaluation import metric_rows
from hfft.evaluation.intervals import nadeau_bengio_interval
from hfft.failures import writing
from hfft.finetuning import fine_tune
from hfft.parsing import split_settings, training_arguments
from hfft.preparing import read_data
from hfft.record import CROSSVAL_FILE, CROSSVAL_SETTINGS, FOLDS, METRICS_FILE, PREDICTIONS_FILE, RUN_HEADER
from hfft.settling import is_of_once, plain, require_use
from hfft.targets import Target
from hfft.task import Task
from hfft.terminal import figure, make_console, print_metrics

_DEVICES = "CUDA_VISIBLE_DEVICES"
# What no result depends on, and a resumed cross-validation may have otherwise.
_MAY_CHANGE = (
    *("output_dir", "auto_batch_size", "per_device_eval_batch_size", "cache_dir", "cache_budget", "disable_tqdm"),
    *("report_to", "run_name", "keep_models", "save_total_limit", "on_nan"),
)
_MAY_CHANGE_PREFIXES = ("dataloader_", "logging_", "ddp_")


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


@dataclass
class _Fold:
    """One division of the training examples.

    Attributes:
        name: of its folder.
        held: the rows that are predicted, sorted.
        seed: of the run.
    """

    name: str
    held: np.ndarray
    seed: int


@dataclass
class _Ranks:
    """The processes of a launcher, each of which runs folds of its own, alone.

    Attributes:
        rank, size: which one of how many.
        store: where they tell each other what is done.
    """

    rank: int = 0
    size: int = 1
    store: Any = field(default=None, repr=False)

    def tell(self, key: str) -> None:
        if self.store is not None:
            self.store.set(key, b"1")

    def wait_for(self, *keys: str) -> None:
        if self.store is not None:  # a process that dies takes the others with it: the launcher sees to that
            self.store.wait(list(keys), datetime.timedelta(days=30))


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
    with _alone() as ranks:
        return _cross_validate(settings, arguments, ranks)


def _cross_validate(
    settings: dict[str, Any], arguments: CrossValidationArguments, ranks: _Ranks
) -> CrossValidationResult:
    model_arguments, data_arguments, chosen = split_settings(settings)
    args = training_arguments(chosen)
    require_use(model_arguments, args)
    if args.push_to_hub:
        raise UserError("push_to_hub has no place in cross-validation, which keeps no model to be pushed.")
    folder = Path(str(args.output_dir))
    console = make_console() if ranks.rank == 0 else Console(quiet=True)
    if ranks.rank == 0:
        inputs = (model_arguments.model, data_arguments.data)
        output.require_free(folder, resume=args.resume, overwrite=args.overwrite, inputs=inputs)
    task, labelled = read_data(settings, console, draw=False)  # every training example is to be predicted
    plan, notes = _draw(labelled, args.seed, arguments)
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
            if args.report_to:  # a run of its own in each tracker, too
                own["run_name"] = f"{args.run_name or folder.resolve().name}-{fold.name}"
            try:
                fine_tune(task, _fold_of(labelled, fold, share, data_arguments, args.seed), own, Console(quiet=True))
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


@contextlib.contextmanager
def _alone() -> Iterator[_Ranks]:
    """Make this process one of its own for the time: what the launcher set is kept for :class:`_Ranks` alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield _Ranks()
        return
    from torch.distributed import rendezvous

    store, rank, size = next(rendezvous("env://"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    # each its own device, as the only one that it sees; asked for the count, torch does not open the driver, which
    # reads the variable once
    devices = os.environ.get(_DEVICES, ",".join(map(str, range(torch.cuda.device_count()))))
    if devices:
        before |= {_DEVICES: devices} if _DEVICES in os.environ else {}
        os.environ[_DEVICES] = devices.split(",")[local % len(devices.split(","))]
    try:
        yield _Ranks(rank, size, store)
    finally:
        os.environ.pop(_DEVICES, None)
        os.environ.update(before)


def _draw(data: LabelledData, seed: int, arguments: CrossValidationArguments) -> tuple[list[_Fold], list[str]]:
    """Return the folds, and what to tell of them."""
    train, labels = data.splits["train"], data.labels("train")
    folds, repeats = arguments.folds, arguments.repeats
    dealt = draw_folds(data.target.strata(labels), folds, seed, _kin(data), repeats)
    if not len(dealt):
        raise UserError(
            f"--data: no fold can be held out of the {len(train)} training examples of '{data.origin}' without all of "
            "a class: every class needs two examples (or groups)."
        )
    count, notes = int(dealt.max()) + 1, []
    if count < folds:
        notes.append(f"{count} folds in place of {folds}: no class has more examples, or groups, that can be held out.")
    never = int((dealt[0] == ALWAYS_TRAINED).sum())
    if never:
        notes.append(f"{never} examples are held out of no fold: a class would have none left to train on.")
    plan = []
    for repeat, fold_of in enumerate(dealt):
        for fold in range(count):
            name = f"fold-{fold + 1}" if repeats == 1 else f"repeat-{repeat + 1}-fold-{fold + 1}"
            plan.append(_Fold(name, np.flatnonzero(fold_of == fold), seed + repeat))
    return plan, notes


def _kin(data: LabelledData) -> np.ndarray:
    """Return (rows,) what belongs together: groups, and examples that are copies of each other."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    train = data.splits["train"]
    copies = find_repeats(data.inspected["train"])
    first, second = copies.rows, copies.originals
    if GROUP in train.column_names:
        _, leaders, group_of = np.unique(encode_column(train, GROUP)[0], return_index=True, return_inverse=True)
        first, second = (
            np.r_[first, np.arange(len(train))],
            np.r_[second, leaders[group_of]],
        )
    edges = coo_array((np.ones(len(first)), (first, second)), shape=(len(train), len(train)))
    return np.asarray(connected_components(edges, directed=False)[1])


def _fold_of(data: LabelledData, fold: _Fold, share: float, arguments: DataArguments, seed: int) -> LabelledData:
    """Return the data of one fold: what is held out is its test split; a validation split is drawn from the rest."""
    train, looks = data.splits["train"], data.inspected["train"]
    kept = other_rows(len(train), fold.held)
    given = {name: data.splits[name] for name in ("validation",) if name in data.splits}
    splits = {"train": select_rows(train, kept), **given, "test": select_rows(train, fold.held)}
    inspected = {**data.inspected, "train": looks.select(kept), "test": looks.select(fold.held)}
    found = dataclasses.replace(data, splits=splits, inspected=inspected, findings=type(data.findings)(), pool=train)
    if share > 0 and not given:
        draw_split(found, "validation", share, seed)
        settle_leaks(found, {"train", "test"}, "skip")
    found.splits = {name: found.splits[name] for name in ("train", "validation", "test") if name in found.splits}
    return found


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
        new = yaml.safe_load(text)
        names = [n for n in old.keys() | new.keys() if n not in _MAY_CHANGE and not n.startswith(_MAY_CHANGE_PREFIXES)]
        if changed := sorted(name for name in names if old.get(name) != new.get(name)):
            told = "; ".join(f"{name} was {old.get(name)}, now {new.get(name)}" for name in changed)
            raise UserError(f"--resume: '{folder}' holds another cross-validation: {told}.")
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


def _join(folder: Path, plan: list[_Fold], data: LabelledData) -> CrossValidationResult:
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


def _write(
    result: CrossValidationResult, folder: Path, plan: list[_Fold], data: LabelledData, notes: list[str]
) -> None:
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
