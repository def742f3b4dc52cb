"""How much two models differ on the same test rows: what is luck of the rows is common to both, and cancels out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from hfft.evaluation.bootstrap import WeightedMetric, bootstrap_intervals, jackknife_error
from hfft.evaluation.intervals import NORMAL_REACH, Interval, numbered_strata, standard_error
from hfft.evaluation.metric_set import MetricSet


@dataclass(frozen=True)
class Judged:
    """What one model says of the test rows.

    Attributes:
        metrics: by which it is judged; thresholds are its own.
        labels: a row for each example, in its own order of the classes.
        outputs: likewise.
    """

    metrics: MetricSet
    labels: np.ndarray
    outputs: np.ndarray


def paired_differences(first: Judged, second: Judged, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return name -> ``first``, ``second``, ``difference`` (second - first) and, where there is one, its 95 % interval.

    The interval, ``difference_ci_low`` and ``difference_ci_high``, is that of the paired bootstrap (BCa; both models on
    the same resampled rows), and for rankings normal, from the difference of each row's influence (DeLong et al. 1988).
    """
    values, others = (judged.metrics.compute(judged.labels, judged.outputs) for judged in (first, second))
    intervals = _intervals(first, second, seed)
    found: dict[str, dict[str, float]] = {}
    for name in (name for name in values if name in others):
        difference = others[name] - values[name]
        found[name] = {"first": values[name], "second": others[name], "difference": difference}
        if name in intervals:
            found[name]["difference_ci_low"], found[name]["difference_ci_high"] = intervals[name]
    return found


def paired_error(first: Judged, second: Judged, name: str, groups: np.ndarray | None = None) -> float | None:
    """Return the standard error of the difference of a metric between two models on the same rows.

    By the jackknife, and for rankings from the difference of each row's influence (DeLong et al. 1988).

    Args:
        first, second: the models.
        name: of the metric.
        groups: (rows,) int, rows that depend on each other and are left out together; ``None`` where none do.

    Returns:
        ``None`` for a metric that has neither, and where rows or groups are too few.
    """
    metrics = first.metrics
    if name in metrics.influences:
        _, error = _ranking_difference(name, first, second, groups=groups)
        return error if np.isfinite(error) else None
    if name not in metrics.weighted or name in metrics.percentile:  # of what jumps the jackknife tells nothing
        return None
    return jackknife_error(_difference(name, first, second), first.labels, first.outputs, groups)


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> dict[str, Any]:
    """Return McNemar's exact test (1947) of whether two models are right equally often, from (rows,) bool each.

    Of the rows that one model alone has right each would have half: ``p_value`` is the two-sided binomial test's.
    """
    only_first, only_second = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    decided = only_first + only_second
    p_value = float(scipy.stats.binomtest(only_first, decided).pvalue) if decided else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p_value": p_value}


def _intervals(first: Judged, second: Judged, seed: int) -> dict[str, Interval]:
    metrics, labels = first.metrics, first.labels
    rare = metrics.rare_classes(labels)
    strata = None if metrics.strata is None or rare else metrics.strata(labels)
    found: dict[str, Interval] = {}
    for name in () if rare else metrics.influences:
        difference, error = _ranking_difference(name, first, second, strata)
        if error > 0:
            found[name] = (difference - NORMAL_REACH * error, difference + NORMAL_REACH * error)
    differences = {name: _difference(name, first, second) for name in metrics.weighted if name in metrics.functions}
    over_classes = [name for name in differences if name in metrics.rates]
    for names, fixed in ((over_classes, strata), ([name for name in differences if name not in over_classes], None)):
        found |= bootstrap_intervals(
            names, labels, first.outputs, seed, weighted=differences, strata=fixed, percentile=metrics.percentile
        )
    return found


def _ranking_difference(
    name: str, first: Judged, second: Judged, strata: np.ndarray | None = None, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the difference and its standard error, from the influence of each row or of each group of rows."""
    (value, influence), (other, other_influence) = (
        judged.metrics.influences[name](judged.labels, judged.outputs) for judged in (first, second)
    )
    change = other_influence - influence
    if groups is not None:
        change = np.bincount(numbered_strata(groups, len(groups)), weights=change)
    return other - value, standard_error(change, strata)


def _difference(name: str, first: Judged, second: Judged) -> WeightedMetric:
    def weighted(_: np.ndarray, __: np.ndarray, weights: np.ndarray) -> np.ndarray:
        one, other = (j.metrics.weighted[name](j.labels, j.outputs, weights) for j in (first, second))
        return other - one

    return weighted
