"""Batches that say which rows of the data set they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from hfft.objectives import IGNORED
from hfft.training.sampling import StandIn

ROWS = "rows_of_data_set"
"""Key of a batch: the indices that the data set was asked for, a list; taken out before the model sees the batch."""


TARGETS = frozenset({"labels", "label", "label_ids"})
"""What of an example is no input of the model."""


class NumberedRows(Dataset):
    """A data set whose examples come as (index, example)."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, row: int) -> tuple[int, Any]:
        return row, self._data[row]

    def __getitems__(self, rows: list[int]) -> list[tuple[int, Any]]:
        return list(zip(rows, fetch(self._data, rows), strict=True))


class Views(Dataset):
    """So many views of each example of a data set, all of the first view before those of the second."""

    def __init__(self, data: Any, views: int) -> None:
        self._data, self.views = data, views

    def __len__(self) -> int:
        return len(self._data) * self.views

    def __getitem__(self, index: int) -> Any:
        return self._data[index]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return fetch(self._data, indices)


class NumberedCollator:
    """Joins the examples of :class:`NumberedRows` as ``collate`` would, and notes their indices in the batch.

    Args:
        collate: joins examples.
        ignores: whether the loss ignores labels of :data:`hfft.objectives.IGNORED`, as those of stand-ins become.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], ignores: bool = False) -> None:
        self._collate, self._ignores = collate, ignores

    def __call__(self, numbered: Sequence[tuple[int, Any]]) -> Any:
        """Return the batch."""
        batch = self._collate([example for _, example in numbered])
        if not TARGETS.isdisjoint(batch):  # without labels there is no loss, and the trainer's does not see the batch
            batch[ROWS] = [row for row, _ in numbered]
        if self._ignores and "labels" in batch and all(isinstance(row, StandIn) for row, _ in numbered):
            batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        return batch


def fetch(data: Any, rows: list[int]) -> list[Any]:
    """Return examples, in one call where the data set knows how."""
    together = getattr(data, "__getitems__", None)
    return list(together(rows)) if together is not None else [data[row] for row in rows]
