"""One function turns a stored picture into RGB pixels: at training, evaluation and prediction alike."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from hfft.errors import UserError
from hfft.task import SKETCH, Inspection

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

# Checked before decoding: a 75 KB PNG can unfold to gigabytes.
MAX_PIXELS = 100_000_000

_FEWEST_PIXELS = 8
_MOST_STRETCHED = 10
_ANIMATED = ("GIF", "WEBP", "PNG", "TIFF")


def decode_image(image: Any) -> Image.Image:
    """Return the picture upright, in RGB, 8 bits a channel.

    EXIF orientation is applied (a broken EXIF block is ignored), 16-bit and float greys are scaled to 8 bits instead
    of being clipped, transparency is blended on white, and of an animation the first frame is taken. Ordinary
    pictures come out as ``transformers.image_utils.load_image`` gives them to ``pipeline``.

    Args:
        image: a path, bytes, the datasets library's ``{"bytes", "path"}``, or a PIL image.

    Raises:
        UserError: naming the file, where it is no readable picture or has more than 100 million pixels.
    """
    problem, decoded = _try_decode(image)
    if decoded is None:
        raise UserError(f"{_name(image)}: {problem}.")
    return decoded


def inspect_image(image: Any) -> Inspection:
    """Return why the picture cannot be decoded, or what its copies are found by."""
    problem, decoded = _try_decode(image)
    if decoded is None:
        return Inspection(problem)
    digest = hashlib.blake2b(repr(decoded.size).encode() + decoded.tobytes(), digest_size=16).digest()
    sketch = np.asarray(decoded.resize((SKETCH, SKETCH), Image.Resampling.BOX))
    return Inspection(key=digest, sketch=sketch, remark=_remark(image, decoded.size))


def _remark(image: Any, size: tuple[int, int]) -> str | None:
    """Return what is odd about a picture that can be decoded."""
    if min(size) < _FEWEST_PIXELS:
        return f"less than {_FEWEST_PIXELS} pixels wide or high"
    if max(size) > _MOST_STRETCHED * min(size):
        return f"more than {_MOST_STRETCHED} times as long as wide; the ends may be cut off"
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # of what stands behind the first frame
        warnings.simplefilter("ignore")
        opened = open_image(image)
        if opened.format in _ANIMATED and getattr(opened, "is_animated", False):
            return "an animation, or several pages, of which the first is taken"
    return None


def _try_decode(image: Any) -> tuple[str | None, Image.Image | None]:
    if image is None or (isinstance(image, dict) and image.get("bytes") is None and image.get("path") is None):
        return "there is no picture", None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata: what matters is whether pixels come out
            opened = image if isinstance(image, Image.Image) else Image.open(_stream(image))
            width, height = opened.size
            if width * height > MAX_PIXELS:
                return f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}", None
            opened.seek(0)
            opened.load()  # here, because what fails in exif_transpose is let pass, and a second load would give black
            with contextlib.suppress(Exception):
                opened = ImageOps.exif_transpose(opened)
            return None, _to_rgb(opened)
    except Exception as error:  # Pillow's plug-ins raise whatever their parsers hit
        reason = str(error).split(" <", maxsplit=1)[0] or type(error).__name__
        return f"it cannot be read as a picture ({reason})", None


def open_image(image: Any) -> Image.Image:
    """Return a stored picture with its head read: size and mode are known, the pixels are not decoded yet."""
    return image if isinstance(image, Image.Image) else Image.open(_stream(image))


def _stream(image: Any) -> Any:
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    return io.BytesIO(image) if isinstance(image, bytes) else Path(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        if image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and 255 < high <= 65535):
            low, high = 0.0, 65535.0  # 16 bits keep their brightness
        elif low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        elif low >= 0 and high <= 255:
            low, high = 0.0, 255.0
        scaled = np.nan_to_num((values - low) / max(high - low, 1e-12)).clip(0, 1) * 255
        image = Image.fromarray(np.rint(scaled).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _name(image: Any) -> str:
    path = image.get("path") if isinstance(image, dict) else image
    return f"'{path}'" if isinstance(path, str | Path) else "a picture"
