"""A stopwatch around functions of hfft, for comparisons of phases."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from comparison import since_start


class Stopwatch:
    """Adds up the seconds that functions take.

    Attributes:
        seconds: of all calls so far.
        first: seconds from the start of the process to the first call.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.first = 0.0

    @contextlib.contextmanager
    def around(self, *functions: tuple[Any, str]) -> Iterator[None]:
        """Time functions of modules and methods of classes, each (owner, name), in this context."""
        with contextlib.ExitStack() as stack:
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, self._timed(getattr(owner, name))))
            yield

    def _timed(self, function: Any) -> Any:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.first = self.first or since_start()
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed
