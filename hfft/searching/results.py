"""What a search has found, as tables and as the report shows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfft.run_folder import TRIALS_FILE, TRIALS_TABLE
from hfft.terminal import figure

if TYPE_CHECKING:
    from rich.console import Console

    from hfft.searching.attempt import Objective
    from hfft.searching.cases import Case

_SHOWN = 5
_COLUMNS = ("number", "state", "value", "duration", "reason")


def write_trials(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write a row for each trial, as CSV and as Parquet: what came of it, and a column for each parameter."""
    import pandas

    records = [{**{name: row[name] for name in _COLUMNS}, **row["parameters"]} for row in rows]
    table = pandas.DataFrame(records, dtype=object)  # whole numbers stay so beside what was left at its default
    table.to_csv(folder / TRIALS_FILE, index=False)
    for name in set(table.columns) - set(_COLUMNS):
        if table[name].dropna().map(type).nunique() > 1:  # a column of Parquet has one type
            table[name] = table[name].map(lambda value: None if value is None else str(value))
    table.astype({"value": "float64", "duration": "float64"}).to_parquet(folder / TRIALS_TABLE, index=False)


def ranked(rows: list[dict[str, Any]], lower: bool) -> list[dict[str, Any]]:
    """Return the trials that are complete, the best first."""
    done = [row for row in rows if row["value"] is not None]
    return sorted(done, key=lambda row: row["value"] if lower else -row["value"])


def told(rows: list[dict[str, Any]], best: int, importances: dict[str, float], case: Case) -> dict[str, Any]:
    """Return what the report shows: of which trials the settings are the best, and what mattered."""
    objective = case.objective
    history, so_far = [], None
    for row in rows:
        if row["value"] is not None:
            better = min if objective.lower else max
            so_far = row["value"] if so_far is None else better(so_far, row["value"])
            history.append((row["number"], row["value"], so_far))
    states = [row["state"] for row in rows]
    where = "on the validation split" if len(case.parts) == 1 else f"in {len(case.parts)}-fold cross-validation"
    return {
        "metric": objective.name,
        "where": where,
        "best": best,
        "parameters": list(case.space),
        "counts": {state: states.count(state) for state in dict.fromkeys(states)},
        "history": history,
        "importances": importances,
        "trials": [{**row, "parameters": shown_parameters(row)} for row in ranked(rows, objective.lower)[:_SHOWN]],
    }


def shown_parameters(row: dict[str, Any]) -> dict[str, str]:
    """Return the parameters of a trial for people."""
    return {n: f"{v:.3g}" if isinstance(v, float) else str(v) for n, v in row["parameters"].items()}


def print_trials(console: Console, rows: list[dict[str, Any]], objective: Objective) -> None:
    """Print the best trials, and how many came to no value."""
    from rich.table import Table

    best = ranked(rows, objective.lower)[:_SHOWN]
    others = {state: sum(row["state"] == state for row in rows) for state in ("pruned", "failed")}
    ends = "".join(f", {count} {state}" for state, count in others.items() if count)
    table = Table("trial", title=f"The best of {len(rows)} trials{ends}", title_justify="left")
    table.add_column(objective.name.replace("_", " "), justify="right")
    for name in best[0]["parameters"]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in best:
        table.add_row(str(row["number"]), figure(row["value"], 4), *shown_parameters(row).values())
    console.print(table)
