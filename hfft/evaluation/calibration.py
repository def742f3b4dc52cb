"""Whether probabilities mean what they say, and what is right among the most confident answers.

Labels are class indices (rows,) with probabilities (rows, classes), of which the highest is the confidence; or, for
several classes each, (rows, classes) bool, where every cell is a decision and its probability the confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.optimize

CALIBRATION_BINS = 15
_COVERAGES = 20
_MOST_TEMPERATURE = 20.0


def calibration_bin(confidence: np.ndarray) -> np.ndarray:
    """Return the index of each row's bin, (rows,): bin b holds confidences in (b / 15, (b + 1) / 15]."""
    return np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)


def reliability_curve(labels: np.ndarray, outputs: np.ndarray) -> list[dict[str, float]]:
    """Return ``confidence`` (mean), ``accuracy`` and ``count`` of every bin that holds something, the lowest first.

    The bins are those of the expected calibration error: 15 of equal width (Guo et al. 2017, arXiv:1706.04599). For
    several classes each, the accuracy is the share of decisions for which the class is there.
    """
    hits, confidence = _decisions(labels, outputs)
    bins = calibration_bin(confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    summed = [np.bincount(bins, weights=values, minlength=CALIBRATION_BINS) for values in (confidence, hits)]
    return [
        {"confidence": float(sure / count), "accuracy": float(right / count), "count": int(count)}
        for sure, right, count in zip(*summed, counts, strict=True)
        if count
    ]


def expected_calibration_error(labels: np.ndarray, outputs: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the confidence, weighted by rows.

    Guo et al. 2017 (arXiv:1706.04599), equation 3, with 15 bins. Its estimate is too high, the more so the fewer the
    rows: gaps that are noise add up like gaps that are there.
    """
    hits, confidence = _decisions(labels, outputs)
    gaps = np.bincount(calibration_bin(confidence), weights=hits - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(hits))


def accuracy_at_coverage(labels: np.ndarray, outputs: np.ndarray) -> list[dict[str, float]]:
    """Return ``coverage``, ``accuracy`` and ``confidence`` where the least confident rows are left to a person.

    Coverage is the share of rows that are answered: those whose confidence reaches ``confidence`` (El-Yaniv & Wiener
    2010; Geifman & El-Yaniv 2017, arXiv:1705.08500). About 20 points, the smallest coverage first; the last is 1. Rows
    of the same confidence are answered together, so the points may lie further apart.

    Args:
        labels: class indices, (rows,).
        outputs: probabilities, (rows, classes).
    """
    hits, confidence = _decisions(labels, outputs)
    order = np.argsort(-confidence, kind="stable")
    falling, right = confidence[order], np.cumsum(hits[order])
    last_of_ties = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
    wanted = np.ceil(len(hits) * np.arange(1, _COVERAGES + 1) / _COVERAGES).astype(int) - 1
    chosen = np.unique(last_of_ties[np.searchsorted(last_of_ties, wanted)])
    return [
        {
            "coverage": float((place + 1) / len(hits)),
            "accuracy": float(right[place] / (place + 1)),
            "confidence": float(falling[place]),
        }
        for place in chosen
    ]


def fit_temperature(log_loss: Callable[[float], float]) -> float | None:
    """Return the temperature with the least log loss (Guo et al. 2017, section 4.2), within 1 / 20 and 20.

    Args:
        log_loss: temperature -> log loss of the logits divided by it.

    Returns:
        ``None`` where the best one is at a bound, as where every answer is right: the data do not determine it.
    """
    reach = math.log(_MOST_TEMPERATURE)
    found = scipy.optimize.minimize_scalar(
        lambda x: log_loss(math.exp(x)), bounds=(-reach, reach), method="bounded", options={"xatol": 1e-4}
    )
    return math.exp(found.x) if abs(found.x) < 0.99 * reach else None


def _decisions(labels: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each decision is right, and its confidence."""
    if labels.ndim == 2:
        return labels.ravel(), outputs.ravel()
    return outputs.argmax(axis=1) == labels, outputs.max(axis=1)
