"""Pictures become model inputs in two stages: decoded and reduced once, cropped and normalised each time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL
import torchvision
from torchvision.transforms.v2.functional import to_pil_image

from hfft.task import Example, Prepared, StagedEncoder

from .decoding import decode_image, stored_picture
from .preprocessing import (
    Cutter,
    View,
    as_tensor,
    augmenting_transform,
    processor_stages,
    processor_transform,
    useful_side,
)

_FORMAT = 1  # of the prepared pixels; another number makes them anew


class PictureEncoder(StagedEncoder):
    """Decodes to 8-bit pixels (height, width, 3), and makes ``pixel_values`` (3, height, width) of these."""

    threads = True

    def __init__(self, cut: Cutter, view: View, key: str | None, side: int | None = None) -> None:
        self._cut, self._view, self._side = cut, view, side
        self.random = side is not None
        versions = f"{_FORMAT} Pillow {PIL.__version__} torchvision {torchvision.__version__}"
        self.key = None if key is None else f"pictures {key} {versions}"

    def content(self, example: Example) -> bytes:
        """The bytes of the file."""
        stored = stored_picture(example["image"])
        return stored if isinstance(stored, bytes) else stored.read_bytes()

    def prepare(self, batch: dict[str, list[Any]]) -> list[Prepared]:
        """Decode and cut; in threads, because decoding leaves Python's lock."""
        images = batch["image"]
        if len(images) == 1:
            return [self._prepare(images[0])]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self._prepare, images))

    def _prepare(self, image: Any) -> Prepared:
        return {"pixels": self._cut(decode_image(image, self._side))}

    def finish(self, prepared: Prepared, seed: int) -> dict[str, Any]:
        """Return ``pixel_values``."""
        return {"pixel_values": self._view(as_tensor(prepared["pixels"]), seed)}


def training_encoder(processor: Any, level: str) -> PictureEncoder:
    """Keep as many pixels as random crops can use, and draw another view each time."""
    side = useful_side(processor, level)
    return PictureEncoder(np.array, augmenting_transform(processor, level), f"at least {side}", side)


def evaluation_encoder(processor: Any) -> PictureEncoder:
    """Do what ``pipeline`` does; what ends in 8-bit pixels once, where the processor can be divided there."""
    stages = processor_stages(processor)
    if stages is None:
        whole = processor_transform(processor)
        return PictureEncoder(np.array, lambda pixels, _: whole(to_pil_image(pixels)), None)
    cut, rest = stages
    return PictureEncoder(cut, lambda pixels, _: rest(pixels), _settings(processor))


def _settings(processor: Any) -> str:
    """Return all that decides what a processor does."""
    settings = getattr(processor, "data_config", None) or processor.to_dict()
    return f"{type(processor).__name__} {sorted((name, str(value)) for name, value in settings.items())}"
