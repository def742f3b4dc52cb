"""Regular expressions that an argument is given."""

from __future__ import annotations

import re

from hfft.errors import UserError


def compiled(pattern: str, argument: str) -> re.Pattern[str]:
    """Compile a pattern; raises :class:`UserError` that names the argument for what is no regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{argument}: '{pattern}' is no regular expression: {error}.") from error
