"""JSON rows that are ``null``: Arrow's reader ends the process where a block of rows begins with one."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path

_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*")
_NULL_LINE = re.compile(rb"\n\s*null")
_NULL_ITEM = re.compile(rb"[\[,]\s*null")


def null_row(file: Path) -> str | None:
    """Return where the first null among the rows of a JSON file stands, ``line 3``, or ``None``.

    A file that is no JSON, or one value over many lines, is left to the reader.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = _START.match(content).end()  # type: ignore[union-attr]  # it matches nothing as well
        if content[start : start + 1] == b"[":
            return _null_item(content[start:]) if _NULL_ITEM.search(content, start) else None
        if content[start : start + 4] == b"null":
            return _line(content, start)
        found = _NULL_LINE.search(content, start)
        if found is None or not _is_json(content[start : content.find(b"\n", start)]):
            return None
        return _line(content, found.end())


def _line(content: mmap.mmap, place: int) -> str:
    lines = content[:place].count(b"\n")
    return f"line {lines + 1}"


def _null_item(array: bytes) -> str | None:
    try:
        items = json.loads(array)
    except (ValueError, RecursionError):
        return None
    return f"item {items.index(None) + 1}" if None in items else None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
