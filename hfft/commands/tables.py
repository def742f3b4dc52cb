"""What commands have found, as people read it in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfft.paths import last_part
from hfft.terminal import figure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hfft.checking import CheckResult
    from hfft.planning import LayerPlan
    from hfft.range_test import LearningRateTest
    from hfft.results.comparing import Comparison


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


def print_runs(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print runs: what each was, its headline metric with the 95 % interval, time and size."""
    from rich.table import Table

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
