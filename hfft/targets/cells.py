"""The raw cells of a label column, and what they say: which are missing, and what a class is called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.errors import UserError, listed, nearest
from hfft.storage.arrays import encode_column

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class LabelColumn:
    """The label column of a split as it was read.

    Attributes:
        split: the rows.
        name: of the column.
        where: what the rows are, for messages: ``--data: the train split of 'reviews'``.
        origin: how the user named the data.
    """

    split: Dataset
    name: str
    where: str
    origin: str

    @cached_property
    def values(self) -> list[Any]:
        """The cells as Python values."""
        return list(self.split[self.name][:])  # by rows it would take a hundred times as long

    @property
    def feature(self) -> Any:
        """The column's type in the ``datasets`` library."""
        return self.split.features[self.name]

    @cached_property
    def distinct(self) -> tuple[np.ndarray, list[Any]]:
        """(rows,) codes, and the distinct cells that they stand for: ten million rows are no ten million objects."""
        import datasets

        codes, cells = encode_column(self.split, self.name)
        kept_as_json: Any = getattr(datasets, "Json", ())  # cells of several types
        if isinstance(self.feature, kept_as_json):
            cells = [None if cell is None else self.feature.decode_example(cell) for cell in cells]
        return codes, cells

    @cached_property
    def first(self) -> Any:
        """The first cell that holds something, or ``None``."""
        return next((value for value in self.split[self.name] if not is_missing(value)), None)

    def problem(self, what: str) -> UserError:
        """Return the error that says what is wrong with this column."""
        return UserError(f"{self.where}: column '{self.name}' {what}")

    def require_none_missing(self, missing: Sequence[int] | np.ndarray) -> None:
        """Raise :class:`UserError` that names the rows in ``missing``."""
        if 0 < len(missing) == len(self.split):
            raise UserError(f"{self.where} has no label in column '{self.name}' at all.")
        if len(missing):
            raise UserError(
                f"{self.where} has no label in column '{self.name}' for {len(missing)} of {len(self.split)} examples "
                f"(row {listed(row + 1 for row in missing)}). Fill them in, or remove those rows."
            )


def is_missing(value: Any) -> bool:
    """Say whether a cell holds nothing: null, blanks or NaN."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def class_texts(column: LabelColumn, values: Sequence[Any], feature: Any) -> list[str]:
    """Return what each value is called as a class; raises :class:`UserError` for what is no class.

    Args:
        column: for messages.
        values: none of them missing.
        feature: the type of a value.
    """
    from datasets import ClassLabel

    if isinstance(feature, ClassLabel):
        return [feature.int2str(value) for value in values]
    nested = next((value for value in values if isinstance(value, list | dict)), None)
    if nested is not None:
        raise column.problem(f"holds {nested!r}; wanted is one class for each example.")
    if all(isinstance(value, float) for value in values):
        broken = [value for value in values if not value.is_integer()]
        if broken:
            raise column.problem(f"holds {broken[0]!r}, a number that is no class.")
        return [str(int(value)) for value in values]
    return [str(value) for value in values]


def class_list(column: LabelColumn, texts: Iterable[str], feature: Any) -> list[str]:
    """Return the classes that train holds, in order; raises :class:`UserError` for one alone and for an absent one."""
    from datasets import ClassLabel

    present = set(texts)
    names = list(feature.names) if isinstance(feature, ClassLabel) else sorted(present, key=_numeric_first)
    if len(present) == 1:
        raise UserError(
            f"--data: '{column.origin}' has only one class, '{next(iter(present))}', in its train split: there is "
            "nothing to tell apart."
        )
    absent = [name for name in names if name not in present]
    if absent:
        raise UserError(f"--data: '{column.origin}' has no training example of the class {listed(absent)}.")
    return names


def class_indices(column: LabelColumn, texts: Iterable[str], class_names: list[str]) -> list[int]:
    """Return the index of each class; raises :class:`UserError` for one that is not trained."""
    texts = list(texts)
    index_of = {name: index for index, name in enumerate(class_names)}
    unknown = sorted(set(texts) - index_of.keys())
    if unknown:
        raise UserError(
            f"{column.where} has the class '{unknown[0]}', which is not among the classes that are trained"
            f" ({listed(class_names)}).{nearest(unknown[0], class_names)}"
        )
    return [index_of[text] for text in texts]


def _numeric_first(name: str) -> tuple[float, str]:
    """Sort "2" before "10"; names that are no numbers by their letters, behind."""
    try:
        number = float(name)
    except ValueError:
        number = math.inf
    return (math.inf if math.isnan(number) else number, name)  # NaN has no place in an order
