"""Metrics of any number of classes for each example, and the thresholds that decide.

Labels are (rows, classes) bool, probabilities (rows, classes). What is decided depends on a threshold for each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import sklearn.metrics

from hfft.evaluation import ranking
from hfft.evaluation.bootstrap import WeightedMetric
from hfft.evaluation.calibration import expected_calibration_error
from hfft.evaluation.metric_set import BIASED_UPWARDS, MetricSet, mean_of, weighted_counts
from hfft.evaluation.metrics import AT_LEAST_0, SHARE, Metric, clip_probabilities

UNTUNED = 0.5


def multi_label_metrics(thresholds: np.ndarray) -> MetricSet:
    """Return the metrics, the headline first, with what is decided by ``thresholds``, (classes,)."""
    deciding: dict[str, tuple[Metric, WeightedMetric]] = {
        "micro_f1": (partial(_micro_f1, thresholds), partial(_weighted_micro_f1, thresholds)),
        "macro_f1": (partial(_macro_f1, thresholds), partial(_weighted_macro_f1, thresholds)),
        "subset_accuracy": (partial(_subset_accuracy, thresholds), partial(_weighted_subset_accuracy, thresholds)),
        "hamming_loss": (partial(_hamming_loss, thresholds), partial(_weighted_hamming_loss, thresholds)),
    }
    functions: dict[str, Metric] = {name: pair[0] for name, pair in deciding.items()}
    weighted: dict[str, WeightedMetric] = {name: pair[1] for name, pair in deciding.items()}
    return MetricSet(
        {**functions, **PROBABILITY_METRICS},
        {**weighted, "log_loss": mean_of(_log_losses), "brier_score": mean_of(_squared_distances)},
        {**dict.fromkeys((*functions, *PROBABILITY_METRICS), SHARE), "log_loss": AT_LEAST_0},
        shares={"subset_accuracy": partial(right_rows, thresholds)},
        influences={
            "mean_average_precision": ranking.mean_average_precision_influence,
            "macro_auroc": ranking.macro_auroc_influence,
        },
        without_interval={"expected_calibration_error": BIASED_UPWARDS},
        class_counts=lambda labels: labels.sum(axis=0),
        headlines=("micro_f1", "macro_f1", "subset_accuracy", "mean_average_precision", "log_loss"),
    )


def best_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (classes,) the thresholds with the best F1 of each class (Lipton et al. 2014, arXiv:1402.1892).

    A threshold lies half-way between two probabilities. It stays 0.5 where no other is better, and for a class that no
    row has.
    """
    pairs = zip(labels.T, np.asarray(probabilities, dtype=np.float64).T, strict=True)
    return np.array([_best_threshold(label, probability) for label, probability in pairs])


def _best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    f1 = 2 * np.cumsum(labels[order]) / (np.arange(1, len(labels) + 1) + labels.sum())  # with the first n predicted
    untuned = int((probabilities >= UNTUNED).sum())
    last_of_ties = np.append(falling[1:] < falling[:-1], True)
    best = f1[last_of_ties].max()
    if not labels.any() or (untuned and best <= f1[untuned - 1]):
        return UNTUNED
    below = np.append(falling[1:], 0.0)
    middles = ((falling + below) / 2)[last_of_ties & (f1 == best)]
    return float(middles[np.abs(middles - UNTUNED).argmin()])


def _share(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, with 0 where nothing is to be divided by."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)


def _weighted_micro_f1(
    thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    predicted = probabilities >= thresholds
    hits, total = (labels & predicted).sum(axis=1), labels.sum(axis=1) + predicted.sum(axis=1)
    return _share(2.0 * (weights @ hits), weights @ total)


def _micro_f1(thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Harmonic mean of precision and recall over all decisions; 0 where nothing is labelled or predicted."""
    predicted = (probabilities >= thresholds).ravel()
    return float(sklearn.metrics.f1_score(labels.ravel(), predicted, pos_label=True, zero_division=0))


def _weighted_macro_f1(
    thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    predicted = probabilities >= thresholds
    hits = weighted_counts(weights, labels & predicted)
    total = weighted_counts(weights, labels) + weighted_counts(weights, predicted)
    return _share(2.0 * hits, total).mean(axis=1)


def _macro_f1(thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over all classes of the harmonic mean of precision and recall; 0 for a class that never occurs."""
    predicted = probabilities >= thresholds
    classes = range(labels.shape[1])
    f1 = [sklearn.metrics.f1_score(labels[:, c], predicted[:, c], pos_label=True, zero_division=0) for c in classes]
    return float(np.mean(f1))


def _weighted_subset_accuracy(
    thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    return weights @ right_rows(thresholds, labels, probabilities) / weights.sum(axis=1)


def _subset_accuracy(thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of rows for which just the right classes are predicted."""
    return float(right_rows(thresholds, labels, probabilities).mean())


def right_rows(thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (rows,) bool: just the right classes are predicted."""
    return ((probabilities >= thresholds) == labels).all(axis=1)


def _weighted_hamming_loss(
    thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    return weights @ ((probabilities >= thresholds) != labels).mean(axis=1) / weights.sum(axis=1)


def _hamming_loss(thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of wrong decisions, over rows and classes."""
    return float(((probabilities >= thresholds) != labels).mean())


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log probability of each decision's truth over rows and classes, in nats."""
    return float(_log_losses(labels, probabilities).mean())


def _log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (rows,) means over the classes."""
    of_truth = np.where(labels, probabilities.astype(np.float64), 1 - probabilities.astype(np.float64))
    return -np.log(clip_probabilities(of_truth)).mean(axis=1)


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean squared distance between probability and truth over rows and classes, 0 to 1 (Brier 1950)."""
    return float(_squared_distances(labels, probabilities).mean())


def _squared_distances(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (rows,) means over the classes."""
    return ((probabilities.astype(np.float64) - labels) ** 2).mean(axis=1)


PROBABILITY_METRICS: Mapping[str, Metric] = {
    "mean_average_precision": ranking.mean_average_precision,
    "macro_auroc": ranking.macro_auroc,
    "log_loss": log_loss,
    "brier_score": brier_score,
    "expected_calibration_error": expected_calibration_error,
}
