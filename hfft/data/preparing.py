"""From a source to labelled splits: every input checked, missing splits drawn, copies kept apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.arguments import DataArguments
from hfft.data.class_checks import tell_of_classes, tell_untested
from hfft.data.columns import find_columns
from hfft.data.drawing import draw_split
from hfft.data.groups import tell_torn_groups, with_groups
from hfft.data.inspecting import Track, inspect_split
from hfft.data.labelled import LabelledData
from hfft.data.labels import label_column_of, place
from hfft.data.leaks import settle_leaks, tell_repeats
from hfft.data.sources import Source, task_inputs
from hfft.data.split_names import LABEL, UNSPLIT
from hfft.data.usable import labelled_rows, usable_rows, with_references
from hfft.errors import UserError, listed
from hfft.findings import Findings
from hfft.storage.arrays import select_rows
from hfft.targets import Target, choose_target
from hfft.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


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


def _target(source: Source, column: str, task: Task, arguments: DataArguments, findings: Findings) -> Any:
    """Return what is predicted, or ``None`` where the labels of train do not tell and errors are collected."""
    with findings.catching("classes", "train"):
        train = label_column_of(source, "train", column)
        return choose_target(train, task.problem_types, arguments.problem_type, arguments.label_delimiter)
    return None


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
    rows, labels = labelled_rows(data, source, name, columns[LABEL], arguments)
    if not len(rows):
        return
    chosen = select_rows(source.splits[name], rows)
    examples = task_inputs(source, chosen, task, columns)
    looks = inspect_split(examples, task, _checking(source, name), track, arguments.cache_dir)
    examples = with_references(examples, chosen, rows, source)
    if labels is not None:
        examples = examples.add_column(LABEL, labels, feature=data.target.feature)
    if arguments.group_column is not None:
        examples = with_groups(examples, chosen, source, arguments.group_column)
    usable = usable_rows(looks, examples, place(source, name), name, arguments.on_problem, data.findings)
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
    examples = with_references(examples, split, np.arange(len(split)), source)
    usable_rows(looks, examples, place(source, name), name, "error", Findings())
    if target is None or labels is None:
        return examples
    return examples.add_column(LABEL, labels, feature=target.feature)


def _checking(source: Source, name: str) -> str:
    return f"Checking {place(source, name).partition(': ')[2]}"
