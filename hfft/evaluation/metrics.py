"""Classification metrics, computed with scikit-learn; the class list is fixed, so absent classes change nothing.

Each metric is a function ``(labels, probabilities) -> float`` of class indices (rows,) and class probabilities
(rows, classes). :mod:`hfft.evaluation.modules` offers the same as ``evaluate.Metric`` modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import sklearn.metrics

from hfft.errors import UserError, listed, nearest
from hfft.evaluation import ranking
from hfft.evaluation.calibration import expected_calibration_error

Metric = Callable[[np.ndarray, np.ndarray], float]

TOP = 5
# Probabilities are kept away from 0 before the logarithm by float32's resolution: inputs come from float32 logits.
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of rows whose most probable class is the label."""
    return float(sklearn.metrics.accuracy_score(labels, probabilities.argmax(axis=1)))


def balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the classes that occur in ``labels`` of the share of their rows that is found."""
    return float(
        sklearn.metrics.recall_score(
            labels, probabilities.argmax(axis=1), labels=np.unique(labels), average="macro", zero_division=0
        )
    )


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over all classes of the harmonic mean of precision and recall; 0 for a class that never occurs."""
    return float(
        sklearn.metrics.f1_score(
            labels,
            probabilities.argmax(axis=1),
            labels=np.arange(probabilities.shape[1]),
            average="macro",
            zero_division=0,
        )
    )


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log probability of the label, in nats."""
    clipped = clip_probabilities(probabilities)
    return float(
        sklearn.metrics.log_loss(
            labels, clipped / clipped.sum(axis=1, keepdims=True), labels=np.arange(probabilities.shape[1])
        )
    )


def top_5_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of rows whose label is among the five most probable classes."""
    return float(in_top(labels, probabilities).mean())


def macro_auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the classes of the area under the ROC curve of each against the rest; NaN where there is no rest."""
    return ranking.macro_auroc(one_hot(labels, probabilities), probabilities)


def mean_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the classes that occur of the average precision of each against the rest."""
    return ranking.mean_average_precision(one_hot(labels, probabilities), probabilities)


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean squared distance between probabilities and truth, summed over the classes: 0 to 2 (Brier 1950)."""
    return float(squared_distances(labels, probabilities).mean())


def one_hot(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (rows, classes) bool."""
    return labels[:, None] == np.arange(probabilities.shape[1])


def in_top(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (rows,) bool: fewer than five classes come before the label; among ties the first class does."""
    of_label = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    return ((probabilities > of_label) | ((probabilities == of_label) & earlier)).sum(axis=1) < TOP


def squared_distances(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return (rows,) the squared distance between the probabilities and the truth."""
    return ((probabilities.astype(np.float64) - one_hot(labels, probabilities)) ** 2).sum(axis=1)


def clip_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return the probabilities in float64, away from 0."""
    return np.clip(probabilities.astype(np.float64), _SMALLEST_PROBABILITY, None)


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "top_5_accuracy": top_5_accuracy,
    "macro_auroc": macro_auroc,
    "mean_average_precision": mean_average_precision,
    "log_loss": log_loss,
    "brier_score": brier_score,
    "expected_calibration_error": expected_calibration_error,
}

Range = tuple[float, float]

SHARE: Range = (0.0, 1.0)
AT_LEAST_0: Range = (0.0, math.inf)
AT_MOST_1: Range = (-math.inf, 1.0)
CORRELATION: Range = (-1.0, 1.0)

RANGES: Mapping[str, Range] = {
    **dict.fromkeys(METRICS, SHARE),
    "log_loss": AT_LEAST_0,
    "brier_score": (0.0, 2.0),
}
"""The least and the greatest value that each of :data:`METRICS` can have."""

LOWER_IS_BETTER = frozenset(
    {
        *("log_loss", "brier_score", "expected_calibration_error", "hamming_loss"),
        *("rmse", "mae", "mse", "median_absolute_error"),
    }
)


def compute_metrics(names: Iterable[str], labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return name -> value; raises :class:`UserError` for a name that is not in :data:`METRICS`."""
    values = {}
    for name in names:
        if name not in METRICS:
            raise UserError(f"There is no metric '{name}'.{nearest(name, METRICS)} Known: {listed(METRICS)}.")
        values[name] = METRICS[name](labels, probabilities)
    return values


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities (rows, classes) of logits (rows, classes)."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
