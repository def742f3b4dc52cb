"""Awkward data of every kind, made here: refused with a message that helps, or read, and never a traceback."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset
from PIL import Image

from hfft.checking import CheckResult, check
from tests.conftest import write_csv

NAMES = [
    *("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath"),
    *("isle", "jungle", "knoll", "lagoon"),
]
NAMES += ["marsh", "nook", "oasis", "prairie"]
ROWS = [(f"{name} and {name[::-1]}", ("bad", "good")[index % 2]) for index, name in enumerate(NAMES)]


def checked(data: Any, **settings: Any) -> CheckResult:
    return check(data, **{"task": "text-classification", **settings})


def severities(result: CheckResult) -> dict[str, str]:
    return {finding.check: finding.severity for finding in result.findings.items}


def errors(result: CheckResult) -> str:
    return "\n".join(finding.message for finding in result.findings.items if finding.severity == "error")


def offenders(result: CheckResult, check: str) -> list[str]:
    return [o.reference for finding in result.findings.items if finding.check == check for o in finding.offenders]


# bytes of tables

TABLES: dict[str, tuple[str, bytes, str]] = {
    # name: (file name, content, what the error says; empty where it is read)
    "byte-order mark": ("t.csv", b"\xef\xbb\xbftext,label\n" + b"one a,x\ntwo b,y\n" * 8, ""),
    "carriage returns": ("t.csv", b"text,label\r\n" + b"one a,x\r\ntwo b,y\r\n" * 8, ""),
    "old carriage returns": ("t.csv", b"text,label\r" + b"one a,x\rtwo b,y\r" * 8, ""),
    "semicolons": ("t.csv", b"text;label\n" + b"one, a;x\ntwo, b;y\n" * 8, ""),
    "tabs in a csv": ("t.csv", b"text\tlabel\n" + b"one, a\tx\ntwo, b\ty\n" * 8, ""),
    "quoted line breaks": ("t.csv", b"text,label\n" + b'"one\n""a"", b",x\ntwo b,y\n' * 8, ""),
    "words for nothing": ("t.csv", b"text,label\n" + b"None,null\nNA,nan\n" * 8, ""),
    "no line end": ("t.csv", b"text,label\n" + b"\n".join([b"one a,x", b"two b,y"] * 8), ""),
    "latin-1": ("t.csv", "text,label\ncafé,x\nthé,y\n".encode("latin-1"), "not UTF-8"),
    "utf-16": ("t.csv", "text,label\none,x\ntwo,y\n".encode("utf-16"), "not UTF-8"),
    "nothing": ("t.csv", b"", "is empty"),
    "one line end": ("t.csv", b"\n", "cannot be read"),
    "a header alone": ("t.csv", b"text,label\n", "has no rows"),
    "one row": ("t.csv", b"text,label\nhello,x\n", "only one class"),
    "one column": ("t.csv", b"text\nhello\nyou\n", "no label column"),
    "too many cells": ("t.csv", b"text,label\na,x\nb,y,z,w\n", "line 3"),
    "an open quote": ("t.csv", b'text,label\na,x\n"b,y\nc,x\n', "EOF inside string"),
    "NUL bytes": ("t.csv", b"text,label\n" + b"one \0 a,x\ntwo b,y\n" * 8, ""),
    "a picture": ("t.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "UTF-8"),
    "two columns of one name": ("t.csv", b"text,label,label\n" + b"one a,x,1\ntwo b,y,2\n" * 8, ""),
    "a broken line": ("t.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", "lab\n', "line 2 is no JSON"),
    "an array of JSON": (
        "t.json",
        json.dumps([{"text": f"a {i}", "label": "xy"[i % 2]} for i in range(16)]).encode(),
        "",
    ),
    "JSON without end": ("t.jsonl", b'{"text": "a", "label": "x"}\n' + b"[" * 200_000, "line 2 is no JSON"),
    "nothing but null": ("t.jsonl", b"null", "line 1 is null"),
    "null behind a byte-order mark": ("t.json", b"\xef\xbb\xbf\n null\n", "line 2 is null"),
    "a row of null": (
        "t.jsonl",
        b'{"text": "a", "label": "x"}\n\n null\n{"text": "b", "label": "y"}\n',
        "line 3 is null",
    ),
    "an item of null": ("t.json", b'[{"text": "a,null", "label": null}, null]', "item 2 is null"),
    "cells of null": (
        "t.json",
        b'[{"text": "a", "label": "x", "more": [1, null]}, {"text": "b", "label": "y", "more": [null]}]',
        "too few",
    ),
    "one object over many lines": (
        "t.json",
        b'{"text": ["a", "b"],\n"label": ["x", "y"],\n"more": [1,\nnull\n]}',
        "no text column",
    ),
    "a JSON number": ("t.jsonl", b"1\n2\n", "cannot be read"),
    "mixed JSON": ("t.jsonl", b'{"text": "a", "label": "x"}\n[1, 2]\n', "cannot be read"),
    "no Parquet": ("t.parquet", b"PAR1 it is not PAR1", "cannot be read"),
    "cut Parquet": ("t.parquet", b"PAR1", "cannot be read"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_are_read_or_refused_with_a_reason(tmp_path: Path, case: str):
    name, content, message = TABLES[case]
    (tmp_path / name).write_bytes(content)
    result = checked(str(tmp_path / name))
    if message:
        assert message in errors(result)
        assert str(tmp_path) in errors(result)
    else:
        unread = [f.message for f in result.findings.items if f.check in ("unreadable data", "unusable input")]
        assert not unread
        assert sum(result.sizes.values()) > 0


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_divides_the_same_columns(tmp_path: Path, separator: str):
    lines = [f"text{separator}label", *(f"well, text {i}{separator}{'xy'[i % 2]}" for i in range(20))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    result = checked(str(tmp_path / "t.csv"))
    assert set(result.report["splits"]["train"]) == {"x", "y"}
    assert not result.findings.refused


def test_a_huge_cell_is_read_and_told_of(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [*ROWS, ("word " * 60_000, "good"), ("w" * 300_000, "bad")])
    result = checked(str(path))
    assert not result.findings.refused
    assert offenders(result, "odd input") == ["row 17", "row 18"]


# labels and texts


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, float("nan"), 0.0, 1.0] * 4, r"no label in column 'label' for 4 of 16"),
        ([{"a": 1}, {"a": 2}] * 8, "wanted is one class for each example"),
        ([["a"], ["b"]] * 8, ""),
        ([["a"], ["a"]] * 8, "only one class"),
        ([None] * 16, "has no label in column 'label' at all"),
        ([0.5, 1.5] * 8, ""),
        ([0.5, 0.5] * 8, "there is nothing to learn"),
        ([b"x", b"y"] * 8, ""),
        ([True, False] * 8, ""),
        ([2**62, -5] * 8, ""),
    ],
)
def test_labels_of_every_type(labels: list[Any], message: str):
    result = checked(Dataset.from_dict({"text": [text for text, _ in ROWS], "label": labels}))
    assert message in errors(result)
    assert bool(message) == result.findings.refused


@pytest.mark.parametrize("text", ["", "  ", "\t\n", None, "\u200b\u200b", "\ufeff", "\0\0", "\u00a0"])
def test_a_text_of_nothing_is_named_by_row(text: str | None):
    texts = [text for text, _ in ROWS]
    texts[4] = text  # type: ignore[call-overload]
    result = checked(Dataset.from_dict({"text": texts, "label": [label for _, label in ROWS]}))
    assert offenders(result, "unusable input") == ["row 5"]
    assert result.report["left_out"] == [{"split": "train", "reference": "row 5", "reason": "the text is empty"}]


@pytest.mark.parametrize("text", ["!!!", ":-)", "\U0001f600", "0", "\u05e9\u05dc\u05d5\u05dd", "a\u0301", "\ue000x"])
def test_a_text_of_few_signs_is_a_text(text: str):
    texts = [text for text, _ in ROWS]
    texts[4] = text
    result = checked(Dataset.from_dict({"text": texts, "label": [label for _, label in ROWS]}))
    assert not result.findings.refused


def test_columns_of_mixed_types_are_refused_or_named_by_row(tmp_path: Path):
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    lines[3] = json.dumps({"text": 7, "label": "good"})
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    result = checked(str(tmp_path / "t.jsonl"), text_column="text")
    assert result.findings.refused or sum(result.sizes.values()) == 16


def test_a_parquet_file_with_two_columns_of_one_name(tmp_path: Path):
    column = pyarrow.array(["a", "b"])
    table = pyarrow.Table.from_arrays([column, column, column], names=["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert "cannot be read" in errors(checked(str(tmp_path / "t.parquet")))


def test_everything_is_found_at_once(tmp_path: Path):
    train = [*ROWS, ("", "good"), ("no label", ""), ("Dogs bark", "goods"), ("dogs, bark!", "bad")]
    write_csv(tmp_path / "train.csv", train)
    write_csv(
        tmp_path / "test.csv", [*((text.upper(), label) for text, label in ROWS[:4]), ("who", "ugly"), ("\t", "bad")]
    )
    found = checked(str(tmp_path), validation_size=0)
    assert severities(found) == {
        "missing label": "error",
        "unknown class": "error",
        "unusable input": "error",
        "leak into test": "error",
        "look-alike classes": "warning",
        "repeated input": "warning",
        "contradictory labels": "warning",
        "untested class": "warning",
    }
    assert offenders(found, "missing label") == ["row 18"]
    assert sorted(offenders(found, "unusable input")) == ["row 17", "row 6"]
    assert offenders(found, "unknown class") == ["row 5"]


# pictures and folders


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of ten pictures."""
    for index in range(20):
        path = tmp_path / "pictures" / ("ant", "bee")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
    return tmp_path / "pictures"


