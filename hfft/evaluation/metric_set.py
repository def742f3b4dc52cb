"""A set of metrics: how each is computed, and how its interval is."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import scipy.sparse

from hfft.errors import listed
from hfft.evaluation.bootstrap import RESAMPLES, WeightedMetric, bootstrap_intervals
from hfft.evaluation.intervals import Interval, logit_interval, wilson_interval
from hfft.evaluation.metrics import Metric, Range
from hfft.evaluation.ranking import Influence
from hfft.evaluation.rare_classes import FEW_ROWS, RateMetric, shrunken_intervals

BIASED_UPWARDS = (
    "its estimate is too high, the more so the fewer the examples, and resampled examples shift it further upwards"
)

RowShare = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(labels, outputs) -> (rows,) bool, of which the metric is the mean."""


@dataclass(frozen=True)
class MetricSet:
    """Metrics by name, the headline first.

    A metric's interval is the first that applies: Wilson's score for a share of rows, one with borrowed rates where
    classes are rare, the logit interval for a ranking, and else the bootstrap.

    Attributes:
        functions: name -> (labels, outputs) -> value; NaN where the metric has no value for such rows.
        weighted: the same metrics as functions of row weights, for the bootstrap.
        ranges: name -> the least and the greatest value that the metric can have.
        shares: metrics that are the share of rows with something.
        influences: metrics of rankings, with the influence of each row.
        rates: metrics of hits, rows and predictions of each class, where each row has one.
        percentile: metrics for which BCa does not hold.
        without_interval: name -> why there is none, as a clause.
        strata: labels -> (rows,) int: what the test split was stratified by, or ``None``.
        class_counts: labels -> (classes,) rows of each class, or ``None`` where there are no classes.
        headlines: what a short table shows; empty for all.
        loss: the metric that the training loss is, or a multiple of.
    """

    functions: Mapping[str, Metric]
    weighted: Mapping[str, WeightedMetric]
    ranges: Mapping[str, Range]
    shares: Mapping[str, RowShare] = field(default_factory=dict)
    influences: Mapping[str, Influence] = field(default_factory=dict)
    rates: Mapping[str, RateMetric] = field(default_factory=dict)
    percentile: frozenset[str] = frozenset()
    without_interval: Mapping[str, str] = field(default_factory=dict)
    strata: Callable[[np.ndarray], np.ndarray] | None = None
    class_counts: Callable[[np.ndarray], np.ndarray] | None = None
    headlines: tuple[str, ...] = ()
    loss: str = "log_loss"

    @property
    def headline(self) -> str:
        """The metric that stands for all where there is room for one."""
        return next(iter(self.functions))

    def is_headline(self, name: str) -> bool:
        """Say whether a short table shows the metric: the headlines, and what the user asked for."""
        return not self.headlines or name in self.headlines or name not in self.functions

    def compute(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Return name -> value, without those that have none."""
        values = {name: function(labels, outputs) for name, function in self.functions.items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def intervals(self, labels: np.ndarray, outputs: np.ndarray, seed: int) -> dict[str, Interval]:
        """Return name -> (low, high), without those that have no interval; :meth:`interval_notes` says why."""
        found: dict[str, Interval | None] = dict.fromkeys(self.without_interval)
        strata, rare = None if self.strata is None else self.strata(labels), self.rare_classes(labels)
        for name, share in self.shares.items():
            found[name] = wilson_interval(share(labels, outputs))
        for name, influence in self.influences.items():
            found[name] = None if rare else logit_interval(*influence(labels, outputs), strata)
        resample = partial(
            bootstrap_intervals,
            labels=labels,
            outputs=outputs,
            seed=seed,
            weighted=self.weighted,
            percentile=self.percentile,
        )
        if rare and self.rates:
            found |= shrunken_intervals(self.rates, labels, outputs.argmax(axis=1), outputs.shape[1], seed)
        elif self.rates:
            found |= dict.fromkeys(self.rates)
            found |= resample(self.rates, strata=strata)
        rest = [name for name in self.functions if name not in found]
        found |= resample(rest)
        return {name: interval for name in self.functions if (interval := found.get(name)) is not None}

    def interval_notes(self, labels: np.ndarray, values: Collection[str], intervals: Collection[str]) -> list[str]:
        """Return what is to be known of the intervals, a sentence each.

        Args:
            labels: a row for each example.
            values: names of the metrics that have a value.
            intervals: names of those that have an interval.
        """
        rare = self.rare_classes(labels)
        own = [*self.shares, *self.influences, *(self.rates if rare else ())]
        resampled = [name for name in intervals if name in self.functions and name not in own]
        bootstrap = f"the bootstrap (BCa, {RESAMPLES} resamples"
        told = [
            (_of(self.shares, intervals), "Wilson's score"),
            (_of(self.rates, resampled), f"{bootstrap}, with as many examples of each class as there are)"),
            ([n for n in resampled if n not in (*self.rates, *self.percentile)], f"{bootstrap})"),
            (_of(self.percentile, resampled), f"the bootstrap (percentiles of {RESAMPLES} resamples)"),
            (_of(self.influences, intervals), "the influence of each example (as DeLong's, on the logit scale)"),
            (_of(self.rates, intervals) if rare else [], "a bootstrap in which rare classes borrow the rates of all"),
        ]
        notes = [f"Interval of {listed(names)}: by {method}." for names, method in told if names]
        missing = [name for name in self.functions if name in values and name not in intervals]
        because = {name: self.without_interval[name] for name in missing if name in self.without_interval}
        if rare:
            few = f"{rare} classes have" if rare > 1 else "1 class has"
            few += f" fewer than {FEW_ROWS} test examples"
            because |= dict.fromkeys(_of(self.influences, missing), f"{few}, too few to rank")
            if not self.rates:
                notes.append(f"{few}: intervals of averages over classes may be too narrow.")
        because |= {name: "every resample gives the same value" for name in missing if name not in because}
        return notes + [f"No interval of {name}: {reason}." for name, reason in because.items()]

    def rare_classes(self, labels: np.ndarray) -> int:
        """Return how many of the classes that occur have fewer than five rows."""
        if self.class_counts is None:
            return 0
        counts = self.class_counts(labels)
        return int(((counts > 0) & (counts < FEW_ROWS)).sum())


def mean_of(row_values: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> WeightedMetric:
    """Return the weighted form of a mean over the rows of what the function gives for each."""

    def weighted(labels: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ row_values(labels, outputs) / weights.sum(axis=1)

    return weighted


def weighted_counts(weights: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return (resamples, classes) the weight of the rows with each class, from (rows, classes) bool.

    Most rows have few of the classes, so this is a sparse product.
    """
    return (scipy.sparse.csr_array(cells.T.astype(np.float64)) @ weights.T).T


def _of(names: Collection[str], present: Collection[str]) -> list[str]:
    return [name for name in names if name in present]
