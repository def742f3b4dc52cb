"""Pictures whose size is far from what a model reads, from the heads of the files and the checkpoint's settings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.findings import MOST_OFFENDERS, NOTE, WARNING, Finding, Offender, reference_text
from hfft.paths import model_settings
from hfft.storage.arrays import sampled

from .decoding import open_image

if TYPE_CHECKING:
    from datasets import Dataset

    from hfft.arguments import ModelArguments

_SAMPLE = 1000  # pictures of a split
_FAR = 2  # times smaller: more than half of what the model sees is made up
_FARTHEST = 8  # times larger: details that made the class are gone


def find_far_sizes(arguments: ModelArguments, splits: Mapping[str, Dataset]) -> list[Finding]:
    """Return a finding for each split with many pictures far from the model's input size."""
    wanted = _input_size(arguments)
    if wanted is None:
        message = f"'{arguments.model}' tells no input size here: the sizes of the pictures are not compared."
        return [Finding("image size", NOTE, message)]
    findings = []
    for name, split in splits.items():
        sample = sampled(split, _SAMPLE)
        with ThreadPoolExecutor() as pool:
            sides = np.array(list(pool.map(_shorter_side, sample["image"])))
        small, large = sides * _FAR < wanted, sides > _FARTHEST * wanted
        for what, far in (("smaller than half", small), (f"more than {_FARTHEST} times", large)):
            found = np.flatnonzero(far & (sides > 0))
            if len(found):
                message = (
                    f"{len(found)} of {len(sample)} {name} pictures ({len(found) / len(sample):.1%}) are {what} the "
                    f"{wanted} pixels that the model reads; half of all are {np.median(sides):.0f} pixels or less."
                )
                offenders = tuple(
                    Offender(reference_text(sample[int(row)]["reference"]), f"{sides[row]} pixels")
                    for row in found[:MOST_OFFENDERS]
                )
                findings.append(Finding("image size", WARNING, message, name, len(found), offenders))
    return findings


def _shorter_side(image: Any) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_image(image) as opened:
            return min(opened.size)


def _input_size(arguments: ModelArguments) -> int | None:
    """Return the shorter side that the preprocessing makes, in pixels: as asked for, or the checkpoint's own."""
    if arguments.image_size is not None:
        return arguments.image_size
    for name in ("preprocessor_config.json", "processor_config.json", "config.json"):
        settings = model_settings(arguments, name)
        settings = settings.get("image_processor") or settings
        timm = (settings.get("pretrained_cfg") or {}).get("input_size")
        if timm:
            return int(min(timm[1:]))
        crops = settings.get("do_center_crop", True)
        for key in (*(["crop_size"] if crops else []), "size", "image_size"):
            size = settings.get(key)
            sides = [s for s in (size.values() if isinstance(size, dict) else [size]) if isinstance(s, int)]
            if sides:
                return min(sides)
    return None
