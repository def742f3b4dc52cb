"""The baseline that looks at no input: it answers with the class frequencies of the training split."""

from __future__ import annotations

import numpy as np


def class_frequencies(train_labels: np.ndarray, classes: int, rows: int) -> np.ndarray:
    """Return probabilities (rows, classes), each row the class frequencies of ``train_labels``.

    Its most probable class is the majority class, so its accuracy is that of always answering with it; its log loss
    is that of knowing nothing but how often each class occurs.
    """
    counts = np.bincount(train_labels, minlength=classes)
    return np.tile(counts / counts.sum(), (rows, 1))