@cache
def broken() -> dict[str, bytes]:
    """Return files that are no pictures, or none that may be decoded."""
    return {
        "empty.jpg": b"",
        "text.png": b"no picture",
        "cut.jpg": encoded(picture(1), "JPEG")[:300],
        "checksum.png": encoded(picture(2)).replace(b"IDAT", b"IDAT\xff", 1),
        "bomb.png": encoded(Image.new("1", (20_000, 20_000))),
        "head.gif": b"GIF89a",
        "zip.webp": b"PK\x03\x04" * 20,
    }


@cache
def odd() -> dict[str, bytes]:
    """Return pictures that are told of."""
    return {
        "tiny.png": encoded(picture(3, (3, 3))),
        "long.png": encoded(picture(4, (400, 8))),
        "animated.gif": encoded(picture(5), "GIF", save_all=True, append_images=[picture(6), picture(7)]),
    }


def test_exactly_the_broken_pictures_are_left_out(pictures: Path):
    for name, content in {**broken(), **odd()}.items():
        (pictures / "ant" / name).write_bytes(content)
    strict = checked(str(pictures), task="image-classification")
    assert strict.findings.refused
    assert f"({len(broken()) - 1} more like it" in errors(strict)
    lenient = checked(str(pictures), task="image-classification", on_problem="skip")
    assert not lenient.findings.refused
    assert sum(lenient.sizes.values()) == 20 + len(odd())
    left_out = lenient.report["left_out"]
    assert sorted(Path(item["reference"]).name for item in left_out) == sorted(broken())
    assert all(item["split"] == "train" and item["reason"] for item in left_out)
    assert sorted(Path(path).name for path in offenders(lenient, "odd input")) == sorted(odd())


