"""Names of classes, read as texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_SAYS_NOTHING = re.compile(
    r"(label|class|category|type|level|group|target|topic)?[\W\d_]*[a-z]?[\W\d_]*|true|false", re.IGNORECASE
)
_JOINT = re.compile(r"[\s_/|:-]+|(?<=[a-z])(?=[A-Z])")


def as_texts(names: Sequence[str]) -> list[str]:
    """Return ``card_arrival`` and ``cardArrival`` as "card arrival"; nothing where one says nothing, or two the same.

    Numbers, single letters, truth values and such names as ``LABEL_0`` or ``Q12`` say nothing.
    """
    texts = [" ".join(filter(None, _JOINT.split(unicodedata.normalize("NFC", name)))) for name in names]
    if any(map(_SAYS_NOTHING.fullmatch, names)) or len({text.lower() for text in texts}) < len(texts):
        return []
    return texts
