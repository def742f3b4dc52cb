"""Prepared examples that are kept together: an entry of the cache, or an array in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from hfft.storage.caching import Arrays, Cache
from hfft.storage.ragged import RaggedArray
from hfft.task import Prepared


class Shard:
    """Prepared examples of one entry of the cache, or in memory.

    Args:
        columns: the arrays of all examples by name.
        folder: of the entry; ``None`` in memory.
    """

    def __init__(self, columns: dict[str, RaggedArray], folder: Path | None = None) -> None:
        self._columns, self._folder = columns, folder

    @classmethod
    def of_entry(cls, folder: Path, arrays: Arrays) -> Self:
        """Take the ragged arrays among those of an entry."""
        names = [name for name in arrays if f"{name}_shapes" in arrays]
        return cls({name: RaggedArray(arrays[name], arrays[f"{name}_shapes"]) for name in names}, folder)

    def __getitem__(self, row: int) -> Prepared:
        return {name: column[row] for name, column in self._columns.items()}

    def lengths(self, name: str) -> np.ndarray:
        """Return (examples,) the length of an array of each."""
        return self._columns[name].shapes[:, 0]

    def __reduce__(self) -> Any:
        """Let a data-loading process open the files itself, where it is not forked."""
        return (Shard, (self._columns,)) if self._folder is None else (_reopened, (self._folder,))


def _reopened(folder: Path) -> Shard:
    arrays = Cache(folder.parent, 0).open(folder.name)
    assert arrays is not None, folder
    return Shard.of_entry(folder, arrays)
