"""Metrics of one class for each example, as functions of row weights: labels (rows,), probabilities (rows, classes)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse

from hfft.evaluation import ranking
from hfft.evaluation.bootstrap import WeightedMetric
from hfft.evaluation.metric_set import BIASED_UPWARDS, MetricSet, mean_of
from hfft.evaluation.metrics import METRICS, RANGES, TOP, clip_probabilities, in_top, one_hot, squared_distances


def single_label_metrics(classes: int) -> MetricSet:
    """Return the metrics, accuracy first; the five most probable classes are worth a figure where there are more."""
    left_out = {"top_5_accuracy"} if classes <= TOP else set()
    return MetricSet(
        {name: function for name, function in METRICS.items() if name not in left_out},
        WEIGHTED_METRICS,
        RANGES,
        shares={n: s for n, s in (("accuracy", right_rows), ("top_5_accuracy", in_top)) if n not in left_out},
        influences={"macro_auroc": _macro_auroc_influence, "mean_average_precision": _mean_average_precision_influence},
        rates={"balanced_accuracy": balanced_accuracy_of, "macro_f1": macro_f1_of},
        without_interval={"expected_calibration_error": BIASED_UPWARDS},
        strata=lambda labels: labels,
        class_counts=lambda labels: np.bincount(labels, minlength=classes),
        headlines=(
            *("accuracy", "balanced_accuracy", "macro_f1", "top_5_accuracy"),
            *("log_loss", "expected_calibration_error"),
        ),
    )


def right_rows(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (rows,) bool: the most probable class is the label."""
    return probabilities.argmax(axis=1) == labels


def balanced_accuracy_of(hits: np.ndarray, rows: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Return balanced accuracies from hits and rows of each class, (..., classes) each."""
    recall = np.divide(hits, rows, out=np.zeros(np.shape(hits)), where=rows > 0)
    return recall.sum(axis=-1) / (rows > 0).sum(axis=-1)


def macro_f1_of(hits: np.ndarray, rows: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return macro F1 from hits, rows and predictions of each class, (..., classes) each."""
    total = rows + predictions
    return np.divide(2 * hits, total, out=np.zeros(np.shape(hits)), where=total > 0).mean(axis=-1)


def _per_class(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted true positives, rows and predictions of each class: (resamples, classes) each."""
    classes, every = probabilities.shape[1], np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    hits = every[predicted == labels]
    counted = np.concatenate([labels[hits], labels + classes, predicted + 2 * classes])
    rows = np.concatenate([hits, every, every])
    cells = scipy.sparse.csr_array((np.ones(len(rows)), (counted, rows)), shape=(3 * classes, len(labels)))
    of_hits, of_rows, of_predictions = np.split((cells @ weights.T).T, 3, axis=1)
    return of_hits, of_rows, of_predictions


def _balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return balanced_accuracy_of(*_per_class(labels, probabilities, weights))


def _macro_f1(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return macro_f1_of(*_per_class(labels, probabilities, weights))


def _log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    clipped = clip_probabilities(probabilities)
    return np.log(clipped.sum(axis=1)) - np.log(clipped[np.arange(len(labels)), labels])


def _macro_auroc_influence(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    return ranking.macro_auroc_influence(one_hot(labels, probabilities), probabilities)


def _mean_average_precision_influence(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    return ranking.mean_average_precision_influence(one_hot(labels, probabilities), probabilities)


WEIGHTED_METRICS: Mapping[str, WeightedMetric] = {
    "accuracy": mean_of(right_rows),
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "top_5_accuracy": mean_of(in_top),
    "log_loss": mean_of(_log_losses),
    "brier_score": mean_of(squared_distances),
}
