"""Metrics of a ranking, and how much each row weighs in them: areas under the ROC and the precision-recall curve.

Resampling a ranking means ranking anew. The derivative of the value by the weight of a row is known in closed form
instead, and its squares add up to the variance (the infinitesimal jackknife, Efron 1982, chapter 6); for the AUROC that
is DeLong, DeLong & Clarke-Pearson 1988. Labels are (rows, classes) bool, probabilities (rows, classes).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Influence = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""(labels, outputs) -> value, and (rows,) its derivative by the weight of each row."""


def mean_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the classes that occur of the average precision; NaN where none does."""
    return mean_average_precision_influence(labels, probabilities)[0]


def macro_auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean area under the ROC curve over the classes that some rows have and others have not; NaN without any."""
    return macro_auroc_influence(labels, probabilities)[0]


def mean_average_precision_influence(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """Return :func:`mean_average_precision` and the influence of each row, (rows,)."""
    return _mean_over_classes(average_precision_influence, labels, probabilities, _occurs(labels))


def macro_auroc_influence(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """Return :func:`macro_auroc` and the influence of each row, (rows,)."""
    return _mean_over_classes(auroc_influence, labels, probabilities, _occurs(labels) & _occurs(~labels))


def auroc_influence(label: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the area under the ROC curve of one class, (rows,) each, and the influence of each row.

    It is the share of rows without the class that a row with it is ranked above, ties half: DeLong's placements.
    """
    place, positive, negative = _tied(label, score)
    positives, negatives = positive.sum(), negative.sum()
    above = 1 - (np.cumsum(negative) - negative / 2) / negatives  # of a row with the class at this score
    below = (np.cumsum(positive) - positive / 2) / positives  # of a row without it
    value = float(np.sum(positive * above) / positives)
    return value, np.where(label, (above[place] - value) / positives, (below[place] - value) / negatives)


def average_precision_influence(label: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the average precision of one class, (rows,) each, and the influence of each row.

    The average precision is the sum over rows i with the class of hits(i) / ranked(i), both of rows at least as high
    as i, divided by their number. The weight of a row j is in hits and ranked of all rows that are not above it.
    """
    place, positive, negative = _tied(label, score)
    positives, ranked = positive.sum(), np.cumsum(positive + negative)
    precision = np.cumsum(positive) / ranked
    value = float(np.sum(positive * precision) / positives)
    gain = np.cumsum((positive / ranked)[::-1])[::-1]  # over rows with the class that are not above
    loss = np.cumsum((positive * precision / ranked)[::-1])[::-1]
    own = np.where(label, precision[place] - value + gain[place], 0.0)
    return value, (own - loss[place]) / positives


def _occurs(labels: np.ndarray) -> np.ndarray:
    return labels.sum(axis=0) > 0


def _tied(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (rows,) the place of each row's score, the highest 0, and rows with and without the class at each."""
    distinct, place = np.unique(-score, return_inverse=True)
    positive = np.bincount(place, weights=label, minlength=len(distinct))
    return place, positive, np.bincount(place, minlength=len(distinct)) - positive


def _mean_over_classes(
    function: Influence, labels: np.ndarray, probabilities: np.ndarray, defined: np.ndarray
) -> tuple[float, np.ndarray]:
    classes = np.flatnonzero(defined)
    if not len(classes):
        return math.nan, np.zeros(len(labels))
    found = [function(labels[:, index], probabilities[:, index]) for index in classes]
    return float(np.mean([value for value, _ in found])), np.mean([influence for _, influence in found], axis=0)
