"""Tables (CSV, TSV, JSONL, Parquet), read as they are written, on top of the ``datasets`` library."""

from __future__ import annotations

import contextlib
import glob
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfft.data.null_rows import null_row
from hfft.data.split_names import SPLIT_OF, UNSPLIT
from hfft.errors import UserError, listed
from hfft.paths import visible

if TYPE_CHECKING:
    from datasets import Dataset

READERS: dict[str, tuple[str, dict[str, Any]]] = {
    # pandas would take real words ("None", "NA", "null") for missing values
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}


def by_split(files: list[Path]) -> dict[str, list[Path]]:
    """Return split -> files by the splits in their names, or all as one where no name tells of a split.

    Raises :class:`UserError` where some names tell of a split and others do not.
    """
    named, unnamed = _by_name(files)
    if named and unnamed:
        raise UserError(
            f"--data: '{unnamed[0]}' tells of no split in its name, and '{next(iter(named.values()))[0]}' does. Name "
            "all files for their splits, or none."
        )
    return named or {UNSPLIT: unnamed}


def tables_by_split(folder: Path) -> dict[str, list[Path]]:
    """Return split -> tables of a folder, empty where it holds none; raises :class:`UserError` for what is unclear."""
    tables, unnamed = _by_name(p for p in visible(folder) if p.is_file() and p.suffix.lower() in READERS)
    if tables and "train" not in tables:
        found = listed(path.name for paths in tables.values() for path in paths)
        raise UserError(f"--data: the folder '{folder}' has no train table among {found}.")
    if tables or not unnamed or any(path.is_dir() for path in visible(folder)):
        return tables  # none in class folders with a table beside them
    if len(unnamed) > 1:
        raise UserError(
            f"--data: the folder '{folder}' holds several tables ({listed(p.name for p in unnamed)}). Name one of "
            "them, or call them train, validation and test."
        )
    return {UNSPLIT: unnamed}


def read_tables(tables: dict[str, list[Path]], cache_dir: str | None, flag: str = "--data") -> dict[str, Dataset]:
    """Read the tables of every split, Arrow on disk; raises :class:`UserError` naming the file and what is wrong."""
    return {split: _read_table(files, cache_dir, flag) for split, files in tables.items()}


def _read_table(files: list[Path], cache_dir: str | None, flag: str) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    builder, options = _reader(files, flag)
    for file in files if builder == "json" else ():
        if place := null_row(file):
            raise UserError(f"{flag}: '{file}' cannot be read: {place} is null, which is no row. Take it out.")
    names = [glob.escape(str(path)) for path in files]
    try:
        if builder == "csv":
            options = options | _columns_as_written(files[0], options)
        with _quiet_library():
            table = load_dataset(builder, data_files=names, split="train", cache_dir=cache_dir, **options)
    except (DatasetGenerationError, ValueError, TypeError, OSError) as error:
        raise _unreadable(files, error, flag) from error
    return undecoded(table)


def _reader(files: list[Path], flag: str) -> tuple[str, dict[str, Any]]:
    """Return what reads the files, and its options; raises :class:`UserError` for several types and empty files."""
    suffixes = {path.suffix.lower() for path in files}
    if len(suffixes) > 1 or not suffixes <= READERS.keys():
        raise UserError(
            f"{flag}: {listed(str(f) for f in files)}: a split is read from tables of one type, {listed(READERS)}."
        )
    if empty := [str(path) for path in files if path.stat().st_size == 0]:
        raise UserError(f"{flag}: '{empty[0]}' is empty.")
    return READERS[suffixes.pop()]


def _columns_as_written(file: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that read every cell as text: "01" is no 1, and other rows do not decide what a cell is."""
    import pandas
    from datasets import Features, Value

    found: dict[str, Any] = {}
    header = pandas.read_csv(file, nrows=0, **options).columns
    if len(header) == 1 and (separator := _other_separator(str(header[0]))):
        found["sep"] = separator
        header = pandas.read_csv(file, nrows=0, **options | found).columns
    return found | {"features": Features(dict.fromkeys(header, Value("string")))}


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """Let the library log nothing, for the error says it, and ask the Hub nothing: a local file is no download."""
    from datasets import config, logging

    level, counting = logging.get_verbosity(), config.HF_UPDATE_DOWNLOAD_COUNTS
    logging.set_verbosity(logging.CRITICAL)
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        logging.set_verbosity(level)
        config.HF_UPDATE_DOWNLOAD_COUNTS = counting


def _unreadable(files: list[Path], error: Exception, flag: str) -> UserError:
    """Return the error that says why the files cannot be read."""
    named, cause = listed(str(path) for path in files), error.__cause__ or error
    reason = " ".join(str(cause).split())
    if "corresponds to no data" in reason:
        return UserError(f"{flag}: '{named}' has no rows.")
    if isinstance(cause, UnicodeDecodeError):
        reason = f"it is not UTF-8 ({reason}); save it as UTF-8"
    return UserError(f"{flag}: '{named}' cannot be read: {_broken_line(files) or reason}")


def _other_separator(header: str) -> str | None:
    """Return what divides the names in a header without commas; in half of Europe spreadsheets write semicolons."""
    return next((mark for mark in (";", "\t", "|") if mark in header), None)


def _broken_line(files: list[Path]) -> str | None:
    """Return where the first line of a JSONL file that is no JSON stands."""
    for path in files:
        if path.suffix.lower() == ".jsonl":
            for number, line in enumerate(path.read_bytes().splitlines(), 1):
                try:
                    json.loads(line or b"null")
                except (ValueError, RecursionError) as error:
                    return f"{path.name}, line {number} is no JSON ({error})"
    return None


def undecoded(dataset: Dataset) -> Dataset:
    """Keep pictures and sounds as path and bytes: the task decodes them, in one place."""
    from datasets import Audio, Image

    dataset = dataset.with_format(None)  # rows as plain Python values, whatever the caller had asked for
    for name, feature in dataset.features.items():
        if isinstance(feature, Image | Audio) and feature.decode:
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def _by_name(files: Iterable[Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return split -> files by the splits in their names, and the files whose names tell of none."""
    named: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    for path in files:
        split = _split_in_name(path.stem)
        (unnamed if split is None else named.setdefault(split, [])).append(path)
    return named, unnamed


def _split_in_name(stem: str) -> str | None:
    """Return the split that a file name tells of: ``train``, ``train-00000-of-00002``, ``my_test``."""
    words = [word for word in re.split(r"[-_. ]+", stem.lower()) if word in SPLIT_OF]
    return SPLIT_OF[words[-1]] if words else None
