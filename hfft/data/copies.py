"""Copies: the same input twice, in two splits or under two labels.

A test example that was trained on measures memory. Inputs are compared by a key that the task makes of them (the text
but for case and blanks, the decoded pixels), and pictures also by a sketch of 16 x 16 pixels: candidates share a part
of a difference hash, and are copies if their sketches hardly differ. That finds a picture that was saved again, or
scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hfft.data.split_names import LABEL, REFERENCE
from hfft.errors import UserError, listed
from hfft.task import SKETCH, Inspection

if TYPE_CHECKING:
    from hfft.data.labelled import LabelledData

MOST_LEAKED = 0.03
"""Share of given test examples that may stand in train before the run is refused."""

_BANDS = 8
_MOST_CANDIDATES = 500  # of pictures without any structure all share a band
_TOLERANCE = 0.1  # of the picture's own contrast: saving as JPEG costs a hundredth, another picture is beyond a half
_LEAST_CONTRAST = 2.0  # grey levels


@dataclass(frozen=True)
class Inspected:
    """Keys and sketches of the rows of a split: ``rows`` keys, and (rows, 16, 16, 3) uint8 or ``None``."""

    keys: list[bytes | None]
    sketches: np.ndarray | None

    @classmethod
    def of(cls, rows: Sequence[Inspection]) -> Inspected:
        """Collect what was seen row by row."""
        sketches = [row.sketch for row in rows if row.sketch is not None]
        complete = len(sketches) == len(rows) > 0
        return cls([row.key for row in rows], np.stack(sketches) if complete else None)

    def select(self, rows: Sequence[int] | np.ndarray) -> Inspected:
        """Return those of some rows."""
        sketches = None if self.sketches is None else self.sketches[np.asarray(rows, dtype=int)]
        return Inspected([self.keys[row] for row in rows], sketches)


def find_copies(among: Inspected, of: Inspected) -> dict[int, int]:
    """Return row of ``among`` -> the first row of ``of`` that it is a copy of."""
    first = {key: row for row, key in reversed(list(enumerate(of.keys))) if key is not None}
    found = {row: first[key] for row, key in enumerate(among.keys) if key in first and key is not None}
    if among.sketches is not None and of.sketches is not None:
        found |= {row: other for row, other in _near(among.sketches, of.sketches).items() if row not in found}
    return dict(sorted(found.items()))


def _near(among: np.ndarray, of: np.ndarray) -> dict[int, int]:
    """Compare candidates pixel for pixel."""
    buckets: dict[tuple[int, int], list[int]] = {}
    for row, bands in enumerate(_hash(of)):
        for band in enumerate(bands.tolist()):
            bucket = buckets.setdefault(band, [])
            if len(bucket) < _MOST_CANDIDATES:
                bucket.append(row)
    found = {}
    for row, bands in enumerate(_hash(among)):
        candidates = sorted({other for band in enumerate(bands.tolist()) for other in buckets.get(band, ())})
        if candidates:
            sketch = among[row].astype(np.float32)
            difference = np.sqrt(((of[candidates].astype(np.float32) - sketch) ** 2).mean(axis=(1, 2, 3)))
            close = np.flatnonzero(difference <= _TOLERANCE * max(float(sketch.std()), _LEAST_CONTRAST))
            if len(close):
                found[row] = candidates[int(close[0])]
    return found


def _hash(sketches: np.ndarray) -> np.ndarray:
    """Return (rows, 8) band values of a difference hash: which of two neighbouring cells of 8 x 8 is brighter."""
    cells = sketches.mean(axis=3).reshape(len(sketches), SKETCH // 2, 2, SKETCH // 2, 2).mean(axis=(2, 4))
    across = (cells[:, :, 1:] > cells[:, :, :-1]).reshape(len(cells), -1)
    down = (cells[:, 1:, :] > cells[:, :-1, :]).reshape(len(cells), -1)
    bits = np.concatenate([across, down], axis=1).reshape(len(cells), _BANDS, -1)
    return bits @ (1 << np.arange(bits.shape[2]))


def settle_copies(data: LabelledData, inspected: dict[str, Inspected], given: set[str], on_problem: str) -> None:
    """Keep what is tested out of training, and tell of inputs that stand in train twice."""
    for name, other in (("validation", "test"), ("train", "test"), ("train", "validation")):
        if name not in data.splits or other not in data.splits:
            continue
        copies = find_copies(among=inspected[name], of=inspected[other])
        if not copies:
            continue
        split, held = data.splits[name], data.splits[other]
        leaked = len(set(copies.values()))
        told = listed(f"{split[REFERENCE][row]} of {other}'s {held[REFERENCE][twin]}" for row, twin in copies.items())
        what = f"{len(copies)} {name} examples are copies of {other} examples ({told})"
        were_given = name == "train" and other == "test" and {name, other} <= given
        if were_given and on_problem == "error" and leaked > MOST_LEAKED * len(held):
            raise UserError(
                f"--data: {leaked} of the {len(held)} test examples of '{data.origin}' stand in train as well, so the "
                f"test would measure memory: {what}. Take them out, or let --on_problem skip leave out the training "
                "copies."
            )
        if on_problem == "warn":
            data.notes.append(f"{what}: {other} metrics are too good.")
            continue
        kept = [row for row in range(len(split)) if row not in copies]
        lost = data.target.lost(data.target.array(split.select(kept)[LABEL])) if name == "train" else []
        if lost:
            raise UserError(
                f"--data: every {name} example of {listed(lost)} in "
                f"'{data.origin}' is a copy of a {other} example, so none would be left."
            )
        if not kept:
            del data.splits[name]
            data.notes.append(f"every {name} example is a copy of a {other} example: there is no {name} split.")
            continue
        data.splits[name], inspected[name] = split.select(kept), inspected[name].select(kept)
        data.notes.append(f"{what} and were left out.")
    _note_twins(data, inspected["train"])


def _note_twins(data: LabelledData, inspected: Inspected) -> None:
    """Tell of inputs that stand in train more than once, and of those with two labels."""
    train = data.splits["train"]
    labels, references = train[LABEL], train[REFERENCE]
    rows: dict[bytes, list[int]] = {}
    for row, key in enumerate(inspected.keys):
        if key is not None:
            rows.setdefault(key, []).append(row)
    twins = [same for same in rows.values() if len(same) > 1]
    shown = {row: data.target.shown(labels[row]) for same in twins for row in same}
    contrary = [same for same in twins if len({shown[row] for row in same}) > 1]
    if twins:
        extra = sum(len(same) - 1 for same in twins)
        told = listed(" = ".join(references[row] for row in same[:3]) for same in twins)
        data.notes.append(f"{extra} training examples repeat others ({told}).")
    if contrary:
        first = [{shown[row]: row for row in reversed(same)} for same in contrary]  # a row of each label
        told = listed(
            " and ".join(f"{references[row]} as '{label}'" for label, row in sorted(rows.items())) for rows in first
        )
        data.notes.append(f"{len(contrary)} inputs stand in train under more than one label: {told}.")
