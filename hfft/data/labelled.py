"""Labelled splits: named columns, one frozen target, every input checked, missing splits drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.arguments import DataArguments
from hfft.data.class_checks import tell_of_classes, tell_untested
from hfft.data.columns import find_columns
from hfft.data.drawing import draw_split
from hfft.data.groups import tell_torn_groups, with_groups
from hfft.data.inspecting import Inspected, Track, inspect_split
from hfft.data.labels import label_column_of, place
from hfft.data.leaks import settle_leaks, tell_repeats
from hfft.data.sources import Source, task_inputs
from hfft.data.split_names import LABEL, REFERENCE, UNSPLIT
from hfft.errors import UserError, listed
from hfft.findings import ERROR, MOST_OFFENDERS, WARNING, Findings, Offender, reference_text
from hfft.storage.arrays import column_values, other_rows, select_rows
from hfft.storage.caching import content_key
from hfft.targets import Target, choose_target
from hfft.task import Encoder, StagedEncoder, Task

if TYPE_CHECKING:
    from datasets import Dataset

    from hfft.storage.caching import Cache


@dataclass
class LabelledData:
    """Splits whose columns are the task's input roles, ``label`` and ``reference``.

    Attributes:
        splits: ``train``, ``test``, and ``validation`` unless it was not wanted. The reference is the path of a file,
            or the number of a row, counted from 1 (:func:`hfft.findings.reference_text`).
        target: what is predicted, and what ``label`` holds; from the training split alone. Data that is only checked
            may have none, and no ``label`` then.
        origin: how the user named the data.
        findings: what is wrong or odd, and what was decided on the way.
        columns: role -> column of the table that it was read from; empty where the examples are files.
        group_column: the column of the groups that drawn splits keep whole.
        inspected: what was seen of the rows of each split, as they stand in it.
        pool: where ``train`` and ``test`` are one of several draws, what they are drawn from: its features are computed
            once.
    """

    splits: dict[str, Dataset]
    target: Target
    origin: str
    findings: Findings = field(default_factory=Findings)
    columns: dict[str, str] = field(default_factory=dict)
    group_column: str | None = None
    inspected: dict[str, Inspected] = field(default_factory=dict, repr=False)
    pool: Dataset | None = field(default=None, repr=False)

    @property
    def notes(self) -> list[str]:
        """The findings, a sentence each."""
        return self.findings.messages()

    def report(self, task: str) -> dict[str, Any]:
        """Return what a data report holds, as JSON knows it."""
        what = {"data": self.origin, "task": task, "columns": self.columns, "splits": self.counts()}
        return {**what, **self.findings.report()}

    @property
    def class_names(self) -> list[str]:
        """What each output stands for."""
        return self.target.output_names

    def labels(self, name: str) -> np.ndarray:
        """Return the labels of a split in array form (see :mod:`hfft.targets.target`)."""
        return self.target.array(column_values(self.splits[name], LABEL))

    def digest(self) -> str:
        """Return what tells other examples, or the same in another order, from these: files or rows, and labels."""
        parts: list[bytes | str] = []
        for name, split in self.splits.items():
            places = column_values(split, REFERENCE)
            if places.dtype == object:  # the folder of the data may have another name on another machine
                places = np.asarray([Path(path).name for path in places])
            parts += [name, places.tobytes(), np.ascontiguousarray(self.labels(name)).tobytes()]
        return content_key(*parts)

    def encoded(
        self,
        name: str,
        encoder: Encoder | StagedEncoder,
        cache: Cache | None = None,
        seed: int = 0,
        track: Track | None = None,
    ) -> Any:
        """Return a split as model inputs and labels in model form; see :func:`hfft.data.prepared.encoded`."""
        from hfft.data.prepared import encoded

        split = self.splits[name]
        return encoded(split, encoder, cache, seed, track, self.target.for_model(split[LABEL]))

    def counts(self) -> dict[str, dict[str, float]]:
        """Return split -> what is told of its labels: how often each class occurs."""
        return {name: self.target.counts(self.labels(name)) for name in self.splits} if self.target else {}


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
    target = _target(source, columns[LABEL], task, arguments, findings)
    data = LabelledData({}, target, source.origin, findings, read_columns, arguments.group_column)
    for name in source.splits:
        _read_split(data, source, name, task, columns, arguments, track)
    if "train" in data.splits:
        _settle_splits(data, set(source.splits), arguments, seed)
    data.splits = {name: data.splits[name] for name in ("train", "validation", "test") if name in data.splits}
    return data


def _read_split(
    data: LabelledData,
    source: Source,
    name: str,
    task: Task,
    columns: Mapping[str, str],
    arguments: DataArguments,
    track: Track | None,
) -> None:
    """Add those examples of a split that have a label and can be used."""
    rows, labels = _labelled_rows(data, source, name, columns[LABEL], arguments)
    if not len(rows):
        return
    chosen = select_rows(source.splits[name], rows)
    examples = task_inputs(source, chosen, task, columns)
    looks = inspect_split(examples, task, _checking(source, name), track, arguments.cache_dir)
    examples = _with_references(examples, chosen, rows, source)
    if labels is not None:
        examples = examples.add_column(LABEL, labels, feature=data.target.feature)
    if arguments.group_column is not None:
        examples = with_groups(examples, chosen, source, arguments.group_column)
    usable = np.flatnonzero(_usable(looks, examples, place(source, name), name, arguments.on_problem, data.findings))
    data.splits[name], data.inspected[name] = select_rows(examples, usable), looks.select(usable)


def _settle_splits(data: LabelledData, given: set[str], arguments: DataArguments, seed: int) -> None:
    """Draw the splits that are missing, and keep copies apart."""
    tell_torn_groups(data)
    if data.target:
        tell_of_classes(data)
    for name in sorted(data.splits):
        tell_repeats(data, name)
    settle_leaks(data, given, arguments.on_problem)
    for name, share in (("test", arguments.test_size), ("validation", arguments.validation_size)):
        if name not in given and share > 0 and data.target:
            with data.findings.catching("too few examples", name):
                draw_split(data, name, share, seed)
    if data.splits.keys() - given:
        settle_leaks(data, given, arguments.on_problem)
    if data.target:
        tell_untested(data)


def label_split(
    split: Dataset,
    name: str,
    source: Source,
    task: Task,
    columns: Mapping[str, str],
    target: Target | None,
    track: Track | None = None,
) -> Dataset:
    """Return a split with the task's columns, checked; with a ``target`` also its labels in column form.

    Raises :class:`UserError` for labels and inputs that cannot be used.
    """
    labels = None if target is None else target.encode(label_column_of(source, name, columns[LABEL]))
    examples = task_inputs(source, split, task, columns)
    looks = inspect_split(examples, task, _checking(source, name), track, None)
    examples = _with_references(examples, split, np.arange(len(split)), source)
    _usable(looks, examples, place(source, name), name, "error", Findings())
    if target is None or labels is None:
        return examples
    return examples.add_column(LABEL, labels, feature=target.feature)


def _checking(source: Source, name: str) -> str:
    return f"Checking {place(source, name).partition(': ')[2]}"


def _target(source: Source, column: str, task: Task, arguments: DataArguments, findings: Findings) -> Any:
    """Return what is predicted, or ``None`` where the labels of train do not tell and errors are collected."""
    with findings.catching("classes", "train"):
        train = label_column_of(source, "train", column)
        return choose_target(train, task.problem_types, arguments.problem_type, arguments.label_delimiter)
    return None


def _labelled_rows(
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


def _with_references(examples: Dataset, split: Dataset, rows: np.ndarray, source: Source) -> Dataset:
    """Add what each row is found by: its file, or its number in the table."""
    if source.from_files:
        return examples.add_column(REFERENCE, split[REFERENCE][:])
    return examples.add_column(REFERENCE, (rows + 1).astype(np.int32 if len(rows) < 2**31 else np.int64))


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
