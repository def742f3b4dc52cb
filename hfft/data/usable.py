"""Which rows of a split can be used: those with a known label, and with inputs that can be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.arguments import DataArguments
from hfft.data.inspecting import Inspected
from hfft.data.labelled import LabelledData
from hfft.data.labels import label_column_of, place
from hfft.data.sources import Source
from hfft.data.split_names import REFERENCE
from hfft.errors import UserError, listed
from hfft.findings import ERROR, MOST_OFFENDERS, WARNING, Findings, Offender, reference_text
from hfft.storage.arrays import other_rows, select_rows

if TYPE_CHECKING:
    from datasets import Dataset


def labelled_rows(
    data: LabelledData, source: Source, name: str, column: str, arguments: DataArguments
) -> tuple[np.ndarray, Any]:
    """Return the rows of a split that have a label that is known, and their labels in column form.

    The others are told of, or an error. Without a target every row is returned, and no labels.
    """
    split, target = source.splits[name], data.target
    if target is None:
        return np.arange(len(split)), None
    labels = label_column_of(source, name, column)
    missing = np.asarray(target.missing(labels, arguments.label_delimiter), dtype=np.int64)
    rows = other_rows(len(split), missing)
    if len(missing):
        _tell_unlabelled(data, source, name, column, missing, arguments.on_problem)
    if not len(rows):
        return rows, None
    present = labels if len(rows) == len(split) else dataclasses.replace(labels, split=select_rows(split, rows))
    try:
        return rows, target.encode(present)
    except UserError as error:
        if not data.findings.collect:
            raise
        unknown = target.unknown(present)
        offenders = [Offender(_reference(split, rows[row], source), f"the class '{t}'") for row, t in unknown.items()]
        data.findings.add(ERROR, "unknown class", str(error), name, len(unknown), offenders)
        known = other_rows(len(rows), np.fromiter(unknown, int, len(unknown)))
        if not unknown or not len(known):
            return rows[:0], None
        return rows[known], target.encode(dataclasses.replace(present, split=select_rows(present.split, known)))


def _tell_unlabelled(
    data: LabelledData, source: Source, name: str, column: str, missing: np.ndarray, on_problem: str
) -> None:
    where, count = place(source, name), len(source.splits[name])
    severity = ERROR if on_problem == "error" or len(missing) == count else WARNING
    if len(missing) == count:
        message = f"{where} has no label in column '{column}' at all."
    elif severity == ERROR:
        message = (
            f"{where} has no label in column '{column}' for {len(missing)} of {count} examples (row "
            f"{listed(missing + 1)}). Fill them in, or remove those rows."
        )
    else:
        told = listed(f"row {row}" for row in missing + 1)
        message = f"{name}: {len(missing)} examples without a label were left out ({told})."
    data.findings.add(severity, "missing label", message, name, len(missing), _unlabelled(missing))
    data.findings.leave_out(name, _unlabelled(missing))


def _unlabelled(rows: np.ndarray) -> Iterator[Offender]:
    return (Offender(reference_text(row + 1), "no label") for row in rows)


def _reference(split: Dataset, row: int, source: Source) -> str:
    return split[int(row)][REFERENCE] if source.from_files else reference_text(row + 1)


def with_references(examples: Dataset, split: Dataset, rows: np.ndarray, source: Source) -> Dataset:
    """Add what each row is found by: its file, or its number in the table."""
    if source.from_files:
        return examples.add_column(REFERENCE, split[REFERENCE][:])
    return examples.add_column(REFERENCE, (rows + 1).astype(np.int32 if len(rows) < 2**31 else np.int64))


def usable_rows(
    looks: Inspected, split: Dataset, where: str, name: str, on_problem: str, findings: Findings
) -> np.ndarray:
    """Return the rows whose inputs can be used; the others are told of, or an error.

    Args:
        looks: what was seen of the rows.
        split: with references.
        where: it is, for messages.
        name: of the split.
        on_problem: what to do about the others.
        findings: are told.
    """
    place_of = where.partition(": ")[2]
    for remark, rows in looks.remarks.items():
        offenders = [Offender(reference_text(r), remark) for r in split.select(rows[:MOST_OFFENDERS])[REFERENCE]]
        told = ", ".join(offender.reference for offender in offenders[:3]) + (", ..." if len(rows) > 3 else "")
        message = f"{place_of}: {len(rows)} examples: {remark} ({told})."
        findings.add(WARNING, "odd input", message, name, len(rows), offenders)
    usable = np.ones(len(looks), dtype=bool)
    if not looks.problems:
        return np.flatnonzero(usable)
    rows = sorted(looks.problems)
    usable[rows] = False
    references = [reference_text(reference) for reference in split.select(rows)[REFERENCE]]
    offenders = [Offender(ref, looks.problems[row]) for row, ref in zip(rows, references, strict=True)]
    if on_problem == "error" or len(rows) == len(looks):
        more = f" ({len(rows) - 1} more like it: {listed(references[1:], 5)})" if len(rows) > 1 else ""
        message = f"{where}, {references[0]}: {offenders[0].reason}.{more}"
        findings.add(ERROR, "unusable input", message, name, len(rows), offenders)
    else:
        told = listed(f"{offender.reference}: {offender.reason}" for offender in offenders)
        message = f"{place_of}: {len(rows)} examples were left out ({told})."
        findings.add(WARNING, "unusable input", message, name, len(rows), offenders)
    findings.leave_out(name, offenders)
    return np.flatnonzero(usable)
