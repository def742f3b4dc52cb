"""95 % intervals of metrics from the bootstrap over test rows (BCa, Efron 1987).

Every metric that is resampled is a function of weighted sums over the rows, a resample is a vector of row weights, and
so is a sample that lacks a row. So all resamples, and the jackknife that BCa takes its acceleration from, are a few
matrix products, where calling scikit-learn for each of them would take seconds a run. The tests hold each form against
:mod:`hfft.evaluation.metrics`, and ``docs/intervals.md`` tells how often the intervals hold the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
import scipy.stats

from hfft.evaluation.intervals import CONFIDENCE, Interval, numbered_strata, standard_error

RESAMPLES = 2000

_CHUNK = 2_000_000  # weights held at once
# Of more rows, groups of rows are left out together: the error of the acceleration, sqrt(15 / 500**2) / 6, is nothing.
_MOST_LEFT_OUT = 500

WeightedMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(labels, outputs, weights (resamples, rows)) -> values (resamples,)."""


def bootstrap_intervals(
    names: Iterable[str],
    labels: np.ndarray,
    outputs: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    *,
    weighted: Mapping[str, WeightedMetric],
    strata: np.ndarray | None = None,
    percentile: Collection[str] = (),
) -> dict[str, Interval]:
    """Return name -> (low, high), the 95 % interval over resampled rows.

    The interval is BCa (Efron 1987, "Better bootstrap confidence intervals", equation 3.8; acceleration of stratified
    samples by Davison & Hinkley 1997, equation 5.29), and a percentile interval where that has no value. Resamples for
    which a metric has no value (NaN) do not count. A metric that has none at all, or the same in every resample, is
    left out: such an interval would claim certainty.

    Args:
        names: of ``weighted``.
        labels: a row for each example, as the metrics expect them.
        outputs: likewise.
        seed: of the resampling.
        resamples: how many.
        weighted: the metrics as functions of row weights.
        strata: (rows,) int; how many rows each stratum has stays as it is. ``None`` is one stratum.
        percentile: names for which BCa does not hold (not smooth in the weights).
    """
    names = list(names)
    strata = numbered_strata(strata, len(labels))
    generator = np.random.default_rng(seed)
    values = _values(names, labels, outputs, weighted, _resampled(strata, resamples, generator))
    groups, shares = _left_out_groups(strata, generator)
    left_out = _values(names, labels, outputs, weighted, _without_groups(strata, groups, shares))
    point = _values(names, labels, outputs, weighted, iter([np.ones((1, len(labels)))]))
    intervals = {}
    for name in names:
        acceleration = None if name in percentile else _acceleration(left_out[name], shares)
        interval = _interval(float(point[name][0]), values[name], acceleration)
        if interval is not None:
            intervals[name] = interval
    return intervals


def jackknife_error(
    metric: WeightedMetric,
    labels: np.ndarray,
    outputs: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> float | None:
    """Return the standard error of a metric by the jackknife: from its values without each row (Tukey 1958).

    Of a mean over the rows it is the usual one. Of more than 500 rows, some are left out together.

    Args:
        metric: a function of row weights.
        labels, outputs: a row for each example, as the metric expects them.
        groups: (rows,) int, rows that depend on each other and are left out together; ``None`` where none do.
        seed: of the rows that are left out together.

    Returns:
        ``None`` of fewer than two rows or groups, and where the metric has no value without some of them.
    """
    strata = numbered_strata(None, len(labels))
    if groups is None:
        groups, told = _left_out_groups(strata, np.random.default_rng(seed))
    else:
        groups = numbered_strata(groups, len(labels))
        sizes = np.bincount(groups)
        told = np.stack([np.zeros_like(sizes), sizes, np.full_like(sizes, len(labels))], axis=1)
    if len(told) < 2:
        return None
    left_out = _values(["it"], labels, outputs, {"it": metric}, _without_groups(strata, groups, told))["it"]
    error = standard_error((len(labels) - told[:, 1]) / len(labels) * left_out)
    return error if np.isfinite(error) else None


def _values(
    names: list[str],
    labels: np.ndarray,
    outputs: np.ndarray,
    weighted: Mapping[str, WeightedMetric],
    chunks: Iterator[np.ndarray],
) -> dict[str, np.ndarray]:
    """Return name -> (resamples,) values of all chunks of weights."""
    values: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in names}
    for weights in chunks:
        for name in names:
            values[name].append(weighted[name](labels, outputs, weights))
    return {name: np.concatenate(found) for name, found in values.items()}


