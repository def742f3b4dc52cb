"""What is odd about the classes: names that look alike, very uneven sizes, splits without an example of a class."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import numpy as np

from hfft.errors import listed
from hfft.findings import ERROR, WARNING, Offender

if TYPE_CHECKING:
    from hfft.data.labelled import LabelledData

_UNEVEN = 10  # times as many examples as the rarest class


def tell_of_classes(data: LabelledData) -> None:
    """Add what is odd about the class names, and about how often each class stands in the training split.

    A class that lost all its examples is an error.
    """
    counts = data.target.class_counts(data.labels("train"))
    if counts is None:
        return
    _tell_look_alikes(data)
    lost = [data.class_names[index] for index in np.flatnonzero(counts == 0)]
    if lost:
        message = (
            f"--data: '{data.origin}' has no training example of {listed(lost)} left, once the examples are left out "
            "that cannot be used."
        )
        data.findings.add(ERROR, "classes", message, "train", len(lost), map(Offender, lost))
    elif counts.max() > _UNEVEN * counts.min():
        most, least = int(counts.argmax()), int(counts.argmin())
        first, *_ = data.target.metrics.functions
        even = [name for name in ("balanced_accuracy", "macro_f1") if name in data.target.metrics.functions]
        advice = f"{first} alone is not enough; read {' and '.join(even)}".replace("_", " ").replace("f1", "F1")
        data.findings.add(
            WARNING,
            "imbalance",
            f"the classes are uneven: '{data.class_names[most]}' has {counts[most]} of {len(data.splits['train'])} "
            f"training examples, '{data.class_names[least]}' {counts[least]}. "
            f"{advice[0].upper()}{advice[1:]}.",
            "train",
            int((counts * _UNEVEN < counts.max()).sum()),
            (Offender(data.class_names[index], f"{counts[index]} examples") for index in counts.argsort(kind="stable")),
        )


def tell_untested(data: LabelledData) -> None:
    """Add the classes of which a split that is measured on has no example."""
    for name in sorted(data.splits.keys() - {"train"}):
        counts = data.target.class_counts(data.labels(name))
        if counts is None:
            return
        absent = [data.class_names[index] for index in np.flatnonzero(counts == 0)]
        if absent:
            message = f"the {name} split has no example of {listed(absent)}: nothing is measured about what is absent."
            data.findings.add(WARNING, "untested class", message, name, len(absent), map(Offender, absent))


def _tell_look_alikes(data: LabelledData) -> None:
    alike: dict[str | Decimal, list[str]] = {}
    for name in data.class_names:
        alike.setdefault(_plain(name), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if groups:
        told = listed(" and ".join(f"'{name}'" for name in names) for names in groups)
        message = f"class names look alike: {told}. If they mean the same, give them one name."
        offenders = (Offender(name, f"looks like '{names[0]}'") for names in groups for name in names[1:])
        data.findings.add(WARNING, "look-alike classes", message, "train", len(groups), offenders)


def _plain(name: str) -> str | Decimal:
    """Return a class name without capitals, blanks, hyphens and the s of a plural; a number by its value.

    Letters that Unicode writes in several ways are written in one.
    """
    try:
        number = Decimal(name)  # no float: long numbers would be equal
        if number.is_finite():
            return number
    except InvalidOperation:
        pass
    letters = unicodedata.normalize("NFKC", name).casefold()
    plain = "".join(re.sub(r"(?<=.)[_-](?=.)", " ", letters).split())
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss") else plain
