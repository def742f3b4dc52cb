"""Files in class folders: ``train/ants/1.jpg``, or without the split folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hfft.data.split_names import LABEL, REFERENCE, SPLIT_OF, UNSPLIT
from hfft.data.tables import READERS
from hfft.errors import UserError, listed
from hfft.paths import files_below, visible

if TYPE_CHECKING:
    from datasets import Dataset


def read_class_folders(root: Path, suffixes: frozenset[str]) -> dict[str, Dataset]:
    """Read class folders, with or without split folders above; raises :class:`UserError` naming the folder."""
    folders = [path for path in visible(root) if path.is_dir()]
    split_folders = {path: SPLIT_OF[path.name.lower()] for path in folders if path.name.lower() in SPLIT_OF}
    if split_folders and len(split_folders) == len(folders):
        if "train" not in split_folders.values():
            raise UserError(
                f"--data: the folder '{root}' has no train folder beside {listed(p.name for p in folders)}."
            )
        if len(set(split_folders.values())) < len(split_folders):
            raise UserError(f"--data: '{root}' holds one split twice: {listed(p.name for p in split_folders)}.")
        return {split: _class_folders(path, suffixes) for path, split in split_folders.items()}
    if any(path.name.lower() == "train" and any(p.is_dir() for p in visible(path)) for path in split_folders):
        others = listed(path.name for path in folders if path not in split_folders)
        raise UserError(f"--data: '{root}' mixes split folders with others ({others}). Move the others elsewhere.")
    return {UNSPLIT: _class_folders(root, suffixes)}


def _class_folders(root: Path, suffixes: frozenset[str]) -> Dataset:
    from datasets import Dataset

    classes = [path for path in visible(root) if path.is_dir()]
    if not classes:
        found = files_below(root, suffixes)
        what = f"{len(found)} files but no class folders" if found else "nothing to train on"
        raise UserError(
            f"--data: '{root}' holds {what}. Wanted is a folder for each class, {root.name}/CLASS/FILE, with or "
            f"without train and test folders above, or a table ({listed(READERS)})."
        )
    paths: list[str] = []
    labels: list[str] = []
    for folder in classes:
        files = files_below(folder, suffixes)
        if not files:
            raise UserError(
                f"--data: the class folder '{folder}' holds no file of a known type ({listed(sorted(suffixes), 20)})."
            )
        paths += [str(path) for path in files]
        labels += [folder.name] * len(files)
    return Dataset.from_dict({REFERENCE: paths, LABEL: labels})
