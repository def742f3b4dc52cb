"""What comes of the folds of a cross-validation: means, their intervals, and predictions out of fold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfft.data import LabelledData
from hfft.data.divisions import Fold
from hfft.evaluation import metric_rows
from hfft.evaluation.intervals import nadeau_bengio_interval
from hfft.evidence import Evidence
from hfft.run_folder import CROSSVAL_FILE, FOLDS, METRICS_FILE, PREDICTIONS_FILE
from hfft.targets import Target


@dataclass
class CrossValidationResult:
    """What a cross-validation gives back.

    Attributes:
        metrics: flat name -> value, as in ``crossval.json``: ``crossval_accuracy``, the mean over the folds,
            ``crossval_accuracy_ci_low``, ``crossval_accuracy_ci_high``, ``baseline_crossval_accuracy``, ...
        folds: of each fold its name, how many examples it was trained and tested on, and its test metrics.
        output_dir: the folder with ``crossval.json``, ``predictions.parquet`` (out of fold) and the run of each fold.
        refit_dir: the run folder of the model that was trained on every example; ``None`` where none was asked for.
    """

    metrics: dict[str, float]
    folds: list[dict[str, Any]]
    output_dir: str
    refit_dir: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics as rows: name, mean, low and high of the interval, and the baseline's mean."""
        names = [name.removeprefix("crossval_") for name in self.metrics if name.startswith("crossval_")]
        return metric_rows(self.metrics, [n for n in names if not n.endswith(("_ci_low", "_ci_high"))], "crossval")

    def evidence(self, data: LabelledData) -> Evidence:
        """Return what the folds tell of a model that is trained in the same way on all of the data."""
        examples = len(data.splits["train"])
        held_out = sum(fold["test"] for fold in self.folds) / (len(self.folds) * examples)
        names = tuple(row["name"] for row in self.rows())
        return Evidence.of_folds(len(self.folds), examples, held_out, self.metrics, names)


def join_folds(folder: Path, plan: list[Fold], data: LabelledData) -> CrossValidationResult:
    """Read what the folds have written to a folder, and put means and intervals to their metrics."""
    folds: list[dict[str, Any]] = []
    for fold in plan:
        metrics = json.loads((folder / FOLDS / fold.name / METRICS_FILE).read_text("utf-8"))
        sizes = {"name": fold.name, "train": metrics["train_examples"], "test": len(fold.held)}
        folds.append({**sizes, **metrics})
    flat: dict[str, float] = {}
    ratio = float(np.mean([fold["test"] / (len(data.splits["train"]) - fold["test"]) for fold in folds]))
    metrics = data.target.metrics
    for name in metrics.functions:
        values = [fold[f"test_{name}"] for fold in folds if f"test_{name}" in fold]
        if len(values) < len(folds):
            continue  # a metric that some fold has no value for has no mean
        flat[f"crossval_{name}"] = float(np.mean(values))
        if (interval := nadeau_bengio_interval(values, ratio, metrics.ranges[name])) is not None:
            flat[f"crossval_{name}_ci_low"], flat[f"crossval_{name}_ci_high"] = interval
        for baseline in ("baseline", "baseline_probe"):
            found = [fold[f"{baseline}_test_{name}"] for fold in folds if f"{baseline}_test_{name}" in fold]
            if len(found) == len(folds):
                flat[f"{baseline}_crossval_{name}"] = float(np.mean(found))
    return CrossValidationResult(flat, folds, str(folder))


def write_result(
    result: CrossValidationResult, folder: Path, plan: list[Fold], data: LabelledData, notes: list[str]
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


def held_out_predictions(folder: Path, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Return array labels and outputs of the training examples, as the models predicted them that had not seen them."""
    import pandas

    table = pandas.read_parquet(folder / PREDICTIONS_FILE)
    return target.read_labels(table["label"].tolist()), target.read_outputs(table)
