"""A look at every input before anything is trained: in batches, over all cores, remembered by content."""

from __future__ import annotations

import dataclasses
import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.data.inspection_cache import content_digest, recall, remember
from hfft.data.shingles import BANDS, MOST_SHINGLED, text_bands
from hfft.task import SKETCH, Inspection, Task

if TYPE_CHECKING:
    from datasets import Dataset

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Shows the progress of an iterable: (items, how many, what is done)."""

_BATCH = 64  # pictures take milliseconds each; a small batch keeps the bar moving
_LARGE_BATCH = 500
_SLOW = 0.5  # seconds beyond which it is worth remembering what was seen


@dataclass
class Inspected:
    """What was seen of the rows of a split, as arrays.

    Attributes:
        exact: (rows,) uint64, equal for inputs that are the same bit for bit; 0 for none.
        loose: (rows,) uint64, equal for texts that are the same but for case, blanks and punctuation.
        sketches: (rows, 16, 16, 3) uint8, or ``None`` where the inputs are no pictures.
        banded: (some,) the rows, sorted, among which near copies of texts are looked for.
        bands: (some, 4) uint64 of their texts.
        problems: row -> why the example cannot be used.
        remarks: what is odd -> rows.
        read_texts: returns the texts of some of the rows that were looked at, which ``places`` tells of these.
        places: (rows,) where these rows stand among those, ``None`` for all of them.
    """

    exact: np.ndarray
    loose: np.ndarray
    sketches: np.ndarray | None = None
    banded: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    bands: np.ndarray = field(default_factory=lambda: np.zeros((0, BANDS), dtype=np.uint64))
    problems: dict[int, str] = field(default_factory=dict)
    remarks: dict[str, list[int]] = field(default_factory=dict)
    read_texts: Callable[[np.ndarray], list[str]] = field(default=lambda rows: [""] * len(rows), compare=False)
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.exact)

    def texts(self, rows: np.ndarray) -> list[str]:
        """Return the texts of some rows, for those that have to be compared."""
        return self.read_texts(rows if self.places is None else self.places[rows])

    def select(self, rows: np.ndarray) -> Inspected:
        """Return those of some sorted rows, without their problems and remarks, which have been told by then."""
        if len(rows) == len(self):
            return dataclasses.replace(self, problems={}, remarks={})
        at = np.minimum(np.searchsorted(rows, self.banded), max(0, len(rows) - 1))
        kept = rows[at] == self.banded if len(rows) else np.zeros(len(at), dtype=bool)
        return Inspected(
            self.exact[rows],
            self.loose[rows],
            None if self.sketches is None else self.sketches[rows],
            at[kept],
            self.bands[kept],
            read_texts=self.read_texts,
            places=rows if self.places is None else self.places[rows],
        )


def inspect_split(split: Dataset, task: Task, what: str, track: Track | None, cache_dir: str | None) -> Inspected:
    """Look at every row of a split that has the task's input columns and no other."""
    digest = content_digest(split, task)
    found = recall(digest, cache_dir)
    if found is None:
        started = time.monotonic()
        found = _look(split, task, what, track)
        if time.monotonic() - started > _SLOW:
            remember(digest, found, cache_dir)
    else:
        for _ in track(repeat(None, len(split)), len(split), what) if track is not None else ():
            pass

    def texts(rows: np.ndarray) -> list[str]:
        return [look.text or "" for look in task.inspect_batch(split[rows.tolist()])]

    found.read_texts = texts
    return found


def _look(split: Dataset, task: Task, what: str, track: Track | None) -> Inspected:
    size = _BATCH if task.file_suffixes else _LARGE_BATCH
    sampled = np.ones(len(split), dtype=bool)
    if len(split) > MOST_SHINGLED:
        sampled[:] = False
        sampled[np.random.default_rng(0).choice(len(split), MOST_SHINGLED, replace=False)] = True

    def look(start: int) -> Inspected:
        return pack(task.inspect_batch(split[start : start + size]), sampled[start : start + size])

    def batches() -> Iterator[None]:
        starts = range(0, len(split), size)
        # a task that silences warnings in several threads at once would leave the filters changed for good
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            for start, part in zip(starts, pool.map(look, starts), strict=True):
                _put(part, start, found)
                banded.append(part.banded + start)
                bands.append(part.bands)
                yield from repeat(None, len(part))

    # filled as they come: small parts of ten million rows, kept until they are joined, take twice the memory
    found = Inspected(np.zeros(len(split), dtype=np.uint64), np.zeros(len(split), dtype=np.uint64))
    banded, bands = [found.banded], [found.bands]
    for _ in track(batches(), len(split), what) if track is not None else batches():
        pass
    found.banded, found.bands = np.concatenate(banded), np.concatenate(bands)
    return found


def pack(looks: list[Inspection], sampled: np.ndarray) -> Inspected:
    """Put what was seen row by row into arrays; ``sampled`` says of which texts near copies are looked for."""
    exact = np.array([_number(look.key) for look in looks], dtype=np.uint64)
    loose = np.array([_number(None if look.text is None else _bytes(look.text)) for look in looks], dtype=np.uint64)
    found = Inspected(exact, np.where(loose == 0, exact, loose))
    if any(look.sketch is not None for look in looks):
        nothing = np.zeros((SKETCH, SKETCH, 3), dtype=np.uint8)
        found.sketches = np.stack([nothing if look.sketch is None else look.sketch for look in looks])
    if any(look.text is not None for look in looks):
        found.banded = np.array([row for row in np.flatnonzero(sampled) if looks[row].text], dtype=np.int64)
        if len(found.banded):
            found.bands = text_bands([looks[row].text or "" for row in found.banded])
    for row, look in enumerate(looks):
        if look.problem is not None:
            found.problems[row] = look.problem
        elif look.remark is not None:
            found.remarks.setdefault(look.remark, []).append(row)
    return found


def _put(part: Inspected, start: int, found: Inspected) -> None:
    """Put what was seen of some rows where they stand; rows that could not be read have a sketch of nothing."""
    rows = slice(start, start + len(part))
    found.exact[rows], found.loose[rows] = part.exact, part.loose
    if part.sketches is not None:
        if found.sketches is None:
            found.sketches = np.zeros((len(found), *part.sketches.shape[1:]), dtype=np.uint8)
        found.sketches[rows] = part.sketches
    found.problems |= {row + start: problem for row, problem in part.problems.items()}
    for remark, remarked in part.remarks.items():
        found.remarks.setdefault(remark, []).extend(row + start for row in remarked)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _number(key: bytes | None) -> int:
    """Return 64 bits of a key, 0 for none: among ten million keys two meet by chance once in 300,000 data sets."""
    return 0 if key is None else int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") or 1
