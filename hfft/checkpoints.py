"""Checkpoints that are whole or not there: sealed when all is written, and verified before anything goes on from them.

A checkpoint is written to a folder beside, sealed with the digest of each of its files, and renamed. A process that is
killed at any moment leaves the checkpoints before as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

SEAL = "checkpoint.json"
UNFINISHED = ".unfinished"  # the folder beside, in the run's own


def seal(folder: Path) -> None:
    """Put all files of a checkpoint on the disk for good, and write down their digests."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digests[path.relative_to(folder).as_posix()] = _digest(path)
        _sync(path)
    (folder / SEAL).write_text(json.dumps(digests, indent=1), "utf-8")
    _sync(folder / SEAL)


def finish(beside: Path, checkpoint: Path) -> None:
    """Seal what was written beside, and give it its name; what had the name was damaged, or is trained anew."""
    seal(beside)
    shutil.rmtree(checkpoint, ignore_errors=True)
    beside.replace(checkpoint)
    shutil.rmtree(beside.parent, ignore_errors=True)


def fault_of(checkpoint: Path) -> str | None:
    """Return why nothing can go on from a checkpoint, as a clause, or ``None``."""
    try:
        digests = json.loads((checkpoint / SEAL).read_text("utf-8"))
        for name, digest in digests.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if _digest(checkpoint / name) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError, AttributeError):
        return "it was not finished"
    return None


def newest_whole(folder: Path) -> tuple[str | None, list[str]]:
    """Return the newest checkpoint of a run that is whole, together with the best one it names; and why others are not.

    Returns:
        its path or ``None``, and a clause for each newer one.
    """
    skipped: list[str] = []
    steps = {path: path.name.rpartition("-")[2] for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    numbered = [path for path, step in steps.items() if step.isdecimal()]
    for checkpoint in sorted(numbered, key=lambda path: -int(steps[path])):
        fault = fault_of(checkpoint) or _fault_of_best(checkpoint)
        if fault is None:
            return str(checkpoint), skipped
        skipped.append(f"{checkpoint.name} ({fault})")
    return None, skipped


def _fault_of_best(checkpoint: Path) -> str | None:
    """Return what is wrong with the best checkpoint so far, which a run needs at its end."""
    named = json.loads((checkpoint / TRAINER_STATE_NAME).read_text("utf-8")).get("best_model_checkpoint")
    best = checkpoint.parent / Path(named).name if named else checkpoint
    fault = None if best == checkpoint else fault_of(best)
    return None if fault is None else f"of the best one so far, {best.name}, {fault}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
