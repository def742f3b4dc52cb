"""Groups: the rows that must stand in one split, such as the pictures of one patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hfft.data.sources import Source
from hfft.data.split_names import GROUP
from hfft.errors import UserError, listed, nearest
from hfft.findings import WARNING, Offender
from hfft.storage.arrays import encode_column
from hfft.targets import is_missing

if TYPE_CHECKING:
    from datasets import Dataset

    from hfft.data.labelled import LabelledData


def with_groups(labelled: Dataset, split: Dataset, source: Source, column: str) -> Dataset:
    """Add the group of every row; raises :class:`UserError` where there is none."""
    import pyarrow

    if source.from_files:
        raise UserError(f"--group_column: '{source.origin}' is a folder of files; name a table that has the column.")
    if column not in split.column_names:
        raise UserError(
            f"--group_column: there is no column '{column}' in '{source.origin}'.{nearest(column, split.column_names)}"
        )
    codes, cells = encode_column(split, column)
    missing = np.flatnonzero(np.array([is_missing(cell) for cell in cells], dtype=bool)[codes])
    if len(missing):
        told = listed(f"row {row + 1}" for row in missing)
        raise UserError(f"--group_column: '{source.origin}' has no value in '{column}' in {told}.")
    return labelled.add_column(GROUP, pyarrow.array([str(cell) for cell in cells]).take(pyarrow.array(codes)))


def tell_torn_groups(data: LabelledData) -> None:
    """Tell of groups that given splits tear apart."""
    if data.group_column is None:
        return
    train = set(encode_column(data.splits["train"], GROUP)[1])
    for name in sorted(set(data.splits) - {"train"}):
        if torn := sorted(train & set(encode_column(data.splits[name], GROUP)[1])):
            message = (
                f"{len(torn)} groups of '{data.group_column}' stand in train and in {name} ({listed(torn)}): the "
                f"{name} metrics are too good for new groups."
            )
            data.findings.add(WARNING, "torn groups", message, name, len(torn), map(Offender, torn))
