"""Cases that the tests of intervals share."""

import numpy as np
from scipy.special import softmax


def random_case(rows: int = 40, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities; the last class never occurs and is never predicted."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes - 1, rows)
    logits = generator.normal(size=(rows, classes)) + np.eye(classes)[labels]
    logits[:, -1] -= 20
    return labels, softmax(logits, axis=1)
