"""What many trials in one process need: silence, and the memory of those that are over."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

from accelerate.utils.memory import clear_device_cache
from transformers.utils import logging


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what transformers tells of every model that it loads."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def free_memory() -> None:
    """Give back what a trial has held: a trainer and its model hold each other, and malloc keeps what it was given."""
    gc.collect()
    clear_device_cache()
    with contextlib.suppress(OSError, AttributeError):  # a system without glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
