"""Labels: the one list of classes, which comes from train, and the class index of every row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hfft.data.sources import Source
from hfft.data.split_names import LABEL, UNSPLIT
from hfft.errors import UserError, listed, nearest

if TYPE_CHECKING:
    from datasets import Dataset


def rows_with_labels(source: Source, column: str, notes: list[str]) -> dict[str, list[int]]:
    """Return the rows of every split that have a label, and tell of those that have none."""
    rows = {}
    for name, split in source.splits.items():
        labels = list(split[column])
        rows[name] = [row for row, value in enumerate(labels) if not is_missing(value)]
        if missing := sorted(set(range(len(labels))) - set(rows[name])):
            where = listed(f"row {row + 1}" for row in missing)
            notes.append(f"{name}: {len(missing)} examples without a label were left out ({where}).")
        if not rows[name]:
            raise UserError(f"{place(source, name)} has no label in column '{column}' at all.")
    return rows


def split_labels(
    split: Dataset, name: str, source: Source, columns: Mapping[str, str], class_names: list[str]
) -> list[int]:
    """Return the class index of every row; raises :class:`UserError` for missing labels and unknown classes."""
    where = place(source, name)
    texts = _label_texts(split, columns[LABEL], list(split[columns[LABEL]]), where)
    return _label_indices(texts, class_names, where)


def place(source: Source, name: str) -> str:
    """Say where something is, for messages: ``--data: the train split of 'photos'``."""
    return f"{source.flag}: " + (f"'{source.origin}'" if name == UNSPLIT else f"the {name} split of '{source.origin}'")


def class_names_of(train: Dataset, column: str, origin: str) -> list[str]:
    """Return the classes that train holds, in order; raises :class:`UserError` for one alone and for an absent one."""
    from datasets import ClassLabel

    texts = _label_texts(train, column, list(train[column]), f"--data: the train split of '{origin}'")
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


def _label_texts(split: Dataset, column: str, labels: list[Any], where: str) -> list[str]:
    """Return the class of every row as text; raises :class:`UserError` for what is no class."""
    from datasets import ClassLabel

    feature = split.features[column]
    missing = [row + 1 for row, value in enumerate(labels) if is_missing(value)]
    if isinstance(feature, ClassLabel):
        missing += [row + 1 for row, value in enumerate(labels) if value is not None and value < 0]
    if missing:
        raise UserError(
            f"{where} has no label in column '{column}' for {len(missing)} of {len(labels)} examples "
            f"(row {listed(missing)}). Fill them in, or remove those rows."
        )
    if isinstance(feature, ClassLabel):
        return [feature.int2str(value) for value in labels]
    if isinstance(labels[0], list | dict):
        raise UserError(f"{where}: column '{column}' holds {labels[0]!r}; wanted is one class for each example.")
    if all(isinstance(value, float) for value in labels):
        broken = [value for value in labels if not value.is_integer()]
        if broken:
            raise UserError(f"{where}: column '{column}' holds {broken[0]!r}, a number that is no class.")
        return [str(int(value)) for value in labels]
    return [str(value) for value in labels]


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
