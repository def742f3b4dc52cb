"""Copies: the same input twice. Which rows of one split are copies of rows of another, or repeat others of their own.

Inputs are compared by keys that the task makes of them (the text but for case, blanks and punctuation, the decoded
pixels). Beyond that texts are near copies if they share nearly all their pieces (:mod:`hfft.data.shingles`), and
pictures if a sketch of 16 x 16 pixels hardly differs: candidates share a part of a difference hash, and are then
compared pixel for pixel. That finds a picture that was saved again, or scaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hfft.data.inspecting import Inspected
from hfft.data.shingles import MOST_PAIRS, are_near, candidate_pairs
from hfft.task import SKETCH

_BANDS = 8
_MOST_CANDIDATES = 500  # of pictures without any structure all share a band
_TOLERANCE = 0.1  # of the picture's own contrast: saving as JPEG costs a hundredth, another picture is beyond a half
_LEAST_CONTRAST = 2.0  # grey levels
_AT_A_TIME = 1_000_000


@dataclass(frozen=True)
class Copies:
    """Rows that are copies, and of what.

    Attributes:
        rows: (copies,) sorted rows that are copies.
        originals: (copies,) the row that each is a copy of, the first there is.
        exact: (copies,) whether the inputs are equal bit for bit.
        passed_over: how many candidate pairs of near copies were not looked at, because there were too many.
    """

    rows: np.ndarray
    originals: np.ndarray
    exact: np.ndarray
    passed_over: int = 0


def find_copies(among: Inspected, of: Inspected) -> Copies:
    """Return which rows of ``among`` are copies of rows of ``of``."""
    rows, originals = _equal(among.loose, of.loose)
    near, passed_over = _near(among, of, rows)
    return _gathered(among, of, rows, originals, near, passed_over)


def find_repeats(of: Inspected) -> Copies:
    """Return which rows are copies of rows before them."""
    values = np.sort(of.loose)
    repeated = np.unique(values[1:][(values[1:] == values[:-1]) & (values[1:] != 0)])
    rows = _among(of.loose, repeated)  # the only ones whose order has to be known
    originals = rows[_equal(of.loose[rows], of.loose[rows])[1]]
    rows, originals = rows[rows != originals], originals[rows != originals]
    near, passed_over = _near(of, of, rows, within=True)
    return _gathered(of, of, rows, originals, near, passed_over)


def _gathered(
    among: Inspected, of: Inspected, rows: np.ndarray, originals: np.ndarray, near: dict[int, int], passed_over: int
) -> Copies:
    rows = np.r_[rows, np.fromiter(near.keys(), int, len(near))].astype(int)
    originals = np.r_[originals, np.fromiter(near.values(), int, len(near))].astype(int)
    order = np.argsort(rows, kind="stable")
    rows, originals = rows[order], originals[order]
    return Copies(rows, originals, among.exact[rows] == of.exact[originals], passed_over)


def _equal(among: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of ``among`` whose key stands in ``of``, and the first row there."""
    order = np.argsort(of, kind="stable")
    values = of[order]
    rows = _among(among, values)
    return rows, order[np.searchsorted(values, among[rows], "left")]


def _among(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the rows of ``keys``, but for zeros, that stand in the sorted ``values``; some at a time saves memory."""
    found = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(keys) if len(values) else 0, _AT_A_TIME):
        some = keys[start : start + _AT_A_TIME]
        place = np.minimum(np.searchsorted(values, some, "left"), len(values) - 1)
        found.append(start + np.flatnonzero((values[place] == some) & (some != 0)))
    return np.concatenate(found)


def _near(among: Inspected, of: Inspected, known: np.ndarray, *, within: bool = False) -> tuple[dict[int, int], int]:
    """Return near copies -> what they are copies of; with ``within``, of rows before them."""
    if among.sketches is not None and of.sketches is not None:
        return _near_pictures(among, of, known, within), 0
    return _near_texts(among, of, known, within) if len(among.banded) and len(of.banded) else ({}, 0)


def _near_texts(among: Inspected, of: Inspected, known: np.ndarray, within: bool) -> tuple[dict[int, int], int]:
    pairs = candidate_pairs(among.bands, of.bands)
    pairs = np.stack([among.banded[pairs[:, 0]], of.banded[pairs[:, 1]]], axis=1)
    pairs = pairs[~np.isin(pairs[:, 0], known)]
    if within:
        pairs = pairs[pairs[:, 1] < pairs[:, 0]]
    passed_over, pairs = max(0, len(pairs) - MOST_PAIRS), pairs[:MOST_PAIRS]
    found: dict[int, int] = {}
    for start in range(0, len(pairs), 1000):
        some = pairs[start : start + 1000]
        texts = zip(among.texts(some[:, 0]), of.texts(some[:, 1]), strict=True)
        for (row, original), (one, other) in zip(some.tolist(), texts, strict=True):
            if row not in found and are_near(one, other):
                found[row] = original
    return found, passed_over


def _near_pictures(among: Inspected, of: Inspected, known: np.ndarray, within: bool) -> dict[int, int]:
    """Compare candidates pixel for pixel."""
    sketches, others = among.sketches, of.sketches
    assert sketches is not None
    assert others is not None
    buckets: dict[tuple[int, int], list[int]] = {}
    for row, bands in enumerate(_hash(others)):
        for band in enumerate(bands.tolist()) if of.exact[row] else ():
            bucket = buckets.setdefault(band, [])
            if len(bucket) < _MOST_CANDIDATES:
                bucket.append(row)
    found, equal = {}, set(known.tolist())
    for row, bands in enumerate(_hash(sketches)):
        if row in equal or not among.exact[row]:
            continue
        near = {other for band in enumerate(bands.tolist()) for other in buckets.get(band, ())}
        candidates = sorted(other for other in near if not within or other < row)
        if candidates:
            sketch = sketches[row].astype(np.float32)
            difference = np.sqrt(((others[candidates].astype(np.float32) - sketch) ** 2).mean(axis=(1, 2, 3)))
            close = np.flatnonzero(difference <= _TOLERANCE * max(float(sketch.std()), _LEAST_CONTRAST))
            if len(close):
                found[row] = candidates[int(close[0])]
    return found


def _hash(sketches: np.ndarray) -> np.ndarray:
    """Return (rows, 8) band values of a difference hash: which of two neighbouring cells of 8 x 8 is brighter."""
    cells = sketches.mean(axis=3).reshape(len(sketches), SKETCH // 2, 2, SKETCH // 2, 2).mean(axis=(2, 4))
    across = (cells[:, :, 1:] > cells[:, :, :-1]).reshape(len(cells), -1)
    down = (cells[:, 1:, :] > cells[:, :-1, :]).reshape(len(cells), -1)
    bits = np.concatenate([across, down], axis=1).reshape(len(cells), _BANDS, -1)
    return bits @ (1 << np.arange(bits.shape[2]))
