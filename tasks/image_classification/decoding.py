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

# Times its shorter side that a picture may be long: preprocessing that scales the shorter side to 256 pixels makes
# gigabytes of a strip. Beyond it the middle is kept, which is what a central crop leaves of it anyway.
LONGEST_STRIP = 50
_FEWEST_PIXELS = 8
_MOST_STRETCHED = 10
_ANIMATED = ("GIF", "WEBP", "PNG", "TIFF")
_FIDELITY = 2  # a JPEG is decoded at a half, a quarter or an eighth if that is still twice the size that is wanted


def decode_image(image: Any, shorter_side: int | None = None) -> Image.Image:
    """Return the picture upright, in RGB, 8 bits a channel.

    EXIF orientation is applied (a broken EXIF block is ignored), 16-bit and float greys are scaled to 8 bits instead
    of being clipped, transparency is blended on white, of an animation the first frame is taken, and of a strip that is
    more than 50 times as long as wide the middle. Ordinary pictures come out as
    ``transformers.image_utils.load_image`` gives them to ``pipeline``.

    Args:
        image: a path, bytes, the datasets library's ``{"bytes", "path"}``, or a PIL image.
        shorter_side: in pixels; larger pictures are reduced to it, smaller ones left.

    Raises:
        UserError: naming the file, where it is no readable picture or has more than 100 million pixels.
    """
    problem, decoded = _try_decode(image, shorter_side)
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


def _try_decode(image: Any, shorter_side: int | None = None) -> tuple[str | None, Image.Image | None]:
    if image is None or (isinstance(image, dict) and image.get("bytes") is None and image.get("path") is None):
        return "there is no picture", None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata: what matters is whether pixels come out
            opened = open_image(image)
            width, height = opened.size
            if width * height > MAX_PIXELS:
                return f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}", None
            opened.seek(0)
            if shorter_side is not None and not isinstance(image, Image.Image):  # a caller's picture is left alone
                opened.draft(None, (shorter_side * _FIDELITY, shorter_side * _FIDELITY))  # of JPEGs alone
            opened.load()  # here, because what fails in exif_transpose is let pass, and a second load would give black
            with contextlib.suppress(Exception):
                opened = ImageOps.exif_transpose(opened)
            return None, _reduced(_without_ends(_to_rgb(opened)), shorter_side)
    except Exception as error:  # Pillow's plug-ins raise whatever their parsers hit
        reason = str(error).split(" <", maxsplit=1)[0] or type(error).__name__
        return f"it cannot be read as a picture ({reason})", None


def open_image(image: Any) -> Image.Image:
    """Return a stored picture with its head read: size and mode are known, the pixels are not decoded yet."""
    return image if isinstance(image, Image.Image) else Image.open(_stream(image))


def stored_picture(image: Any) -> bytes | Path:
    """Return the content of a stored picture, or the path of its file."""
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    return image if isinstance(image, bytes) else Path(image)


def _stream(image: Any) -> io.BytesIO | Path:
    stored = stored_picture(image)
    if isinstance(stored, bytes):
        return io.BytesIO(stored)
    if stored.is_char_device() or stored.is_fifo():  # reading one may never end
        raise ValueError("a device or a pipe is no file")
    return stored


def _without_ends(image: Image.Image) -> Image.Image:
    """Return the middle of a strip."""
    (width, height), longest = image.size, LONGEST_STRIP * min(image.size)
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    if not (left or top):
        return image
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _reduced(image: Image.Image, shorter_side: int | None) -> Image.Image:
    shorter = min(image.size)
    if shorter_side is None or shorter <= shorter_side:
        return image
    width, height = (max(1, round(side * shorter_side / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


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
    if image.mode in ("RGBa", "La"):  # colours times alpha
        image = image.convert(image.mode.upper())
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _name(image: Any) -> str:
    path = image.get("path") if isinstance(image, dict) else image
    return f"'{path}'" if isinstance(path, str | Path) else "a picture"
