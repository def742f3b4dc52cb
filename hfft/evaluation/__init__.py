"""Metrics, their uncertainty, and the baseline that every figure stands beside."""

from hfft.evaluation.baseline import class_frequencies
from hfft.evaluation.bootstrap import bootstrap_intervals
from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.metrics import METRICS, compute_metrics
from hfft.evaluation.summary import interval_notes, metric_rows, summarize

__all__ = [
    "METRICS",
    "MetricSet",
    "bootstrap_intervals",
    "class_frequencies",
    "compute_metrics",
    "interval_notes",
    "metric_rows",
    "summarize",
]
