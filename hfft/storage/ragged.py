"""Arrays of different shapes, one after the other in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class RaggedWriter:
    """Writes rows of one type and number of axes to ``NAME.npy``, and their shapes, (rows, axes), to another file."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype) -> None:
        self._folder, self._name, self._dtype = folder, name, np.dtype(dtype)
        self._shapes: list[tuple[int, ...]] = []
        self._size = 0
        self._file = (folder / f"{name}.npy").open("wb")
        self._write_header()

    def append(self, row: np.ndarray) -> None:
        """Add a row."""
        self._file.write(np.ascontiguousarray(row, dtype=self._dtype).tobytes())
        self._shapes.append(row.shape)
        self._size += row.size

    def close(self) -> None:
        """Write down how much there is."""
        self._file.seek(0)
        self._write_header()  # numpy leaves room in it for an axis that grows
        self._file.close()
        shapes = np.asarray(self._shapes, dtype=np.int64)
        np.save(self._folder / f"{self._name}_shapes.npy", shapes, allow_pickle=False)

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._size,)}
        np.lib.format.write_array_header_1_0(self._file, header)


class RaggedArray:
    """Rows of different shapes over one flat array; a row is a view, nothing is copied.

    Args:
        values: (elements of all rows,).
        shapes: (rows, axes).
    """

    def __init__(self, values: np.ndarray, shapes: np.ndarray) -> None:
        self._values = values.view(np.ndarray)  # slicing a memmap itself is slow
        self.shapes = np.asarray(shapes)
        self._ends = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1))])

    @classmethod
    def of(cls, rows: list[np.ndarray]) -> RaggedArray:
        """Join rows in memory."""
        return cls(np.concatenate([row.ravel() for row in rows]), np.asarray([row.shape for row in rows]))

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, row: int) -> np.ndarray:
        return self._values[self._ends[row] : self._ends[row + 1]].reshape(self.shapes[row])
