"""Python's garbage collector, beside many runs in one process."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def libraries_out_of_the_collector() -> Iterator[None]:
    """Set aside what is there by now, unless the program has done so: to look through it takes as long as a head."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
