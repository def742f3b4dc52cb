"""What copies mean: what is tested is kept out of training, and inputs that stand in the data twice are told of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hfft.data.copies import Copies, find_copies, find_repeats
from hfft.data.shingles import MOST_PAIRS, MOST_SHINGLED
from hfft.data.split_names import LABEL, REFERENCE
from hfft.errors import listed
from hfft.findings import ERROR, MOST_OFFENDERS, NOTE, WARNING, Offender, reference_text
from hfft.storage.arrays import other_rows, select_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from hfft.data.labelled import LabelledData

MOST_LEAKED = 0.03
"""Share of given test examples that may stand in train before the run is refused."""

_MOST_TOLD = 8  # in a sentence


def settle_leaks(data: LabelledData, given: set[str], on_problem: str) -> None:
    """Take copies of what is tested out of what is trained on, and of validation; refuse a test split full of them.

    Called before splits are drawn and after: what the first call settled between ``given`` splits stays settled.
    """
    drawn = bool(data.splits.keys() - given)
    for name, other in (("validation", "test"), ("train", "test"), ("train", "validation")):
        were_given = {name, other} <= given
        if {name, other} <= data.splits.keys() and not (drawn and were_given):
            copies = find_copies(among=data.inspected[name], of=data.inspected[other])
            if len(copies.rows):
                _settle(data, name, other, copies, were_given, on_problem)


def _settle(data: LabelledData, name: str, other: str, copies: Copies, were_given: bool, on_problem: str) -> None:
    split, held, findings = data.splits[name], data.splits[other], data.findings
    offenders = list(_pairs(split, held, copies, f"copy of {other}'s "))
    told = _told([f"{o.reference} of {o.reason.removeprefix('copy of ')}" for o in offenders], len(copies.rows))
    what = f"{_counted(copies, f'{name} examples are copies of {other} examples')} ({told})"

    def tell(severity: str, message: str) -> None:
        findings.add(severity, f"leak into {other}", message, name, len(copies.rows), offenders)

    leaked = len(np.unique(copies.originals))
    refused = were_given and (name, other) == ("train", "test") and on_problem == "error"
    refused = refused and leaked / len(held) > MOST_LEAKED
    if refused:
        tell(
            ERROR,
            f"--data: {leaked} of the {len(held)} test examples of '{data.origin}' stand in train as well, so the test "
            f"would measure memory: {what}. Take them out, or let --on_problem skip leave out the training copies.",
        )
    if on_problem == "warn":
        tell(WARNING, f"{what}: {other} metrics are too good.")
        return
    kept = other_rows(len(split), copies.rows)
    if lost := _newly_lost(data, name, kept):
        tell(
            ERROR,
            f"--data: every {name} example of {listed(lost)} in '{data.origin}' is a copy of a {other} example, so "
            "none would be left.",
        )
        return
    findings.leave_out(name, _pairs(split, held, copies, f"copy of {other}'s ", every=True))
    if not len(kept):
        del data.splits[name]
        data.drawn -= {name}
        tell(WARNING, f"every {name} example is a copy of a {other} example: there is no {name} split.")
        return
    data.splits[name], data.inspected[name] = select_rows(split, kept), data.inspected[name].select(kept)
    if not refused:
        tell(WARNING, f"{what} and were left out.")


def _newly_lost(data: LabelledData, name: str, kept: np.ndarray) -> list[str]:
    """Return the classes that train has now, and would not have with the ``kept`` rows alone."""
    if name != "train" or not data.target:
        return []
    labels = data.labels(name)
    before = set(data.target.lost(labels))
    return [each for each in data.target.lost(labels[kept]) if each not in before]


def tell_repeats(data: LabelledData, name: str) -> None:
    """Tell of inputs that stand in a split more than once, and of those with two labels."""
    split, inspected = data.splits[name], data.inspected[name]
    copies = find_repeats(inspected)
    what = "training" if name == "train" else name
    if len(copies.rows):
        offenders = list(_pairs(split, split, copies, "repeats "))
        told = _chains(split, copies)
        counted = _counted(copies, f"{what} examples repeat others")
        data.findings.add(WARNING, "repeated input", f"{counted} ({told}).", name, len(copies.rows), offenders)
    if copies.passed_over:
        data.findings.add(
            NOTE,
            "near copies",
            f"{copies.passed_over} more pairs of {what} examples look alike at first sight; near copies were looked "
            f"for among the first {MOST_PAIRS:,} pairs.",
            name,
        )
    if 0 < len(inspected.banded) < len(split) and len(split) > MOST_SHINGLED:
        data.findings.add(
            NOTE,
            "near copies",
            f"near copies were looked for among {MOST_SHINGLED:,} of {len(split):,} {what} examples, drawn by seed; "
            "copies that differ in case, blanks and punctuation among all.",
            name,
        )
    if data.target:
        _tell_contradictions(data, name, copies)


def _tell_contradictions(data: LabelledData, name: str, copies: Copies) -> None:
    split = data.splits[name]
    labels = data.labels(name)
    contrary = labels[copies.rows] != labels[copies.originals]
    contrary = contrary.any(axis=1) if contrary.ndim == 2 else contrary
    if not contrary.any():
        return
    originals, first = np.unique(copies.originals[contrary], return_index=True)
    rows = copies.rows[contrary][first]
    told = split.select(np.r_[originals[:MOST_OFFENDERS], rows[:MOST_OFFENDERS]])
    references, values = told[REFERENCE], told[LABEL]
    shown = min(len(originals), MOST_OFFENDERS)
    texts = [
        " and ".join(
            f"{reference_text(references[place])} as '{data.target.shown(values[place])}'"
            for place in (index, shown + index)
        )
        for index in range(shown)
    ]
    message = f"{len(originals)} inputs stand in {name} under more than one label: {_told(texts, len(originals))}."
    offenders = [Offender(*text.split(" as ", 1)) for text in texts]
    data.findings.add(WARNING, "contradictory labels", message, name, len(originals), offenders)


def _pairs(split: Dataset, held: Dataset, copies: Copies, how: str, *, every: bool = False) -> Iterator[Offender]:
    """Yield the copies with what they are copies of; the first few, or all."""
    most = len(copies.rows) if every else MOST_OFFENDERS
    mine = split.select(copies.rows[:most])[REFERENCE]
    theirs = held.select(copies.originals[:most])[REFERENCE]
    for reference, original in zip(mine, theirs, strict=True):
        yield Offender(reference_text(reference), f"{how}{reference_text(original)}")


def _chains(split: Dataset, copies: Copies) -> str:
    """Say which examples are the same: ``row 1 = row 3 = row 4``."""
    chains: dict[int, list[int]] = {}
    for row, original in zip(copies.rows.tolist(), copies.originals.tolist(), strict=True):
        if original in chains or len(chains) < _MOST_TOLD:
            chains.setdefault(original, []).append(row)
    told = [
        " = ".join(reference_text(r) for r in split.select([original, *rows[:2]])[REFERENCE])
        for original, rows in chains.items()
    ]
    return _told(told, len(np.unique(copies.originals)))


def _counted(copies: Copies, what: str) -> str:
    near = int((~copies.exact).sum())
    return f"{len(copies.rows)} {what}" + (f", {near} of them nearly" if near else "")


def _told(texts: list[str], count: int) -> str:
    """List the first few of ``count`` texts."""
    return ", ".join(texts[:_MOST_TOLD]) + (f" and {count - _MOST_TOLD} more" if count > _MOST_TOLD else "")
