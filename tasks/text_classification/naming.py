"""Names of classes, read as texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SAYS_NOTHING = re.compile(r"(label|class|category|type|level|group|target)?[\W\d_]*[a-z]?", re.IGNORECASE)
_JOINT = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")


def as_texts(names: Sequence[str]) -> list[str]:
    """Return ``card_arrival`` and ``cardArrival`` as "card arrival"; nothing where one says nothing, or two the same.

    Numbers, single letters and such names as ``LABEL_0`` say nothing.
    """
    texts = [" ".join(part for part in _JOINT.split(name) if part) for name in names]
    if any(map(_SAYS_NOTHING.fullmatch, names)) or len({text.lower() for text in texts}) < len(texts):
        return []
    return texts
