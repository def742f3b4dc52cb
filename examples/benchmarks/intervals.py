"""How often the 95 % intervals of a test split hold the truth, on models whose truth is known.

Run as a script it prints the page: ``python examples/benchmarks/intervals.py > docs/intervals.md``.

A simulated model answers with the softmax of normal noise and a margin for the right class, the margin chosen so that
the accuracy is the one that is asked for, and smaller for rare classes. Frequencies of classes are as 1 : 1/2 : 1/3 ...
The truth is the metric of some 200,000 rows; a test split is drawn anew for each draw, with as many rows of each class
as the frequencies say, as hfft draws one.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass

import numpy as np
import scipy.stats

from hfft.evaluation.intervals import wilson_interval
from hfft.evaluation.metrics import softmax
from hfft.evaluation.single_label import single_label_metrics

CLASSES = (2, 6, 20)
ACCURACIES = (0.95, 0.7)
ROWS = (100, 1000)
METRICS = (
    *("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "mean_average_precision"),
    *("log_loss", "brier_score"),
)
_TRUTH_ROWS = 200_000

_PAGE = """# How often the intervals hold the truth

Nominal 95 % intervals of simulated test splits whose truth is known: the share of {draws} draws in which the interval
holds it, in percent (standard error {error:.1f}). Draws without an interval do not count; where there are any, their
number stands in brackets. Classes are as uneven as 1 : 1/2 : 1/3 ..., so that of 20 classes among 100 test examples
{rare} have fewer than 5.

Made by `python examples/benchmarks/intervals.py`, tested by `pytest -m sweep`.
"""

_AT_RANDOM = """
AUROC and average precision of many classes with few examples each, and near 1, are somewhat less certain than their
intervals say. That other columns lie above 97 % in places is the price of fixed label counts: where classes differ,
the accuracy and the losses of stratified test examples vary less than those of examples that are drawn at random,
labels and all, for which Wilson's score and the bootstrap of the losses are made. For such examples the coverage of
the accuracy is known exactly:

| test examples | true accuracy | accuracy's interval holds it, percent |
|---:|---:|---:|"""

_METHODS = """
## How they are made

| metric | interval | why |
|---|---|---|
| accuracy, top-5 accuracy, subset accuracy | Wilson's score (1927) | the bootstrap collapses near 1 |
| AUROC, average precision | infinitesimal jackknife (AUROC: DeLong et al. 1988), normal on the logit scale; none \
where a class has fewer than 5 test examples | resampling would rank anew thousands of times; one example of a class \
shows no spread (20 classes, 100 examples: average precision covered in 59 %) |
| balanced accuracy, macro F1, where a class has fewer than 5 test examples | parametric bootstrap from rates that are \
shrunk to those of all classes | a class with one example is the same in every resample: BCa covers 80 % |
| expected calibration error | none | its estimate is biased upwards, and resamples of it once more: their percentiles \
lie above the truth |
| median absolute error | percentile bootstrap | jumps from row to row: the jackknife tells nothing of it |
| balanced accuracy, macro F1 of one class for each example | BCa bootstrap (Efron 1987), 2,000 resamples, stratified \
by class | over classes: how often each occurs is no luck of the split |
| all others | BCa bootstrap, 2,000 resamples | |
"""


@dataclass(frozen=True)
class Simulation:
    """A model and test splits of it.

    Attributes:
        classes: how many.
        accuracy: of the model.
        rows: of a test split.
    """

    classes: int
    accuracy: float
    rows: int

    @property
    def counts(self) -> np.ndarray:
        """Rows of each class, (classes,): at least one, and as even rounding makes them."""
        shares = 1 / np.arange(1, self.classes + 1)
        exact = shares / shares.sum() * self.rows
        counts = np.maximum(1, np.floor(exact).astype(int))
        for _ in range(self.rows - counts.sum()):
            counts[np.argmax(exact - counts)] += 1
        counts[0] += self.rows - counts.sum()
        return counts

    def draw(self, generator: np.random.Generator, margin: float, times: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and probabilities of a split, or of one so many times as large."""
        labels = np.repeat(np.arange(self.classes), self.counts * times)
        logits = generator.standard_normal((len(labels), self.classes)) * 1.5
        logits[np.arange(len(labels)), labels] += margin * np.linspace(1.2, 0.6, self.classes)[labels]
        return labels, softmax(logits)

    def margin(self, seed: int) -> float:
        """Return the margin that gives the accuracy."""
        low, high = 0.0, 30.0
        for _ in range(30):
            middle = (low + high) / 2
            labels, probabilities = self.draw(np.random.default_rng(seed), middle, 20_000 // self.rows)
            low, high = (
                (middle, high) if np.mean(probabilities.argmax(axis=1) == labels) < self.accuracy else (low, middle)
            )
        return low

    def coverage(self, draws: int, seed: int = 0) -> dict[str, tuple[float, int]]:
        """Return name -> share of the draws with an interval in which it holds the truth, and draws without one."""
        metrics, margin = single_label_metrics(self.classes), self.margin(seed)
        truth = metrics.compute(*self.draw(np.random.default_rng(seed + 1), margin, _TRUTH_ROWS // self.rows))
        generator = np.random.default_rng(seed + 2)
        held: Counter[str] = Counter()
        made: Counter[str] = Counter()
        for index in range(draws):
            for name, (low, high) in metrics.intervals(*self.draw(generator, margin), seed=index).items():
                made[name] += 1
                held[name] += low <= truth[name] <= high
        return {name: (held[name] / made[name], draws - made[name]) for name in made}


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description="How often the intervals hold the truth.")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rare = int((Simulation(20, 0.7, 100).counts < 5).sum())
    print(_PAGE.format(draws=options.draws, error=100 * (0.95 * 0.05 / options.draws) ** 0.5, rare=rare))
    print(f"| test examples | classes | true accuracy | {' | '.join(name.replace('_', ' ') for name in METRICS)} |")
    print(f"|---:|---:|---:|{'---:|' * len(METRICS)}")
    for rows in ROWS:
        for classes in CLASSES:
            for accuracy in ACCURACIES:
                found = Simulation(classes, accuracy, rows).coverage(options.draws, options.seed)
                cells = [_cell(*found[name]) if name in found else "none" for name in METRICS]
                print(f"| {rows} | {classes} | {accuracy} | {' | '.join(cells)} |", flush=True)
    print(_AT_RANDOM)
    for rows in ROWS:
        for accuracy in ACCURACIES:
            print(f"| {rows} | {accuracy} | {100 * wilson_coverage(accuracy, rows):.1f} |")
    print(_METHODS, end="")


def _cell(held: float, missing: int) -> str:
    return f"{100 * held:.1f}" + (f" ({missing})" if missing else "")


def wilson_coverage(accuracy: float, rows: int) -> float:
    """Return how probable it is that the interval of the accuracy holds it, where rows are drawn at random."""
    counts = np.arange(rows + 1)
    intervals = [wilson_interval(np.arange(rows) < count) for count in counts]
    held = [low <= accuracy <= high for low, high in intervals]
    return float(scipy.stats.binom.pmf(counts, rows, accuracy) @ held)


if __name__ == "__main__":
    main()
