"""Processes of a launcher that work apart: each is the only one of its own world, and they tell what is done."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass
class Ranks:
    """The processes of a launcher, each of which works by itself.

    Attributes:
        rank, size: which one of how many.
        store: where they tell each other what is done.
    """

    rank: int = 0
    size: int = 1
    store: Any = field(default=None, repr=False)

    def tell(self, key: str) -> None:
        """Let the others know that something is done."""
        if self.store is not None:
            self.store.set(key, b"1")

    def wait_for(self, *keys: str) -> None:
        """Wait until all of this has been told."""
        if self.store is not None:  # a process that dies takes the others with it: the launcher sees to that
            self.store.wait(list(keys), datetime.timedelta(days=30))


@contextlib.contextmanager
def apart() -> Iterator[Ranks]:
    """Make this process one of its own for the time: what the launcher set is kept for :class:`Ranks` alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    import torch
    from torch.distributed import rendezvous

    store, rank, size = next(rendezvous("env://"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    # each its own device, as the only one that it sees; asked for the count, torch does not open the driver, which
    # reads the variable once
    devices = os.environ.get(_DEVICES, ",".join(map(str, range(torch.cuda.device_count()))))
    if devices:
        before |= {_DEVICES: devices} if _DEVICES in os.environ else {}
        os.environ[_DEVICES] = devices.split(",")[local % len(devices.split(","))]
    try:
        yield Ranks(rank, size, store)
    finally:
        os.environ.pop(_DEVICES, None)
        os.environ.update(before)
