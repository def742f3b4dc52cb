"""runs(): what stands below a folder, a row for each run: its settings, its headline metric, its time and size."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from hfft.errors import UserError, nearest
from hfft.paths import existing_path
from hfft.run_folder import (
    CROSSVAL_FILE,
    CROSSVAL_SETTINGS,
    FOLDS,
    METRICS_FILE,
    PREDICTIONS_FILE,
    RUN_FILE,
    RUN_HEADER,
    SEARCH_SETTINGS,
    TRAIN_RUNTIME,
)

COLUMNS = (
    *("where", "state", "task", "model", "strategy"),
    *("metric", "value", "ci_low", "ci_high", "validation", TRAIN_RUNTIME, "weights_bytes", "date"),
)
"""What every row has; the run's metrics stand behind it."""

_LARGEST = 5_000_000  # bytes of a file that a run has written about itself
_INFINITE = 1e300
_NO_METRICS = ("_ci_low", "_ci_high", "_examples")


def runs(folder: str | Path = ".", sort: str = "where") -> list[dict[str, Any]]:
    """Return a row for each run and each cross-validation below a folder; a search is the run that it makes.

    A row has ``where`` (path below the folder), ``state`` (finished, how far it is, or what of it is damaged),
    ``task``, ``model``, ``strategy``, the headline metric, of the test split or else of the folds, as ``metric``,
    ``value``, ``ci_low`` and ``ci_high`` (95 % interval), the same metric of the validation split as ``validation``,
    ``train_runtime`` (seconds), ``weights_bytes`` and ``date`` (of its newest results), ``None`` where there is none;
    and every metric of the run by its name.
    The folds of a cross-validation are part of its row. Links are followed, but lead to no folder twice; folders that
    cannot be opened are passed over.

    Args:
        folder: holds runs at any depth, or is one.
        sort: a column: metrics with the best first, dates with the newest, everything else ascending. Rows without
            a value come last.

    Raises:
        UserError: for a folder that is not there or holds no run, and a column that no row has.
    """
    root = existing_path(folder, "FOLDER")
    rows = [_row(place, root) for place in _run_folders(root)]
    if not rows:
        raise UserError(f"'{folder}' holds no run: name a folder above the output folders of `hfft train`.")
    known = {*COLUMNS, *(name for row in rows for name in row)}
    if sort not in known:
        raise UserError(f"--sort: no run has a column '{sort}'.{nearest(sort, known)}")
    with_value = [row for row in rows if row.get(sort) is not None]
    without = [row for row in rows if row.get(sort) is None]
    return sorted(with_value, key=lambda row: row[sort], reverse=_falls(sort, with_value)) + without


def _falls(column: str, rows: list[dict[str, Any]]) -> bool:
    """Say whether a column is sorted from the largest value down."""
    from hfft.evaluation.metrics import LOWER_IS_BETTER

    if column in COLUMNS and column not in ("value", "ci_low", "ci_high", "validation"):
        return column == "date"
    names = {row["metric"] for row in rows} if column in COLUMNS else {_metric_of(column)}
    return not names <= {*LOWER_IS_BETTER, "loss"}


def _metric_of(name: str) -> str:
    return re.sub(r"^(baseline_)?(test|validation|crossval)_|_ci_(low|high)$", "", name)


