"""Columns of a data set as Arrow and NumPy arrays: ten million rows are no ten million Python objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.storage.caching import content_key

if TYPE_CHECKING:
    from datasets import Dataset


def column_cells(split: Dataset, column: str) -> Any:
    """Return a column as a ``pyarrow.ChunkedArray``, mapped from disk where the data set is."""
    cells = split.data.column(column)
    if split._indices is None:
        return cells
    return cells.take(split._indices.column(0))  # the library's own way makes a Python number of every index


def column_values(split: Dataset, column: str) -> Any:
    """Return a column of numbers as an array (rows,), and one of lists as a list."""
    cells = column_cells(split, column)
    return cells.to_pylist() if hasattr(cells.type, "value_type") else cells.to_numpy()


def encode_column(split: Dataset, column: str) -> tuple[np.ndarray, list[Any]]:
    """Return (rows,) codes, and the distinct cells as Python values that they stand for.

    Cells that Arrow cannot compare (lists, records) are each taken for distinct.
    """
    import pyarrow

    cells = column_cells(split, column)
    try:
        encoded = cells.dictionary_encode(null_encoding="encode").unify_dictionaries()
    except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowInvalid):
        return np.arange(len(cells)), cells.to_pylist()
    if not encoded.num_chunks:
        return np.zeros(0, dtype=np.int64), []
    codes = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks])
    return codes, encoded.chunk(0).dictionary.to_pylist()


def other_rows(count: int, rows: np.ndarray) -> np.ndarray:
    """Return the rows below ``count`` that are none of ``rows``, sorted."""
    others = np.ones(count, dtype=bool)
    others[rows] = False
    return np.flatnonzero(others)


def select_rows(split: Dataset, rows: np.ndarray) -> Dataset:
    """Return some rows of a data set, all of them as they are; its own way makes a Python number of every index."""
    import pyarrow
    from datasets import Dataset

    if len(rows) == len(split) and (rows[1:] > rows[:-1]).all():
        return split
    if not len(rows):
        return split.select(rows)
    indices = pyarrow.array(rows.astype(np.uint64))
    if split._indices is not None:
        indices = split._indices.column(0).take(indices)
    table = pyarrow.table({"indices": indices})
    fingerprint = content_key(split._fingerprint, rows.tobytes())
    return Dataset(split.data, split.info, split.split, table, fingerprint)


def sampled(split: Dataset, most: int) -> Dataset:
    """Return all rows, or as many as that, drawn always alike and in their order."""
    if len(split) <= most:
        return split
    return select_rows(split, np.sort(np.random.default_rng(0).choice(len(split), most, replace=False)))
