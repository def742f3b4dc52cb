"""A layer group, and the names of those that are no block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

HEAD = "head"
STEM = "stem"
TRUNK = "trunk"


@dataclass(frozen=True)
class LayerGroup:
    """One step of the stack: a stem, a block, a transition, or the head, with the full names of its parameters."""

    name: str
    parameter_names: tuple[str, ...]


def common_module(names: Sequence[str]) -> str:
    """Return the deepest module path that holds all the parameters, without the parameter's own name."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
