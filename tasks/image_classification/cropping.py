"""Preprocessing that reads more or less of each picture than the checkpoint's own.

The terms are timm's: ``crop_pct`` is the side of what is read as a share of the side of what a picture is resized to,
``crop_mode`` how it is resized to that: ``center`` keeps the proportions, so that the ends of the longer side are cut
off whatever the share, ``squash`` does not. Training views with random crops are drawn from the whole picture anyway.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hfft.errors import UserError

from .preprocessing import made_size, processor_transform

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WIDTH, _HEIGHT = 400, 300  # of the picture that preprocessing is tried on: oblong, as most photographs are


def cropped_processor(processor: Any, crop_pct: float | None, crop_mode: str | None) -> Any:
    """Return a processor of the same output size that crops so; what is ``None`` stays the checkpoint's own.

    Raises :class:`UserError` for one that does not do what its settings then say, tried on a picture.
    """
    own_pct, own_mode = _own_crop(processor)
    crop_pct, crop_mode = crop_pct or own_pct, crop_mode or own_mode
    size = made_size(processor)
    expected = _expected(size, crop_pct, crop_mode)
    tolerance = 1 / min(size) + 1 / 256  # sides are rounded to pixels, and the places are read from 8 bits
    for candidate in _candidates(processor, size, crop_pct, crop_mode):
        try:
            if made_size(candidate) == size and np.allclose(_seen(candidate), expected, atol=tolerance):
                return candidate
        except Exception:  # a processor may refuse settings that others take
            continue
    raise UserError(
        f"A {type(processor).__name__} cannot be set to crop_pct {crop_pct:g} with crop_mode {crop_mode}. Leave "
        "crop_pct and crop_mode out."
    )


def keep_crop(model: PreTrainedModel, processor: Any) -> None:
    """Note how a processor of timm crops in the model's configuration, where timm and transformers look for it."""
    settings = getattr(processor, "data_config", None)
    if settings is not None:
        kept = {name: settings[name] for name in ("crop_pct", "crop_mode")}
        model.config.pretrained_cfg = {**(getattr(model.config, "pretrained_cfg", None) or {}), **kept}


def _own_crop(processor: Any) -> tuple[float, str]:
    settings = getattr(processor, "data_config", None)
    if settings is not None:
        return settings["crop_pct"], settings["crop_mode"]
    settings = processor.to_dict()
    size = dict(settings["size"])
    mode = "center" if "shortest_edge" in size else "squash"
    if settings.get("do_center_crop") and settings.get("crop_size"):
        return min(1.0, min(dict(settings["crop_size"]).values()) / min(size.values())), mode
    return settings.get("crop_pct") or 1.0, mode


def _candidates(processor: Any, size: tuple[int, int], crop_pct: float, crop_mode: str) -> Iterator[Any]:
    settings = getattr(processor, "data_config", None)
    if settings is not None:
        changed = {**settings, "crop_pct": crop_pct, "crop_mode": crop_mode}
        yield type(processor)(changed, architecture=getattr(processor, "architecture", None))
        return
    settings, (height, width) = processor.to_dict(), size
    crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    if crop_mode == "center":
        if "crop_pct" in settings:  # ConvNeXt's own way
            yield _with(processor, size={"shortest_edge": min(size)}, crop_pct=crop_pct)
        yield _with(processor, size={"shortest_edge": math.floor(min(size) / crop_pct)}, **crop)
    else:
        resized = {"height": math.floor(height / crop_pct), "width": math.floor(width / crop_pct)}
        if crop_pct == 1:
            yield _with(processor, size=resized, do_center_crop=False)
        yield _with(processor, size=resized, **crop)


def _with(processor: Any, **settings: Any) -> Any:
    return type(processor).from_dict({**copy.deepcopy(processor.to_dict()), "do_resize": True, **settings})


def _expected(size: tuple[int, int], crop_pct: float, crop_mode: str) -> list[float]:
    """Return the shares of a picture's width and height at which the outermost pixels that are read lie."""
    places = []
    for length, read in ((_WIDTH, size[1]), (_HEIGHT, size[0])):
        resized = min(size) / crop_pct * length / _HEIGHT if crop_mode == "center" else read / crop_pct
        half = (read - 1) / 2 / resized
        places += [0.5 - half, 0.5 + half]
    return places


def _seen(processor: Any) -> list[float]:
    """Return the shares of a picture's width and height at which the outermost pixels that are read lie, measured."""
    transform = processor_transform(processor)

    def shown(pixels: np.ndarray) -> np.ndarray:
        picture = np.broadcast_to(np.round(pixels).astype(np.uint8)[..., None], (_HEIGHT, _WIDTH, 3))
        return transform(Image.fromarray(np.ascontiguousarray(picture))).numpy()[0]

    black, white = (shown(np.full((_HEIGHT, _WIDTH), value)) for value in (0.0, 255.0))
    across = np.tile(np.linspace(0, 255, _WIDTH), (_HEIGHT, 1))
    down = np.tile(np.linspace(0, 255, _HEIGHT)[:, None], (1, _WIDTH))
    places = []
    for ramp, axis in ((across, 0), (down, 1)):
        line = ((shown(ramp) - black) / (white - black)).mean(axis)
        places += [float(line[0]), float(line[-1])]
    return places
