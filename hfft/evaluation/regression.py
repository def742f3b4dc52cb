"""Metrics of one number for each example: labels and predictions are (rows,) float64, in the user's unit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import scipy.stats

from hfft.evaluation.bootstrap import WeightedMetric
from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.metrics import AT_LEAST_0, AT_MOST_1, CORRELATION, Metric


def rmse(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Root of the mean squared error."""
    return math.sqrt(mse(labels, predictions))


def mse(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean squared error."""
    return float(np.mean((labels - predictions) ** 2))


def mae(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(labels - predictions)))


def median_absolute_error(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Absolute error that half of the rows do not exceed, which a few bad ones do not change (the lower median)."""
    errors = np.sort(np.abs(labels - predictions))
    return float(errors[(len(errors) - 1) // 2])


def r2(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of the labels' variance that the predictions explain; NaN where they have none."""
    total = np.sum((labels - labels.mean()) ** 2)
    return float(1 - np.sum((labels - predictions) ** 2) / total) if np.ptp(labels) > 0 else math.nan


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Linear correlation; NaN where labels or predictions are all the same."""
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return math.nan
    return float(scipy.stats.pearsonr(labels, predictions).statistic)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Correlation of the ranks; NaN where labels or predictions are all the same."""
    return pearson(scipy.stats.rankdata(labels), scipy.stats.rankdata(predictions))


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ values / weights.sum(axis=1)


def _weighted_mse(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _weighted_mean((labels - predictions) ** 2, weights)


def _weighted_rmse(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.sqrt(_weighted_mse(labels, predictions, weights))


def _weighted_mae(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _weighted_mean(np.abs(labels - predictions), weights)


def _weighted_median_absolute_error(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    errors = np.abs(labels - predictions)
    order = np.argsort(errors)
    reached = np.cumsum(weights[:, order], axis=1)
    return errors[order][np.argmax(reached >= reached[:, -1:] / 2, axis=1)]


def _weighted_r2(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    centred = labels - labels.mean()  # a common shift costs no digits this way
    variance = _weighted_mean(centred**2, weights) - _weighted_mean(centred, weights) ** 2
    return 1 - _weighted_mse(labels, predictions, weights) / _where_varied(labels, weights, variance)


def _weighted_pearson(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    shape = weights.shape
    return _correlation(np.broadcast_to(labels, shape), np.broadcast_to(predictions, shape), weights)


def _weighted_spearman(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _correlation(_weighted_ranks(labels, weights), _weighted_ranks(predictions, weights), weights)


def _correlation(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (resamples,) correlations of (resamples, rows) values."""
    total = weights.sum(axis=1, keepdims=True)
    one = one - (weights * one).sum(axis=1, keepdims=True) / total
    other = other - (weights * other).sum(axis=1, keepdims=True) / total
    product = (weights * one**2).sum(axis=1) * (weights * other**2).sum(axis=1)
    varied = _where_varied(other, weights, _where_varied(one, weights, product))
    return (weights * one * other).sum(axis=1) / np.sqrt(varied)


def _where_varied(values: np.ndarray, weights: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Return ``result`` (resamples,), NaN where a resample has one value alone, whatever rounding says."""
    shown = np.broadcast_to(values, weights.shape)
    highest = np.where(weights > 0, shown, -np.inf).max(axis=1)
    lowest = np.where(weights > 0, shown, np.inf).min(axis=1)
    return np.where(highest > lowest, result, np.nan)


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (resamples, rows) the rank that each row has among the rows of the resample, ties averaged."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    of_value = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = of_value.cumsum(axis=1) - of_value + (of_value + 1) / 2
    return ranks[:, place]


FUNCTIONS: Mapping[str, Metric] = {
    "rmse": rmse,
    "mae": mae,
    "mse": mse,
    "median_absolute_error": median_absolute_error,
    "r2": r2,
    "pearson": pearson,
    "spearman": spearman,
}

WEIGHTED: Mapping[str, WeightedMetric] = {
    "rmse": _weighted_rmse,
    "mae": _weighted_mae,
    "mse": _weighted_mse,
    "median_absolute_error": _weighted_median_absolute_error,
    "r2": _weighted_r2,
    "pearson": _weighted_pearson,
    "spearman": _weighted_spearman,
}

REGRESSION_METRICS = MetricSet(
    FUNCTIONS,
    WEIGHTED,
    {
        **dict.fromkeys(("rmse", "mae", "mse", "median_absolute_error"), AT_LEAST_0),
        "r2": AT_MOST_1,
        **dict.fromkeys(("pearson", "spearman"), CORRELATION),
    },
    percentile=frozenset({"median_absolute_error"}),  # jumps from row to row: the jackknife tells nothing of it
    headlines=("rmse", "mae", "r2", "spearman"),
    loss="mse",
)
