"""Evaluate and predict with a fine-tuned model, with the preprocessing that it was trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import concatenate_datasets
from torch.utils.data import DataLoader

from hfft.arguments import DataArguments, ModelArguments
from hfft.data import Source, label_split, prepare, read_inputs, read_source, split_labels
from hfft.data.columns import find_columns
from hfft.data.split_names import UNSPLIT
from hfft.errors import UserError, listed, nearest
from hfft.evaluation import class_frequencies, metric_rows, summarize
from hfft.evaluation.metrics import softmax
from hfft.loading import load_config
from hfft.output import is_run
from hfft.parsing import read_yaml, split_settings
from hfft.paths import require_writable
from hfft.record import RUN_FILE, prediction_table
from hfft.task import Task, load_task, task_for_config
from hfft.terminal import make_console, progress_bar


@dataclass
class EvaluationResult:
    """Metrics of one split: the flat dict, and rows with interval and baseline for a table."""

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    examples: int


@dataclass
class Classifier:
    """A fine-tuned model, ready to answer."""

    task: Task
    model: Any
    processor: Any
    class_names: list[str]

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
        names = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return cls(chosen, model.to(device or "cpu").eval(), processor, names)

    def probabilities(self, examples: Any, batch_size: int, description: str) -> np.ndarray:
        """Return (rows, classes) for a data set with the task's input columns."""
        encoded = examples.with_transform(self.task.encoder(self.processor, training=False))
        loader = DataLoader(encoded, batch_size=batch_size, collate_fn=self.task.collator(self.processor))
        logits = []
        with torch.inference_mode(), progress_bar(make_console()) as bar:
            for batch in bar.track(loader, total=len(loader), description=description):
                inputs = {name: value.to(self.model.device) for name, value in batch.items() if name != "labels"}
                logits.append(self.model(**inputs).logits.float().cpu().numpy())
        return softmax(np.concatenate(logits))


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
    """Compute the task's metrics of a fine-tuned model on labelled data.

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
    model_arguments, data_arguments = _sort(settings, model=model, data=data)
    classifier = Classifier.load(model_arguments, task)
    source = read_source(data, classifier.task.file_suffixes, data_arguments.cache_dir)
    examples, train_labels = _evaluation_split(model, source, split, classifier, data_arguments)
    labels = np.asarray(examples["label"])
    probabilities = classifier.probabilities(examples, batch_size, "Evaluating")
    names = list(classifier.task.metrics)
    baseline = class_frequencies(train_labels, len(classifier.class_names), len(labels))
    metrics = summarize(names, labels, probabilities, baseline, prefix=split, seed=seed)
    return EvaluationResult(metrics, metric_rows(metrics, names, split), len(labels))


def predict(
    model: str,
    inputs: str | Path,
    output: str | Path | None = None,
    *,
    task: str | Task | None = None,
    batch_size: int = 64,
    **settings: Any,
) -> Any:
    """Predict the classes of a file, of all files below a folder, or of the rows of a table.

    Args:
        model: folder or Hub id of the fine-tuned model.
        inputs: the file, folder or table.
        output: ``.csv`` or ``.parquet`` file to write.
        task: left out, the model decides.
        batch_size: examples at a time.
        **settings: fields of ModelArguments and DataArguments (column names, ``cache_dir``).

    Returns:
        a ``datasets.Dataset`` with ``input``, ``predicted`` and ``probability_<class>``.

    Raises:
        UserError: naming the input that cannot be read, or the output that cannot be written.
    """
    model_arguments, data_arguments = _sort(settings, model=model)
    if output is not None:
        require_writable(Path(output), (".csv", ".parquet"), Path(inputs))
    classifier = Classifier.load(model_arguments, task)
    chosen = classifier.task
    source = read_inputs(inputs, chosen.file_suffixes, data_arguments.cache_dir)
    named = {**columns_of_run(run_settings(model), source), **data_arguments.named_columns()}
    named.pop("label", None)
    columns = find_columns(source, chosen, named, labelled=False)
    examples = label_split(source.splits[UNSPLIT], UNSPLIT, source, chosen, columns, None)
    probabilities = classifier.probabilities(examples, batch_size, "Predicting")
    table = prediction_table([chosen.describe(row) for row in examples], probabilities, classifier.class_names)
    if output is not None:
        write = table.to_parquet if Path(output).suffix.lower() == ".parquet" else partial(table.to_csv, index=False)
        write(str(output))
    return table


_SPLITS = ("train", "validation", "test")


def _sort(settings: Mapping[str, Any], **given: Any) -> tuple[ModelArguments, DataArguments]:
    model_arguments, data_arguments, others = split_settings({**settings, **given})
    if others:
        raise UserError(f"{listed(others)} belongs to training, and has no place here.")
    return model_arguments, data_arguments


def _evaluation_split(
    model: str, source: Source, split: str, classifier: Classifier, arguments: DataArguments
) -> tuple[Any, np.ndarray]:
    """Return the examples, and the labels whose frequencies are the baseline: of the training split if it is there."""
    task, class_names = classifier.task, classifier.class_names
    run = run_settings(model)
    if split != UNSPLIT and run is not None and _is_own_data(source, run):
        names = {field.name for field in dataclasses.fields(DataArguments)}
        drawn = prepare(source, task, DataArguments(**{n: v for n, v in run.items() if n in names}), int(run["seed"]))
        if drawn.class_names != class_names:
            raise UserError(f"--data: the classes of '{source.origin}' have changed since the run.")
        _require_split(split, drawn.splits, source)
        return drawn.splits[split], np.asarray(drawn.splits["train"]["label"])
    _require_split(split, _SPLITS if UNSPLIT in source.splits else source.splits, source)
    named = {**columns_of_run(run, source), **arguments.named_columns()}
    columns = find_columns(source, task, named, labelled=True)
    whole = split == UNSPLIT or UNSPLIT in source.splits
    chosen = source.splits if whole else {split: source.splits[split]}
    examples = concatenate_datasets(
        [label_split(rows, name, source, task, columns, class_names) for name, rows in chosen.items()]
    )
    train = source.splits.get("train")
    known = examples["label"] if train is None else split_labels(train, "train", source, columns, class_names)
    return examples, np.asarray(known)


def columns_of_run(run: dict[str, Any] | None, source: Source) -> dict[str, str]:
    """Return role -> column as the model's run read them, as far as this table has such columns."""
    columns = DataArguments(**{n: v for n, v in (run or {}).items() if n.endswith("_column")}).named_columns()
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