def _run_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of runs, each once, whatever links lead to it."""
    seen = {_identity(above) for above in root.resolve().parents}  # a link upwards is a circle
    for place, below, _ in os.walk(root, followlinks=True):
        folder = Path(place)
        if not os.access(folder, os.R_OK | os.X_OK) or (identity := _identity(folder)) in seen:
            below.clear()
            continue
        seen.add(identity)
        if _is_run(folder):
            yield folder
        passed = {FOLDS} if (folder / CROSSVAL_SETTINGS).is_file() else set()
        below[:] = [name for name in below if name not in passed and not name.startswith((".", "checkpoint-"))]
        below.sort(key=lambda name: ((folder / name).is_symlink(), name))  # what a link leads to has a name of its own


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_run(folder: Path) -> bool:
    """Say whether the folder holds a run, also where its settings are damaged."""
    if any((folder / name).is_file() for name in (METRICS_FILE, CROSSVAL_FILE)):
        return any((folder / name).exists() for name in (RUN_FILE, CROSSVAL_SETTINGS, PREDICTIONS_FILE))
    files = [file for name in (RUN_FILE, CROSSVAL_SETTINGS, SEARCH_SETTINGS) if (file := folder / name).is_file()]
    try:
        return any(file.open("rb").read(len(RUN_HEADER)) == RUN_HEADER.encode() for file in files)
    except OSError:
        return True  # written by someone, and told as damaged


def _row(folder: Path, root: Path) -> dict[str, Any]:
    """Read a run; what is wrong with its files stands in ``state``."""
    is_crossval = any((folder / name).is_file() for name in (CROSSVAL_FILE, CROSSVAL_SETTINGS))
    damages: list[str] = []
    searches = not is_crossval and not (folder / RUN_FILE).exists() and (folder / SEARCH_SETTINGS).is_file()
    settings_file = CROSSVAL_SETTINGS if is_crossval else SEARCH_SETTINGS if searches else RUN_FILE
    settings = _read(folder / settings_file, yaml.safe_load, damages)
    metrics_file = folder / (CROSSVAL_FILE if is_crossval else METRICS_FILE)
    told = _read(metrics_file, json.loads, damages) if metrics_file.is_file() else None
    folds = sorted(path.parent for path in (folder / FOLDS).glob(f"*/{METRICS_FILE}")) if is_crossval else []
    if folds:  # what nobody asked for stands in the settings of the folds alone
        settings = {**_read(folds[0] / RUN_FILE, yaml.safe_load, damages), **settings}
    metrics = _crossval_metrics(told) if is_crossval else _numbers(told)
    newest = metrics_file if told is not None else folder
    row = {
        "where": str(folder.relative_to(root)),
        "state": _state(folder, damages, told is not None, len(folds) if is_crossval else None, searches),
        **{name: _text(settings.get(name)) for name in ("task", "model", "strategy")},
        **_headline(metrics),
        TRAIN_RUNTIME: metrics.get(TRAIN_RUNTIME),
        "weights_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file()) or None,
        "date": datetime.fromtimestamp(newest.stat().st_mtime).astimezone().isoformat(timespec="seconds"),
    }
    return row | {name: value for name, value in metrics.items() if name not in row}


def _read(file: Path, parse: Callable[[str], Any], damages: list[str]) -> dict[str, Any]:
    """Return the mapping that a file holds; empty where it is damaged, which is noted down."""
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"more than {_LARGEST:,} bytes")
        found = parse(file.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no names and values")
        return found
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        damages.append(f"{file.name} cannot be read ({getattr(error, 'strerror', None) or _first_line(error)})")
        return {}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _state(folder: Path, damages: list[str], has_results: bool, folds: int | None, searches: bool) -> str:
    if damages:
        return f"damaged: {'; '.join(damages)}"
    if folds is not None:
        return f"cross-validation, {folds} folds" if has_results else f"unfinished, {folds} folds done"
    if has_results:
        return "finished"
    if searches:
        return "unfinished, its arguments are searched"
    steps = [int(path.name[11:]) for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    return f"unfinished, checkpoint-{max(steps)}" if steps else "unfinished"


def _headline(metrics: dict[str, float]) -> dict[str, Any]:
    """Return the first metric of the test split, or else of the folds, which is the headline, with its interval."""
    names = [
        name
        for split in ("test_", "crossval_")
        for name in metrics
        if name.startswith(split) and not name.endswith(_NO_METRICS)
    ]
    first = names[0] if names else ""
    metric = first.partition("_")[2] or None
    return {
        "metric": metric,
        "value": metrics.get(first),
        "ci_low": metrics.get(f"{first}_ci_low"),
        "ci_high": metrics.get(f"{first}_ci_high"),
        "validation": metrics.get(f"validation_{metric}"),
    }


def _crossval_metrics(told: dict[str, Any] | None) -> dict[str, float]:
    """Return the means over the folds, and the seconds that all of them took."""
    metrics, folds = _numbers((told or {}).get("metrics")), (told or {}).get("folds")
    times = [_numbers(fold).get(TRAIN_RUNTIME) for fold in folds] if isinstance(folds, list) else []
    known = [seconds for seconds in times if seconds is not None]
    return metrics | ({TRAIN_RUNTIME: sum(known)} if known and len(known) == len(times) else {})


def _numbers(told: Any) -> dict[str, float]:
    """Return what of a mapping is a name and a finite number."""
    items = told.items() if isinstance(told, dict) else ()
    numbers = ((name, value) for name, value in items if isinstance(value, int | float) and not isinstance(value, bool))
    return {name: value for name, value in numbers if abs(value) < _INFINITE}  # no NaN either


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def write_runs(rows: list[dict[str, Any]], output: Path) -> None:
    """Write the rows as CSV, JSON or Parquet; what goes wrong is a :class:`UserError`.

    A text that a spreadsheet would take for a formula has an apostrophe before it in CSV.
    """
    import csv

    from hfft.failures import writing_output

    names = list(dict.fromkeys(name for row in rows for name in row))
    whole = [{name: row.get(name) for name in names} for row in rows]
    with writing_output(output):
        if output.suffix.lower() == ".json":
            output.write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
        elif output.suffix.lower() == ".parquet":
            from pandas import DataFrame

            DataFrame(whole).to_parquet(output, index=False)
        else:
            with output.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
                csv.writer(stream).writerows([map(_cell, names), *(map(_cell, row.values()) for row in whole)])


def _cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{value}" if is_formula else value
