"""A set of metrics: how each is computed, and how it is resampled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hfft.evaluation.intervals import WeightedMetric, bootstrap_intervals
from hfft.evaluation.metrics import Metric


@dataclass(frozen=True)
class MetricSet:
    """Metrics by name, the headline first.

    Attributes:
        functions: name -> (labels, outputs) -> value; NaN where the metric has no value for such rows.
        weighted: the same metrics as functions of row weights, for the bootstrap.
    """

    functions: Mapping[str, Metric]
    weighted: Mapping[str, WeightedMetric]

    @property
    def headline(self) -> str:
        """The metric that stands for all where there is room for one."""
        return next(iter(self.functions))

    def compute(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Return name -> value, without those that have none."""
        values = {name: function(labels, outputs) for name, function in self.functions.items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def intervals(self, labels: np.ndarray, outputs: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
        """Return name -> (low, high), without those that have no interval."""
        return bootstrap_intervals(self.functions, labels, outputs, seed, weighted=self.weighted)