def _resampled(strata: np.ndarray, resamples: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield weights (some, rows): how often each row was drawn, as many of each stratum as there are."""
    rows = len(strata)
    order = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    size, start = sizes[strata[order]], (np.cumsum(sizes) - sizes)[strata[order]]
    while resamples > 0:
        count = min(resamples, max(1, _CHUNK // rows))
        drawn = order[start + (generator.random((count, rows)) * size).astype(np.int64)]
        drawn = drawn * count + np.arange(count)[:, None]
        # the resamples of a row side by side, as sparse products read them
        yield np.bincount(drawn.ravel(), minlength=count * rows).astype(np.float64).reshape(rows, count).T
        resamples -= count


def _left_out_groups(strata: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divide the rows into groups that are left out together; of few rows each is a group.

    Returns (rows,) the group of each row, and (groups, 3): stratum of each group, its rows, and the stratum's rows.
    """
    rows = len(strata)
    groups = np.empty(rows, dtype=np.int64)
    told: list[tuple[int, int, int]] = []
    for stratum, size in enumerate(np.bincount(strata)):
        members = generator.permutation(np.flatnonzero(strata == stratum))
        count = size if rows <= _MOST_LEFT_OUT else min(size, max(2, round(_MOST_LEFT_OUT * size / rows)))
        group = np.arange(size) * count // size
        groups[members] = group + len(told)
        told += [(stratum, int(members_of), size) for members_of in np.bincount(group)]
    return groups, np.array(told)


def _without_groups(strata: np.ndarray, groups: np.ndarray, told: np.ndarray) -> Iterator[np.ndarray]:
    """Yield weights (some groups, rows) without one group each; the rest of its stratum makes up for it."""
    step = max(1, _CHUNK // len(strata))
    for start in range(0, len(told), step):
        stratum, members, size = told[start : start + step].T
        rest = np.where(size > members, size / np.maximum(size - members, 1), 1.0)
        weights = np.where(strata == stratum[:, None], rest[:, None], 1.0)
        rows = np.flatnonzero((groups >= start) & (groups < start + step))
        kept = size[groups[rows] - start] == 1  # a stratum's only row cannot be left out
        weights[groups[rows] - start, rows] = kept
        yield weights


def _acceleration(left_out: np.ndarray, told: np.ndarray) -> float | None:
    """Return BCa's acceleration from values without each group, ``None`` where it has none."""
    stratum, members, size = told.T
    means = np.bincount(stratum, weights=left_out) / np.bincount(stratum)
    influence = (size - members) / size * (means[stratum] - left_out)
    squares = np.sum(influence**2)
    if not np.isfinite(squares) or squares == 0:
        return None
    return float(np.sum(influence**3) / (6 * squares**1.5))


def _interval(point: float, values: np.ndarray, acceleration: float | None) -> Interval | None:
    """Return the BCa interval, or the percentile interval without an acceleration."""
    values = values[~np.isnan(values)]
    if not len(values) or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return None
    levels = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    same = np.abs(values - point) <= 1e-9 * np.abs(values).max()  # ties count half, whatever rounding says
    below = np.mean((values < point) & ~same) + np.mean(same) / 2
    if acceleration is not None and 0 < below < 1:
        bias = scipy.stats.norm.ppf(below)
        shifted = bias + scipy.stats.norm.ppf(levels)
        if np.all(acceleration * shifted < 1):
            levels = scipy.stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(values, levels)
    return float(low), float(high)
