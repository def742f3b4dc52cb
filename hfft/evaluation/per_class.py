"""What a model gets right and wrong in each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def per_class_table(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return ``class``, ``precision``, ``recall``, ``f1`` and ``support`` (rows that have it) of every class.

    They are 0 where nothing is to be divided by, as scikit-learn's ``zero_division=0`` has it.

    Args:
        labels: (rows, classes) bool.
        predicted: likewise.
        names: of the classes.
    """
    hits, support, answers = (cells.sum(axis=0) for cells in (labels & predicted, labels, predicted))
    return [
        {
            "class": name,
            "precision": float(hit / max(answer, 1)),
            "recall": float(hit / max(rows, 1)),
            "f1": float(2 * hit / max(rows + answer, 1)),
            "support": int(rows),
        }
        for name, hit, rows, answer in zip(names, hits, support, answers, strict=True)
    ]


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> list[list[int]]:
    """Return a row for each class with how often its examples were answered with each class.

    Args:
        labels: class indices, (rows,).
        predicted: likewise.
        classes: how many there are.
    """
    counts = np.bincount(labels * classes + predicted, minlength=classes**2)
    return counts.reshape(classes, classes).tolist()
