"""Classification metrics, computed with scikit-learn; the class list is fixed, so absent classes change nothing.

Each metric is a function ``(labels, probabilities) -> float`` of class indices (rows,) and class probabilities
(rows, classes). :mod:`hfft.evaluation.modules` offers the same as ``evaluate.Metric`` modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import sklearn.metrics

from hfft.errors import UserError, listed, nearest

Metric = Callable[[np.ndarray, np.ndarray], float]

CALIBRATION_BINS = 15
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


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the top probability, weighted by rows.

    Guo et al. 2017 (arXiv:1706.04599), equation 3, with 15 bins.
    """
    hits = probabilities.argmax(axis=1) == labels
    confidence = probabilities.max(axis=1)
    gaps = np.bincount(calibration_bin(confidence), weights=hits - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def clip_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return the probabilities in float64, away from 0."""
    return np.clip(probabilities.astype(np.float64), _SMALLEST_PROBABILITY, None)


def calibration_bin(confidence: np.ndarray) -> np.ndarray:
    """Return the index of each row's bin, (rows,): bin b holds confidences in (b / 15, (b + 1) / 15]."""
    return np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "log_loss": log_loss,
    "expected_calibration_error": expected_calibration_error,
}

LOWER_IS_BETTER = frozenset({"log_loss", "expected_calibration_error", "hamming_loss", "rmse", "mae", "mse"})


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
