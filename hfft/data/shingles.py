"""Near copies of texts: min-hashes of overlapping pieces name the candidates, the pieces themselves decide.

Broder 1997 (https://doi.org/10.1109/SEQUEN.1997.666900). The pieces (shingles) are five bytes of UTF-8; two texts are
near copies if they share at least nine tenths of all the pieces of both, and every number. Four bands of four hashes
find a pair at that bound in 98 % of all cases, and practically all pairs above 0.95.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

BANDS = 4
MOST_SHINGLED = 400_000
"""Rows of a split whose near copies are looked for; of more, a seeded sample of so many."""

MOST_PAIRS = 50_000
"""Candidate pairs that are compared piece by piece."""

_HASHES = 4  # in a band
_PIECE = 5  # bytes
_LONGEST = 2000  # bytes of a text that candidates are found by
_LONGEST_COMPARED = 20_000  # bytes that are compared
_LEAST_SHARED = 0.9
_MOST_CANDIDATES = 20  # of texts from a template all share a band
_MULTIPLIERS = np.random.default_rng(0).integers(1, 2**63, size=BANDS * _HASHES, dtype=np.uint64) * np.uint64(
    2
) + np.uint64(1)
_NUMBER = re.compile(r"\d+")


def text_bands(texts: Sequence[str]) -> np.ndarray:
    """Return (rows, 4) band values, equal in a column for texts that share a band."""
    values, starts = _pieces(texts, _LONGEST)
    bands = np.zeros((len(texts), BANDS), dtype=np.uint64)
    for number in range(BANDS * _HASHES):
        hashed = (values * _MULTIPLIERS[number]) >> np.uint64(32)
        band = number // _HASHES
        bands[:, band] = (bands[:, band] ^ np.minimum.reduceat(hashed, starts)) * np.uint64(0x9E3779B97F4A7C15) + 1
    return bands


def candidate_pairs(among: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return (pairs, 2) distinct rows of ``among`` and ``of`` that share a band, by row."""
    found = []
    for band in range(BANDS):
        order = np.argsort(of[:, band], kind="stable")
        values = of[order, band]
        low = np.searchsorted(values, among[:, band], "left")
        counts = np.minimum(np.searchsorted(values, among[:, band], "right") - low, _MOST_CANDIDATES)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(np.arange(len(among)), counts)
        found.append(np.stack([rows, order[np.repeat(low, counts) + offsets]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def are_near(one: str, other: str) -> bool:
    """Say whether two texts share nine tenths of their pieces, and every number."""
    lengths = sorted((len(one), len(other)))
    if lengths[0] < 0.85 * lengths[1] or _NUMBER.findall(one) != _NUMBER.findall(other):
        return False
    first, second = (set(_pieces([text], _LONGEST_COMPARED)[0].tolist()) for text in (one, other))
    return len(first & second) >= _LEAST_SHARED * len(first | second)


def _pieces(texts: Sequence[str], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pieces of all texts as mixed 64-bit values, and where each text's begin.

    Every text has pieces that reach beyond its ends, so that the first letter counts as much as any other.
    """
    ends = bytes(_PIECE - 1)
    encoded = [ends + text.encode("utf-8", "surrogatepass")[:longest] + ends for text in texts]
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.uint64)
    windows = len(data) - _PIECE + 1
    values = np.zeros(windows, dtype=np.uint64)
    for offset in range(_PIECE):
        values = (values << np.uint64(8)) | data[offset : offset + windows]
    counts = np.array([len(text) - _PIECE + 1 for text in encoded], dtype=np.int64)
    starts = np.cumsum(counts) - counts
    within = np.arange(counts.sum()) + np.repeat(np.arange(len(texts)) * (_PIECE - 1), counts)  # none across two texts
    mixed = values[within] * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    return mixed * np.uint64(0x94D049BB133111EB) ^ (mixed >> np.uint64(32)), starts
