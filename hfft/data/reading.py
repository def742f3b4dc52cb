"""The front door: from the arguments to the task and its checked splits."""

from __future__ import annotations

from hfft.arguments import DataArguments
from hfft.data.columns import task_for_source
from hfft.data.inspecting import Track
from hfft.data.labelled import LabelledData
from hfft.data.preparing import prepare
from hfft.data.sources import Source, read_source
from hfft.errors import UserError
from hfft.findings import Findings
from hfft.registry import installed_tasks, load_task
from hfft.task import Task


def read_labelled(
    arguments: DataArguments, seed: int, track: Track | None = None, findings: Findings | None = None
) -> tuple[Task, Source, LabelledData]:
    """Read what ``data`` names, choose the task where none is named, and check everything.

    Raises :class:`UserError` as :func:`hfft.data.prepare` does.
    """
    task, source = read_for_task(arguments)
    return task, source, prepare(source, task, arguments, seed, track, findings)


def read_for_task(arguments: DataArguments) -> tuple[Task, Source]:
    """Read what ``data`` names, and choose the task where none is named."""
    given = arguments.task is not None
    tasks = [load_task(arguments.task)] if arguments.task is not None else installed_tasks()
    suffixes = {suffix for candidate in tasks for suffix in candidate.file_suffixes}
    source = read_source(arguments.data, suffixes, arguments.cache_dir)
    task = tasks[0] if given else task_for_source(source, tasks, arguments.named_columns())
    if source.from_files and not task.file_suffixes:
        raise UserError(f"--data: '{source.origin}' is a folder of files; {task.name} reads tables.")
    return task, source
