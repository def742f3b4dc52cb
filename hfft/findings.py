"""Findings: what is wrong or odd about data, and what was decided on the way.

A run and ``hfft check`` are two views of one list. A run stops at the first error, ``hfft check`` collects them all:
what an error is about is then left out, and the rest is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hfft.errors import UserError

ERROR, WARNING, NOTE = "error", "warning", "note"

MOST_OFFENDERS = 20
"""Offenders that a finding names; its count is of all."""


@dataclass(frozen=True)
class Offender:
    """An example (file or row) and what is the matter with it."""

    reference: str
    reason: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        check: what was looked for, in two or three words.
        severity: ``error`` (a run refuses the data), ``warning``, or ``note`` (a decision).
        message: a sentence for people.
        split: where, if it is in one split.
        count: how many examples (or classes, or groups) it is about.
        offenders: the first of them.
    """

    check: str
    severity: str
    message: str
    split: str | None = None
    count: int = 0
    offenders: tuple[Offender, ...] = ()


@dataclass
class Findings:
    """The findings about a data set, and every example that was left out.

    Attributes:
        collect: go on after an error; without it an error is raised as a :class:`UserError`.
        items: in the order in which they were found.
        left_out: (split, reference) -> why.
    """

    collect: bool = False
    items: list[Finding] = field(default_factory=list)
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(
        self,
        severity: str,
        check: str,
        message: str,
        split: str | None = None,
        count: int = 0,
        offenders: Iterable[Offender] = (),
    ) -> None:
        """Add a finding; an error is raised unless they are collected."""
        if severity == ERROR and not self.collect:
            raise UserError(message)
        first = tuple(offender for offender, _ in zip(offenders, range(MOST_OFFENDERS), strict=False))
        self.items.append(Finding(check, severity, message, split, count, first))

    @contextmanager
    def catching(self, check: str, split: str | None = None) -> Iterator[None]:
        """Make a finding of an error about the data; one that names another flag than ``--data`` is about the flag."""
        try:
            yield
        except UserError as error:
            message = str(error)
            if not self.collect or (message.startswith("--") and not message.startswith("--data")):
                raise
            self.add(ERROR, check, message, split)

    def leave_out(self, split: str, offenders: Iterable[Offender]) -> None:
        """Record examples that no split keeps; what is left out for two reasons has both."""
        for offender in offenders:
            place = (split, offender.reference)
            before = f"{self.left_out[place]}; " if place in self.left_out else ""
            self.left_out[place] = before + offender.reason

    @property
    def refused(self) -> bool:
        """Whether a run would refuse the data."""
        return any(finding.severity == ERROR for finding in self.items)

    def messages(self) -> list[str]:
        """Return a sentence for each finding."""
        return [finding.message for finding in self.items]

    def report(self) -> dict[str, Any]:
        """Return what was found as JSON knows it: ``refused``, ``findings`` and all of ``left_out``."""
        return {
            "refused": self.refused,
            "findings": [asdict(finding) for finding in self.items],
            "left_out": [
                {"split": split, "reference": reference, "reason": reason}
                for (split, reference), reason in self.left_out.items()
            ],
        }


def reference_text(value: Any) -> str:
    """Return how a person finds an example: the path of a file, or ``row 17`` of a table."""
    return f"row {value}" if isinstance(value, int | np.integer) else str(value)
