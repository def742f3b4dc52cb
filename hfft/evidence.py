"""Evidence: what the figures of a model were measured on, and how people are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from hfft.evaluation.summary import metric_rows
from hfft.terminal import figure


@dataclass(frozen=True)
class Evidence:
    """What the figures of a model were measured on: its test split, or folds that other models had not seen.

    Attributes:
        prefix: of the figures in metrics.json.
        split: of the data that was predicted.
        heading: of the figures in the card.
        title: of the table in the terminal.
        column: heading of the values in the report.
        measured: what the metrics are beside their name: nothing, or a mean over folds.
        told: what was predicted by whom, for the top of the report.
        basis: what the intervals are over.
        claims: what the figures say and what they do not, a sentence or two each.
        copies: what was made sure of where no copies of test examples were found.
        figures: flat name -> value, as far as they are known before the model is trained.
        names: of the metrics in ``figures``, the headline first.
        interval_notes: how the intervals in ``figures`` were made.
    """

    prefix: str
    split: str
    heading: str
    title: str
    column: str
    measured: str
    told: str
    basis: str
    claims: tuple[str, ...]
    copies: str
    figures: Mapping[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    interval_notes: tuple[str, ...] = ()

    @classmethod
    def of_test(cls, examples: int) -> Self:
        """Return that of a run which tests its model on a test split of so many examples."""
        return cls(
            prefix="test",
            split="test",
            heading="Results on the test split",
            title=f"Test split, {examples} examples",
            column="test",
            measured="",
            told=f"On {examples:,} test examples that took no part in training or in any choice.",
            basis=f"Intervals over {examples} test examples:",
            claims=(
                f"They come from {examples} test examples, on which nothing was trained and nothing chosen.",
                "The intervals say how far another draw of as many test examples could move them. They leave out what "
                "another seed of the training would change, wrong labels, and a choice among several models by these "
                "very test examples.",
                "They hold for inputs of the same source as the test examples, in the same mixture. Of other sources, "
                "later times or other groups of people they say nothing.",
            ),
            copies="No copies of test examples were found among the others.",
        )

    @classmethod
    def of_folds(
        cls, folds: int, examples: int, held_out: float, figures: Mapping[str, float], names: tuple[str, ...]
    ) -> Self:
        """Return that of a model which is trained on every example and tested on none, after a cross-validation.

        Args:
            folds: models that were tested.
            examples: in the training split.
            held_out: share of them that each model was tested on.
            figures: what came out, as in ``crossval.json``.
            names: of the metrics in it, the headline first.
        """
        made_of = f"{1 - held_out:.0%} of the {examples} training examples"
        return cls(
            prefix="crossval",
            split="train",
            heading="Results of cross-validation",
            title=f"Cross-validation, {folds} folds, {examples} examples",
            column="cross-validated",
            measured=f", mean over {folds} folds",
            told=f"The mean over {folds} other models, each of them made from {made_of} and tested on the rest. The "
            "model here was made in the same way from all of them, and has been tested on none.",
            basis=f"Intervals over {folds} folds of {examples} training examples:",
            claims=(
                f"They are of {folds} other models, each of them made from {made_of} and tested on the rest. The model "
                "here was made in the same way from all of them, and has been tested on none.",
                "The intervals say how far other training examples, as many and of the same source, could move the "
                "mean. They leave out wrong labels, and a choice among several recipes by these very figures.",
                "They hold for inputs of the same source as the training examples, in the same mixture. Of other "
                "sources, later times or other groups of people they say nothing.",
            ),
            copies="Examples that are copies of each other were held out together.",
            figures=figures,
            names=names,
            interval_notes=(
                f"Every interval: by Student's t over the {folds} folds, its variance corrected for the training "
                "examples that they share (Nadeau and Bengio 2003). Where all folds have the same value there is none.",
            ),
        )

    def sentence(self) -> str:
        """Return the headline of figures that are known, with its interval if it has one."""
        row = metric_rows(self.figures, self.names, self.prefix)[0]
        interval = "" if row["low"] is None else f" (95 % interval {figure(row['low'])} to {figure(row['high'])})"
        return f"{self.title}: {row['name'].replace('_', ' ')} {figure(row['value'])}{interval}."


@dataclass(frozen=True)
class PartOfCrossValidation:
    """What a run is to the cross-validation that it is a part of.

    Attributes:
        command: what makes all of it again, in the folder of the run.
        folds: what came of the folds, for the model that is trained after them; ``None`` for a fold.
        held_out: array labels and outputs of training examples, predicted by models that had not seen them.
        notes: what was decided by the folds, a sentence each.
    """

    command: str
    folds: Evidence | None = None
    held_out: tuple[np.ndarray, np.ndarray] | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_fold(self) -> bool:
        """Whether the run is a fold, and not the model that is trained after them."""
        return self.folds is None
