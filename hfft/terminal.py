"""The terminal: one console that is quiet on every process but the first, and the tables that close a run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

SOLVED_HEAD = "solved head"
"""Heading of what a head reaches that was solved on the features of the pretrained trunk."""

_ROUNDING = 1e-12  # what sums leave behind where the value is nought


def is_first_process() -> bool:
    """Say whether this process is the one that speaks and writes; before torch knows of ranks, and after."""
    return int(os.environ.get("RANK", "0")) == 0


def make_console(stderr: bool = False) -> Console:
    """Return a console on standard output (or error) that takes brackets in the users' names for what they are."""
    from rich.console import Console

    quiet = not is_first_process()
    return Console(quiet=quiet, stderr=stderr, soft_wrap=True, markup=False, highlight=False, emoji=False)


def progress_bar(console: Console) -> Progress:
    """Return a bar that disappears when it is done; where the console is no terminal nothing is drawn."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_metrics(console: Console, rows: list[dict[str, Any]], title: str, baseline_name: str) -> None:
    """Print metrics with their 95 % intervals beside the baselines."""
    from rich.table import Table

    baselines = {"baseline": baseline_name, "probe": SOLVED_HEAD}
    if all(row["probe"] is None for row in rows):
        del baselines["probe"]
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="center")
    for header in baselines.values():
        table.add_column(header, justify="right")
    for row in rows:
        interval = f"{figure(row['low'])} to {figure(row['high'])}" if row["low"] is not None else ""
        beside = ("" if row[name] is None else figure(row[name]) for name in baselines)
        table.add_row(row["name"].replace("_", " "), figure(row["value"]), interval, *beside)
    console.print(table)


MOST_CLASSES = 10  # more are for the report


def print_per_class(console: Console, details: dict[str, Any]) -> None:
    """Print precision, recall, F1 and number of examples of each class, where there are ten or fewer."""
    from rich.table import Table

    classes = details.get("per_class", [])
    if not 0 < len(classes) <= MOST_CLASSES:
        return
    table = Table("class")
    for header in ("precision", "recall", "f1", "examples"):
        table.add_column(header, justify="right")
    for row in classes:
        table.add_row(row["class"], *(figure(row[name]) for name in ("precision", "recall", "f1")), str(row["support"]))
    console.print(table)


def figure(value: float, places: int = 3) -> str:
    """Write a value with some places behind the point; very large and small ones, which have a unit, by digits."""
    value = value if abs(value) > _ROUNDING else 0.0
    size = abs(value)
    if size >= 10 ** (places + 1):
        return f"{value:.{places + 3}g}"
    return f"{value:.{places}f}" if size >= 10**-places or size == 0 else f"{value:.{places}g}"
