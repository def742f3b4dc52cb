"""Tables (CSV, TSV, JSONL, Parquet), read as they are written, on top of the ``datasets`` library."""

from __future__ import annotations

import glob
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    found: dict[str | None, list[Path]] = {}
    for path in files:
        found.setdefault(_split_in_name(path.stem), []).append(path)
    unnamed = found.pop(None, [])
    if unnamed and found:
        named = next(iter(found.values()))[0]
        raise UserError(
            f"--data: '{unnamed[0]}' tells of no split in its name, and '{named}' does. Name all files for their "
            "splits, or none."
        )
    return {UNSPLIT: unnamed} if unnamed else {str(split): paths for split, paths in found.items()}


def tables_by_split(folder: Path) -> dict[str, list[Path]]:
    """Return split -> tables of a folder, empty where it holds none; raises :class:`UserError` for what is unclear."""
    tables: dict[str, list[Path]] = {}
    unnamed = []
    for path in visible(folder):
        if path.is_file() and path.suffix.lower() in READERS:
            split = _split_in_name(path.stem)
            if split is None:
                unnamed.append(path)
            else:
                tables.setdefault(split, []).append(path)
    if tables and "train" not in tables:
        found = listed(path.name for paths in tables.values() for path in paths)
        raise UserError(f"--data: the folder '{folder}' has no train table among {found}.")
    if any(path.is_dir() for path in visible(folder)) and not tables:
        return {}  # class folders with a table beside them
    if not tables and len(unnamed) == 1:
        return {UNSPLIT: unnamed}
    if not tables and unnamed:
        raise UserError(
            f"--data: the folder '{folder}' holds several tables ({listed(p.name for p in unnamed)}). Name one of "
            "them, or call them train, validation and test."
        )
    return tables


def read_tables(tables: dict[str, list[Path]], cache_dir: str | None, flag: str = "--data") -> dict[str, Dataset]:
    """Read the tables of every split, Arrow on disk; raises :class:`UserError` naming the file and what is wrong."""
    import datasets
    import pandas
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    splits = {}
    for split, files in tables.items():
        suffixes = {path.suffix.lower() for path in files}
        if len(suffixes) > 1 or not suffixes <= READERS.keys():
            raise UserError(
                f"{flag}: {listed(str(f) for f in files)}: a split is read from tables of one type, {listed(READERS)}."
            )
        builder, options = READERS[suffixes.pop()]
        if empty := [str(path) for path in files if path.stat().st_size == 0]:
            raise UserError(f"{flag}: '{empty[0]}' is empty.")
        level, counting = datasets.logging.get_verbosity(), datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # the error below says it
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a local file is nobody's download: no request
        try:
            if builder == "csv":  # as written: "01" is no 1, and other rows do not decide what a cell is
                header = pandas.read_csv(files[0], nrows=0, **options).columns
                if len(header) == 1 and (separator := _other_separator(str(header[0]))):
                    options = {**options, "sep": separator}
                    header = pandas.read_csv(files[0], nrows=0, **options).columns
                options = {**options, "features": datasets.Features(dict.fromkeys(header, datasets.Value("string")))}
            table = load_dataset(
                builder,
                data_files=[glob.escape(str(path)) for path in files],
                split="train",
                cache_dir=cache_dir,
                **options,
            )
        except (DatasetGenerationError, ValueError, OSError) as error:
            cause = error.__cause__ or error
            reason = " ".join(str(cause).split())
            if isinstance(cause, UnicodeDecodeError):
                reason = f"it is not UTF-8 ({reason}); save it as UTF-8"
            if "corresponds to no data" in reason:
                raise UserError(f"{flag}: '{listed(str(f) for f in files)}' has no rows.") from error
            if builder == "json" and (line := _broken_line(files)):
                reason = line
            raise UserError(f"{flag}: '{listed(str(f) for f in files)}' cannot be read: {reason}") from error
        finally:
            datasets.logging.set_verbosity(level)
            datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counting
        splits[split] = undecoded(table)
    return splits


def _other_separator(header: str) -> str | None:
    """Return what divides the names in a header without commas; in half of Europe spreadsheets write semicolons."""
    return next((mark for mark in (";", "\t", "|") if mark in header), None)


def _broken_line(files: list[Path]) -> str | None:
    """Return where the first line that is no JSON stands."""
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


def _split_in_name(stem: str) -> str | None:
    """Return the split that a file name tells of: ``train``, ``train-00000-of-00002``, ``my_test``."""
    words = [word for word in re.split(r"[-_. ]+", stem.lower()) if word in SPLIT_OF]
    return SPLIT_OF[words[-1]] if words else None
