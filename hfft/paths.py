"""Files and folders that a user named."""

from __future__ import annotations

import os
from pathlib import Path

from hfft.errors import UserError, nearest

_JUNK = {"__MACOSX", "__pycache__"}


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


def visible(folder: Path) -> list[Path]:
    """Return what stands in a folder, sorted, without hidden files and what archives leave behind."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in _JUNK)


def files_below(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Return the files of these suffixes at any depth, sorted; raises :class:`UserError` for a name in no UTF-8."""
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
