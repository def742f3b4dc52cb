"""Which labels are likely to be wrong, by what a model says of examples that it has not seen."""

from __future__ import annotations

import numpy as np


def suspected_label_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the rows whose label is likely wrong, the likeliest first.

    Confident learning (Northcutt, Jiang and Chuang 2021, https://doi.org/10.1613/jair.1.12125, section 3.1): an
    example counts for a class where its probability reaches the mean probability of that class among those labelled
    with it, and is suspected where that holds for another class than its own, and more so. Ranked by how much less
    probable the label is than that class.

    Args:
        labels: class indices, (rows,).
        probabilities: of examples that the model was not trained on, (rows, classes).
    """
    rows, classes = np.arange(len(labels)), probabilities.shape[1]
    own = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=own, minlength=classes)
    thresholds = np.divide(sums, counts, out=np.full(classes, np.inf), where=counts > 0)
    confident = np.where(probabilities >= thresholds, probabilities, -np.inf)
    better = confident.argmax(axis=1)
    margin = probabilities[rows, better] - own
    suspected = np.flatnonzero((confident[rows, better] > -np.inf) & (better != labels) & (margin > 0))
    return suspected[np.argsort(-margin[suspected], kind="stable")]
