"""Activations: what frozen modules give for each example of a data set, computed in one pass and kept on disk.

Texts are kept without their padding. An entry of the cache holds one module's output for a stretch of examples, each
under a digest of its encoded inputs, so that other splits of the same data, later runs and other processes find what
is there and record what is not.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hfft.features.cuts import Cut, Inputs
from hfft.features.recording import joined, outputs_at, rows_of
from hfft.storage.caching import Arrays, Cache, content_key
from hfft.storage.ragged import RaggedWriter
from hfft.training.rows import TARGETS, fetch

Collate = Callable[[list[Any]], Inputs]
"""Encoded examples -> a batch without labels, on the device of the model."""

_STRETCH = 1024  # examples of an entry
_STRETCH_BYTES = 64e6  # of encoded inputs, which are held in memory while they are recorded


class Activations:
    """The outputs at the cuts of one model for one data set.

    Args:
        cache: where they are kept.
        data: of encoded examples, always the same for the same index.
        collate: makes batches of them.
        batch_size: of the recording pass.
        first_stretch: where to begin: processes that record together begin at different places.
    """

    def __init__(
        self, cache: Cache, data: Any, collate: Collate, batch_size: int, first_stretch: tuple[int, int] = (0, 1)
    ) -> None:
        self._cache, self._data, self._collate, self._batch_size = cache, data, collate, batch_size
        self._first_stretch = first_stretch
        self._kept: dict[str, _Kept] = {}

    def record(self, model: nn.Module, cuts: dict[str, Cut]) -> set[str]:
        """Find or compute the outputs at all cuts in one pass; return the keys of those that are complete now.

        Args:
            model: in the modes of a training step; frozen below all cuts.
            cuts: by a key of all that their outputs depend on beside the example; the lowest first.

        Raises :class:`CannotCutError` where an example's output has another shape than the cut says.
        """
        self._kept = {key: _Kept(self._cache, key, cut, len(self._data)) for key, cut in cuts.items()}
        for stretch in self._stretches():
            examples = fetch(self._data, stretch)
            digests = [_digest(example) for example in examples]
            found = [kept.place(stretch, digests) for kept in self._kept.values()]
            if not all(found):
                here = [all(kept.places[row, 0] >= 0 for kept in self._kept.values()) for row in stretch]
                pairs = zip(digests, examples, here, strict=True)
                self._record_stretch(model, {digest: example for digest, example, is_here in pairs if not is_here})
                # what found no room is of no use for some rows alone
                self._kept = {key: kept for key, kept in self._kept.items() if kept.place(stretch, digests)}
            if not self._kept:
                break
        return set(self._kept)

    def read(self, key: str, rows: Sequence[int], inputs: Inputs) -> torch.Tensor:
        """Return the output at a cut for the rows of a batch, padded as the batch is."""
        kept = self._kept[key]
        return joined(kept.cut, kept.read(rows), inputs)

    def _stretches(self) -> Iterator[list[int]]:
        rows = len(self._data)
        one = sum(value.nbytes for value in _arrays(self._data[0]).values())
        size = int(min(_STRETCH, max(self._batch_size, _STRETCH_BYTES // max(1, one))))
        starts = list(range(0, rows, size))
        rank, ranks = self._first_stretch
        first = len(starts) * rank // ranks
        for start in starts[first:] + starts[:first]:
            yield list(range(start, min(start + size, rows)))

    def _record_stretch(self, model: nn.Module, missing: dict[bytes, Any]) -> None:
        """Fill one entry for each cut, all in one pass: each is opened inside the filling of the one before."""
        done = False

        def fill(waiting: list[str], folders: dict[str, Path]) -> None:
            nonlocal done
            if not waiting:
                if folders:
                    self._forward(model, missing, folders)
                done = True
                return
            key, *rest = waiting
            begun = False

            def fill_rest(folder: Path) -> None:
                nonlocal begun
                begun = True
                fill(rest, {**folders, key: folder})
                if not done:
                    raise OSError("the disk is full")

            entry = f"{key}-{content_key(*missing)}"
            self._kept[key].add(self._cache.arrays(entry, fill_rest))
            if not begun:  # it is there, or there is no room for it
                fill(rest, folders)

        fill(list(self._kept), {})

    def _forward(self, model: nn.Module, missing: dict[bytes, Any], folders: dict[str, Path]) -> None:
        digests = sorted(missing, key=lambda digest: length_of(missing[digest]))
        with ExitStack() as stack:
            writers = {key: stack.enter_context(_Writer(folder)) for key, folder in folders.items()}
            for start in range(0, len(digests), self._batch_size):
                inputs = self._collate([missing[digest] for digest in digests[start : start + self._batch_size]])
                outputs = outputs_at(model, [self._kept[key].cut for key in folders], inputs)
                for (key, writer), output in zip(writers.items(), outputs, strict=True):
                    for row in rows_of(self._kept[key].cut, output, inputs):
                        writer.append(row)
        table = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
        for folder in folders.values():
            np.save(folder / "digests.npy", table, allow_pickle=False)


class _Writer(RaggedWriter):
    """A writer that is closed also after an error; numbers that NumPy does not know are written as integers."""

    def __init__(self, folder: Path) -> None:
        self._place = folder
        self._opened = False

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._opened:
            self.close()

    def append(self, row: np.ndarray) -> None:
        """Add a row; the first one says of what type all are."""
        if not self._opened:
            super().__init__(self._place, "values", row.dtype)
            self._opened = True
        super().append(row)


class _Kept:
    """The output at one cut, and where it lies for each row: (rows, 2), entry and place in it, -1 where nowhere."""

    def __init__(self, cache: Cache, key: str, cut: Cut, rows: int) -> None:
        self.cut = cut
        self.places = np.full((rows, 2), -1, dtype=np.int64)
        self._entries: list[_Entry] = []
        for entry in cache.entries(f"{key}-"):
            self.add(cache.arrays(entry, _nothing))

    def add(self, arrays: Arrays | None) -> None:
        """Look into this entry as well."""
        if arrays is not None and {"values", "values_shapes", "digests"} <= arrays.keys():
            self._entries.append(_Entry(arrays))

    def place(self, rows: list[int], digests: list[bytes]) -> bool:
        """Note where the rows with these digests are; say whether all are somewhere."""
        for row, digest in zip(rows, digests, strict=True):
            holders = (number for number, entry in enumerate(self._entries) if digest in entry.rows)
            if self.places[row, 0] < 0 and (number := next(holders, None)) is not None:
                self.places[row] = number, self._entries[number].rows[digest]
        return bool((self.places[rows, 0] >= 0).all())

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the rows one after the other, (elements,)."""
        places = self.places[rows].tolist()
        values = np.concatenate([self._entries[number].row(place) for number, place in places])
        for number in {number for number, _ in places}:
            self._entries[number].let_go()
        return torch.from_numpy(values).view(self.cut.output.dtype)


