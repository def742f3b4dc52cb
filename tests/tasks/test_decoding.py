from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hfft.tasks.image_classification import decoding
from hfft.tasks.image_classification.decoding import SUFFIXES, decode_image, inspect_image
from PIL import Image, ImageFile, PngImagePlugin
from transformers.image_utils import load_image

from hfft.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)


def save(image: Image.Image, path: Path, **options: Any) -> str:
    """Save a picture and return its path."""
    image.save(path, **options)
    return str(path)


def decode(path: str) -> np.ndarray:
    """Decode to (height, width, 3); every warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_image(path)
    assert decoded.mode == "RGB"
    return np.asarray(decoded)


def grey(path: str) -> list[int]:
    """Decode a grey picture of one row; its three channels must be equal."""
    pixels = decode(path)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


# ordinary pictures


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "jpg", "webp"])
def test_ordinary_pictures_are_those_of_transformers(tmp_path: Path, mode: str, suffix: str):
    image = RGB.convert(mode)
    if suffix in ("jpg", "webp") and mode in ("P", "1"):
        image = image.convert("RGB")
    path = save(image, tmp_path / f"picture.{suffix}")
    np.testing.assert_array_equal(decode(path), np.asarray(load_image(path)))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_pixels_come_back(tmp_path: Path, suffix: str):
    np.testing.assert_array_equal(decode(save(RGB, tmp_path / f"picture.{suffix}")), PIXELS)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_known_suffix_can_be_decoded(tmp_path: Path, suffix: str):
    assert decode(save(RGB, tmp_path / f"picture{suffix}")).shape == (6, 9, 3)


def test_the_content_counts_not_the_suffix(tmp_path: Path):
    path = tmp_path / "picture.jpg"
    RGB.save(path, format="PNG")
    np.testing.assert_array_equal(decode(str(path)), PIXELS)


def test_grey_becomes_three_equal_channels(tmp_path: Path):
    path = save(Image.fromarray(np.array([[0, 7, 128, 255]], dtype=np.uint8)), tmp_path / "grey.png")
    assert grey(path) == [0, 7, 128, 255]


def test_one_bit_becomes_black_and_white(tmp_path: Path):
    assert grey(save(Image.fromarray(np.array([[True, False]])), tmp_path / "bits.png")) == [255, 0]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb(tmp_path: Path, suffix: str):
    # cyan, magenta, yellow, black: no ink is white, all cyan is the lack of red
    inks = np.zeros((16, 32, 4), dtype=np.uint8)
    inks[:, 16:, 0] = 255
    path = save(Image.frombytes("CMYK", (32, 16), inks.tobytes()), tmp_path / f"inks.{suffix}")
    pixels = decode(path).astype(int)
    assert np.abs(pixels[8, 4] - [255, 255, 255]).max() <= 3
    assert np.abs(pixels[8, 28] - [0, 255, 255]).max() <= 3


def test_one_pixel(tmp_path: Path):
    assert decode(save(Image.new("RGB", (1, 1), (9, 8, 7)), tmp_path / "one.png")).tolist() == [[[9, 8, 7]]]


# orientation


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, PIXELS),
        (2, PIXELS[:, ::-1]),
        (3, PIXELS[::-1, ::-1]),
        (4, PIXELS[::-1]),
        (5, PIXELS.transpose(1, 0, 2)),
        (6, np.rot90(PIXELS, -1)),
        (7, PIXELS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(PIXELS, 1)),
        (9, PIXELS),
        (0, PIXELS),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, upright: np.ndarray):
    exif = Image.Exif()
    exif[274] = orientation
    path = save(RGB, tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(decode(path), upright)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "png"])
def test_orientation_is_applied_in_every_format(tmp_path: Path, suffix: str):
    exif = Image.Exif()
    exif[274] = 6
    path = save(RGB, tmp_path / f"turned.{suffix}", exif=exif)
    assert decode(path).shape == (9, 6, 3)
    np.testing.assert_array_equal(decode(path), np.asarray(load_image(path)))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0" + np.random.default_rng(1).integers(0, 256, 300, dtype=np.uint8).tobytes(),
        b"Exif\0\0",
        b"Exif\0\0MM\0*" + b"\xff" * 20,
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40,
    ],
)
def test_broken_exif_is_ignored(tmp_path: Path, exif: bytes):
    plain = save(RGB, tmp_path / "plain.jpg")
    np.testing.assert_array_equal(decode(save(RGB, tmp_path / "broken.jpg", exif=exif)), decode(plain))


# more than 8 bits


@pytest.mark.parametrize(("suffix", "kind"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, suffix: str, kind: type):
    values = np.array([[0, 257, 1000, 30000, 65535]], dtype=kind)
    path = save(Image.fromarray(values), tmp_path / f"deep.{suffix}")
    assert grey(path) == [0, 1, 4, 117, 255]


def test_the_brightness_of_dark_sixteen_bit_pictures_is_kept(tmp_path: Path):
    # stretching each picture by itself would make dark and bright ones alike
    dark = np.array([[0, 257, 514]], dtype=np.uint16)
    assert grey(save(Image.fromarray(dark), tmp_path / "dark.png")) == [0, 1, 2]


def test_big_endian_sixteen_bits(tmp_path: Path):
    values = np.array([[0, 257, 65535]], dtype=">u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes())
    assert grey(save(image, tmp_path / "big.tif")) == [0, 1, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([-1000.0, 0.0, 1000.0], [0, 128, 255]),
        ([0.0, 1000.0, 4000.0], [0, 64, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([float("-inf"), 0.0, 1.0, float("inf")], [0, 0, 255, 255]),
        ([float("nan")] * 3, [0, 0, 0]),
        ([7000.0] * 3, [0, 0, 0]),
    ],
)
def test_float_greys_are_scaled_to_eight_bits(tmp_path: Path, values: list[float], expected: list[int]):
    path = save(Image.fromarray(np.array([values], dtype=np.float32)), tmp_path / "float.tif")
    assert grey(path) == expected


def test_thirty_two_bits_that_hold_eight_are_left(tmp_path: Path):
    path = save(Image.fromarray(np.array([[0, 100, 255]], dtype=np.int32)), tmp_path / "wide.tif")
    assert grey(path) == [0, 100, 255]


# transparency


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_is_blended_on_white(tmp_path: Path, suffix: str):
    pixels = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], dtype=np.uint8)
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = save(Image.fromarray(pixels), tmp_path / f"clear.{suffix}", **options)
    # a fifth of the colour, four fifths of white
    np.testing.assert_allclose(decode(path)[0], [[200, 100, 0], [255, 255, 255], [244, 224, 204]], atol=1)


def test_transparent_grey_is_blended_on_white(tmp_path: Path):
    image = Image.frombytes("LA", (2, 1), bytes([100, 255, 100, 0]))
    assert grey(save(image, tmp_path / "clear.png")) == [100, 255]


@pytest.mark.parametrize("transparency", [0, bytes([0, 255, 255])])
def test_a_transparent_palette_colour_is_white_and_warns_of_nothing(tmp_path: Path, transparency: int | bytes):
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    path = save(image, tmp_path / "palette.png", transparency=transparency)
    assert decode(path)[0].tolist() == [[255, 255, 255], [40, 50, 60], [70, 80, 90]]


def test_one_transparent_colour_of_an_rgb_picture_is_white(tmp_path: Path):
    pixels = np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "key.png", transparency=(1, 2, 3))
    assert decode(path)[0].tolist() == [[255, 255, 255], [9, 9, 9]]


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_colours_that_were_multiplied_by_their_transparency(mode: str):
    clear = Image.fromarray(np.array([[[100, 100, 100, 255], [9, 9, 9, 0]]], dtype=np.uint8))
    image = clear.convert("LA").convert("La") if mode == "La" else clear.convert(mode)
    assert np.asarray(decode_image(image))[0].tolist() == [[100] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB"])
def test_other_colour_spaces(tmp_path: Path, mode: str):
    red = Image.new("RGB", (2, 2), (250, 20, 30)).convert(mode)
    image = save(red, tmp_path / "colours.tif") if mode == "LAB" else red  # Pillow 12 cannot read its own YCbCr files
    assert np.abs(np.asarray(decode_image(image)).astype(int) - [250, 20, 30]).max() <= 6


def test_palette_with_alpha():
    image = Image.new("PA", (1, 1))
    image.putpalette([10, 20, 30])
    image.putalpha(255)
    assert np.asarray(decode_image(image))[0, 0].tolist() == [10, 20, 30]


# animations


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, suffix: str):
    first, *rest = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime"))
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(first, tmp_path / f"moving.{suffix}", save_all=True, append_images=rest, **options)
    assert Image.open(path).n_frames == 3
    assert decode(path)[0, 0].tolist() == [255, 0, 0]


def test_an_opened_animation_gives_its_first_frame(tmp_path: Path):
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    opened = Image.open(save(first, tmp_path / "moving.gif", save_all=True, append_images=[second]))
    opened.seek(1)
    assert np.asarray(decode_image(opened))[0, 0].tolist() == [255, 0, 0]


# where the picture comes from


def test_paths_bytes_rows_and_pictures_decode_alike(tmp_path: Path):
    path = save(RGB, tmp_path / "picture.png")
    content = Path(path).read_bytes()
    rows = [{"bytes": content, "path": None}, {"bytes": content, "path": "gone.png"}, {"bytes": None, "path": path}]
    for image in (path, Path(path), content, *rows, Image.open(path), RGB):
        np.testing.assert_array_equal(np.asarray(decode_image(image)), PIXELS)
        assert inspect_image(image).problem is None


def test_a_picture_in_memory_is_left_alone():
    image = RGB.convert("RGBA")
    decoded = decode_image(image)
    assert image.mode == "RGBA"
    decoded.putpixel((0, 0), (0, 0, 0))
    np.testing.assert_array_equal(np.asarray(image)[..., :3], PIXELS)


# sizes


@pytest.mark.parametrize(("size", "kept"), [((500, 10), (500, 10)), ((4000, 8), (400, 8)), ((1, 90), (1, 50))])
def test_of_a_strip_the_middle_is_kept(size: tuple[int, int], kept: tuple[int, int]):
    wide = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    wide[..., 0] = (
        np.linspace(0, 255, max(size)).astype(np.uint8)[:, None]
        if size[1] > size[0]
        else np.linspace(0, 255, max(size))
    )
    decoded = np.asarray(decode_image(Image.fromarray(wide)))
    assert decoded.shape[:2] == kept[::-1]
    middle = decoded[..., 0].astype(float).mean()
    assert abs(middle - wide[..., 0].mean()) < 3


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_reduced_picture_is_the_whole_one_reduced(tmp_path: Path, suffix: str):
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8))
    path = save(coarse.resize((900, 700), Image.Resampling.BICUBIC), tmp_path / f"large.{suffix}")
    reduced = decode_image(path, 50)
    assert reduced.size == (64, 50)
    expected = decode_image(path).resize((64, 50), Image.Resampling.BICUBIC)
    difference = np.asarray(reduced).astype(int) - np.asarray(expected)
    assert np.abs(difference).mean() < 1
    assert np.abs(difference).max() <= 12


def test_a_jpeg_is_decoded_at_a_fraction_but_never_below_twice_what_is_wanted(tmp_path: Path, monkeypatch):
    sizes = []
    upright = decoding._to_rgb
    monkeypatch.setattr(decoding, "_to_rgb", lambda image: sizes.append(image.size) or upright(image))
    path = save(Image.new("RGB", (900, 700)), tmp_path / "large.jpg")
    assert [decode_image(path, side).size[1] for side in (40, 100, 300, 2000)] == [40, 100, 300, 700]
    assert sizes == [(113, 88), (450, 350), (900, 700), (900, 700)]


def test_a_turned_picture_is_reduced_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[274] = 6
    path = save(Image.new("RGB", (400, 200)), tmp_path / "turned.jpg", exif=exif)
    assert decode_image(path, 50).size == (50, 100)


def test_an_opened_jpeg_keeps_its_size(tmp_path: Path):
    opened = Image.open(save(Image.new("RGB", (400, 400)), tmp_path / "large.jpg"))
    assert decode_image(opened, 20).size == (20, 20)
    assert opened.size == (400, 400)


# what is no picture


def broken_png() -> bytes:
    """Return a PNG of 64 rows with one flipped bit early in its pixel data."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[content.index(b"IDAT") + 200] ^= 0x10
    return bytes(content)


