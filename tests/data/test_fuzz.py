"""Random data: a result or a UserError, never anything else."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from hfft.tasks.image_classification.decoding import decode_image, inspect_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfft.checking import check
from hfft.errors import UserError
from tests.data.test_corpus import encoded, picture

# the same examples in every run, and no database of failures beside the project
settings.register_profile(
    "hfft", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=25
)
settings.load_profile("hfft")

CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2),
)
NAMES = st.sampled_from(["text", "label", "image", "Label", "x", "", " ", "text_pair", "\ufeff", "a\nb"])
ONE_TYPE = st.sampled_from(
    [st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=8), st.binary(max_size=8)]
).flatmap(lambda cell: st.lists(st.one_of(st.none(), cell), min_size=6, max_size=6))


def survives(path: Path, **arguments: Any) -> None:
    """Check and let nothing but a UserError come out; what is refused says why."""
    for task in ("text-classification", None):
        try:
            result = check(str(path), task=task, cache_dir=str(path.parent / "cache"), **arguments)
        except UserError:
            continue
        else:
            assert all(finding.message for finding in result.findings.items)
            json.dumps(result.report)


@given(content=st.binary(max_size=200), suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]))
def test_random_bytes_as_tables(content: bytes, suffix: str):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{suffix}"
        path.write_bytes(content)
        survives(path)


@given(rows=st.lists(st.lists(st.text(max_size=8), min_size=2, max_size=2), min_size=1, max_size=12))
def test_random_text_as_csv(rows: list[list[str]]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        lines = itertools.chain(["text,label"], (",".join(row) for row in rows))
        path.write_text("\n".join(lines), "utf-8", "surrogatepass")
        survives(path)


@given(rows=st.lists(st.dictionaries(NAMES, CELLS, max_size=4), max_size=8))
def test_random_rows_as_json_lines(rows: list[dict[str, Any]]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
        survives(path)


@given(columns=st.lists(st.tuples(NAMES, ONE_TYPE), min_size=1, max_size=4))
def test_random_columns_as_parquet(columns: list[tuple[str, list[Any]]]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        arrays = [pyarrow.array(cells) for _, cells in columns]
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, names=[name for name, _ in columns]), path)
        survives(path)
        survives(path, on_problem="skip")


KINDS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")
PICTURES = {kind: encoded(picture(index), kind) for index, kind in enumerate(KINDS)}


@settings(max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    cuts=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=6),
    length=st.integers(0, 4000),
)
def test_spoilt_pictures(kind: str, cuts: list[tuple[int, bytes]], length: int):
    content = bytearray(PICTURES[kind])
    for place, patch in cuts:
        place %= len(content)
        content[place : place + len(patch)] = patch
    look = inspect_image(bytes(content[:length]))
    try:
        decoded = decode_image(bytes(content[:length]))
    except UserError:
        assert look.problem
    else:
        assert decoded.mode == "RGB"
        assert look.key is not None


@given(content=st.binary(max_size=300))
def test_random_bytes_as_pictures(content: bytes):
    for head in (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"II*\0", b"BM"):
        assert inspect_image(head + content).problem or inspect_image(head + content).key
