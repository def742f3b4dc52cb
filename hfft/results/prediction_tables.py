"""What predictions are written to: CSV or Parquet, a part at a time."""

from __future__ import annotations

import contextlib
import csv
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from hfft.failures import writing_output
from hfft.targets import Target

STREAM = "-"
"""In place of a path: standard input, standard output."""

ERROR = "error"
"""The column that says why an input could not be read."""


def table_schema(target: Target) -> Any:
    """Return the ``pyarrow.Schema`` of a table of predictions."""
    import pyarrow

    sample = pyarrow.table({name: list(values) for name, values in _sample(target).items()})
    text = pyarrow.string()
    # lists that are empty in the sample do not say of what
    types = [(f.name, pyarrow.list_(text) if pyarrow.types.is_list(f.type) else f.type) for f in sample.schema]
    return pyarrow.schema([("input", text), *types, (ERROR, text)])


def _sample(target: Target) -> dict[str, Any]:
    return target.prediction_columns(target.sample()[1])


class TableWriter(Protocol):
    """Takes a table in parts."""

    def write(self, table: Any) -> None:
        """Add a part."""


class _Nowhere:
    def write(self, table: Any) -> None:
        pass


@dataclass
class _Csv:
    """Writes CSV; lists are joined, for a cell of CSV is one text."""

    stream: IO[str]
    delimiter: str
    begun: bool = False

    def write(self, table: Any) -> None:
        rows: Iterable[tuple[Any, ...]] = zip(*(column.to_pylist() for column in table.columns), strict=True)
        lines = csv.writer(self.stream)
        if not self.begun:
            lines.writerow(table.column_names)
            self.begun = True
        lines.writerows([self.delimiter.join(v) if isinstance(v, list) else v for v in row] for row in rows)
        self.stream.flush()


@dataclass
class _Parquet:
    writer: Any

    def write(self, table: Any) -> None:
        self.writer.write_table(table)


@contextlib.contextmanager
def open_writer(output: str | Path | None, target: Target, delimiter: str) -> Iterator[TableWriter]:
    """Open what parts of the table are written to; a file has its name once it is whole."""
    if output is None:
        yield _Nowhere()
        return
    if output == STREAM:
        try:
            yield _Csv(sys.stdout, delimiter)
        except BrokenPipeError:  # who reads has read enough; Python would complain again when it closes the stream
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    path = Path(output)
    beside = path.with_name(f".{path.name}.unfinished")
    try:
        with writing_output(path):
            if path.suffix.lower() == ".parquet":
                from pyarrow.parquet import ParquetWriter

                with ParquetWriter(str(beside), table_schema(target)) as parquet:
                    yield _Parquet(parquet)
            else:
                with beside.open("w", encoding="utf-8", newline="") as stream:
                    yield _Csv(stream, delimiter)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
