"""Arrays that are costly to make, kept on disk under a key of all that they depend on, within a budget.

An entry is a folder of ``.npy`` files, read as memory maps and never as pickles; the maps are private, so that what is
written to them stays in the process and never reaches the file. An entry is filled beside its place and
renamed into it, so that no reader ever sees half of one; of several processes that want the same entry one fills it
and the others wait. A folder that cannot be written, a full disk and an entry above the budget are no errors: the
caller computes without the cache, and :attr:`Cache.note` says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

Arrays = dict[str, np.ndarray]
"""File name without suffix -> private memory map."""

_HALF_WRITTEN = "."  # what the name of an entry begins with while it is filled
_ABANDONED = 24 * 3600  # seconds after which nobody fills it any more


class Cache:
    """Entries below one folder, together at most ``budget`` bytes; above it the longest unused are deleted.

    Attributes:
        note: why something could not be kept, as a sentence; ``None`` where everything could.
    """

    def __init__(self, root: str | Path, budget: int) -> None:
        self.root = Path(root)
        self.budget = budget
        self.note: str | None = None
        self._used: set[str] = set()  # by this run, which would only fill them again

    def array(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what ``make`` returns: from the cache, or made now, and kept if that can be done."""
        made: list[np.ndarray] = []

        def fill(folder: Path) -> None:
            made.append(make())
            np.save(folder / "array.npy", made[0], allow_pickle=False)

        arrays = self.arrays(key, fill)
        if arrays is not None:
            return arrays["array"]
        return made[0] if made else make()

    def arrays(self, key: str, fill: Callable[[Path], None], size: int = 0) -> Arrays | None:
        """Return the entry of this key, filled first where it is missing; ``None`` where it cannot be kept.

        Args:
            key: of content alone, fit for a file name; see :func:`content_key`.
            fill: writes ``.npy`` files into the folder that it is given. What it raises goes through, except
                ``OSError``.
            size: bytes that it is going to write at least: what will not fit is not begun.
        """
        try:
            if (found := self._open(key)) is not None:
                return found
            if self._held() + size > self.budget:
                raise OSError(f"the budget of {self.budget / 1e9:g} GB is used up")
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / "locks" / key):
                if (found := self._open(key)) is not None:  # another process has filled it meanwhile
                    return found
                return self._fill(key, fill)
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            reason = getattr(error, "strerror", None) or str(error)
            self.note = f"Not everything is kept in '{self.root}' for the next time ({reason})."
            return None

    def entries(self, prefix: str = "") -> list[str]:
        """Return the keys of what is kept, the oldest use first."""
        kept = {path.name: _used_at(path) for path in self._folders() if path.name.startswith(prefix)}
        return sorted((key for key in kept if not key.startswith(_HALF_WRITTEN)), key=lambda key: (kept[key], key))

    def open(self, key: str) -> Arrays | None:
        """Return the entry of this key, or ``None``; it may be evicted until :meth:`use` is called."""
        folder = self.root / key
        if not folder.is_dir():
            return None
        try:
            return {path.stem: _read(path) for path in sorted(folder.glob("*.npy"))}
        except (OSError, ValueError):  # evicted by another process just now, or damaged
            shutil.rmtree(folder, ignore_errors=True)
            return None

    def use(self, key: str) -> None:
        """Keep the entry from being evicted by this run, and make it the last to be evicted by others."""
        self._used.add(key)
        with contextlib.suppress(OSError):  # a cache that is only read
            os.utime(self.root / key)

    def room(self) -> int:
        """Return the bytes that this run may still fill."""
        return max(0, self.budget - self._held())

    def _open(self, key: str) -> Arrays | None:
        arrays = self.open(key)
        if arrays is not None:
            self.use(key)
        return arrays

    def _fill(self, key: str, fill: Callable[[Path], None]) -> Arrays | None:
        unfinished = self.root / f"{_HALF_WRITTEN}{key}"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed: the lock is ours
        unfinished.mkdir()
        try:
            fill(unfinished)
            if self._held() + _size(unfinished) > self.budget:
                raise OSError(f"the budget of {self.budget / 1e9:g} GB is used up")
            unfinished.replace(self.root / key)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        arrays = self._open(key)
        self._evict()
        return arrays

    def _held(self) -> int:
        """Return the bytes of what this run uses, which is not evicted for its sake."""
        return sum(_size(self.root / key) for key in self._used)

    def _evict(self) -> None:
        sizes = {path: _size(path) for path in self._folders()}
        total = sum(sizes.values())
        for path in sorted(sizes, key=_used_at):
            if total <= self.budget:
                return
            in_work = path.name.startswith(_HALF_WRITTEN) and time.time() - _used_at(path) < _ABANDONED
            if path.name in self._used or in_work:
                continue
            shutil.rmtree(path, ignore_errors=True)  # memory maps of other processes stay valid until they are closed
            (self.root / "locks" / path.name).unlink(missing_ok=True)
            total -= sizes[path]

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [path for path in self.root.iterdir() if path.name != "locks" and path.is_dir()]


def content_key(*parts: bytes | str | int | float | None) -> str:
    """Return a digest of the parts, in this order: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        told = part if isinstance(part, bytes) else repr(part).encode("utf-8", "surrogatepass")
        digest.update(f"{type(part).__name__}{len(told)}:".encode() + told)
    return digest.hexdigest()


def cache_folder(cache_dir: str | None) -> Path:
    """Return where kept arrays live: ``hfft`` in the folder for converted data, by default the datasets library's."""
    if cache_dir is None:
        from datasets import config

        cache_dir = str(config.HF_DATASETS_CACHE)
    return Path(cache_dir).expanduser() / "hfft"


def _read(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError:  # nothing to map in an array without elements
        array = np.load(path, allow_pickle=False)
        if array.size:
            raise
        return array


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:  # evicted by another process just now
        return 0


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
