"""Labels of a source: the column of each split."""

from __future__ import annotations

from hfft.data.sources import Source
from hfft.data.split_names import UNSPLIT
from hfft.targets import LabelColumn


def label_column_of(source: Source, name: str, column: str) -> LabelColumn:
    """Return the label column of a split."""
    return LabelColumn(source.splits[name], column, place(source, name), source.origin)


def place(source: Source, name: str) -> str:
    """Say where something is, for messages: ``--data: the train split of 'photos'``."""
    return f"{source.flag}: " + (f"'{source.origin}'" if name == UNSPLIT else f"the {name} split of '{source.origin}'")
