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
import yaml
from datasets import concatenate_datasets
from torch.utils.data import DataLoader

from hfft.arguments import DataArguments, ModelArguments
from hfft.callbacks.progress import progress_bar
from hfft.data import Source, label_split, prepare, read_inputs, read_source
from hfft.data.columns import find_columns
from hfft.data.sources import UNSPLIT
from hfft.errors import UserError, listed, nearest
from hfft.evaluation import class_frequencies, metric_rows, summarize
from hfft.evaluation.metrics import softmax
from hfft.loading import load_config
from hfft.record import RUN_FILE, prediction_table
from hfft.report import make_console
from hfft.task import Task, load_task, task_for_config


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
    examples = _evaluation_split(model, source, split, classifier, data_arguments)
    labels = np.asarray(examples["label"])
    probabilities = classifier.probabilities(examples, batch_size, "Evaluating")
    names = list(classifier.task.metrics)
    baseline = class_frequencies(labels, len(classifier.class_names), len(labels))
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
        _require_writable(Path(output), Path(inputs))
    classifier = Classifier.load(model_arguments, task)
    chosen = classifier.task
    source = read_inputs(inputs, chosen.file_suffixes, data_arguments.cache_dir)
    columns = find_columns(source, chosen, data_arguments.named_columns(), labelled=False)
    examples = label_split(source.splits[UNSPLIT], UNSPLIT, source, chosen, columns, None)
    probabilities = classifier.probabilities(examples, batch_size, "Predicting")
    table = prediction_table([chosen.describe(row) for row in examples], probabilities, classifier.class_names)
    if output is not None:
        write = table.to_parquet if Path(output).suffix.lower() == ".parquet" else partial(table.to_csv, index=False)
        write(str(output))
    return table


def _sort(settings: Mapping[str, Any], **given: Any) -> tuple[ModelArguments, DataArguments]:
    from hfft.parsing import split_settings

    model_arguments, data_arguments, others = split_settings({**settings, **given})
    if others:
        raise UserError(f"{listed(others)} belongs to training, and has no place here.")
    return model_arguments, data_arguments


def _evaluation_split(model: str, source: Source, split: str, classifier: Classifier, arguments: DataArguments) -> Any:
    task, class_names = classifier.task, classifier.class_names
    own_run = _settings_of_own_run(model, source)
    if own_run is not None and split != UNSPLIT:
        drawn = prepare(source, task, *own_run)
        if drawn.class_names != class_names:
            raise UserError(f"--data: the classes of '{source.origin}' have changed since the run.")
        _require_split(split, drawn.splits, source)
        return drawn.splits[split]
    if UNSPLIT not in source.splits:
        _require_split(split, source.splits, source)
    columns = find_columns(source, task, arguments.named_columns(), labelled=True)
    whole = split == UNSPLIT or UNSPLIT in source.splits
    chosen = source.splits if whole else {split: source.splits[split]}
    return concatenate_datasets(
        [label_split(rows, name, source, task, columns, class_names) for name, rows in chosen.items()]
    )


def _require_split(split: str, splits: Iterable[str], source: Source) -> None:
    names = [*splits, UNSPLIT]
    if split not in names:
        hint = nearest(split, names)
        raise UserError(f"--split: '{source.origin}' has no split '{split}'.{hint} It has {listed(names)}.")


def _settings_of_own_run(model: str, source: Source) -> tuple[DataArguments, int] | None:
    """Return how the model's run drew its splits (arguments and seed), if it was trained on just this path."""
    run_file = Path(model) / RUN_FILE
    if not run_file.is_file():
        return None
    settings = yaml.safe_load(run_file.read_text("utf-8"))
    if Path(str(settings.get("data"))).resolve() != Path(source.origin).resolve():
        return None
    names = {field.name for field in dataclasses.fields(DataArguments)}
    return DataArguments(**{n: v for n, v in settings.items() if n in names}), int(settings["seed"])


def _require_writable(output: Path, inputs: Path) -> None:
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"--output: '{output}' must end in .csv or .parquet.")
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output: there is no folder '{output.parent}'.")
    if output.is_dir() or output.absolute() == inputs.absolute():
        raise UserError(f"--output: '{output}' is a folder, or the input itself.")
