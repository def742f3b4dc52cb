"""Kin: examples that belong together, so that they are held out together or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hfft.data.copies import find_repeats
from hfft.data.split_names import GROUP
from hfft.storage.arrays import encode_column

if TYPE_CHECKING:
    from hfft.data.labelled import LabelledData


def kin_of_train(data: LabelledData) -> np.ndarray:
    """Return (rows,) what each training example belongs to: its group, and whatever is a copy of one of them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    train = data.splits["train"]
    copies = find_repeats(data.inspected["train"])
    first, second = copies.rows, copies.originals
    if GROUP in train.column_names:
        _, leaders, group_of = np.unique(encode_column(train, GROUP)[0], return_index=True, return_inverse=True)
        first, second = (
            np.r_[first, np.arange(len(train))],
            np.r_[second, leaders[group_of]],
        )
    edges = coo_array((np.ones(len(first)), (first, second)), shape=(len(train), len(train)))
    return np.asarray(connected_components(edges, directed=False)[1])
