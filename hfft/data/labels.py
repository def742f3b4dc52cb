"""Labels: the one list of classes, which comes from train, and the class index of every row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.data.arrays import encode_column
from hfft.data.sources import Source
from hfft.data.split_names import LABEL, UNSPLIT
from hfft.errors import UserError, listed, nearest

if TYPE_CHECKING:
    from datasets import Dataset


def rows_with_labels(source: Source, column: str, notes: list[str]) -> dict[str, np.ndarray]:
    """Return the rows of every split that have a label, and tell of those that have none."""
    rows = {}
    for name, split in source.splits.items():
        codes, cells = encode_column(split, column)
        present = ~_missing(split, column, cells)[codes]
        rows[name] = np.flatnonzero(present)
        if not present.all():
            missing = np.flatnonzero(~present)
            where = listed(f"row {row + 1}" for row in missing)
            notes.append(f"{name}: {len(missing)} examples without a label were left out ({where}).")
    return rows


def split_labels(
    split: Dataset, name: str, source: Source, columns: Mapping[str, str], class_names: list[str]
) -> np.ndarray:
    """Return the class index of every row; raises :class:`UserError` for missing labels and unknown classes."""
    where = place(source, name)
    codes, texts = _label_texts(split, columns[LABEL], where)
    return np.asarray(_label_indices(texts, class_names, where), dtype=np.int64)[codes]


def rows_of_other_classes(split: Dataset, column: str, class_names: list[str], where: str) -> dict[int, str]:
    """Return row -> class of the rows whose class is none of ``class_names``."""
    codes, texts = _label_texts(split, column, where)
    known = set(class_names)
    unknown = np.flatnonzero(np.array([text not in known for text in texts])[codes])
    return {int(row): texts[codes[row]] for row in unknown}


def place(source: Source, name: str) -> str:
    """Say where something is, for messages: ``--data: the train split of 'photos'``."""
    return f"{source.flag}: " + (f"'{source.origin}'" if name == UNSPLIT else f"the {name} split of '{source.origin}'")


def class_names_of(train: Dataset, column: str, origin: str) -> list[str]:
    """Return the classes that train holds, in order; raises :class:`UserError` for one alone and for an absent one."""
    from datasets import ClassLabel

    _, texts = _label_texts(train, column, f"--data: the train split of '{origin}'")
    feature = train.features[column]
    names = list(feature.names) if isinstance(feature, ClassLabel) else sorted(set(texts), key=_numeric_first)
    present = set(texts)
    if len(present) < 2:
        raise UserError(
            f"--data: '{origin}' has only one class, '{texts[0]}', in its train split: there is nothing to tell apart."
        )
    absent = [name for name in names if name not in present]
    if absent:
        raise UserError(f"--data: '{origin}' has no training example of the class {listed(absent)}.")
    return names


def _numeric_first(name: str) -> tuple[float, str]:
    """Sort "2" before "10"; names that are no numbers by their letters, behind."""
    try:
        number = float(name)
    except ValueError:
        number = math.inf
    return (math.inf if math.isnan(number) else number, name)  # NaN has no place in an order


def _label_texts(split: Dataset, column: str, where: str) -> tuple[np.ndarray, list[str]]:
    """Return (rows,) codes and the class that each stands for; raises :class:`UserError` for what is no class."""
    from datasets import ClassLabel

    feature = split.features[column]
    codes, labels = encode_column(split, column)
    missing = np.flatnonzero(_missing(split, column, labels)[codes])
    if len(missing):
        raise UserError(
            f"{where} has no label in column '{column}' for {len(missing)} of {len(codes)} examples "
            f"(row {listed(missing + 1)}). Fill them in, or remove those rows."
        )
    if isinstance(feature, ClassLabel):
        return codes, [feature.int2str(value) for value in labels]
    if isinstance(labels[0], list | dict):
        raise UserError(f"{where}: column '{column}' holds {labels[0]!r}; wanted is one class for each example.")
    if all(isinstance(value, float) for value in labels):
        broken = [value for value in labels if not value.is_integer()]
        if broken:
            raise UserError(f"{where}: column '{column}' holds {broken[0]!r}, a number that is no class.")
        return codes, [str(int(value)) for value in labels]
    return codes, [str(value) for value in labels]


def _missing(split: Dataset, column: str, cells: list[Any]) -> np.ndarray:
    """Return which of the distinct cells are no label; the Hub writes -1 where a test split has none."""
    from datasets import ClassLabel

    declared = isinstance(split.features[column], ClassLabel)
    return np.array([is_missing(cell) or (declared and cell < 0) for cell in cells], dtype=bool)


def is_missing(value: Any) -> bool:
    """Say whether a cell holds nothing: null, blanks or NaN."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _label_indices(texts: list[str], class_names: list[str], where: str) -> list[int]:
    index_of = {name: index for index, name in enumerate(class_names)}
    unknown = sorted(set(texts) - index_of.keys())
    if unknown:
        raise UserError(
            f"{where} has the class '{unknown[0]}', which is not among the classes that are trained"
            f" ({listed(class_names)}).{nearest(unknown[0], class_names)}"
        )
    return [index_of[text] for text in texts]
