"""The terminal: one console that is quiet on every process but the first, and the closing table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from hfft.checking import CheckResult
    from hfft.planning import LayerPlan
    from hfft.range_test import LearningRateTest
    from hfft.results.comparing import Comparison

SOLVED_HEAD = "solved head"
"""Heading of what a head reaches that was solved on the features of the pretrained trunk."""


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


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the metrics of two runs side by side, their differences and the test of the accuracy."""
    from rich.table import Table

    title = f"{comparison.examples} test examples"
    table = Table("metric", title=title, title_justify="left")
    for header in (comparison.first, comparison.second, "difference", "95 % interval"):
        table.add_column(header, justify="right", overflow="fold")
    for name in comparison.headlines:
        row = comparison.metrics[name]
        low, high = row.get("difference_ci_low"), row.get("difference_ci_high")
        interval = f"{figure(low)} to {figure(high)}" if low is not None and high is not None else ""
        sign = "+" if row["difference"] > 0 else ""
        shown = (figure(row["first"]), figure(row["second"]), f"{sign}{figure(row['difference'])}", interval)
        table.add_row(name.replace("_", " "), *shown)
    console.print(table)
    if comparison.identical:
        console.print("No difference: the predictions are identical.")
    elif comparison.mcnemar is not None and comparison.right is not None:
        test = comparison.mcnemar
        console.print(
            f"{comparison.right.replace('_', ' ').capitalize()}: {test['only_first_right']} examples are right in "
            f"{comparison.first} alone, {test['only_second_right']} in {comparison.second} alone; McNemar's exact test "
            f"gives p = {test['p_value']:.3g}."
        )


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
    size = abs(value)
    if size >= 10 ** (places + 1):
        return f"{value:.{places + 3}g}"
    return f"{value:.{places}f}" if size >= 10**-places or size == 0 else f"{value:.{places}g}"


def print_findings(console: Console, result: CheckResult) -> None:
    """Print what was found about data, the errors first, and what a run would do."""
    from rich.table import Column, Table

    def short(text: str) -> str:
        return text.replace(f"{result.report['data']}/", "")

    order = ("error", "warning", "note")
    findings = sorted(result.findings.items, key=lambda finding: order.index(finding.severity))
    table = Table("", "check", "split", "count", Column("first", overflow="fold"))
    for finding in findings:
        first = "\n".join(short(f"{o.reference}: {o.reason}".removesuffix(": ")) for o in finding.offenders[:3])
        table.add_row(finding.severity, finding.check, finding.split or "", str(finding.count or ""), first)
    if findings:
        console.print(table)
    for finding in findings:
        console.print(f"{finding.severity}: {short(finding.message)}")
    sizes = ", ".join(f"{size} {name}" for name, size in result.sizes.items())
    console.print("A run would refuse this data." if result.findings.refused else f"A run would go ahead: {sizes}.")


def print_range_test(console: Console, result: LearningRateTest) -> None:
    """Print how far a learning-rate test went and what it suggests."""
    if result.losses:
        least = min(range(len(result.smoothed)), key=result.smoothed.__getitem__)
        end = "where the loss diverged" if result.diverged else "the highest"
        console.print(
            f"Learning rate of the head from {result.rates[0]:.2g} to {result.rates[-1]:.2g} ({end}); the least "
            f"smoothed training loss is {figure(result.smoothed[least])}, at {result.rates[least]:.2g}."
        )
    if result.settings:
        flags = " ".join(f"--{name} {rate:g}" for name, rate in result.settings.items())
        console.print(f"Suggestion, a tenth of that (Gugger 2018): {flags}")
    for note in result.notes:
        console.print(note)


def print_runs(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print runs: what each was, its headline metric with the 95 % interval, time and size."""
    from rich.table import Table

    from hfft.paths import last_part

    table = Table("where", "task", "model", "strategy")
    for header in ("test metric", "95 % interval", "validation", "training", "weights", "date"):
        table.add_column(header, justify="right")
    table.add_column("state")
    for row in rows:
        value, low, high = (row[name] for name in ("value", "ci_low", "ci_high"))
        cells = (
            *(row["where"], row["task"], last_part(row["model"] or ""), row["strategy"]),
            f"{row['metric'].replace('_', ' ')} {figure(value)}" if value is not None else "",
            f"{figure(low)} to {figure(high)}" if low is not None and high is not None else "",
            figure(row["validation"]) if row["validation"] is not None else "",
            _duration(row["train_runtime"]),
            f"{row['weights_bytes'] / 1e6:.1f} MB" if row["weights_bytes"] else "",
            row["date"][:16].replace("T", " "),
            row["state"],
        )
        table.add_row(*(_visible(cell or "") for cell in cells))
    _print_whole(console, table)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.1f} s" if seconds < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _visible(text: str) -> str:
    """Write out what is no sign to be seen, such as the sequences that steer a terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _print_whole(console: Console, table: Table) -> None:
    """Print a table whose names are to be read whole, also where the terminal then has to wrap the lines."""
    from rich.measure import Measurement

    console.width = max(console.width, Measurement.get(console, console.options.update(width=1000), table).maximum)
    console.print(table)


def print_layers(console: Console, plan: LayerPlan) -> None:
    """Print the layer groups of a model, input first."""
    from rich.table import Table

    table = Table(title=plan.title, title_justify="left")
    table.add_column("layers, input first")
    for header in ("parameters", "learning rate", "factor"):
        table.add_column(header, justify="right")
    table.add_column("trains")
    for layer in plan.layers:
        table.add_row(
            layer.name, f"{layer.parameters:,}", f"{layer.learning_rate:.2e}", f"{layer.factor:.3g}", layer.trains
        )
    _print_whole(console, table)
    for note in plan.notes:
        console.print(note)
