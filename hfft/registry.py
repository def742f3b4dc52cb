"""The tasks that are installed, found by entry point.

A package makes its task known with an entry point of the group ``hfft.tasks``::

    [project.entry-points."hfft.tasks"]
    audio-classification = "my_package:AudioClassification"
"""

from __future__ import annotations

import inspect
import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from hfft.errors import UserError, listed, nearest
from hfft.task import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ENTRY_POINT_GROUP = "hfft.tasks"


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def list_tasks() -> list[str]:
    """Return the names of all installed tasks, sorted."""
    return sorted(_entry_points())


def load_task(task: str | Task | type[Task]) -> Task:
    """Return the task of a registered name; a :class:`Task` (instance or class) is passed through.

    Raises :class:`UserError` for a name that nothing registers and for a plug-in that cannot be imported.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, type) and issubclass(task, Task):
        return task()
    points = _entry_points()
    if task not in points:
        raise UserError(
            f"--task: there is no task '{task}'.{nearest(task, points)} Installed: {listed(sorted(points)) or 'none'}."
        )
    point = points[str(task)]
    try:
        loaded = point.load()
    except Exception as error:
        raise UserError(f"Task '{task}' could not be imported from '{point.value}': {error}") from error
    if not (inspect.isclass(loaded) and issubclass(loaded, Task)):
        raise UserError(f"Task '{task}': '{point.value}' is not a subclass of hfft.Task.")
    return loaded()


def installed_tasks() -> list[Task]:
    """Return every installed task, by name; one that cannot be imported is left out with a warning."""
    tasks = []
    for name in list_tasks():
        try:
            tasks.append(load_task(name))
        except UserError as error:
            warnings.warn(str(error), stacklevel=2)
    return tasks


def task_for_config(config: PretrainedConfig) -> Task:
    """Return the task that the architecture named in a fine-tuned checkpoint belongs to.

    Raises :class:`UserError` unless exactly one installed task claims it.
    """
    found = [task for task in installed_tasks() if task.supports(config)]
    if len(found) == 1:
        return found[0]
    what = listed(task.name for task in found) if found else "no installed task"
    raise UserError(f"--task is needed: {what} fits a {type(config).__name__} model.")
