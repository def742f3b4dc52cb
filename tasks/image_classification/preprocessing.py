"""From RGB pictures to model inputs: the checkpoint's own processor, or random training views of the same geometry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2
from torchvision.transforms.v2.functional import horizontal_flip, resized_crop, to_pil_image

from hfft.errors import UserError
from hfft.hardware.seeding import seeded

Transform = Callable[[Any], torch.Tensor]
"""Takes a picture, or its 8-bit pixels (3, height, width)."""

View = Callable[[torch.Tensor, int], torch.Tensor]
"""Makes model inputs of 8-bit pixels (3, height, width) and a seed."""

Cutter = Callable[[Image.Image], np.ndarray]
"""Makes 8-bit pixels (height, width, 3) of a picture."""

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


def with_settings(processor: Any, settings: dict[str, Any]) -> Any:
    """Return a processor with other settings: fields of ``data_config`` for timm's, of ``to_dict()`` for others."""
    own = getattr(processor, "data_config", None)
    if own is not None:
        return type(processor)({**own, **settings}, architecture=getattr(processor, "architecture", None))
    return type(processor).from_dict({**processor.to_dict(), **settings})


def made_size(processor: Any) -> tuple[int, int]:
    """Return height and width of what a processor makes of a picture."""
    height, width = processor_transform(processor)(noise(331, 297)).shape[-2:]
    return int(height), int(width)


def processor_stages(processor: Any) -> tuple[Cutter, Transform] | None:
    """Divide :func:`processor_transform` into what ends in 8-bit pixels, (height, width, 3), and the rest.

    Returns ``None`` where the two stages do not give the same tensors bit for bit, tried on a picture of noise.
    """
    try:
        cut, rest = _timm_stages(processor) if hasattr(processor, "val_transforms") else _stages(processor)
        for picture in (noise(331, 297), noise(40, 31)):
            if not torch.equal(rest(as_tensor(cut(picture))), processor_transform(processor)(picture)):
                return None
    except Exception:  # a processor may refuse what others take: it then does all at once, as before
        return None
    return cut, rest


def noise(height: int, width: int) -> Image.Image:
    """Return a picture of noise, always the same, to try preprocessing on."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _stages(processor: Any) -> tuple[Cutter, Transform]:
    def cut(image: Image.Image) -> np.ndarray:
        pixels = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
        if pixels.dtype != torch.uint8:
            raise ValueError("no 8-bit pixels")
        return pixels.permute(1, 2, 0).contiguous().numpy()

    def rest(pixels: torch.Tensor) -> torch.Tensor:
        return processor(images=pixels, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"][0]

    return cut, rest


def _timm_stages(processor: Any) -> tuple[Cutter, Transform]:
    steps = processor.val_transforms.transforms
    end = next(index for index, step in enumerate(steps) if type(step).__name__ in ("ToTensor", "MaybeToTensor"))
    before, after = v2.Compose(steps[:end]), v2.Compose(steps[end:])
    return lambda image: np.array(before(image)), lambda pixels: after(to_pil_image(pixels))


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """View 8-bit pixels (height, width, 3) as (3, height, width), channels last: what torchvision resizes fastest."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def useful_side(processor: Any, level: str) -> int:
    """Return the shorter side in pixels beyond which a picture has nothing to give to :func:`augmenting_transform`:
    its smallest crop has then as many pixels as the model reads."""
    geometry = geometry_of(processor)
    return math.ceil(max(geometry.height, geometry.width) / math.sqrt(_SMALLEST_CROP[level]))


def augmenting_transform(processor: Any, level: str) -> View:
    """Return random crop and mirror image, at ``medium`` and ``strong`` with RandAugment (arXiv:1909.13719), at
    ``strong`` with random erasing (arXiv:1708.04896)."""
    geometry = geometry_of(processor)
    scale, size = [_SMALLEST_CROP[level], 1.0], [geometry.height, geometry.width]
    on_tensors = geometry.interpolation in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
    change = None if level == "light" else v2.RandAugment(num_ops=2, magnitude=5 if level == "medium" else 9)
    erase = v2.RandomErasing(p=0.25) if level == "strong" else None

    def view(pixels: torch.Tensor, seed: int) -> torch.Tensor:
        with seeded(seed):  # what is drawn inside holds up other threads, so the work is done outside
            box = RandomResizedCrop.get_params(pixels, scale, [3 / 4, 4 / 3])
            mirrored = bool(torch.rand(()) < 0.5)
        seen: Any = pixels if on_tensors else to_pil_image(pixels)  # Pillow has the other filters
        seen = resized_crop(seen, *box, size, geometry.interpolation)
        seen = horizontal_flip(seen) if mirrored else seen
        if change is not None:
            with seeded(seed + 1):
                seen = change(seen if isinstance(seen, Image.Image) else to_pil_image(seen))  # faster than on tensors
        values = geometry.to_tensor(seen)
        if erase is not None:
            with seeded(seed + 2):
                values = erase(values)
        return values

    return view


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

    def to_tensor(image: Any) -> torch.Tensor:
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
