from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hfft.storage.ragged import RaggedArray, RaggedWriter


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_rows_of_different_shapes_come_back_from_file_and_memory(tmp_path: Path, dtype):
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, 200, (height, 5, 3)).astype(dtype) for height in (3, 0, 12, 1, 1000)]
    writer = RaggedWriter(tmp_path, "rows", np.dtype(dtype))
    for row in rows:
        writer.append(row[::-1][::-1])  # not contiguous in between
    writer.close()
    values = np.load(tmp_path / "rows.npy", mmap_mode="c")
    for ragged in (RaggedArray(values, np.load(tmp_path / "rows_shapes.npy")), RaggedArray.of(rows)):
        assert len(ragged) == 5
        for index, row in enumerate(rows):
            assert ragged[index].dtype == dtype
            np.testing.assert_array_equal(ragged[index], row)


def test_a_row_is_no_copy():
    ragged = RaggedArray.of([np.zeros(3), np.zeros(4)])
    ragged[1][0] = 1
    assert ragged[1][0] == 1