def cut(suffix: str, share: float) -> bytes:
    """Return the first part of a noisy picture's file."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, suffix)
    return buffer.getvalue()[: int(len(buffer.getvalue()) * share)]


UNREADABLE = {
    "zero_byte.jpg": b"",
    "text.jpg": b"this is no picture",
    "half.jpg": cut("JPEG", 0.5),
    "half.png": cut("PNG", 0.5),
    "most.png": cut("PNG", 0.9),
    "half.webp": cut("WEBP", 0.5),
    "half.gif": cut("GIF", 0.5),
    "half.bmp": cut("BMP", 0.5),
    "half.tif": cut("TIFF", 0.5),
    "header.png": b"\x89PNG\r\n\x1a\n",
    "flipped.png": broken_png(),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(UNREADABLE[name])
    with pytest.raises(UserError) as caught:
        decode_image(str(path))
    assert str(caught.value).startswith(f"'{path}': it cannot be read as a picture (")
    assert "0x" not in str(caught.value)  # no addresses of objects
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["half.jpg", "half.png", "flipped.png"])
def test_broken_bytes_of_a_data_set_are_named_by_their_path(name: str):
    with pytest.raises(UserError, match=r"^'somewhere\.png': it cannot be read"):
        decode_image({"bytes": UNREADABLE[name], "path": "somewhere.png"})
    with pytest.raises(UserError, match=r"^a picture: it cannot be read"):
        decode_image({"bytes": UNREADABLE[name], "path": None})


@pytest.mark.parametrize("image", ["gone.png", Path("gone.png"), {"bytes": None, "path": "gone.png"}])
def test_a_file_that_is_not_there_is_named(image: Any):
    with pytest.raises(UserError, match=r"^'gone\.png': .*No such file"):
        decode_image(image)


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": None}])
def test_no_picture_at_all(image: Any):
    assert inspect_image(image).problem == "there is no picture"


def test_a_device_is_not_read():
    with pytest.raises(UserError, match=r"'/dev/null': .*a device or a pipe is no file"):
        decode_image("/dev/null")


def test_a_folder_is_no_picture(tmp_path: Path):
    assert "cannot be read as a picture" in (inspect_image(tmp_path).problem or "")


# bombs


def bomb(side: int) -> bytes:
    """Return a PNG of ``side`` x ``side`` one-bit zeros: a few kilobytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((side // 8 + 1) * side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_008, 16_000])  # beyond our limit; beyond the one at which Pillow raises
def test_a_bomb_is_refused_before_its_pixels_are_made(monkeypatch, side: int):
    loaded = []
    for kind in (Image.Image, ImageFile.ImageFile, PngImagePlugin.PngImageFile):
        monkeypatch.setattr(kind, "load", lambda *_: loaded.append(1))
    content = bomb(side)
    assert len(content) < 60_000
    assert "pixels" in (inspect_image(content).problem or "")
    with pytest.raises(UserError, match=r"^'bomb\.png': .* pixels"):
        decode_image({"bytes": content, "path": "bomb.png"})
    assert loaded == []


def test_the_limit_itself_is_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 54)
    assert inspect_image(RGB).problem is None
    monkeypatch.setattr(decoding, "MAX_PIXELS", 53)
    assert inspect_image(RGB).problem == "it has 9 x 6 pixels, more than 53"
