"""What is predicted of an example: one class, several, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfft.arguments import AUTO_PROBLEM_TYPE
from hfft.errors import UserError, listed
from hfft.targets.cells import LabelColumn, is_missing
from hfft.targets.multi_label import MultiLabel
from hfft.targets.regression import Regression
from hfft.targets.single_label import SingleLabel
from hfft.targets.target import Target

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# A column is what it fits first; everything fits the last.
_TARGETS: dict[str, type[Target]] = {kind.problem_type: kind for kind in (MultiLabel, Regression, SingleLabel)}

__all__ = [
    "LabelColumn",
    "MultiLabel",
    "Regression",
    "SingleLabel",
    "Target",
    "choose_target",
    "is_missing",
    "target_of_config",
]


def choose_target(
    column: LabelColumn, known: Sequence[str], problem_type: str = AUTO_PROBLEM_TYPE, delimiter: str | None = None
) -> Target:
    """Return the target of a training split's label column.

    Args:
        column: the labels.
        known: the problem types that the task knows.
        problem_type: the one that the user named, or ``auto``.
        delimiter: what divides the classes of a text.

    Raises:
        UserError: for a problem type that the task does not know, and labels that there is nothing to learn from.
    """
    if problem_type == AUTO_PROBLEM_TYPE:
        fitting = [name for name, kind in _TARGETS.items() if name in known and kind.fits(column, delimiter)]
        problem_type = fitting[0] if fitting else MultiLabel.problem_type if delimiter else known[0]
    if problem_type not in known:
        flag = "--label_delimiter" if delimiter else "--problem_type"
        raise UserError(f"{flag}: the task does not know {problem_type}, only {listed(known)}.")
    return _TARGETS[problem_type].freeze(column, delimiter)


def target_of_config(config: PretrainedConfig) -> Target:
    """Return the target that a fine-tuned model answers with.

    A configuration that does not say is read as transformers reads it in training: one output is a number.
    """
    implied = Regression if config.num_labels == 1 else SingleLabel
    return _TARGETS.get(config.problem_type or "", implied).from_config(config)
