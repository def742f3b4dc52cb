"""Read what ``--data`` names into splits of raw columns, on top of the ``datasets`` library.

On disk two layouts are known: files in class folders (``train/ants/1.jpg``, or without the split folders), and tables
(CSV, TSV, JSONL, Parquet: one file, several that a pattern names, or a folder of files named for their splits). Beside
them there are data sets of the Hub, and Python's data sets and pandas tables.
"""

from __future__ import annotations

import contextlib
import glob
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfft.data.folders import read_class_folders
from hfft.data.hub import is_hub_id, read_hub
from hfft.data.split_names import LABEL, REFERENCE, SPLIT_OF, UNSPLIT
from hfft.data.tables import READERS, by_split, read_tables, tables_by_split, undecoded
from hfft.errors import UserError, listed, nearest
from hfft.paths import existing_path, files_below

if TYPE_CHECKING:
    from datasets import Dataset

    from hfft.task import Task


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
    """Read a path, a data set of the Hub, or Python data sets.

    Args:
        data: a path, a pattern of paths (``shards/*.parquet``), or ``owner/name[:config][@revision]`` on the Hub; or a
            ``DatasetDict``, a ``Dataset`` or a pandas ``DataFrame``, or a dict of them by split.
        file_suffixes: of the files that class folders may hold (``.jpg``, ...).
        cache_dir: where ``datasets`` keeps converted tables.

    Raises:
        UserError: naming the file, folder or line that cannot be read.
    """
    from datasets import Dataset

    data = _from_pandas(data)
    if isinstance(data, Dataset):
        return _checked(Source({UNSPLIT: undecoded(data)}, "the given Dataset"))
    if isinstance(data, Mapping):
        return _checked(_from_mapping(data))
    if isinstance(data, str | Path):
        return _checked(_from_name(data, frozenset(file_suffixes), cache_dir))
    raise UserError(f"data must be a path or a datasets.DatasetDict, got {type(data).__name__}.")


def _from_mapping(data: Mapping[Any, Any]) -> Source:
    """Take the data sets and pandas tables of a dict by split."""
    from datasets import Dataset

    splits: dict[str, Dataset] = {}
    for name, given in data.items():
        split = _from_pandas(given)
        known = SPLIT_OF.get(str(name).lower())
        if known is None or not isinstance(split, Dataset):
            raise UserError(
                f"data: split '{name}' is not one of {listed(sorted(set(SPLIT_OF.values())))}, or no Dataset."
                f"{nearest(name, SPLIT_OF)}"
            )
        if known in splits:
            raise UserError(f"data: '{name}' is a second {known} split.")
        splits[known] = undecoded(split)
    if not splits:
        raise UserError("data: the dict holds no data sets.")
    return Source(splits, "the given data sets")


def _from_name(data: str | Path, file_suffixes: frozenset[str], cache_dir: str | None) -> Source:
    """Read a data set of the Hub, the tables of a pattern, a table, or a folder of tables or of class folders."""
    origin = str(data)
    if is_hub_id(origin):
        return _from_hub(origin, cache_dir)
    if files := _matching(origin):
        return Source(read_tables(by_split(files), cache_dir), origin, folder=files[0].parent)
    path = existing_path(data, "--data")
    if path.is_file():
        return Source(read_tables({UNSPLIT: [path]}, cache_dir), origin, folder=path.parent)
    if tables := tables_by_split(path):
        return Source(read_tables(tables, cache_dir), origin, folder=path)
    return Source(read_class_folders(path, file_suffixes), origin, from_files=True)


def _from_pandas(data: Any) -> Any:
    """Return a pandas table as a Dataset, and everything else as it is."""
    from datasets import Dataset

    pandas = sys.modules.get("pandas")  # who has a table has imported it
    if pandas is None or not isinstance(data, pandas.DataFrame):
        return data
    table = data.rename(columns=str)
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise UserError(f"data: the table has two columns '{repeated[0]}'.")
    return Dataset.from_pandas(table, preserve_index=False)


