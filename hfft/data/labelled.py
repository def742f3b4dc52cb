"""Labelled splits: named columns, one frozen target, every input checked, missing splits drawn."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.arguments import DataArguments
from hfft.data.columns import find_columns
from hfft.data.copies import Inspected, settle_copies
from hfft.data.labels import label_column_of, place, rows_with_labels
from hfft.data.sources import Source
from hfft.data.split_names import GROUP, LABEL, REFERENCE, UNSPLIT
from hfft.data.splits import draw_groups
from hfft.errors import UserError, listed, nearest
from hfft.targets import Target, choose_target, is_missing
from hfft.task import Encoder, Inspection, StagedEncoder, Task

if TYPE_CHECKING:
    from datasets import Dataset

    from hfft.caching import Cache

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Shows the progress of an iterable: (items, how many, what is done)."""


@dataclass
class LabelledData:
    """Splits whose columns are the task's input roles, ``label`` and ``reference`` (file or row).

    Attributes:
        splits: ``train``, ``test``, and ``validation`` unless it was not wanted.
        target: what is predicted, and what ``label`` holds; from the training split alone.
        origin: how the user named the data.
        notes: what was decided on the way, a sentence each.
        columns: role -> column of the table that it was read from; empty where the examples are files.
        group_column: the column of the groups that drawn splits keep whole.
    """

    splits: dict[str, Dataset]
    target: Target
    origin: str
    notes: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    group_column: str | None = None

    @property
    def class_names(self) -> list[str]:
        """What each output stands for."""
        return self.target.output_names

    def labels(self, name: str) -> np.ndarray:
        """Return the labels of a split in array form (see :mod:`hfft.targets.target`)."""
        return self.target.array(self.splits[name][LABEL])

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
        return {name: self.target.counts(self.labels(name)) for name in self.splits}


def prepare(
    source: Source, task: Task, arguments: DataArguments, seed: int, track: Track | None = None
) -> LabelledData:
    """Turn a source into checked train, validation and test splits.

    Given splits are honoured. A missing test split is drawn from train first, then a missing validation split; the
    test split takes part in no decision.

    Raises:
        UserError: for missing columns, missing or unknown labels, a single class, an input that cannot be read, and
            groups that cannot be divided.
    """
    columns = find_columns(source, task, arguments.named_columns(), labelled=True)
    if UNSPLIT in source.splits:
        source = dataclasses.replace(source, splits={"train": source.splits[UNSPLIT]})
    if "train" not in source.splits:
        raise UserError(f"--data: '{source.origin}' has no train split, only {listed(source.splits)}.")
    notes: list[str] = []
    rows = {name: list(range(len(split))) for name, split in source.splits.items()}
    delimiter = arguments.label_delimiter
    train = label_column_of(source, "train", columns[LABEL])
    target = choose_target(train, task.problem_types, arguments.problem_type, delimiter)
    if arguments.on_problem != "error":
        rows = rows_with_labels(source, columns[LABEL], target, delimiter, notes)
        splits = {name: split.select(rows[name]) for name, split in source.splits.items()}
        source = dataclasses.replace(source, splits=splits)
    data = LabelledData({}, target, source.origin, notes, columns={} if source.from_files else columns)
    inspected: dict[str, Inspected] = {}
    for name, split in source.splits.items():
        labelled, looks = _look_at(split, rows[name], name, source, task, columns, target, track)
        if arguments.group_column is not None:
            labelled = _with_groups(labelled, split, source, arguments.group_column)
        usable = _usable(looks, labelled, place(source, name), arguments.on_problem, notes)
        data.splits[name] = labelled if len(usable) == len(looks) else labelled.select(usable)
        inspected[name] = Inspected.of([looks[row] for row in usable])
    data.group_column = arguments.group_column
    _note_torn_groups(data)
    given = set(data.splits)
    if "test" not in given:
        _draw(data, "test", arguments.test_size, seed, inspected)
    if "validation" not in given and arguments.validation_size > 0:
        _draw(data, "validation", arguments.validation_size, seed, inspected)
    settle_copies(data, inspected, given, arguments.on_problem)
    data.splits = {name: data.splits[name] for name in ("train", "validation", "test") if name in data.splits}
    return data


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
    labelled, looks = _look_at(split, list(range(len(split))), name, source, task, columns, target, track)
    _usable(looks, labelled, place(source, name), "error", [])
    return labelled


def _look_at(
    split: Dataset,
    rows: list[int],
    name: str,
    source: Source,
    task: Task,
    columns: Mapping[str, str],
    target: Target | None,
    track: Track | None,
) -> tuple[Dataset, list[Inspection]]:
    """Return the split with the task's columns, and what a look at each of its inputs told."""
    labels = None if target is None else target.encode(label_column_of(source, name, columns[LABEL]))
    if source.from_files:
        from datasets import Dataset

        references = list(split[REFERENCE])
        inputs = [task.from_file(path) for path in references]
        labelled = Dataset.from_dict({role: [row[role] for row in inputs] for role in inputs[0]})
    else:
        references = [f"row {row + 1}" for row in rows]
        labelled = split.select_columns([column for role, column in columns.items() if role != LABEL])
        labelled = labelled.rename_columns({c: role for role, c in columns.items() if role != LABEL and role != c})
        if source.folder is not None and task.file_suffixes:
            labelled = _located(labelled, task.inputs[0].role, source.folder)
    looks = _inspect(labelled, place(source, name), task, track)
    labelled = labelled.add_column(REFERENCE, references)
    if target is not None and labels is not None:
        labelled = labelled.add_column(LABEL, labels, feature=target.feature)
    return labelled, looks


