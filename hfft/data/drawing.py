"""Draw the splits that the data does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hfft.data.split_names import GROUP
from hfft.errors import UserError, listed
from hfft.findings import NOTE
from hfft.storage.arrays import encode_column, other_rows, select_rows
from hfft.targets.stratification import draw_groups

if TYPE_CHECKING:
    from hfft.data.labelled import LabelledData


def draw_split(data: LabelledData, name: str, share: float, seed: int) -> None:
    """Move a stratified share of the training split to a split of its own.

    Raises :class:`UserError` where there are too few examples, and for groups that cannot be divided.
    """
    kept, drawn = _divide(data, name, share, seed)
    train, looks = data.splits["train"], data.inspected["train"]
    data.splits["train"], data.splits[name] = select_rows(train, kept), select_rows(train, drawn)
    data.inspected["train"], data.inspected[name] = looks.select(kept), looks.select(drawn)
    data.drawn |= {name}
    whole = f", groups of '{data.group_column}' kept whole" if data.group_column else ""
    message = f"no {name} split was given: {len(drawn)} of {len(train)} training examples were drawn for it{whole}."
    data.findings.add(NOTE, "drawn split", message, name, len(drawn))


def _divide(data: LabelledData, name: str, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of train that stay, and those that are drawn."""
    train = data.splits["train"]
    labels = data.labels("train")
    if len(labels) < data.target.fewest_rows:
        raise UserError(
            f"--data: '{data.origin}' has {len(labels)} training examples for {data.target.describe()}, too few "
            f"to hold back a {name} split. Give a {name} split"
            + (", or set validation_size to 0." if name == "validation" else ".")
        )
    if GROUP in train.column_names:
        try:
            drawn = draw_groups(data.target.strata(labels), encode_column(train, GROUP)[0], share, seed)
        except ValueError as error:
            raise UserError(f"--group_column: no {name} split can be drawn from '{data.origin}': {error}.") from error
    else:
        drawn = data.target.draw(labels, share, seed)
    kept = other_rows(len(labels), drawn)
    if lost := data.target.lost(labels[kept]):
        how = "--group_column: drawn in whole groups" if GROUP in train.column_names else "--data: drawn by example"
        raise UserError(
            f"{how}, the {name} split of '{data.origin}' takes every example of {listed(lost)}. Give the splits "
            "yourself."
        )
    return kept, drawn