def _from_hub(data: str, cache_dir: str | None) -> Source:
    """Read the splits whose names are known; one split alone has no other name than its own to be kept under."""
    loaded = read_hub(data, cache_dir)
    splits = {SPLIT_OF[name.lower()]: split for name, split in loaded.items() if name.lower() in SPLIT_OF}
    if list(splits) == ["train"] or not splits:
        splits = {UNSPLIT: splits["train"] if splits else next(iter(loaded.values()))}
    return Source({name: undecoded(split) for name, split in splits.items()}, data)


def is_pattern(data: str) -> bool:
    """Say whether ``data`` names several files, such as ``shards/*.parquet``."""
    return glob.has_magic(data) and not _exists(Path(data))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _matching(data: str) -> list[Path]:
    """Return the tables that a pattern such as ``shards/*.parquet`` names; empty where ``data`` is no pattern."""
    if not is_pattern(data):
        return []
    files = sorted(Path(path) for path in glob.glob(data, recursive=True) if Path(path).is_file())  # noqa: PTH207
    if not files:
        raise UserError(f"--data: no file matches '{data}'.")
    return files


def read_inputs(path: str | Path, file_suffixes: frozenset[str], cache_dir: str | None = None) -> Source:
    """Read inputs without labels: a table, one file, or a folder of files at any depth."""
    from datasets import Dataset

    flag = "--input"
    root = existing_path(path, flag)
    if root.is_file() and root.suffix.lower() in READERS:
        return _checked(
            Source(read_tables({UNSPLIT: [root]}, cache_dir, flag), str(path), folder=root.parent, flag=flag)
        )
    if root.is_file() and root.suffix.lower() not in file_suffixes:
        known = sorted({*READERS, *file_suffixes})
        raise UserError(f"--input: '{path}' is of no known type. Known suffixes: {listed(known, 30)}.")
    files = [root] if root.is_file() else files_below(root, file_suffixes)
    if not files:
        what = f"with the suffixes {listed(sorted(file_suffixes))}" if file_suffixes else "that this model reads"
        raise UserError(f"--input: the folder '{path}' holds no files {what}.")
    return Source(
        {UNSPLIT: Dataset.from_dict({REFERENCE: [str(f) for f in files]})}, str(path), from_files=True, flag=flag
    )


def task_inputs(source: Source, split: Dataset, task: Task, columns: Mapping[str, str]) -> Dataset:
    """Return a split with the task's inputs alone, under the names of their roles."""
    if source.from_files:
        from datasets import Dataset

        inputs = [task.from_file(path) for path in split[REFERENCE]]
        return Dataset.from_dict({role: [row[role] for row in inputs] for role in inputs[0]})
    inputs_of = {role: column for role, column in columns.items() if role != LABEL}
    chosen = split.select_columns(list(inputs_of.values()))
    chosen = chosen.rename_columns({column: role for role, column in inputs_of.items() if role != column})
    if source.folder is not None and task.file_suffixes:
        chosen = _located(chosen, task.inputs[0].role, source.folder)
    return chosen


def _located(split: Dataset, role: str, folder: Path) -> Dataset:
    """Let relative paths in a table start at the table."""
    values = split[role][:]
    found = [_beside(value, folder) for value in values]
    if found == values:
        return split
    return split.add_column("located", found).remove_columns(role).rename_column("located", role)


def _beside(value: Any, folder: Path) -> Any:
    with contextlib.suppress(OSError, ValueError):  # too long for a name, or with a NUL in it
        if isinstance(value, str) and (folder / value).is_file():
            return str(folder / value)
    return value


def _checked(source: Source) -> Source:
    for name, split in source.splits.items():
        if len(split) == 0:
            raise UserError(
                f"{source.flag}: '{source.origin}' has no rows" + ("." if name == UNSPLIT else f" in '{name}'.")
            )
    return source
