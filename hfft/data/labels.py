"""Labels of a source: the column of each split, and the rows that have none."""

from __future__ import annotations

from hfft.data.sources import Source
from hfft.data.split_names import UNSPLIT
from hfft.errors import UserError, listed
from hfft.targets import LabelColumn, Target


def label_column_of(source: Source, name: str, column: str) -> LabelColumn:
    """Return the label column of a split."""
    return LabelColumn(source.splits[name], column, place(source, name), source.origin)


def rows_with_labels(
    source: Source, column: str, target: Target, delimiter: str | None, notes: list[str]
) -> dict[str, list[int]]:
    """Return the rows of every split that have a label, and tell of those that have none."""
    rows = {}
    for name, split in source.splits.items():
        missing = sorted(target.missing(label_column_of(source, name, column), delimiter))
        rows[name] = sorted(set(range(len(split))) - set(missing))
        if missing:
            where = listed(f"row {row + 1}" for row in missing)
            notes.append(f"{name}: {len(missing)} examples without a label were left out ({where}).")
        if not rows[name]:
            raise UserError(f"{place(source, name)} has no label in column '{column}' at all.")
    return rows


def place(source: Source, name: str) -> str:
    """Say where something is, for messages: ``--data: the train split of 'photos'``."""
    return f"{source.flag}: " + (f"'{source.origin}'" if name == UNSPLIT else f"the {name} split of '{source.origin}'")
