"""evaluate(): the metrics of a fine-tuned model on labelled data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import concatenate_datasets

from hfft.arguments import DataArguments
from hfft.data import Source, label_column_of, label_split, prepare, read_source
from hfft.data.columns import find_columns
from hfft.data.inspecting import Track
from hfft.data.split_names import LABEL, UNSPLIT
from hfft.errors import UserError, listed, nearest
from hfft.evaluation import interval_notes, metric_rows, summarize
from hfft.results.inference import Classifier, columns_of_run, settings_of_run, sort_settings
from hfft.run_folder import LEARNED_FROM, METRICS_FILE, is_of_cross_validation
from hfft.task import Task
from hfft.terminal import make_console, progress_bar

_SPLITS = ("train", "validation", "test")


@dataclass
class EvaluationResult:
    """Metrics of one split.

    Attributes:
        metrics: flat name -> value.
        rows: name, value, interval and baseline of every metric, for a table.
        examples: how many.
        baseline_name: heading of the baseline's column.
        headline_rows: the rows that a short table shows.
        interval_notes: how the intervals were made, and which there are none of, a sentence each.
        details: what stands behind the metrics: see :meth:`hfft.targets.Target.details`.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    examples: int
    baseline_name: str
    headline_rows: list[dict[str, Any]]
    interval_notes: list[str]
    details: dict[str, Any]


def evaluate(
    model: str,
    data: Any,
    split: str = "test",
    *,
    task: str | Task | None = None,
    batch_size: int = 64,
    seed: int = 42,
    **settings: Any,
) -> EvaluationResult:
    """Compute the metrics of a fine-tuned model on labelled data.

    Data without splits is evaluated whole, except the very data that the model was trained on: of that the split is
    drawn again as the run drew it, so that no training example counts as a test example.

    Args:
        model: folder or Hub id of the fine-tuned model.
        data: as for :func:`hfft.finetune`.
        split: train, validation, test, or all.
        task: left out, the model decides.
        batch_size: examples at a time.
        seed: of the bootstrap.
        **settings: fields of ModelArguments and DataArguments.

    Raises:
        UserError: for a class that the model does not know, a split that is not there, and bad data.
    """
    model_arguments, data_arguments = sort_settings(settings, model=model, data=data)
    classifier = Classifier.load(model_arguments, task)
    source = read_source(data, classifier.task.file_suffixes, data_arguments.cache_dir)
    examples, train_labels = _evaluation_split(model, source, split, classifier, data_arguments)
    target = classifier.target
    labels = target.array(examples[LABEL])
    with progress_bar(make_console()) as bar:
        track: Track = lambda items, n, _: bar.track(items, n, description="Evaluating")  # noqa: E731
        outputs = classifier.outputs(examples, batch_size, track)
    baseline = target.baseline(train_labels, labels)
    metrics = summarize(target.metrics, labels, outputs, baseline, prefix=split, seed=seed)
    rows = metric_rows(metrics, list(target.metrics.functions), split)
    return EvaluationResult(
        metrics,
        rows,
        len(labels),
        target.baseline_name,
        [row for row in rows if target.metrics.is_headline(row["name"])],
        interval_notes(target.metrics, labels, rows),
        target.details(labels, outputs),
    )


def _evaluation_split(
    model: str, source: Source, split: str, classifier: Classifier, arguments: DataArguments
) -> tuple[Any, np.ndarray]:
    """Return the examples, and the labels whose frequencies are the baseline: of the training split if it is there."""
    task, target = classifier.task, classifier.target
    run = settings_of_run(model)
    own = run is not None and _is_own_data(source, run)
    if own and is_of_cross_validation(Path(model)) and not (split == "test" and split in source.splits):
        raise UserError(
            f"--model: '{model}' is part of a cross-validation and was trained on most of '{source.origin}', or on all "
            "of it: the figures stand in crossval.json. Only a test split that the data bring along can be evaluated."
        )
    metrics = Path(model) / METRICS_FILE
    if own and split == "validation" and metrics.is_file() and LEARNED_FROM in json.loads(metrics.read_text("utf-8")):
        raise UserError(
            f"--split: the solved head that '{model}' ships has learned from the validation split, too, which was "
            "drawn from the training split. How it answered there before stands in metrics.json, as validation_...; "
            "take --split test."
        )
    if split != UNSPLIT and run is not None and own:
        names = {field.name for field in dataclasses.fields(DataArguments)}
        drawn = prepare(source, task, DataArguments(**{n: v for n, v in run.items() if n in names}), int(run["seed"]))
        if difference := drawn.target.difference(target.problem_type, target.output_names):
            raise UserError(f"--data: '{source.origin}' has changed since the run: {difference}.")
        _require_split(split, drawn.splits, source)
        return drawn.splits[split], drawn.labels("train")
    _require_split(split, _SPLITS if UNSPLIT in source.splits else source.splits, source)
    named = {**columns_of_run(run, source), **arguments.named_columns()}
    columns = find_columns(source, task, named, labelled=True)
    delimiter = arguments.label_delimiter
    if delimiter is None and isinstance(source.first_value(columns[LABEL]), str):
        delimiter = (run or {}).get("label_delimiter")
    if delimiter is not None:
        target = target.reading(delimiter)
    whole = split == UNSPLIT or UNSPLIT in source.splits
    chosen = source.splits if whole else {split: source.splits[split]}
    examples = concatenate_datasets(
        [label_split(rows, name, source, task, columns, target) for name, rows in chosen.items()]
    )
    if "train" not in source.splits:
        return examples, target.array(examples[LABEL])
    return examples, target.array(target.encode(label_column_of(source, "train", columns[LABEL])))


def _require_split(split: str, splits: Iterable[str], source: Source) -> None:
    names = [*splits, UNSPLIT]
    if split not in names:
        hint = nearest(split, names)
        raise UserError(f"--split: '{source.origin}' has no split '{split}'.{hint} It has {listed(names)}.")


def _is_own_data(source: Source, run: dict[str, Any]) -> bool:
    """Say whether the model was trained on just this path."""
    return "data" in run and Path(str(run["data"])).resolve() == Path(source.origin).resolve()