@pytest.mark.parametrize("name", ["a\nb.png", "q'\"<&#;%.png", "\u732b\u202e.PNG", "-n.jpg", " .png", "*[0].png"])
def test_strange_file_names(pictures: Path, name: str):
    picture(30).save(pictures / "ant" / name, "PNG")
    result = checked(str(pictures), task="image-classification")
    assert not result.findings.refused
    assert sum(result.sizes.values()) == 21


def test_a_name_that_is_no_utf8_is_refused(pictures: Path):
    os.link(pictures / "ant" / "0.png", os.fsencode(pictures / "ant") + b"/\xff.png")
    assert "no UTF-8" in errors(checked(str(pictures), task="image-classification"))


def test_links_in_circles_end(pictures: Path):
    (pictures / "ant" / "again").symlink_to(pictures, target_is_directory=True)
    (pictures / "bee" / "self.png").symlink_to(pictures / "bee" / "self.png")
    result = checked(str(pictures), task="image-classification")
    assert sum(result.sizes.values()) == 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(pictures: Path):
    (pictures / "ant" / "0.png").chmod(0)
    assert "ant/0.png" in errors(checked(str(pictures), task="image-classification"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (root / "cat").mkdir(), "holds no file of a known type"),
        (lambda root: (root / "train").mkdir(), "mixes split folders|no class folders|holds no file"),
        (
            lambda root: [path.rename(root / path.name) for path in root.glob("*/*.png")],
            "holds no file of a known type",
        ),
    ],
)
def test_folders_that_are_no_classes(pictures: Path, make: Callable[[Path], Any], message: str):
    make(pictures)
    found = errors(checked(str(pictures), task="image-classification"))
    assert any(part in found for part in message.split("|"))


def test_bytes_of_pictures_with_holes():
    cells = [encoded(picture(index)) for index in range(20)]
    cells[3], cells[8] = None, b""  # type: ignore[call-overload]
    table = Dataset.from_dict({"image": cells, "label": ["x", "y"] * 10})
    result = checked(table, task="image-classification", on_problem="skip")
    assert [item["reference"] for item in result.report["left_out"]] == ["row 4", "row 9"]


@pytest.mark.parametrize(
    "cell", ["gone.png", "a\0b.png", "x" * 5000 + ".png", "/", "", "..", "https://example.org/1.png", "/dev/zero"]
)
def test_paths_that_lead_nowhere_are_named_by_row(pictures: Path, cell: str):
    rows = [(f"pictures/{('ant', 'bee')[i % 2]}/{i}.png", ("ant", "bee")[i % 2]) for i in range(20)]
    rows[5] = (cell, "bee")
    path = write_csv(pictures.parent / "t.csv", rows, ("file_name", "label"))
    result = checked(str(path), task="image-classification")
    assert offenders(result, "unusable input") == ["row 6"]
