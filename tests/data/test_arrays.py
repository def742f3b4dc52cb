"""Columns and rows of data sets as arrays, beside what the library gives."""

import numpy as np
from datasets import Dataset

from hfft.storage.arrays import column_values, select_rows


def test_selected_rows_are_those_that_the_library_selects():
    split = Dataset.from_dict({"text": [f"text {index}" for index in range(20)], "label": list(range(20))})
    some, again = np.array([1, 4, 5, 19]), np.array([3, 0, 0])
    ours, theirs = select_rows(select_rows(split, some), again), split.select(some).select(again)
    assert ours[:] == theirs[:]
    assert column_values(ours, "label").tolist() == theirs["label"][:]
    assert ours.add_column("more", [1, 2, 3])[:]["more"] == [1, 2, 3]
    assert len(select_rows(split, some[:0])) == 0


def test_all_rows_are_the_data_set_itself_but_in_another_order_they_are_not():
    split = Dataset.from_dict({"label": [5, 6]})
    assert select_rows(split, np.arange(2)) is split
    assert column_values(select_rows(split, np.array([1, 0])), "label").tolist() == [6, 5]


def test_other_rows_have_another_fingerprint():
    split = Dataset.from_dict({"label": list(range(9))})
    chosen = [select_rows(split, np.array(rows)) for rows in ([1, 4], [1, 5], [1, 4, 5])]
    assert len({each._fingerprint for each in [split, *chosen]}) == 4
