"""A split's metrics with their intervals, beside the baseline, as the flat dict that metrics.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hfft.evaluation.metric_set import MetricSet


def summarize(
    metrics: MetricSet,
    labels: np.ndarray,
    outputs: np.ndarray,
    baseline: Mapping[str, float],
    *,
    prefix: str = "test",
    seed: int = 0,
) -> dict[str, float]:
    """Return ``test_accuracy``, ``test_accuracy_ci_low``, ``test_accuracy_ci_high``, ``baseline_test_accuracy``, ...

    Args:
        metrics: what is computed.
        labels: a row for each example, as the metrics expect them.
        outputs: of the model, likewise.
        baseline: name -> value of the baseline.
        prefix: the split's name.
        seed: of the bootstrap.
    """
    intervals = metrics.intervals(labels, outputs, seed)
    flat: dict[str, float] = {}
    for name, value in metrics.compute(labels, outputs).items():
        flat[f"{prefix}_{name}"] = value
        if name in intervals:
            flat[f"{prefix}_{name}_ci_low"], flat[f"{prefix}_{name}_ci_high"] = intervals[name]
        if name in baseline:
            flat[f"baseline_{prefix}_{name}"] = baseline[name]
    return flat


def interval_notes(metrics: MetricSet, labels: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is to be known of the intervals in ``rows``, as :func:`metric_rows` made them, a sentence each."""
    values = [row["name"] for row in rows]
    return metrics.interval_notes(labels, values, [row["name"] for row in rows if row["low"] is not None])


def metric_rows(metrics: Mapping[str, float], names: Sequence[str], prefix: str) -> list[dict[str, Any]]:
    """Return ``name``, ``value``, ``low``, ``high``, ``baseline`` and ``probe`` of every metric.

    The last two are the values of the baseline that looks at no input and of the solved head; ``None`` where there is
    none.
    """
    return [
        {
            "name": name,
            "value": metrics[f"{prefix}_{name}"],
            "low": metrics.get(f"{prefix}_{name}_ci_low"),
            "high": metrics.get(f"{prefix}_{name}_ci_high"),
            "baseline": metrics.get(f"baseline_{prefix}_{name}"),
            "probe": metrics.get(f"baseline_probe_{prefix}_{name}"),
        }
        for name in names
        if f"{prefix}_{name}" in metrics
    ]
