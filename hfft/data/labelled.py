"""Labelled splits: named columns, one frozen class list, every input checked, missing splits drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.arguments import DataArguments
from hfft.data.arrays import column_array, other_rows
from hfft.data.class_checks import tell_of_classes, tell_untested
from hfft.data.columns import find_columns
from hfft.data.drawing import draw_split
from hfft.data.findings import ERROR, MOST_OFFENDERS, WARNING, Findings, Offender, reference_text
from hfft.data.groups import tell_torn_groups, with_groups
from hfft.data.inspecting import Inspected, Track, inspect_split
from hfft.data.labels import (
    class_names_of,
    place,
    rows_of_other_classes,
    rows_with_labels,
    split_labels,
)
from hfft.data.leaks import settle_leaks, tell_repeats
from hfft.data.sources import Source, task_inputs
from hfft.data.split_names import LABEL, REFERENCE, UNSPLIT
from hfft.errors import UserError, listed
from hfft.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class LabelledData:
    """Splits whose columns are the task's input roles, ``label`` (class index) and ``reference``.

    Attributes:
        splits: ``train``, ``test``, and ``validation`` unless it was not wanted. The reference is the path of a file,
            or the number of a row, counted from 1 (:func:`hfft.data.findings.reference_text`).
        class_names: index -> name; from the training split alone.
        origin: how the user named the data.
        findings: what is wrong or odd, and what was decided on the way.
        columns: role -> column of the table that it was read from; empty where the examples are files.
        group_column: the column of the groups that drawn splits keep whole.
    """

    splits: dict[str, Dataset]
    class_names: list[str]
    origin: str
    findings: Findings = field(default_factory=Findings)
    columns: dict[str, str] = field(default_factory=dict)
    group_column: str | None = None

    @property
    def notes(self) -> list[str]:
        """The findings, a sentence each."""
        return self.findings.messages()

    def report(self, task: str) -> dict[str, Any]:
        """Return what a data report holds, as JSON knows it."""
        what = {"data": self.origin, "task": task, "columns": self.columns, "splits": self.counts()}
        return {**what, **self.findings.report()}

    def counts(self) -> dict[str, dict[str, int]]:
        """Return split -> class name -> number of examples."""
        return {name: self._count(split) for name, split in self.splits.items()}

    def _count(self, split: Dataset) -> dict[str, int]:
        if not self.class_names:
            return {}
        counts = np.bincount(column_array(split, LABEL), minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))


def prepare(
    source: Source,
    task: Task,
    arguments: DataArguments,
    seed: int,
    track: Track | None = None,
    findings: Findings | None = None,
) -> LabelledData:
    """Turn a source into checked train, validation and test splits.

    Given splits are honoured. A missing test split is drawn from train first, then a missing validation split; the
    test split takes part in no decision.

    Args:
        source: what was read.
        task: what the inputs are.
        arguments: columns, sizes of the splits to draw, and what to do about problems.
        seed: of the draws.
        track: shows the progress.
        findings: where they are collected; left out, the first error is raised.

    Raises:
        UserError: for missing columns, missing or unknown labels, a single class, an input that cannot be read, and
            groups that cannot be divided.
    """
    findings = Findings() if findings is None else findings
    columns = find_columns(source, task, arguments.named_columns(), labelled=True)
    if UNSPLIT in source.splits:
        source = dataclasses.replace(source, splits={"train": source.splits[UNSPLIT]})
    if "train" not in source.splits:
        raise UserError(f"--data: '{source.origin}' has no train split, only {listed(source.splits)}.")
    read_columns = {} if source.from_files else columns
    data = LabelledData({}, [], source.origin, findings, read_columns, arguments.group_column)
    labelled = _labelled_rows(data, source, columns[LABEL], arguments.on_problem)
    inspected: dict[str, Inspected] = {}
    for name, split in source.splits.items():
        labels = _labels(data, split, labelled[name], name, source, columns)
        examples = task_inputs(source, split, task, columns)
        looks = inspect_split(examples, task, _checking(source, name), track, arguments.cache_dir)
        examples = _with_references(examples, split, source).add_column(LABEL, labels)
        if arguments.group_column is not None:
            examples = with_groups(examples, split, source, arguments.group_column)
        usable = _usable(looks, examples, place(source, name), name, arguments.on_problem, findings)
        usable &= labels >= 0 if data.class_names else True
        rows = np.flatnonzero(usable)
        data.splits[name] = examples if usable.all() else examples.select(rows)
        inspected[name] = looks.select(rows)
    _settle_splits(data, inspected, arguments, seed)
    data.splits = {name: data.splits[name] for name in ("train", "validation", "test") if name in data.splits}
    return data


def _settle_splits(data: LabelledData, inspected: dict[str, Inspected], arguments: DataArguments, seed: int) -> None:
    """Draw the splits that are missing, and keep copies apart."""
    tell_torn_groups(data)
    given = set(data.splits)
    if data.class_names:
        tell_of_classes(data)
    for name in sorted(given):
        tell_repeats(data, name, inspected[name])
    settle_leaks(data, inspected, given, arguments.on_problem)
    for name, share in (("test", arguments.test_size), ("validation", arguments.validation_size)):
        if name not in given and share > 0 and data.class_names:
            with data.findings.catching("too few examples", name):
                draw_split(data, name, share, seed, inspected)
    if data.splits.keys() - given:
        settle_leaks(data, inspected, given, arguments.on_problem)
    if data.class_names:
        tell_untested(data)


def label_split(
    split: Dataset,
    name: str,
    source: Source,
    task: Task,
    columns: Mapping[str, str],
    class_names: list[str] | None,
    track: Track | None = None,
) -> Dataset:
    """Return a split with the task's columns, checked; with ``class_names`` also its labels as class indices.

    Raises :class:`UserError` for labels and inputs that cannot be used.
    """
    labels = None if class_names is None else split_labels(split, name, source, columns, class_names)
    examples = task_inputs(source, split, task, columns)
    looks = inspect_split(examples, task, _checking(source, name), track, None)
    examples = _with_references(examples, split, source)
    _usable(looks, examples, place(source, name), name, "error", Findings())
    return examples if labels is None else examples.add_column(LABEL, labels)


def _checking(source: Source, name: str) -> str:
    return f"Checking {place(source, name).partition(': ')[2]}"


def _labelled_rows(data: LabelledData, source: Source, column: str, on_problem: str) -> dict[str, np.ndarray]:
    """Return the rows of every split that have a label; the others are told of, or an error. Settle the classes."""
    rows = rows_with_labels(source, column, [])
    for name, split in source.splits.items():
        missing = other_rows(len(split), rows[name])
        if len(missing):
            where = place(source, name)
            severity = ERROR if on_problem == "error" or not len(rows[name]) else WARNING
            if not len(rows[name]):
                message = f"{where} has no label in column '{column}' at all."
            elif severity == ERROR:
                message = (
                    f"{where} has no label in column '{column}' for {len(missing)} of {len(split)} examples (row "
                    f"{listed(missing + 1)}). Fill them in, or remove those rows."
                )
            else:
                told = listed(f"row {row}" for row in missing + 1)
                message = f"{name}: {len(missing)} examples without a label were left out ({told})."
            data.findings.add(severity, "missing label", message, name, len(missing), _unlabelled(missing))
            data.findings.leave_out(name, _unlabelled(missing))
    if not len(rows["train"]):
        return rows
    with data.findings.catching("classes", "train"):
        data.class_names = class_names_of(_rows(source.splits["train"], rows["train"]), column, source.origin)
    return rows


def _unlabelled(rows: np.ndarray) -> Iterator[Offender]:
    return (Offender(reference_text(row + 1), "no label") for row in rows)


def _rows(split: Dataset, rows: np.ndarray) -> Dataset:
    return split if len(rows) == len(split) else split.select(rows)


def _labels(
    data: LabelledData, split: Dataset, rows: np.ndarray, name: str, source: Source, columns: Mapping[str, str]
) -> np.ndarray:
    """Return the class index of every row, -1 for none; a class that train has not is an error."""
    labels = np.full(len(split), -1, dtype=np.int64)
    if not data.class_names or not len(rows):
        return labels
    present = _rows(split, rows)
    try:
        labels[rows] = split_labels(present, name, source, columns, data.class_names)
    except UserError as error:
        if not data.findings.collect:
            raise
        others = rows_of_other_classes(present, columns[LABEL], data.class_names, place(source, name))
        offenders = [Offender(_reference(split, rows[row], source), f"the class '{t}'") for row, t in others.items()]
        data.findings.add(ERROR, "unknown class", str(error), name, len(others), offenders)
        known = other_rows(len(rows), np.fromiter(others, int, len(others)))
        if len(known):
            labels[rows[known]] = split_labels(present.select(known), name, source, columns, data.class_names)
    return labels


def _reference(split: Dataset, row: int, source: Source) -> str:
    return split[int(row)][REFERENCE] if source.from_files else reference_text(row + 1)


def _with_references(examples: Dataset, split: Dataset, source: Source) -> Dataset:
    """Add what each row is found by: its file, or its number."""
    if source.from_files:
        return examples.add_column(REFERENCE, split[REFERENCE][:])
    return examples.add_column(REFERENCE, np.arange(1, len(split) + 1))


def _usable(looks: Inspected, split: Dataset, where: str, name: str, on_problem: str, findings: Findings) -> np.ndarray:
    """Return which rows' inputs can be used; the others are told of, or an error."""
    place_of = where.partition(": ")[2]
    for remark, rows in looks.remarks.items():
        offenders = [Offender(reference_text(r), remark) for r in split.select(rows[:MOST_OFFENDERS])[REFERENCE]]
        told = ", ".join(offender.reference for offender in offenders[:3]) + (", ..." if len(rows) > 3 else "")
        message = f"{place_of}: {len(rows)} examples: {remark} ({told})."
        findings.add(WARNING, "odd input", message, name, len(rows), offenders)
    usable = np.ones(len(looks), dtype=bool)
    if not looks.problems:
        return usable
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
    return usable
