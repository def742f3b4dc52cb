"""From RGB pictures to model inputs: the checkpoint's own processor, or random training views of the same geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from hfft.errors import UserError

Transform = Callable[[Image.Image], torch.Tensor]

_SMALLEST_CROP = {"light": 0.35, "medium": 0.25, "strong": 0.08}  # share of the picture's area


@dataclass(frozen=True)
class Geometry:
    """What a checkpoint was pretrained on: input size in pixels, and how a picture of that size becomes a tensor."""

    height: int
    width: int
    interpolation: InterpolationMode
    to_tensor: Transform


def processor_transform(processor: Any) -> Transform:
    """Return the checkpoint's own deterministic preprocessing, as ``pipeline`` applies it."""

    def transform(image: Image.Image) -> torch.Tensor:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    return transform


def augmenting_transform(processor: Any, level: str) -> Transform:
    """Return random crop and mirror image, at ``medium`` and ``strong`` with RandAugment (arXiv:1909.13719), at
    ``strong`` with random erasing (arXiv:1708.04896)."""
    geometry = geometry_of(processor)
    views: list[Any] = [
        v2.RandomResizedCrop(
            (geometry.height, geometry.width),
            scale=(_SMALLEST_CROP[level], 1.0),
            interpolation=geometry.interpolation,
        ),
        v2.RandomHorizontalFlip(),
    ]
    if level != "light":
        views.append(v2.RandAugment(num_ops=2, magnitude=5 if level == "medium" else 9))
    view = v2.Compose(views)
    erase = v2.RandomErasing(p=0.25) if level == "strong" else None

    def transform(image: Image.Image) -> torch.Tensor:
        pixels = geometry.to_tensor(view(image))
        return pixels if erase is None else erase(pixels)

    return transform


def geometry_of(processor: Any) -> Geometry:
    """Read size and interpolation from an image processor.

    Raises :class:`UserError` for a processor that does not tell them.
    """
    timm_config = getattr(processor, "data_config", None)
    if timm_config is not None:
        _, height, width = timm_config["input_size"]
        interpolation = InterpolationMode(timm_config["interpolation"].replace("random", "bilinear"))
        normalize = v2.Normalize(timm_config["mean"], timm_config["std"])
        steps = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), normalize])
        return Geometry(height, width, interpolation, steps)
    size = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = size or getattr(processor, "size", None)
    if size is None:
        raise UserError(f"augment: {type(processor).__name__} names no input size. Set augment to none.")
    side = size.get("shortest_edge")
    height, width = (side, side) if side else (size.get("height"), size.get("width"))
    if not (height and width):
        raise UserError(f"augment: {type(processor).__name__} names no fixed input size ({size}). Set augment to none.")

    def to_tensor(image: Image.Image) -> torch.Tensor:
        # rescaling, normalisation and order of channels are the processor's own
        return processor(images=image, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"][0]

    return Geometry(height, width, _interpolation(processor), to_tensor)


def stack(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Join examples to ``pixel_values`` (batch, 3, height, width) and, where there are labels, ``labels`` (batch,)."""
    batch = {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}
    if "labels" in examples[0]:
        batch["labels"] = torch.tensor([example["labels"] for example in examples])
    return batch


def _interpolation(processor: Any) -> InterpolationMode:
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
    return InterpolationMode(names[int(getattr(processor, "resample", None) or Image.Resampling.BILINEAR)])
