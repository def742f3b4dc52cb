"""The data of a run: read, checked and told of, the same on all processes."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from hfft.data import LabelledData, read_labelled
from hfft.errors import UserError, listed
from hfft.hardware.processes import of_all_processes
from hfft.settings import split_settings, training_arguments
from hfft.task import Task
from hfft.terminal import progress_bar
from hfft.training_arguments import FineTuningArguments


def read_data(settings: dict[str, Any], console: Console, draw: bool = True) -> tuple[Task, LabelledData]:
    """Read and check the data that settings name, and tell of it; missing splits are drawn unless they are not to."""
    _, arguments, chosen = split_settings(settings)
    if not draw:
        arguments.validation_size = arguments.test_size = 0.0
    if arguments.data is None:
        raise UserError("--data is needed: an image folder, a CSV or Parquet file, or a folder of such files.")
    args = training_arguments(chosen)
    # one process of a machine reads, checks and converts; the others find what it has kept
    with args.main_process_first(local=True), progress_bar(console) as bar:
        task, source, labelled = read_labelled(
            arguments, args.seed, lambda items, n, what: bar.track(items, n, description=what)
        )
    sizes = ", ".join(f"{len(split)} {name}" for name, split in labelled.splits.items())
    console.print(f"Data: {labelled.origin}: {sizes}; {labelled.target.describe()} ({task.name})")
    if labelled.columns:
        read = ", ".join(f"{role} from '{column}'" for role, column in labelled.columns.items())
        read += f", groups from '{labelled.group_column}'" if labelled.group_column is not None else ""
        used = {*labelled.columns.values(), labelled.group_column}
        unused = [column for column in source.column_names if column not in used]
        console.print(f"  {read}" + (f"; not used: {listed(unused)}" if unused else ""))
    for note in labelled.notes:
        console.print(f"  {note}")
    return task, labelled


def require_like_machines(data: LabelledData, args: FineTuningArguments) -> None:
    """Raise :class:`UserError` where processes compute in other formats, or have read or left out other examples."""
    sizes = ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())
    told = of_all_processes((str(args.precision), sizes, data.digest()))
    rank = next((rank for rank, found in enumerate(told) if found != told[0]), None)
    if rank is None:
        return
    (precision, sizes, _), (other_precision, other_sizes, _) = told[0], told[rank]
    if precision != other_precision:
        raise UserError(f"--precision: process 0 trains in {precision}, process {rank} in {other_precision}. Name one.")
    raise UserError(
        f"--data: process {rank} of {len(told)} has read other examples than process 0: {other_sizes} in place of "
        f"{sizes}. All machines need the same files."
    )
