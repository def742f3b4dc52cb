"""Cells that hold any number of classes: lists, and texts that a delimiter divides."""

from __future__ import annotations

from typing import Any

import numpy as np

from hfft.errors import UserError
from hfft.targets.cells import LabelColumn, class_texts, is_missing


def item_feature(column: LabelColumn) -> Any:
    """Return the type of one class."""
    return getattr(column.feature, "feature", None)


def class_lists(column: LabelColumn, delimiter: str | None, rows: list[int]) -> list[list[str]]:
    """Return what the classes of some rows are called; raises :class:`UserError` for what is no list of classes."""
    from datasets import ClassLabel

    values = [column.values[row] for row in rows]
    if delimiter is not None:
        wrong = next((value for value in values if not isinstance(value, str)), None)
        if wrong is not None:
            kind = "lists, which need no delimiter" if isinstance(wrong, list) else "no texts"
            raise UserError(f"--label_delimiter: column '{column.name}' of '{column.origin}' holds {kind} ({wrong!r}).")
        return [[name for part in value.split(delimiter) if (name := part.strip())] for value in values]
    declared = isinstance(item_feature(column), ClassLabel)
    for row, value in zip(rows, values, strict=True):
        if not isinstance(value, list):
            raise column.problem(
                f"holds {value!r}; wanted is a list of classes for each example, or a text of classes and what divides "
                "them (--label_delimiter)."
            )
        if any(is_missing(item) or (declared and item < 0) for item in value):
            raise column.problem(f"holds a list with a missing class in row {row + 1}: {value!r}.")
    _require_no_indicators(column, values)
    flat = class_texts(column, [item for value in values for item in value], item_feature(column))
    ends = np.cumsum([len(value) for value in values])
    return [flat[end - len(value) : end] for value, end in zip(values, ends, strict=True)]


def _require_no_indicators(column: LabelColumn, values: list[list[Any]]) -> None:
    """Refuse a 0 or 1 for each class, which would be read as the classes 0 and 1."""
    from datasets import ClassLabel

    same_length = len({len(value) for value in values}) == 1
    if isinstance(item_feature(column), ClassLabel) or not same_length:
        return
    if all(item in (0, 1) for value in values for item in value) and any(len(set(v)) < len(v) for v in values):
        raise column.problem(
            f"holds a 0 or 1 for each class ({values[0]!r}); wanted is the list of the classes themselves."
        )
