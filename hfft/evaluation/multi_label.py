"""Metrics of any number of classes for each example, and the thresholds that decide.

Labels are (rows, classes) bool, probabilities (rows, classes). What is decided depends on a threshold for each class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import sklearn.metrics

from hfft.evaluation.intervals import WeightedMetric
from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.metrics import Metric, clip_probabilities

UNTUNED = 0.5
_MOST_RANKED = 20_000  # cells that are ranked anew in each of the resamples: more take minutes


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
    return MetricSet({**functions, **RANKING_METRICS}, {**weighted, **WEIGHTED_RANKING_METRICS})


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
    hits, total = weights @ (labels & predicted), weights @ labels + weights @ predicted
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
    return weights @ ((probabilities >= thresholds) == labels).all(axis=1) / weights.sum(axis=1)


def _subset_accuracy(thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of rows for which just the right classes are predicted."""
    return float(((probabilities >= thresholds) == labels).all(axis=1).mean())


def _weighted_hamming_loss(
    thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    return weights @ ((probabilities >= thresholds) != labels).mean(axis=1) / weights.sum(axis=1)


def _hamming_loss(thresholds: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of wrong decisions, over rows and classes."""
    return float(((probabilities >= thresholds) != labels).mean())


def mean_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the classes that occur of the average precision; NaN where none does."""
    found = [
        sklearn.metrics.average_precision_score(label, probability)
        for label, probability in zip(labels.T, probabilities.T, strict=True)
        if label.any()
    ]
    return float(np.mean(found)) if found else math.nan


def macro_auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean area under the ROC curve over the classes that some rows have and others have not; NaN without any."""
    found = [
        sklearn.metrics.roc_auc_score(label, probability)
        for label, probability in zip(labels.T, probabilities.T, strict=True)
        if label.any() and not label.all()
    ]
    return float(np.mean(found)) if found else math.nan


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log probability of each decision's truth over rows and classes, in nats."""
    return float(_log_losses(labels, probabilities).mean())


def _log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (rows,) means over the classes."""
    of_truth = np.where(labels, probabilities.astype(np.float64), 1 - probabilities.astype(np.float64))
    return -np.log(clip_probabilities(of_truth)).mean(axis=1)


def _weighted_log_loss(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ _log_losses(labels, probabilities) / weights.sum(axis=1)


def _weighted_mean_average_precision(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _mean_over_classes(_weighted_average_precision, labels, probabilities, weights)


def _weighted_macro_auroc(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _mean_over_classes(_weighted_auroc, labels, probabilities, weights)


def _mean_over_classes(
    function: WeightedMetric, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return (resamples,) means over the classes for which the function has a value."""
    if labels.size > _MOST_RANKED:
        return np.full(len(weights), math.nan)
    pairs = zip(labels.T, probabilities.T, strict=True)
    values = np.stack([function(label, probability, weights) for label, probability in pairs])
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # no class with a value: NaN
        return np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)


def _tied(labels: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (resamples, distinct) weights of rows with the class and without, the most probable first."""
    order = np.argsort(-probability, kind="stable")
    falling = probability[order]
    starts = np.flatnonzero(np.append(True, falling[1:] < falling[:-1]))
    sorted_weights, has = weights[:, order], labels[order]
    return (
        np.add.reduceat(sorted_weights * has, starts, axis=1),
        np.add.reduceat(sorted_weights * ~has, starts, axis=1),
    )


def _weighted_average_precision(labels: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> np.ndarray:
    positive, negative = _tied(labels, probability, weights)
    hits = positive.cumsum(axis=1)
    precision = _share(hits, hits + negative.cumsum(axis=1))
    with np.errstate(invalid="ignore"):  # no row with the class: NaN
        return (positive * precision).sum(axis=1) / hits[:, -1]


def _weighted_auroc(labels: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> np.ndarray:
    positive, negative = _tied(labels, probability, weights)
    above = positive.cumsum(axis=1) - positive / 2  # ties count half
    with np.errstate(invalid="ignore"):  # one kind of rows alone: NaN
        return (negative * above).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))


RANKING_METRICS: Mapping[str, Metric] = {
    "mean_average_precision": mean_average_precision,
    "macro_auroc": macro_auroc,
    "log_loss": log_loss,
}

WEIGHTED_RANKING_METRICS: Mapping[str, WeightedMetric] = {
    "mean_average_precision": _weighted_mean_average_precision,
    "macro_auroc": _weighted_macro_auroc,
    "log_loss": _weighted_log_loss,
}
