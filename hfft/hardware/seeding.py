"""Random numbers that depend on a seed alone, whichever thread or process draws them."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch

_LOCK = threading.Lock()  # torch has one CPU generator for all threads


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch draw from ``seed`` on the CPU, and afterwards what it would have drawn without this block."""
    with _LOCK:
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(state)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Let Python, NumPy and torch draw afterwards what they would have drawn without this block."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
