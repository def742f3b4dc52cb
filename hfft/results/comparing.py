"""compare(): two runs on the same test examples, and whether their difference is more than luck."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfft.arguments import ModelArguments
from hfft.errors import UserError, listed
from hfft.evaluation.paired import Judged, mcnemar, paired_differences
from hfft.run_folder import PREDICTIONS_FILE
from hfft.targets import Target, target_of_config


@dataclass
class Comparison:
    """Two runs side by side.

    Attributes:
        first: output folder of a run.
        second: that of the other.
        examples: test examples, the same of both.
        identical: whether both give just the same outputs.
        metrics: name -> ``first``, ``second``, ``difference`` (second - first) and the interval of the difference, see
            :func:`hfft.evaluation.paired.paired_differences`.
        headlines: the metrics that a short table shows.
        right: what it means in the test that a prediction is right: a metric's name; ``None`` for numbers.
        mcnemar: ``only_first_right``, ``only_second_right`` and ``p_value``; ``None`` for numbers.
    """

    first: str
    second: str
    examples: int
    identical: bool
    metrics: dict[str, dict[str, float]]
    headlines: list[str]
    right: str | None
    mcnemar: dict[str, Any] | None

    def report(self) -> dict[str, Any]:
        """Return the comparison as JSON knows it."""
        names = ("first", "second", "examples", "identical", "metrics", "mcnemar")
        return {name: getattr(self, name) for name in names}


def compare(first: str | Path, second: str | Path, *, seed: int = 42) -> Comparison:
    """Compare two runs by what they predicted of the same test examples.

    Args:
        first: output folder of a run.
        second: that of the other.
        seed: of the bootstrap.

    Raises:
        UserError: for a folder without predictions, and for runs with other test examples, other labels or other
            classes: what differs is said.
    """
    one, other = (_Run.read(Path(folder)) for folder in (first, second))
    _require_same_target(one, other)
    order, other_order = _common_order(one, other)
    judged, other_judged = one.judged(order), other.judged(other_order)
    metrics = judged.metrics
    right = next(iter(metrics.shares), None)
    tested = None
    if right is not None:
        tested = mcnemar(*(j.metrics.shares[right](j.labels, j.outputs) for j in (judged, other_judged)))
    differences = paired_differences(judged, other_judged, seed)
    return Comparison(
        first=str(first),
        second=str(second),
        examples=len(one.inputs),
        identical=one.target == other.target and bool(np.array_equal(judged.outputs, other_judged.outputs)),
        metrics=differences,
        headlines=[name for name in differences if metrics.is_headline(name)],
        right=right,
        mcnemar=tested,
    )


@dataclass
class _Run:
    folder: Path
    target: Target
    columns: dict[str, list[Any]]

    @classmethod
    def read(cls, folder: Path) -> _Run:
        from pyarrow.parquet import read_table

        from hfft.loading import load_config

        if not (folder / PREDICTIONS_FILE).is_file():
            raise UserError(f"'{folder}' holds no {PREDICTIONS_FILE}: give the output folders of two finished runs.")
        target = target_of_config(load_config(ModelArguments(model=str(folder)), weights=False))
        try:
            columns = read_table(folder / PREDICTIONS_FILE).to_pydict()
        except (OSError, ValueError) as error:
            raise UserError(f"'{folder / PREDICTIONS_FILE}' cannot be read: {str(error).splitlines()[0]}") from error
        wanted = {"input", "label", *target.prediction_columns(target.sample()[1])}
        if missing := sorted(wanted - columns.keys()):
            raise UserError(f"'{folder / PREDICTIONS_FILE}' has no column {listed(missing)}: it is not of this model.")
        return cls(folder, target, columns)

    @property
    def inputs(self) -> list[str]:
        return self.columns["input"]

    @property
    def labels(self) -> list[Any]:
        """Labels that compare equal whatever the order of the classes."""
        return [tuple(sorted(label)) if isinstance(label, list) else label for label in self.columns["label"]]

    def judged(self, order: Sequence[int]) -> Judged:
        labels, outputs = self.target.read_labels(self.columns["label"]), self.target.read_outputs(self.columns)
        return Judged(self.target.metrics, labels[order], outputs[order])


def _require_same_target(one: _Run, other: _Run) -> None:
    kinds = [run.target.problem_type for run in (one, other)]
    if kinds[0] != kinds[1]:
        raise UserError(f"'{one.folder}' does {kinds[0]}, '{other.folder}' {kinds[1]}: they cannot be compared.")
    if one.target.class_counts(one.target.sample()[0]) is None:
        return  # a number may be called otherwise
    for run, rest in ((one, other), (other, one)):
        if more := sorted(set(run.target.output_names) - set(rest.target.output_names)):
            raise UserError(f"'{run.folder}' knows classes that '{rest.folder}' does not: {listed(more)}.")


def _common_order(one: _Run, other: _Run) -> tuple[Sequence[int], Sequence[int]]:
    """Return row indices of both runs that bring the same examples side by side; raises :class:`UserError`."""
    keys = [list(zip(run.inputs, run.labels, strict=True)) for run in (one, other)]
    if keys[0] == keys[1]:
        return range(len(keys[0])), range(len(keys[0]))
    if Counter(keys[0]) == Counter(keys[1]):
        first, second = (sorted(range(len(key)), key=key.__getitem__) for key in keys)
        return first, second
    only = [Counter(a.inputs) - Counter(b.inputs) for a, b in ((one, other), (other, one))]
    if any(only):
        told = [
            f"{count.total()} stand in '{run.folder}' alone, such as '{_short(next(iter(count)))}'"
            for run, count in zip((one, other), only, strict=True)
            if count
        ]
        raise UserError(
            f"The runs were not tested on the same examples: {' and '.join(told)}. Train both on data with the same "
            "test split, or with the same seed."
        )
    differing = Counter(keys[0]) - Counter(keys[1])
    example, label = next(iter(differing))
    raise UserError(
        f"The runs have other labels for {differing.total()} test examples, such as '{_short(example)}': {label} in "
        f"'{one.folder}'. Train both on the same labels."
    )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
