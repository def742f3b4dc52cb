"""Read what ``--data`` names into splits of raw columns, on top of the ``datasets`` library.

Two layouts are known: files in class folders (``train/ants/1.jpg``, or without the split folders), and tables (CSV,
TSV, JSONL, Parquet: one file, or a folder of files named for their splits).
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfft.errors import UserError, listed, nearest

if TYPE_CHECKING:
    from datasets import Dataset

UNSPLIT = "all"
REFERENCE = "reference"

_SPLIT_OF = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    # pandas would take real words ("None", "NA", "null") for missing values
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}
_JUNK = {"__MACOSX", "__pycache__"}


@dataclass(frozen=True)
class Source:
    """Raw data as it was found.

    Attributes:
        splits: split name -> rows; the one name ``all`` where the data has no splits.
        origin: how the user named it, for messages.
        folder: where relative paths in a table start.
        flag: under which flag it was named, for messages.
        from_files: whether the rows are files in class folders (columns ``reference`` and ``label``).
    """

    splits: dict[str, Dataset]
    origin: str
    from_files: bool = False
    folder: Path | None = None
    flag: str = "--data"

    @property
    def column_names(self) -> list[str]:
        """The columns of the first split."""
        return list(next(iter(self.splits.values())).column_names)

    def first_value(self, column: str) -> Any:
        """Return the first value of a column that is not missing, undecoded."""
        for split in self.splits.values():
            for value in split.select(range(min(len(split), 100)))[column]:
                if value not in (None, ""):
                    return value
        return None


def read_source(data: Any, file_suffixes: Iterable[str], cache_dir: str | None = None) -> Source:
    """Read a path or Python data sets.

    Args:
        data: a path; or a ``DatasetDict``, a dict of ``Dataset`` or one ``Dataset``.
        file_suffixes: of the files that class folders may hold (``.jpg``, ...).
        cache_dir: where ``datasets`` keeps converted tables.

    Raises:
        UserError: naming the file, folder or line that cannot be read.
    """
    from datasets import Dataset

    if isinstance(data, Dataset):
        return _checked(Source({UNSPLIT: _undecoded(data)}, "the given Dataset"))
    if isinstance(data, Mapping):
        splits: dict[str, Dataset] = {}
        for name, split in data.items():
            known = _SPLIT_OF.get(str(name).lower())
            if known is None or not isinstance(split, Dataset):
                raise UserError(
                    f"data: split '{name}' is not one of {listed(sorted(set(_SPLIT_OF.values())))}, or no Dataset."
                    f"{nearest(name, _SPLIT_OF)}"
                )
            if known in splits:
                raise UserError(f"data: '{name}' is a second {known} split.")
            splits[known] = _undecoded(split)
        if not splits:
            raise UserError("data: the dict holds no data sets.")
        return _checked(Source(splits, "the given data sets"))
    if not isinstance(data, str | Path):
        raise UserError(f"data must be a path or a datasets.DatasetDict, got {type(data).__name__}.")
    path = existing_path(data, "--data")
    if path.is_file():
        return _checked(Source(_read_tables({UNSPLIT: [path]}, cache_dir), str(data), folder=path.parent))
    tables = _tables_by_split(path)
    if tables:
        return _checked(Source(_read_tables(tables, cache_dir), str(data), folder=path))
    return _checked(Source(_read_class_folders(path, frozenset(file_suffixes)), str(data), from_files=True))


def read_inputs(path: str | Path, file_suffixes: frozenset[str], cache_dir: str | None = None) -> Source:
    """Read inputs without labels: a table, one file, or a folder of files at any depth."""
    from datasets import Dataset

    flag = "--input"
    root = existing_path(path, flag)
    if root.is_file() and root.suffix.lower() in _READERS:
        return _checked(
            Source(_read_tables({UNSPLIT: [root]}, cache_dir, flag), str(path), folder=root.parent, flag=flag)
        )
    if root.is_file() and root.suffix.lower() not in file_suffixes:
        known = sorted({*_READERS, *file_suffixes})
        raise UserError(f"--input: '{path}' is of no known type. Known suffixes: {listed(known, 30)}.")
    files = [root] if root.is_file() else _files_below(root, file_suffixes)
    if not files:
        what = f"with the suffixes {listed(sorted(file_suffixes))}" if file_suffixes else "that this model reads"
        raise UserError(f"--input: the folder '{path}' holds no files {what}.")
    return Source(
        {UNSPLIT: Dataset.from_dict({REFERENCE: [str(f) for f in files]})}, str(path), from_files=True, flag=flag
    )


def existing_path(path: str | Path, flag: str) -> Path:
    """Return the path if it exists; raises :class:`UserError` with the nearest name beside it."""
    wanted = Path(path).expanduser()
    try:
        if wanted.exists():
            return wanted
    except OSError as error:
        raise UserError(f"{flag}: '{path}' cannot be opened: {error.strerror}.") from error
    parent = next((p for p in wanted.parents if p.is_dir()), Path())
    missing = wanted.relative_to(parent).parts[0] if parent in wanted.parents else wanted.name
    hint = nearest(missing, (p.name for p in parent.iterdir())) if parent.is_dir() else ""
    raise UserError(f"{flag}: there is no file or folder '{path}'.{hint}")


def _checked(source: Source) -> Source:
    for name, split in source.splits.items():
        if len(split) == 0:
            raise UserError(
                f"{source.flag}: '{source.origin}' has no rows" + ("." if name == UNSPLIT else f" in '{name}'.")
            )
    return source


def _undecoded(dataset: Dataset) -> Dataset:
    """Keep pictures and sounds as path and bytes: the task decodes them, in one place."""
    from datasets import Audio, Image

    dataset = dataset.with_format(None)  # rows as plain Python values, whatever the caller had asked for
    for name, feature in dataset.features.items():
        if isinstance(feature, Image | Audio) and feature.decode:
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def _split_in_name(stem: str) -> str | None:
    """Return the split that a file name tells of: ``train``, ``train-00000-of-00002``, ``my_test``."""
    words = [word for word in re.split(r"[-_. ]+", stem.lower()) if word in _SPLIT_OF]
    return _SPLIT_OF[words[-1]] if words else None


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in _JUNK)


def _tables_by_split(folder: Path) -> dict[str, list[Path]]:
    tables: dict[str, list[Path]] = {}
    unnamed = []
    for path in _visible(folder):
        if path.is_file() and path.suffix.lower() in _READERS:
            split = _split_in_name(path.stem)
            if split is None:
                unnamed.append(path)
            else:
                tables.setdefault(split, []).append(path)
    if tables and "train" not in tables:
        found = listed(path.name for paths in tables.values() for path in paths)
        raise UserError(f"--data: the folder '{folder}' has no train table among {found}.")
    if any(path.is_dir() for path in _visible(folder)) and not tables:
        return {}  # class folders with a table beside them
    if not tables and len(unnamed) == 1:
        return {UNSPLIT: unnamed}
    if not tables and unnamed:
        raise UserError(
            f"--data: the folder '{folder}' holds several tables ({listed(p.name for p in unnamed)}). Name one of "
            "them, or call them train, validation and test."
        )
    return tables


def _read_tables(tables: dict[str, list[Path]], cache_dir: str | None, flag: str = "--data") -> dict[str, Dataset]:
    import datasets
    import pandas
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    splits = {}
    for split, files in tables.items():
        suffixes = {path.suffix.lower() for path in files}
        if len(suffixes) > 1 or not suffixes <= _READERS.keys():
            raise UserError(
                f"{flag}: {listed(str(f) for f in files)}: a split is read from tables of one type, {listed(_READERS)}."
            )
        builder, options = _READERS[suffixes.pop()]
        if empty := [str(path) for path in files if path.stat().st_size == 0]:
            raise UserError(f"{flag}: '{empty[0]}' is empty.")
        level, counting = datasets.logging.get_verbosity(), datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # the error below says it
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a local file is nobody's download: no request
        try:
            if builder == "csv":  # as written: "01" is no 1, and other rows do not decide what a cell is
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
        splits[split] = _undecoded(table)
    return splits


def _broken_line(files: list[Path]) -> str | None:
    """Return where the first line that is no JSON stands."""
    for path in files:
        if path.suffix.lower() == ".jsonl":
            for number, line in enumerate(path.read_bytes().splitlines(), 1):
                try:
                    json.loads(line or b"null")
                except ValueError as error:
                    return f"{path.name}, line {number} is no JSON ({error})"
    return None


def _read_class_folders(root: Path, suffixes: frozenset[str]) -> dict[str, Dataset]:
    folders = [path for path in _visible(root) if path.is_dir()]
    split_folders = {path: _SPLIT_OF[path.name.lower()] for path in folders if path.name.lower() in _SPLIT_OF}
    if split_folders and len(split_folders) == len(folders):
        if "train" not in split_folders.values():
            raise UserError(
                f"--data: the folder '{root}' has no train folder beside {listed(p.name for p in folders)}."
            )
        if len(set(split_folders.values())) < len(split_folders):
            raise UserError(f"--data: '{root}' holds one split twice: {listed(p.name for p in split_folders)}.")
        return {split: _class_folders(path, suffixes) for path, split in split_folders.items()}
    if any(path.name.lower() == "train" and any(p.is_dir() for p in _visible(path)) for path in split_folders):
        others = listed(path.name for path in folders if path not in split_folders)
        raise UserError(f"--data: '{root}' mixes split folders with others ({others}). Move the others elsewhere.")
    return {UNSPLIT: _class_folders(root, suffixes)}


def _class_folders(root: Path, suffixes: frozenset[str]) -> Dataset:
    from datasets import Dataset

    classes = [path for path in _visible(root) if path.is_dir()]
    if not classes:
        found = _files_below(root, suffixes)
        what = f"{len(found)} files but no class folders" if found else "nothing to train on"
        raise UserError(
            f"--data: '{root}' holds {what}. Wanted is a folder for each class, {root.name}/CLASS/FILE, with or "
            f"without train and test folders above, or a table ({listed(_READERS)})."
        )
    paths: list[str] = []
    labels: list[str] = []
    for folder in classes:
        files = _files_below(folder, suffixes)
        if not files:
            raise UserError(
                f"--data: the class folder '{folder}' holds no file of a known type ({listed(sorted(suffixes), 20)})."
            )
        paths += [str(path) for path in files]
        labels += [folder.name] * len(files)
    return Dataset.from_dict({REFERENCE: paths, "label": labels})


def _files_below(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") or part in _JUNK for part in path.relative_to(folder).parts)
    )
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"The name of the file {os.fsencode(path)!r} is no UTF-8. Rename it.") from error
    return files
