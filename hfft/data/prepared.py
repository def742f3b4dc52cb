"""Examples whose first stage of encoding is computed once, and read back from then on."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import get_worker_info

from hfft.data.inspecting import Track
from hfft.data.shards import Shard
from hfft.data.split_names import LABEL
from hfft.storage.caching import Arrays, Cache, content_key
from hfft.storage.ragged import RaggedArray, RaggedWriter
from hfft.task import Encoder, Prepared, StagedEncoder

if TYPE_CHECKING:
    from datasets import Dataset

_CHUNK = 256  # examples prepared at a time
_SHARD = 256_000_000  # bytes of an entry of the cache, about


def encoded(
    split: Dataset,
    encoder: Encoder | StagedEncoder,
    cache: Cache | None,
    seed: int,
    track: Track | None = None,
    labels: Sequence[Any] | None = None,
) -> Any:
    """Return a data set of model inputs: prepared once where the encoder has stages, else encoded each time.

    Args:
        split: raw examples.
        encoder: what makes model inputs of them.
        cache: where what is prepared is kept.
        seed: of the random views.
        track: shows the progress of preparing.
        labels: of each example, in the form that the loss is computed from (default: as they stand in the split).
    """
    if isinstance(encoder, StagedEncoder):
        return PreparedDataset(split, encoder, cache, seed, track, labels)
    if labels is not None:
        unlabelled = split.remove_columns(LABEL) if LABEL in split.column_names else split
        split = unlabelled.add_column(LABEL, list(labels))
    return split.with_transform(encoder)


class PreparedDataset:
    """The model inputs of a split; what the encoder's first stage makes is kept in the cache, by content.

    What an example comes out as depends on the example, the seed and how often it was drawn, and neither on the
    process that draws it nor on what could be kept: index ``view * len + row`` is another random view of ``row``.

    Attributes:
        lengths: of each example, or ``None`` where the encoder pads nothing.
        further_views: whether indices beyond the length are further views, and not the first one again.
    """

    def __init__(
        self,
        split: Dataset,
        encoder: StagedEncoder,
        cache: Cache | None,
        seed: int,
        track: Track | None = None,
        labels: Sequence[Any] | None = None,
    ) -> None:
        self._split, self._encoder, self._seed = split, encoder, seed
        if labels is None and LABEL in split.column_names:
            labels = split[LABEL]
        self._labels = None if labels is None else list(labels)
        self.further_views = encoder.random
        self._shards: list[Shard] = []
        self._places = np.full((len(split), 2), -1)  # shard and row in it
        if cache is not None and cache.budget > 0 and encoder.key is not None:
            self._keep(cache, track)
        if encoder.length_of is not None and (self._places < 0).any():
            self._keep_in_memory(track)
        self.lengths = self._lengths()

    def __len__(self) -> int:
        return len(self._split)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        view, row = divmod(int(index), len(self))
        seed = int(np.random.SeedSequence([self._seed, view, row]).generate_state(1, np.uint64)[0] >> 2)
        example = self._encoder.finish(self._prepared(row), seed)
        return example if self._labels is None else example | {"labels": self._labels[row]}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return a batch; in threads, unless this is a process that loads data beside others."""
        if self._encoder.threads and len(indices) > 1 and get_worker_info() is None:
            return list(_pool().map(self.__getitem__, indices))
        return [self[index] for index in indices]

    @property
    def kept(self) -> int:
        """How many examples need not be prepared again."""
        return int((self._places[:, 0] >= 0).sum())

    def _prepared(self, row: int) -> Prepared:
        shard, place = self._places[row].tolist()
        return self._shards[shard][place] if shard >= 0 else self._encoder.prepare(self._split[row : row + 1])[0]

    def _lengths(self) -> np.ndarray | None:
        if self._encoder.length_of is None:
            return None
        lengths = np.zeros(len(self), dtype=np.int64)
        for number, shard in enumerate(self._shards):
            here = self._places[:, 0] == number
            lengths[here] = shard.lengths(self._encoder.length_of)[self._places[here, 1]]
        return lengths

    def _keep(self, cache: Cache, track: Track | None) -> None:
        """Find what earlier runs have kept, and prepare and keep the rest as far as the budget goes."""
        digests = np.asarray(list(self._digests()), dtype="S16")
        prefix = f"{content_key(self._encoder.key)}-"
        for key in cache.entries(prefix):
            arrays = cache.open(key)
            if arrays is not None and self._place(digests, cache.root / key, arrays):
                cache.use(key)
        waiting = np.flatnonzero(self._places[:, 0] < 0)
        waiting = waiting[np.sort(np.unique(digests[waiting], return_index=True)[1])]  # copies once
        chunks: Iterable[np.ndarray] = np.split(waiting, range(_CHUNK, len(waiting), _CHUNK)) if len(waiting) else []
        if track is not None and len(waiting):
            chunks = track(chunks, -(-len(waiting) // _CHUNK), "Preparing")
        stream = _Stream(chunks)
        while stream.next_rows is not None:
            key = prefix + content_key(digests[waiting].tobytes(), len(self._shards), digests[stream.next_rows[0]])
            arrays = cache.arrays(key, lambda folder: self._fill(folder, stream, digests, cache.room()))
            if arrays is None or not self._place(digests, cache.root / key, arrays):
                return
            stream.skip(lambda rows: bool((self._places[rows, 0] >= 0).all()))  # another process has filled it

    def _digests(self) -> Iterator[bytes]:
        columns = [name for name in self._split.column_names if name != LABEL]
        for example in self._split.select_columns(columns):
            yield hashlib.blake2b(self._encoder.content(example), digest_size=16).digest()

    def _fill(self, folder: Path, stream: _Stream, digests: np.ndarray, room: int) -> None:
        """Write examples until the shard is full."""
        writers: dict[str, RaggedWriter] = {}
        rows, written, largest = [], 0, 0
        while stream.next_rows is not None and written + largest <= min(_SHARD, room):
            chunk = stream.take()
            before = written
            for prepared in self._encoder.prepare(self._split[chunk]):
                for name, array in prepared.items():
                    if name not in writers:
                        writers[name] = RaggedWriter(folder, name, array.dtype)
                    writers[name].append(array)
                    written += array.nbytes
            largest = max(largest, written - before)
            rows.append(chunk)
        for writer in writers.values():
            writer.close()
        np.save(folder / "digests.npy", digests[np.concatenate(rows)].view(np.uint8).reshape(-1, 16))

    def _place(self, digests: np.ndarray, folder: Path, arrays: Arrays) -> bool:
        """Point the rows that the shard holds at it; say whether there are any."""
        kept = np.ascontiguousarray(arrays.pop("digests")).view("S16").ravel()
        order = np.argsort(kept, kind="stable")
        at = np.minimum(np.searchsorted(kept, digests, sorter=order), len(kept) - 1)
        here = (kept[order[at]] == digests) & (self._places[:, 0] < 0)
        if here.any():
            self._places[here, 0], self._places[here, 1] = len(self._shards), order[at][here]
            self._shards.append(Shard.of_entry(folder, arrays))
        return bool(here.any())

    def _keep_in_memory(self, track: Track | None) -> None:
        waiting = np.flatnonzero(self._places[:, 0] < 0)
        prepared: list[Prepared] = []
        starts: Iterable[int] = range(0, len(waiting), _CHUNK)
        if track is not None:
            starts = track(starts, -(-len(waiting) // _CHUNK), "Preparing")
        for start in starts:
            prepared += self._encoder.prepare(self._split[waiting[start : start + _CHUNK]])
        self._places[waiting, 0], self._places[waiting, 1] = len(self._shards), np.arange(len(waiting))
        columns = {name: RaggedArray.of([example[name] for example in prepared]) for name in prepared[0]}
        self._shards.append(Shard(columns))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


class _Stream:
    """Chunks of rows that are still to be prepared."""

    def __init__(self, chunks: Iterable[np.ndarray]) -> None:
        self._chunks = iter(chunks)
        self.next_rows = next(self._chunks, None)

    def take(self) -> np.ndarray:
        assert self.next_rows is not None
        rows, self.next_rows = self.next_rows, next(self._chunks, None)
        return rows

    def skip(self, done: Callable[[np.ndarray], bool]) -> None:
        while self.next_rows is not None and done(self.next_rows):
            self.take()
