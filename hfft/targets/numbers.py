"""Cells that hold a number."""

from __future__ import annotations

import math
from typing import Any

from hfft.targets.cells import LabelColumn


def as_number(value: Any) -> float | None:
    """Return a cell as a finite number, or ``None``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def numbers_of(column: LabelColumn, rows: list[int]) -> list[float]:
    """Return the numbers of some rows; raises :class:`UserError` for what is none, and for names of classes."""
    from datasets import ClassLabel

    if isinstance(column.feature, ClassLabel):
        raise column.problem(f"holds classes ({column.feature.names[0]}, ...); regression needs numbers.")
    numbers = [as_number(column.values[row]) for row in rows]
    if None in numbers:
        row = rows[numbers.index(None)]
        raise column.problem(f"holds {column.values[row]!r} in row {row + 1}; regression needs finite numbers.")
    return [number for number in numbers if number is not None]
