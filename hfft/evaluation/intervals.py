"""95 % intervals in closed form: of shares of rows, of means over folds, and from the influence of each row.

``docs/intervals.md`` tells how often the intervals hold the truth. Those that are resampled:
:mod:`hfft.evaluation.bootstrap` and, of rare classes, :mod:`hfft.evaluation.rare_classes`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.stats
from scipy.special import expit, logit

CONFIDENCE = 0.95
NORMAL_REACH = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2))
"""Standard errors to either side of the middle of a normal interval."""

Interval = tuple[float, float]


def nadeau_bengio_interval(
    values: Sequence[float], ratio: float, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Interval | None:
    """Return the 95 % interval of a mean over folds, which share training examples and so are not independent.

    The variance of the mean is (1 / J + test / train) times that of the J values; Student's t with J - 1 degrees of
    freedom (Nadeau and Bengio 2003, "Inference for the Generalization Error", section 3).

    Args:
        values: of a metric, one for each fold.
        ratio: test examples over training examples of a fold.
        bounds: the least and the greatest value that the metric can have; the interval ends there.

    Returns:
        ``None`` where all values are the same: such an interval would claim certainty.
    """
    count = len(values)
    if np.ptp(values) == 0:
        return None
    spread = (1 / count + ratio) * float(np.var(values, ddof=1))
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread**0.5
    mean = float(np.mean(values))
    return max(mean - half, bounds[0]), min(mean + half, bounds[1])


def wilson_interval(hits: np.ndarray) -> Interval:
    """Return Wilson's score interval (1927) of the share of rows that are hits, (rows,) bool.

    Near 0 and 1, where the bootstrap collapses, it still covers.
    """
    found = scipy.stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def logit_interval(value: float, influence: np.ndarray, strata: np.ndarray | None = None) -> Interval | None:
    """Return the interval of a value between 0 and 1 from its infinitesimal jackknife, normal on the logit scale.

    Args:
        value: of the metric.
        influence: (rows,) derivative of the value by the weight of each row.
        strata: as for :func:`hfft.evaluation.bootstrap_intervals`.

    Returns:
        ``None`` where no row has influence, as where every row is ranked right.
    """
    error = standard_error(influence, strata)
    if not 0 < value < 1 or not error > 0:
        return None
    reach = NORMAL_REACH * error / (value * (1 - value))
    middle = logit(value)
    return float(expit(middle - reach)), float(expit(middle + reach))


def standard_error(influence: np.ndarray, strata: np.ndarray | None = None) -> float:
    """Return the standard error of a value from the influence of each row, (rows,), strata as fixed as they are."""
    strata = numbered_strata(strata, len(influence))
    sizes = np.bincount(strata)
    centred = influence - (np.bincount(strata, weights=influence) / sizes)[strata]
    return float(np.sqrt(np.sum(centred**2 * (sizes / np.maximum(sizes - 1, 1))[strata])))


def numbered_strata(strata: np.ndarray | None, rows: int) -> np.ndarray:
    """Return (rows,) strata numbered from 0; one alone for ``None``."""
    return np.zeros(rows, dtype=np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
