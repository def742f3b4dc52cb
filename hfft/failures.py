"""What breaks off a run from outside, a memory, a process or a disk, told in a sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from hfft.errors import ProcessError, UserError

_IN_WORKER = "in DataLoader worker process"
_RESUME = "the same command with --resume goes on from the newest checkpoint"


@contextlib.contextmanager
def computing(advice: str) -> Iterator[None]:
    """Raise :class:`UserError` where the memory is too small, with the advice, and where a loading process died.

    What such a process found wrong in an input is raised as it would have been in this one.
    """
    try:
        yield
    except UserError as error:
        text = str(error)
        if _IN_WORKER not in text:
            raise
        # torch puts the traceback into the message
        raise UserError(text.rstrip().rpartition(f"{UserError.__name__}: ")[2]) from error
    except RuntimeError as error:
        if _is_of_memory(error):
            raise ProcessError(f"The memory of the device is too small. {advice}") from error
        if "DataLoader worker" not in str(error):
            raise
        death = str(error.__cause__ or error).strip().partition(") is ")[2] or "it left."
        raise ProcessError(
            f"A process that loads data died: {death} Often the memory is too small for so many of them: lower "
            f"--dataloader_num_workers (0 loads in threads). In training, {_RESUME}."
        ) from error


@contextlib.contextmanager
def writing_output(path: Path) -> Iterator[None]:
    """Raise :class:`UserError` where the file or folder that ``--output`` names cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(f"--output: '{path}' cannot be written: {_reason(error)}.") from error


def _is_of_memory(error: Exception) -> bool:
    from accelerate.utils.memory import should_reduce_batch_size  # imports torch, which a check does without

    return bool(should_reduce_batch_size(error))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())


@contextlib.contextmanager
def writing(folder: Path, what: str, *others: type[Exception]) -> Iterator[None]:
    """Raise :class:`UserError` where something cannot be written to a run's folder: a full disk, one taken away.

    Args:
        folder: the output folder.
        what: is written.
        *others: what the writing library raises beside ``OSError``.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, SafetensorError, *others)) or _is_of_memory(error):
            raise
        raise ProcessError(
            f"--output_dir: {what} cannot be written to '{folder}': {_reason(error)}. What was saved before stays; "
            f"once it can, {_RESUME}."
        ) from error
