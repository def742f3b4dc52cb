"""Preprocessing that reads more or less of each picture than the checkpoint's own.

The terms are timm's: ``crop_pct`` is the side of what is read as a share of the side of what a picture is resized to,
``crop_mode`` how it is resized to that: ``center`` keeps the proportions, so that the ends of the longer side are cut
off whatever the share, ``squash`` does not. Training views with random crops are drawn from the whole picture anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hfft.errors import UserError

from .preprocessing import made_size, processor_transform, with_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WIDTH, _HEIGHT = 400, 300  # of the picture that preprocessing is tried on: oblong, as most photographs are


def cropped_processor(processor: Any, crop_pct: float | None, crop_mode: str | None) -> Any:
    """Return a processor of the same output size that crops so; what is ``None`` stays the checkpoint's own.

    Raises :class:`UserError` for one that does not do what its settings then say, or by itself something that they do
    not tell, and for one that makes no pictures of a fixed size: all of that is tried on pictures.
    """
    kind, size = type(processor).__name__, made_size(processor)
    tolerance = 1 / min(size) + 1 / 256  # sides are rounded to pixels, and the places are read from 8 bits

    def does(tried: Any, crop_pct: float, crop_mode: str) -> bool:
        seen = _seen(tried, size)
        return seen is not None and np.allclose(seen, _expected(size, crop_pct, crop_mode), atol=tolerance)

    if _seen(processor, size) is None:
        raise UserError(f"crop_pct and crop_mode: a {kind} makes no pictures of a fixed size. Leave them out.")
    if crop_pct is None or crop_mode is None:
        own = _own_crop(processor)
        if own is None or not does(processor, *own):
            raise UserError(f"A {kind} crops in a way of its own here: give both, crop_pct and crop_mode, or neither.")
        crop_pct, crop_mode = crop_pct or own[0], crop_mode or own[1]
    reason = None
    for settings in _candidates(processor, size, crop_pct, crop_mode):
        try:
            candidate = with_settings(processor, settings)
            if does(candidate, crop_pct, crop_mode):
                return candidate
        except Exception as error:  # a processor may refuse settings that others take
            reason = error
    raise UserError(
        f"A {kind} cannot be set to crop_pct {crop_pct:g} with crop_mode {crop_mode}. Take the other crop_mode, or "
        "leave both out."
    ) from reason


def keep_crop(model: PreTrainedModel, processor: Any) -> None:
    """Note how a processor of timm crops in the model's configuration, where timm and transformers look for it."""
    settings = getattr(processor, "data_config", None)
    if settings is not None:
        kept = {name: settings[name] for name in ("crop_pct", "crop_mode")}
        kept["test_crop_pct"] = kept["crop_pct"]  # timm takes it at sizes that a checkpoint names for tests
        model.config.pretrained_cfg = {**(getattr(model.config, "pretrained_cfg", None) or {}), **kept}


def _own_crop(processor: Any) -> tuple[float, str] | None:
    """Return share and mode as the settings tell them, ``None`` where they tell nothing."""
    settings = getattr(processor, "data_config", None)
    if settings is not None:
        return settings["crop_pct"], settings["crop_mode"]
    settings = processor.to_dict()
    size = {name: side for name, side in dict(settings.get("size") or {}).items() if side}
    if not size:
        return None
    mode = "center" if "shortest_edge" in size else "squash"
    if settings.get("crop_pct"):
        return settings["crop_pct"], mode
    if settings.get("do_center_crop") and settings.get("crop_size"):
        return min(1.0, min(dict(settings["crop_size"]).values()) / min(size.values())), mode
    return 1.0, mode


def _candidates(processor: Any, size: tuple[int, int], crop_pct: float, crop_mode: str) -> Iterator[dict[str, Any]]:
    """Name settings that may do it, the plainest first."""
    if hasattr(processor, "data_config"):
        yield {"crop_pct": crop_pct, "crop_mode": crop_mode}
        return
    height, width = size
    crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    if crop_mode == "center":
        if "crop_pct" in processor.to_dict():  # ConvNeXt's own way
            yield {"size": {"shortest_edge": min(size)}, "crop_pct": crop_pct}
        yield {"size": {"shortest_edge": _enlarged(min(size), crop_pct)}, **crop}
    else:
        resized = {"height": _enlarged(height, crop_pct), "width": _enlarged(width, crop_pct)}
        if crop_pct == 1:
            yield {"size": resized, "do_center_crop": False}
        yield {"size": resized, **crop}


def _enlarged(side: int, crop_pct: float) -> int:
    return math.floor(side / crop_pct + 1e-6)  # as timm rounds; 224 / (224 / 400) is 399.99...


def _expected(size: tuple[int, int], crop_pct: float, crop_mode: str) -> list[float]:
    """Return the shares of a picture's width and height at which the outermost pixels that are read lie."""
    scale = max(size[1] / _WIDTH, size[0] / _HEIGHT)  # as little as fills the size
    places = []
    for length, read in ((_WIDTH, size[1]), (_HEIGHT, size[0])):
        resized = (scale * length if crop_mode == "center" else read) / crop_pct
        half = (read - 1) / 2 / resized
        places += [0.5 - half, 0.5 + half]
    return places


def _seen(processor: Any, size: tuple[int, int]) -> list[float] | None:
    """Measure the shares of a picture's width and height at which the outermost pixels that are read lie.

    Returns ``None`` where something else than ``size`` is made of the picture.
    """
    transform = processor_transform(processor)

    def shown(pixels: np.ndarray) -> np.ndarray:
        picture = np.broadcast_to(np.round(pixels).astype(np.uint8)[..., None], (_HEIGHT, _WIDTH, 3))
        return transform(Image.fromarray(np.ascontiguousarray(picture))).numpy()[0]

    black, white = (shown(np.full((_HEIGHT, _WIDTH), value)) for value in (0.0, 255.0))
    if black.shape != size:
        return None
    across = np.tile(np.linspace(0, 255, _WIDTH), (_HEIGHT, 1))
    down = np.tile(np.linspace(0, 255, _HEIGHT)[:, None], (1, _WIDTH))
    places = []
    for ramp, axis in ((across, 0), (down, 1)):
        with np.errstate(all="ignore"):  # of borders that are filled in, black is as white
            line = ((shown(ramp) - black) / (white - black)).mean(axis)
        places += [float(line[0]), float(line[-1])]
    return places
