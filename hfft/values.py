"""Whether the value of an argument can be meant."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hfft.errors import UserError, listed, nearest


def require_choice(arguments: object, name: str, known: Sequence[str]) -> None:
    """Raise :class:`UserError` unless the field is one of the known values."""
    value = getattr(arguments, name)
    if value not in known:
        raise UserError(f"{name} must be one of {listed(known)}, got '{value}'.{nearest(str(value), known)}")


def require_range(
    arguments: object,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_included: bool = True,
    high_included: bool = True,
) -> None:
    """Raise :class:`UserError` unless the field is ``None`` or a finite number within the bounds."""
    value = getattr(arguments, name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}.")
    above = value >= low if low_included else value > low
    below = value <= high if high_included else value < high
    if above and below:
        return
    bounds = [f"{'at least' if low_included else 'more than'} {low:g}"] if math.isfinite(low) else []
    bounds += [f"{'at most' if high_included else 'less than'} {high:g}"] if math.isfinite(high) else []
    raise UserError(f"{name} must be {' and '.join(bounds)}, got {value!r}.")
