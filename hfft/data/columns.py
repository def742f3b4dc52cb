"""Which column of a table is which: named by the user, or found by common names and by what the cells look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hfft.arguments import column_flag
from hfft.data.sources import Source
from hfft.data.split_names import LABEL, REFERENCE
from hfft.errors import UserError, listed, nearest
from hfft.task import Task

_LABEL_NAMES = ("label", "labels", "class", "target", "category", "intent", "y", "tags", "score", "rating")


def task_for_source(source: Source, tasks: Sequence[Task], named: Mapping[str, str]) -> Task:
    """Return the one task that the data makes plain; raises :class:`UserError` where several or none fit."""
    fitting = []
    for task in tasks:
        if source.from_files:
            suffixes = {value[value.rfind(".") :].lower() for s in source.splits.values() for value in s[REFERENCE]}
            fits = suffixes <= task.file_suffixes
        else:
            fits = input_column(source, task, task.inputs[0].role, named) is not None
        if fits:
            fitting.append(task)
    # a path to a picture is a text as well: a task that reads such files knows better
    specific = [task for task in fitting if task.file_suffixes] or fitting
    if len(specific) == 1:
        return specific[0]
    if specific:
        raise UserError(f"--task: '{source.origin}' fits {listed(task.name for task in specific)}. Name one of them.")
    raise UserError(
        f"--data: no installed task knows what to read in '{source.origin}' (columns: {listed(source.column_names)}). "
        f"Name the column, for instance --text_column, or the task: {listed(task.name for task in tasks)}."
    )


def input_column(source: Source, task: Task, role: str, named: Mapping[str, str]) -> str | None:
    """Return the column of an input role, or ``None``; a named one must be there."""
    columns = source.column_names
    if role in named:
        return _require_column(source, column_flag(role), named[role])
    wanted = next(column for column in task.inputs if column.role == role)
    taken = set(named.values())
    lower = {column.lower(): column for column in reversed(columns)}
    for name in wanted.common_names:
        if name in lower and lower[name] not in taken and task.accepts(source.first_value(lower[name])):
            return lower[name]
    if not wanted.required:
        return None
    label = label_column(source, named)
    possible = [c for c in columns if c not in (label, *taken) and task.accepts(source.first_value(c))]
    return possible[0] if len(possible) == 1 else None


def label_column(source: Source, named: Mapping[str, str]) -> str | None:
    """Return the column of the label, or ``None``; a named one must be there."""
    if LABEL in named:
        return _require_column(source, "--label_column", named[LABEL])
    lower = {column.lower(): column for column in reversed(source.column_names)}
    return next((lower[name] for name in _LABEL_NAMES if name in lower and lower[name] not in named.values()), None)


def find_columns(source: Source, task: Task, named: Mapping[str, str], *, labelled: bool) -> dict[str, str]:
    """Return role -> column for the task's inputs, and for ``label`` where one is wanted.

    Raises :class:`UserError` for a required column that is not found, with the columns that are there.
    """
    require_named_columns(source, task, named)
    if source.from_files:
        return {LABEL: LABEL} if labelled else {}
    found: dict[str, str] = {}
    for wanted in task.inputs:
        column = input_column(source, task, wanted.role, {**named, **found})
        if column is not None:
            found[wanted.role] = column
        elif wanted.required:
            raise UserError(
                f"{source.flag}: no {wanted.role} column in '{source.origin}'. Its columns are "
                f"{listed(source.column_names)}: name one with {column_flag(wanted.role)}."
            )
    if labelled:
        label = label_column(source, named)
        if label is None:
            raise UserError(
                f"--data: no label column in '{source.origin}'. Its columns are {listed(source.column_names)}: "
                "name one with --label_column."
            )
        found[LABEL] = label
    _require_one_role_each(source, found)
    _require_in_every_split(source, found)
    return found


def _require_one_role_each(source: Source, found: Mapping[str, str]) -> None:
    roles: dict[str, list[str]] = {}
    for role, column in found.items():
        roles.setdefault(column, []).append(role)
    for column, several in roles.items():
        if len(several) > 1:
            raise UserError(f"{source.flag}: the column '{column}' cannot be read as {listed(several)}.")


def _require_in_every_split(source: Source, found: Mapping[str, str]) -> None:
    for name, split in source.splits.items():
        for column in found.values():
            if column not in split.column_names:
                raise UserError(f"--data: the {name} split of '{source.origin}' has no column '{column}'.")


def require_named_columns(source: Source, task: Task, named: Mapping[str, str]) -> None:
    """Raise :class:`UserError` for a named column that the task does not read, or that is not there."""
    roles = {column.role for column in task.inputs}
    for role, column in named.items():
        if role not in roles | {LABEL}:
            raise UserError(f"{column_flag(role)}: {task.name} has no such input; it reads {listed(sorted(roles))}.")
        if not source.from_files:
            _require_column(source, column_flag(role), column)


def _require_column(source: Source, flag: str, column: str) -> str:
    if column in source.column_names:
        return column
    raise UserError(
        f"{flag}: there is no column '{column}' in '{source.origin}'.{nearest(column, source.column_names)} "
        f"Its columns are {listed(source.column_names)}."
    )