class _Entry:
    """One entry of the cache."""

    def __init__(self, arrays: Arrays) -> None:
        self._map = arrays["values"].base
        self._values = arrays["values"].view(np.ndarray)  # slicing a memmap itself is slow
        self._ends = np.concatenate([[0], np.cumsum(np.asarray(arrays["values_shapes"]).prod(axis=1))])
        self.rows = {digest.tobytes(): place for place, digest in enumerate(np.asarray(arrays["digests"]))}

    def row(self, place: int) -> np.ndarray:
        """Return a row, (elements,)."""
        return self._values[self._ends[place] : self._ends[place + 1]]

    def let_go(self) -> None:
        """Give back the memory that was read into: the system has the file at hand as long as there is room."""
        if isinstance(self._map, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def without_targets(batch: Any) -> dict[str, Any]:
    """Return the model inputs of an example or a batch."""
    return {name: value for name, value in batch.items() if name not in TARGETS}


def _arrays(example: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in sorted(without_targets(example).items())}


def _digest(example: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in _arrays(example).items():
        digest.update(f"{name} {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.digest()


def length_of(example: Any) -> int:
    """Return the number of tokens of an encoded text, 0 of other examples."""
    mask = example.get("attention_mask")
    return 0 if mask is None else len(mask)


def _nothing(folder: Path) -> None:
    raise OSError("it is gone")
