"""The error that a user can mend, and the nearest valid name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user can put right: the message says what, where, and what to do.

    The command line prints the message alone and exits with code 2.
    """


class ProcessError(UserError):
    """What one process of several may have met alone: each says it for itself."""


class UnsolvableHeadError(UserError):
    """The head of a model is no linear layer on one vector for each example, so there is none to be solved."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} Train it instead: --strategy full.")
        self.reason = reason


class RunInterrupted(KeyboardInterrupt):
    """A run was interrupted after a checkpoint had been written: ``checkpoint`` is its path."""

    def __init__(self, checkpoint: str) -> None:
        super().__init__(f"interrupted; the checkpoint {checkpoint} stays, and the same command with --resume goes on.")
        self.checkpoint = checkpoint


def one_line(error: object) -> str:
    """Return the message of an error of another library on one line."""
    return " ".join(str(error).split())


def nearest(name: object, valid: Iterable[object]) -> str:
    """Return ``" Did you mean 'x'?"`` for the valid name closest to ``name``, or an empty string."""
    names = {str(item).lower(): str(item) for item in valid}
    matches = difflib.get_close_matches(str(name).lower(), list(names), n=1, cutoff=0.6)
    return f" Did you mean '{names[matches[0]]}'?" if matches else ""


def listed(items: Iterable[object], most: int = 8) -> str:
    """Join ``items`` with commas; beyond ``most`` the rest is counted."""
    everything = list(items)
    shown = ", ".join(str(item) for item in everything[:most])
    return shown if len(everything) <= most else f"{shown} and {len(everything) - most} more"
