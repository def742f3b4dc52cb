"""Percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13) of the metrics, from resampled test rows.

Every metric here is a function of weighted sums over the rows, and a resample is a vector of row weights. So all
resamples are one matrix product, where calling scikit-learn for each of them would take seconds a run. The tests
hold each form against :mod:`hfft.evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from hfft.evaluation.metrics import CALIBRATION_BINS, calibration_bin, clip_probabilities

RESAMPLES = 2000
CONFIDENCE = 0.95
_CHUNK = 4_000_000  # weights held at once

WeightedMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(labels, outputs, weights (resamples, rows)) -> values (resamples,); here of class indices and probabilities."""


def _accuracy(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ (probabilities.argmax(axis=1) == labels) / weights.sum(axis=1)


def _per_class(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weighted true positives, rows and predictions of each class: (resamples, classes) each."""
    classes = np.arange(probabilities.shape[1])
    is_class = labels[:, None] == classes
    predicted = probabilities.argmax(axis=1)[:, None] == classes
    return weights @ (is_class & predicted), weights @ is_class, weights @ predicted


def _balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    hits, rows, _ = _per_class(labels, probabilities, weights)
    return np.divide(hits, rows, out=np.zeros_like(hits), where=rows > 0).sum(axis=1) / (rows > 0).sum(axis=1)


def _macro_f1(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    hits, rows, predictions = _per_class(labels, probabilities, weights)
    total = rows + predictions
    return np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0).mean(axis=1)


def _log_loss(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    clipped = clip_probabilities(probabilities)
    losses = np.log(clipped.sum(axis=1)) - np.log(clipped[np.arange(len(labels)), labels])
    return weights @ losses / weights.sum(axis=1)


def _expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    bins = calibration_bin(confidence)[:, None] == np.arange(CALIBRATION_BINS)
    return np.abs(weights @ (bins * gap[:, None])).sum(axis=1) / weights.sum(axis=1)


WEIGHTED_METRICS: Mapping[str, WeightedMetric] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "log_loss": _log_loss,
    "expected_calibration_error": _expected_calibration_error,
}


def bootstrap_intervals(
    names: Iterable[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    weighted: Mapping[str, WeightedMetric] = WEIGHTED_METRICS,
) -> dict[str, tuple[float, float]]:
    """Return name -> (low, high), the 95 % percentile interval over resampled rows.

    Resamples for which a metric has no value (NaN) do not count; a metric that has none at all is left out.

    Args:
        names: of ``weighted``.
        labels: a row for each example, as the metrics expect them.
        probabilities: likewise.
        seed: of the resampling.
        resamples: how many.
        weighted: the metrics as functions of row weights.
    """
    names = list(names)
    rows = len(labels)
    generator = np.random.default_rng(seed)
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    left = resamples
    while left > 0:
        count = min(left, max(1, _CHUNK // rows))
        weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=count).astype(np.float64)
        for name in names:
            values[name].append(weighted[name](labels, probabilities, weights))
        left -= count
    tail = (1 - CONFIDENCE) / 2
    intervals = {}
    for name in names:
        defined = np.concatenate(values[name])
        defined = defined[~np.isnan(defined)]
        if len(defined):
            low, high = np.quantile(defined, [tail, 1 - tail])
            intervals[name] = (float(low), float(high))
    return intervals


def nadeau_bengio_interval(values: Sequence[float], ratio: float) -> tuple[float, float]:
    """Return the 95 % interval of a mean over folds, which share training examples and so are not independent.

    The variance of the mean is (1 / J + test / train) times that of the J values; Student's t with J - 1 degrees of
    freedom (Nadeau and Bengio 2003, "Inference for the Generalization Error", section 3).

    Args:
        values: of a metric, one for each fold.
        ratio: test examples over training examples of a fold.
    """
    from scipy.stats import t

    count = len(values)
    spread = (1 / count + ratio) * float(np.var(values, ddof=1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread**0.5
    mean = float(np.mean(values))
    return mean - half, mean + half
