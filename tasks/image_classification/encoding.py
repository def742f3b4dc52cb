"""Pictures become model inputs in two stages: decoded and reduced once, cropped and normalised each time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image

from hfft.task import Example, Prepared, StagedEncoder

from .decoding import decode_image
from .preprocessing import (
    Cutter,
    Transform,
    as_tensor,
    augmenting_transform,
    processor_stages,
    processor_transform,
    useful_side,
)

_FORMAT = 1  # of the prepared pixels; another number makes them anew


class PictureEncoder(StagedEncoder):
    """Decodes to 8-bit pixels (height, width, 3), and makes ``pixel_values`` (3, height, width) of these."""

    def __init__(self, cut: Cutter, finish: Transform, key: str | None, side: int | None = None) -> None:
        self._cut, self._finish, self._side = cut, finish, side
        self.random = side is not None
        versions = f"{_FORMAT} Pillow {PIL.__version__} torchvision {torchvision.__version__}"
        self.key = None if key is None else f"pictures {key} {versions}"

    def content(self, example: Example) -> bytes:
        """The bytes of the file."""
        image = example["image"]
        if isinstance(image, dict):
            image = image["bytes"] if image.get("bytes") is not None else image["path"]
        return image if isinstance(image, bytes) else Path(image).read_bytes()

    def prepare(self, batch: dict[str, list[Any]]) -> list[Prepared]:
        """Decode and cut; in threads, because decoding leaves Python's lock."""
        images = batch["image"]
        if len(images) == 1:
            return [self._prepare(images[0])]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self._prepare, images))

    def _prepare(self, image: Any) -> Prepared:
        return {"pixels": self._cut(decode_image(image, self._side))}

    def finish(self, prepared: Prepared) -> dict[str, Any]:
        """Return ``pixel_values``."""
        return {"pixel_values": self._finish(as_tensor(prepared["pixels"]))}


def training_encoder(processor: Any, level: str) -> PictureEncoder:
    """Keep as many pixels as random crops can use, and draw another view each time."""
    side = useful_side(processor, level)
    return PictureEncoder(np.array, augmenting_transform(processor, level), f"at least {side}", side)


def evaluation_encoder(processor: Any) -> PictureEncoder:
    """Do what ``pipeline`` does; what ends in 8-bit pixels once, where the processor can be divided there."""
    stages = processor_stages(processor)
    if stages is None:
        return PictureEncoder(np.array, _from_pixels(processor_transform(processor)), None)
    return PictureEncoder(*stages, key=_settings(processor))


def _from_pixels(transform: Transform) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda pixels: transform(Image.fromarray(pixels.permute(1, 2, 0).numpy()))


def _settings(processor: Any) -> str:
    """Return all that decides what a processor does."""
    settings = getattr(processor, "data_config", None) or processor.to_dict()
    return f"{type(processor).__name__} {sorted((name, str(value)) for name, value in settings.items())}"
