"""Examples as a page shows them: a text or a small picture, what its label says and what the model answers."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np

from hfft.targets import Target
from hfft.task import Task

SHOWN = 12
_LONGEST = 400  # characters


def shown_examples(
    task: Task, split: Any, rows: Iterable[int], labels: np.ndarray, outputs: np.ndarray, target: Target
) -> list[dict[str, Any]]:
    """Return ``input``, ``label``, ``answer`` and ``image``, a data URI or ``None``, of some rows of a split.

    Args:
        task: knows how an input is shown.
        split: raw examples.
        rows: which of them.
        labels, outputs: of all examples of the split, in array form.
        target: what they mean.
    """
    shown = []
    for row in map(int, rows):
        example = split[row]
        text, picture = task.describe(example), task.thumbnail(example)
        label = target.label_values(labels[row : row + 1])[0]
        shown.append(
            {
                "input": text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}",
                "label": ", ".join(label) or "none" if isinstance(label, list) else str(label),
                "answer": target.answer(outputs[row]),
                "image": None if picture is None else f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}",
            }
        )
    return shown
