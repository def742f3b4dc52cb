"""Predictions: any number of inputs, from files, tables and standard input; the bad ones beside the good ones."""

from __future__ import annotations

import io
import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest

import hfft
from hfft import UserError, cli
from hfft.results import prediction, prediction_tables
from tests.conftest import make_sentences, write_csv

QUICK = {"num_train_epochs": 1, "seed": 3, "disable_tqdm": True}


@pytest.fixture(scope="module")
def texts_model(tiny_bert, text_folder, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("texts-model") / "out"
    hfft.finetune(model=str(tiny_bert), data=str(text_folder), output_dir=str(out), **QUICK)
    return str(out)


@pytest.fixture(scope="module")
def images_model(tiny_timm, image_folder, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("images-model") / "out"
    hfft.finetune(model=str(tiny_timm), data=str(image_folder), output_dir=str(out), **QUICK)
    return str(out)


def probabilities(table: Any) -> np.ndarray:
    frame = table if isinstance(table, pandas.DataFrame) else table.to_pandas()
    return frame[[name for name in frame.columns if name.startswith("probability_")]].to_numpy(dtype=float)


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_bad_rows_stand_beside_good_ones(texts_model, tmp_path, capsys):
    texts = ["this is red", "   ", "this is a cat", ""]
    table = write_csv(tmp_path / "new.csv", list(zip("abcd", texts, strict=True)), ("id", "text"))
    found = hfft.predict(texts_model, table).to_pandas()
    assert found["predicted"].isna().tolist() == [False, True, False, True]
    assert found["error"].isna().tolist() == [True, False, True, False]
    assert np.isnan(probabilities(found)).all(axis=1).tolist() == [False, True, False, True]
    good = hfft.predict(
        texts_model, write_csv(tmp_path / "good.csv", [("this is red",), ("this is a cat",)], ("text",))
    )
    np.testing.assert_array_equal(probabilities(found)[[0, 2]], probabilities(good))
    for output in ("p.csv", "p.parquet"):
        code = cli.main(["predict", "--model", texts_model, "--input", str(table), "--output", str(tmp_path / output)])
        assert code == 0
        told = capsys.readouterr().out
        assert "2 predictions" in told
        assert "2 inputs could not be read (column error): row 2: " in told
    read = pandas.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert read["predicted"].tolist() == found["predicted"].fillna("").tolist()
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "p.parquet"), found)


def test_a_picture_that_cannot_be_read_is_told_and_the_others_are_predicted(images_model, image_folder, tmp_path):
    shutil.copytree(image_folder / "test", tmp_path / "new")
    broken = tmp_path / "new" / "red" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    found = hfft.predict(images_model, tmp_path / "new").to_pandas().set_index("input")
    assert found["error"].notna().sum() == 1
    assert found.loc[str(broken), "error"]
    whole = hfft.predict(images_model, image_folder / "test").to_pandas()
    names = [str(path).replace(str(image_folder / "test"), str(tmp_path / "new")) for path in whole["input"]]
    others = [name for name in names if name != str(broken)]
    expected = pandas.DataFrame(probabilities(whole), index=names).loc[others].to_numpy()
    np.testing.assert_allclose(probabilities(found.loc[others]), expected, atol=1e-6)


def test_lists_have_texts_also_where_thresholds_leave_the_sample_without_any():
    from hfft.targets import MultiLabel

    target = MultiLabel(["a", "b"], [0.95, 0.97])
    assert prediction_tables.table_schema(target).field("predicted").type == pyarrow.list_(pyarrow.string())


@pytest.mark.parametrize("kind", ["texts", "json"])
def test_standard_input_to_standard_output(kind, texts_model, monkeypatch, capsys):
    texts = [text for text, _ in make_sentences(5, 7)]
    lines = texts if kind == "texts" else [json.dumps({"id": index, "text": text}) for index, text in enumerate(texts)]
    piped(monkeypatch, ("\n".join([*lines[:2], "", *lines[2:]]) + "\n").encode() + b'{"text": "\xff"}\n')
    assert cli.main(["predict", "--model", texts_model, "--input", "-", "--output", "-"]) == 0
    told = capsys.readouterr()
    found = pandas.read_csv(io.StringIO(told.out))
    assert found["input"].tolist() == [*texts, "row 7"]
    assert found["error"].tolist()[-1] == "it is no UTF-8 text"
    assert found["predicted"].notna().tolist() == [True] * 5 + [False]
    assert "5 predictions" in told.err


def test_paths_on_standard_input(images_model, image_folder, monkeypatch):
    paths = sorted(str(path) for path in (image_folder / "test").rglob("*.png"))
    piped(monkeypatch, "\n".join(paths).encode())
    found = hfft.predict(images_model, "-")
    assert found["input"][:] == paths
    np.testing.assert_allclose(
        probabilities(found), probabilities(hfft.predict(images_model, image_folder / "test")), atol=1e-6
    )


def test_no_more_than_a_chunk_is_in_memory_and_every_row_comes_out_in_its_place(texts_model, tmp_path, monkeypatch):
    rows = [(f"{text} {'and ' * (index % 9)}",) for index, (text, _) in enumerate(make_sentences(50, 7))]
    table = write_csv(tmp_path / "new.csv", rows, ("text",))
    whole, sizes = hfft.predict(texts_model, table), []
    monkeypatch.setattr(prediction, "_CHUNK", 7)
    summary = prediction.predict_to(
        texts_model, table, tmp_path / "p.parquet", lambda part: sizes.append(len(part)), batch_size=3
    )
    assert sizes == [7] * 7 + [1]
    assert (summary.count, summary.unreadable) == (50, 0)
    found = pandas.read_parquet(tmp_path / "p.parquet")
    assert found["input"].tolist() == [text for (text,) in rows]
    np.testing.assert_allclose(probabilities(found), probabilities(whole), atol=1e-5)  # other batches round otherwise


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no input that can be read"),
        (b"  \n\n", "holds no input"),
        (b'{"text": 1\n', "it is no JSON object"),
    ],
)
def test_nothing_that_can_be_read_is_an_error_and_writes_no_file(content, message, texts_model, tmp_path, monkeypatch):
    piped(monkeypatch, content)
    with pytest.raises(UserError, match=message):
        hfft.predict(texts_model, "-", tmp_path / "p.csv")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(texts_model, tmp_path, monkeypatch):
    table = write_csv(tmp_path / "new.csv", [("this is red",)], ("text",))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prediction_tables._Csv, "write", full)
    with pytest.raises(UserError, match=r"--output: '.*p\.csv' cannot be written: No space left on device"):
        hfft.predict(texts_model, table, tmp_path / "p.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]
