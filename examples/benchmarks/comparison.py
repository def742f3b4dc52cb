"""What the comparisons with the stock Trainer share: processes, medians, the table and the JSON file.

Each run of each side is a process of its own, the sides in turns, so that what else the machine does meets all of them,
and so that one side's memory is not the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Result = dict[str, Any]
Run = Callable[[argparse.Namespace, str, int, Path], Result]
"""(options, side, seed, folder of this repetition, which its sides share) -> what was measured."""

COLUMNS = {
    "startup_seconds": "start-up s",
    "training_seconds": "training s",
    "process_seconds": "whole process s",
    "processor_seconds": "processor s",
    "megabytes": "peak MB",
    "accuracy": "test accuracy",
    "cross_validated_accuracy": "cross-validated",
}


def comparison_parser(description: str, epochs: float, output: str) -> argparse.ArgumentParser:
    """Return the parser of what every comparison can be told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the pretrained model")
    parser.add_argument("--data", required=True, help="folder with train and test: Parquet files, or class folders")
    parser.add_argument("--epochs", type=float, default=epochs)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3, help="seeds, of which the medians are taken")
    parser.add_argument("--max_length", type=int, default=128, help="tokens of a text; the default is run_glue.py's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", metavar="SIDE", help="measure these alone, the reference first")
    parser.add_argument("--output", default=output, help="JSON file to write")
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "SEED", "FOLDER"), help=argparse.SUPPRESS)
    return parser


def compare(options: argparse.Namespace, sides: Sequence[str], run: Run) -> None:
    """Measure the sides, print their medians and the ratios to the first side, and write the JSON file."""
    if options.one:
        side, seed, folder = options.one
        print(json.dumps({**run(options, side, int(seed), Path(folder)), "megabytes": peak_megabytes()}))
        return
    if unknown := set(options.sides or ()) - set(sides):
        raise SystemExit(f"--sides: there is no {', '.join(sorted(unknown))}; there are {'; '.join(sides)}.")
    sides = options.sides or sides
    results = []
    for seed in range(options.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            results += [_in_process(options, side, seed, folder) for side in sides]
    summary = {side: _medians([result for result in results if result["side"] == side]) for side in sides}
    _print(summary, options)
    about = {"processor": platform.processor(), "python": platform.python_version(), **_versions()}
    settings = {name: value for name, value in vars(options).items() if name != "one"}
    told = {"settings": settings, "about": about, "summary": summary, "runs": results}
    Path(options.output).write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def peak_megabytes() -> float:
    """Return the most memory that this process has held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


def since_start() -> float:
    """Return the seconds since the process of this run was started."""
    return time.time() - float(os.environ["COMPARISON_STARTED"])


def _in_process(options: argparse.Namespace, side: str, seed: int, folder: str) -> Result:
    command = [sys.executable, *sys.argv, "--one", side, str(seed), folder]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "COMPARISON_STARTED": str(time.time())}
    environment.setdefault("HF_HUB_OFFLINE", "1")  # model and data lie here
    start, before = time.perf_counter(), _processor_seconds()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    seconds = {"process_seconds": time.perf_counter() - start, "processor_seconds": _processor_seconds() - before}
    result = {"side": side, "seed": seed, **json.loads(done.stdout.splitlines()[-1]), **seconds}
    print(json.dumps(result), file=sys.stderr)
    return result


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _medians(results: list[Result]) -> dict[str, float]:
    names = [name for name, value in results[0].items() if isinstance(value, float)]
    return {name: statistics.median(result[name] for result in results) for name in names}


def _print(summary: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    known = [name for name in COLUMNS if any(name in row for row in summary.values())]
    table = Table("side", *(COLUMNS[name] for name in known), "training ratio", "whole ratio", "memory ratio")
    reference = next(iter(summary.values()))
    for side, row in summary.items():
        ratios = [reference[name] / row[name] for name in ("training_seconds", "process_seconds")]
        values = [_shown(name, row.get(name)) for name in known]
        memory = row["megabytes"] / reference["megabytes"]
        table.add_row(side, *values, *(f"{ratio:.2f}x" for ratio in ratios), f"{memory:.2f}")
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    console.print(f"Medians of {options.repetitions}, {options.threads} threads. Ratios are to {next(iter(summary))}.")


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if name.endswith("accuracy") else f"{value:,.1f}"


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("hfft", "torch", "transformers", "accelerate", "timm")}
