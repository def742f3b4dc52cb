"""One look at the texts of an example: whether they are there, and what copies of them are found by."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

from hfft.task import Example, Inspection

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_LONGEST = 100_000  # letters


def inspect_texts(example: Example) -> Inspection:
    """Return what is wrong with the texts, or what copies of them are found by."""
    for role, value in example.items():
        if value is None or value == "" or (isinstance(value, str) and not _is_visible(value)):
            return Inspection(f"the {role} is empty")
        if not isinstance(value, str):
            return Inspection(f"the {role} is {_shown(value)}, no text")
    texts: list[str] = [example[role] for role in sorted(example)] if len(example) > 1 else list(example.values())
    key = "\0".join(texts)
    return Inspection(
        key=key.encode("utf-8", "surrogatepass"),
        text=plain_text(key) if len(texts) == 1 else "\0".join(map(plain_text, texts)),
        remark=_remark(key, texts),
    )


def plain_text(text: str) -> str:
    """Return a text without case, punctuation, invisible characters and double blanks, accents in one way of writing.

    Punctuation before a digit stays (``-5``, ``1.5``), symbols stay (``C++``, emoji), and a text of nothing else stays
    as it is.
    """
    folded = _INVISIBLE.sub("", unicodedata.normalize("NFC", text.casefold()))
    words = _punctuation().sub(" ", folded).split()
    return " ".join(words or folded.split())


def _is_visible(text: str) -> bool:
    return any(letter.isprintable() and not letter.isspace() for letter in text)


def _remark(key: str, texts: list[str]) -> str | None:
    if not key.isascii() and "\ufffd" in key:
        return "holds the mark of letters that were lost (\ufffd)"
    if _CONTROL.search(key if len(texts) == 1 else "".join(texts)):
        return "holds control characters"
    if len(key) > _LONGEST:
        return f"longer than {_LONGEST:,} letters"
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def _punctuation() -> re.Pattern[str]:
    """Unicode's punctuation in the scripts where blanks divide words, and that of wide scripts."""
    codes = [*range(0x3040), *range(0xFF00, 0xFFF0)]
    marks = "".join(re.escape(chr(code)) for code in codes if unicodedata.category(chr(code)).startswith("P"))
    return re.compile(rf"[{marks}]+(?!\d)")
