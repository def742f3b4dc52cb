"""A fine-tuned model that answers, with the preprocessing that it was trained with; its metrics on labelled data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import concatenate_datasets
from torch.utils.data import DataLoader

from hfft.arguments import DataArguments, ModelArguments, names_columns
from hfft.data import Source, label_column_of, label_split, prepare, read_source
from hfft.data.columns import find_columns
from hfft.data.inspecting import Track
from hfft.data.prepared import encoded
from hfft.data.split_names import LABEL, UNSPLIT
from hfft.errors import UserError, listed, nearest
from hfft.evaluation import interval_notes, metric_rows, summarize
from hfft.failures import computing
from hfft.loading import load_config
from hfft.parsing import read_yaml, split_settings
from hfft.record import RUN_FILE
from hfft.running.output import is_of_cross_validation, is_run
from hfft.targets import Target, target_of_config
from hfft.task import Task, load_task, task_for_config
from hfft.terminal import make_console, progress_bar


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


@dataclass
class Classifier:
    """A fine-tuned model, ready to answer."""

    task: Task
    model: Any
    processor: Any
    target: Target

    @classmethod
    def load(cls, arguments: ModelArguments, task: str | Task | None = None) -> Classifier:
        """Load a folder that ``hfft train`` wrote, or any checkpoint of that kind."""
        config = load_config(arguments)
        chosen = load_task(task) if task is not None else task_for_config(config)
        if not chosen.supports(config):
            raise UserError(
                f"--model: '{arguments.model}' is a {config.model_type} model, which cannot do {chosen.name}."
            )
        model, processor = chosen.load(arguments, config, None)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return cls(chosen, model.to(device or "cpu").eval(), processor, target_of_config(model.config))

    def outputs(self, examples: Any, batch_size: int, track: Track | None = None) -> np.ndarray:
        """Return probabilities, or numbers, a row for each of a data set with the task's input columns.

        Inputs are made as the run made those that it tested on. Examples of like length share a batch.
        """
        inputs_alone = examples.select_columns([name for name in examples.column_names if name != LABEL])
        encoded_examples = encoded(inputs_alone, self.task.encoder(self.processor, training=False), None, seed=0)
        lengths = getattr(encoded_examples, "lengths", None)
        order = np.arange(len(examples)) if lengths is None else np.argsort(lengths, kind="stable")
        batches = [rows.tolist() for rows in np.split(order, range(batch_size, len(order), batch_size))]
        collate = self.task.collator(self.processor)
        loader: Any = DataLoader(encoded_examples, batch_sampler=batches, collate_fn=collate)
        logits = []
        with torch.inference_mode(), computing("Lower --batch_size: no result depends on it."):
            for batch in loader if track is None else track(loader, len(batches), "Predicting"):
                inputs = {name: value.to(self.model.device) for name, value in batch.items() if name != "labels"}
                logits.append(self.model(**inputs).logits.float().cpu().numpy())
        found = np.concatenate(logits)
        return self.target.outputs(found[np.argsort(order, kind="stable")])


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


_SPLITS = ("train", "validation", "test")


def sort_settings(settings: Mapping[str, Any], **given: Any) -> tuple[ModelArguments, DataArguments]:
    """Return what settings say of model and data; raises :class:`UserError` for what belongs to training."""
    model_arguments, data_arguments, others = split_settings({**settings, **given})
    if of_training := [*others, *model_arguments.rates()]:
        raise UserError(f"{listed(of_training)} belongs to training, and has no place here.")
    return model_arguments, data_arguments


def _evaluation_split(
    model: str, source: Source, split: str, classifier: Classifier, arguments: DataArguments
) -> tuple[Any, np.ndarray]:
    """Return the examples, and the labels whose frequencies are the baseline: of the training split if it is there."""
    task, target = classifier.task, classifier.target
    run = run_settings(model)
    own = run is not None and _is_own_data(source, run)
    if own and is_of_cross_validation(Path(model)) and not (split == "test" and split in source.splits):
        raise UserError(
            f"--model: '{model}' is part of a cross-validation and was trained on most of '{source.origin}', or on all "
            "of it: the figures stand in crossval.json. Only a test split that the data bring along can be evaluated."
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


def columns_of_run(run: dict[str, Any] | None, source: Source) -> dict[str, str]:
    """Return role -> column as the model's run read them, as far as this table has such columns."""
    columns = DataArguments(**{n: v for n, v in (run or {}).items() if names_columns(n)}).named_columns()
    return {role: column for role, column in columns.items() if column in source.column_names}


def _require_split(split: str, splits: Iterable[str], source: Source) -> None:
    names = [*splits, UNSPLIT]
    if split not in names:
        hint = nearest(split, names)
        raise UserError(f"--split: '{source.origin}' has no split '{split}'.{hint} It has {listed(names)}.")


def run_settings(model: str) -> dict[str, Any] | None:
    """Return the settings of the run that made the model, or ``None`` where it lies alone."""
    folder = Path(model)
    return read_yaml(folder / RUN_FILE) if is_run(folder) else None


def _is_own_data(source: Source, run: dict[str, Any]) -> bool:
    """Say whether the model was trained on just this path."""
    return "data" in run and Path(str(run["data"])).resolve() == Path(source.origin).resolve()
