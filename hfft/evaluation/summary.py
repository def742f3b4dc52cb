"""A split's metrics with their intervals, beside the baseline, as the flat dict that metrics.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hfft.evaluation.intervals import bootstrap_intervals
from hfft.evaluation.metrics import compute_metrics


def summarize(
    names: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    baseline: np.ndarray,
    *,
    prefix: str = "test",
    seed: int = 0,
) -> dict[str, float]:
    """Return ``test_accuracy``, ``test_accuracy_ci_low``, ``test_accuracy_ci_high``, ``baseline_test_accuracy``, ...

    Args:
        names: of the metrics.
        labels: (rows,) class indices.
        probabilities: (rows, classes) of the model.
        baseline: (rows, classes) of the baseline.
        prefix: the split's name.
        seed: of the bootstrap.
    """
    intervals = bootstrap_intervals(names, labels, probabilities, seed)
    baselines = compute_metrics(names, labels, baseline)
    flat: dict[str, float] = {}
    for name, value in compute_metrics(names, labels, probabilities).items():
        flat[f"{prefix}_{name}"] = value
        flat[f"{prefix}_{name}_ci_low"], flat[f"{prefix}_{name}_ci_high"] = intervals[name]
        flat[f"baseline_{prefix}_{name}"] = baselines[name]
    return flat


def metric_rows(metrics: Mapping[str, float], names: Sequence[str], prefix: str) -> list[dict[str, Any]]:
    """Return ``name``, ``value``, ``low``, ``high`` and ``baseline`` of every metric; ``None`` where there is none."""
    return [
        {
            "name": name,
            "value": metrics[f"{prefix}_{name}"],
            "low": metrics.get(f"{prefix}_{name}_ci_low"),
            "high": metrics.get(f"{prefix}_{name}_ci_high"),
            "baseline": metrics.get(f"baseline_{prefix}_{name}"),
        }
        for name in names
    ]