def _located(split: Dataset, role: str, folder: Path) -> Dataset:
    """Let relative paths in a table start at the table."""
    values = split[role]
    found = [str(folder / v) if isinstance(v, str) and (folder / v).is_file() else v for v in values]
    if found == list(values):
        return split
    return split.add_column("located", found).remove_columns(role).rename_column("located", role)


def _inspect(split: Dataset, where: str, task: Task, track: Track | None) -> list[Inspection]:
    """Look at every input before anything is trained; threads, because decoding pictures leaves Python's lock."""
    # a task that silences warnings in several threads at once would leave the filters changed for good
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        found: Iterable[Inspection] = pool.map(task.inspect, split)
        if track is not None:
            found = track(found, len(split), f"Checking {where.partition(': ')[2]}")
        return list(found)


def _usable(looks: list[Inspection], split: Dataset, where: str, on_problem: str, notes: list[str]) -> list[int]:
    """Return the rows whose inputs can be used; the others are told of, or an error."""
    problems = [row for row, look in enumerate(looks) if look.problem]
    if not problems:
        return list(range(len(looks)))
    references = split[REFERENCE]
    if on_problem == "error" or len(problems) == len(looks):
        first, *others = problems
        more = f" ({len(others)} more like it: {listed((references[row] for row in others), 5)})" if others else ""
        raise UserError(f"{where}, {references[first]}: {looks[first].problem}.{more}")
    told = listed(f"{references[row]}: {looks[row].problem}" for row in problems)
    notes.append(f"{where.partition(': ')[2]}: {len(problems)} examples were left out ({told}).")
    return [row for row, look in enumerate(looks) if not look.problem]


def _draw(data: LabelledData, name: str, share: float, seed: int, inspected: dict[str, Inspected]) -> None:
    """Move a stratified share of the training split to a split of its own."""
    train = data.splits["train"]
    labels = data.labels("train")
    if len(labels) < data.target.fewest_rows:
        raise UserError(
            f"--data: '{data.origin}' has {len(labels)} training examples for {data.target.describe()}, too few "
            f"to hold back a {name} split. Give a {name} split"
            + (", or set validation_size to 0." if name == "validation" else ".")
        )
    if GROUP in train.column_names:
        groups = np.unique(np.asarray(train[GROUP], dtype=str), return_inverse=True)[1]
        try:
            drawn = draw_groups(data.target.strata(labels), groups, share, seed)
        except ValueError as error:
            raise UserError(f"--group_column: no {name} split can be drawn from '{data.origin}': {error}.") from error
    else:
        drawn = data.target.draw(labels, share, seed)
    kept = np.setdiff1d(np.arange(len(labels)), drawn)
    if lost := data.target.lost(labels[kept]):
        raise UserError(
            f"--group_column: drawn in whole groups, the {name} split of '{data.origin}' takes every example of "
            f"{listed(lost)}. Give the splits yourself."
        )
    data.splits["train"], data.splits[name] = train.select(kept), train.select(drawn)
    looks = inspected["train"]
    inspected["train"], inspected[name] = looks.select(kept), looks.select(drawn)
    whole = f", groups of '{data.group_column}' kept whole" if data.group_column else ""
    data.notes.append(
        f"no {name} split was given: {len(drawn)} of {len(labels)} training examples were drawn for it{whole}."
    )


def _with_groups(labelled: Dataset, split: Dataset, source: Source, column: str) -> Dataset:
    """Add the group of every row."""
    if source.from_files:
        raise UserError(f"--group_column: '{source.origin}' is a folder of files; name a table that has the column.")
    if column not in split.column_names:
        raise UserError(
            f"--group_column: there is no column '{column}' in '{source.origin}'.{nearest(column, split.column_names)}"
        )
    values = split[column]
    if missing := [labelled[REFERENCE][row] for row, value in enumerate(values) if is_missing(value)]:
        raise UserError(f"--group_column: '{source.origin}' has no value in '{column}' in {listed(missing)}.")
    return labelled.add_column(GROUP, [str(value) for value in values])


def _note_torn_groups(data: LabelledData) -> None:
    """Tell of groups that given splits tear apart."""
    if data.group_column is None:
        return
    train = set(data.splits["train"][GROUP])
    for name in sorted(set(data.splits) - {"train"}):
        if torn := sorted(train & set(data.splits[name][GROUP])):
            data.notes.append(
                f"{len(torn)} groups of '{data.group_column}' stand in train and in {name} ({listed(torn)}): the "
                f"{name} metrics are too good for new groups."
            )
