"""What was seen of a data set, kept on disk under a digest of the inputs' content and of the code that looked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

    from hfft.data.inspecting import Inspected

_MOST_BYTES = 1_000_000_000  # on disk; the oldest go first


def content_digest(split: Dataset, task: Task) -> str:
    """Return a name for the inputs of a split: of their cells, the content of the files they name, the task's code."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _code(task):
        digest.update(part)
    for table in split.with_format("arrow").iter(batch_size=10_000):
        for batch in table.to_batches():
            digest.update(batch.serialize())
    if task.file_suffixes:
        column = task.inputs[0].role
        with ThreadPoolExecutor() as pool:
            for rows in split.select_columns([column]).iter(batch_size=1000):
                for content in pool.map(_file_digest, rows[column]):
                    digest.update(content)
    return digest.hexdigest()


def _file_digest(cell: Any) -> bytes:
    if isinstance(cell, dict):
        cell = cell.get("path") if cell.get("bytes") is None else None
    with contextlib.suppress(OSError, ValueError):
        if isinstance(cell, str) and Path(cell).is_file():  # a device or a pipe may never end
            with Path(cell).open("rb") as file:
                return hashlib.file_digest(file, "blake2b").digest()
    return b"-"


def _code(task: Task) -> Iterator[bytes]:
    """What an inspection depends on beside the inputs; code without a file, as in a notebook, is new each time."""
    yield f"{version('hfft')} {version('pillow')} {np.__version__} {task.name} {type(task).__qualname__}".encode()
    for name in ("inspecting.py", "shingles.py"):
        yield Path(__file__).with_name(name).read_bytes()
    for kind in takewhile(lambda kind: kind is not Task, type(task).__mro__):
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if file is None:
            yield os.urandom(16)
        else:
            yield from (path.read_bytes() for path in sorted(Path(file).parent.glob("*.py")))


def recall(digest: str, cache_dir: str | None) -> Inspected | None:
    """Return what was seen, or ``None``; a file that cannot be read was never there."""
    from hfft.data.inspecting import Inspected

    file = _folder(cache_dir) / f"{digest}.npz"
    try:
        with np.load(file, allow_pickle=False) as kept:
            told = json.loads(kept["told"].tobytes())
            return Inspected(
                kept["exact"],
                kept["loose"],
                kept.get("sketches"),
                kept["banded"],
                kept["bands"],
                {int(row): problem for row, problem in told["problems"].items()},
                told["remarks"],
            )
    except Exception:  # missing, cut short, or of another make
        return None


def remember(digest: str, found: Inspected, cache_dir: str | None) -> None:
    """Keep what was seen; where nothing can be written it is looked at again next time."""
    folder = _folder(cache_dir)
    told = json.dumps({"problems": found.problems, "remarks": found.remarks}).encode()
    arrays = {"exact": found.exact, "loose": found.loose, "banded": found.banded, "bands": found.bands}
    if found.sketches is not None:
        arrays["sketches"] = found.sketches
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{digest}.{os.getpid()}.npz"
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, told=np.frombuffer(told, np.uint8), **arrays)
        partial.replace(folder / f"{digest}.npz")
        _make_room(folder)


def _make_room(folder: Path) -> None:
    files = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > _MOST_BYTES and path != files[0]:
            path.unlink(missing_ok=True)


def _folder(cache_dir: str | None) -> Path:
    import datasets.config

    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "hfft-inspections"
