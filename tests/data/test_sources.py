from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Picture

from hfft.data.sources import Source, read_inputs, read_source
from hfft.data.split_names import REFERENCE, UNSPLIT
from hfft.errors import UserError
from hfft.paths import existing_path
from tests.conftest import write_csv, write_picture

PICTURES = frozenset({".png", ".jpg"})
ROWS = [("first", "a"), ("second", "b"), ("third", "a")]


def touch(root: Path, *names: str) -> Path:
    """Make empty files (reading class folders opens none)."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def class_files(source: Source) -> dict[str, list[tuple[str, str]]]:
    """Return split -> (class, file name) of every row."""
    return {name: [(row["label"], Path(row[REFERENCE]).name) for row in split] for name, split in source.splits.items()}


# class folders


def test_class_folders_without_splits(tmp_path: Path):
    touch(tmp_path, "dog/1.png", "cat/2.jpg", "cat/1.PNG")
    source = read_source(tmp_path, PICTURES)
    assert source.from_files
    assert class_files(source) == {UNSPLIT: [("cat", "1.PNG"), ("cat", "2.jpg"), ("dog", "1.png")]}
    assert source.splits[UNSPLIT][REFERENCE][0] == str(tmp_path / "cat" / "1.PNG")


@pytest.mark.parametrize(
    ("folder", "split"),
    [("Training", "train"), ("val", "validation"), ("valid", "validation"), ("dev", "validation"), ("TEST", "test")],
)
def test_split_folders_go_by_their_common_names(tmp_path: Path, folder: str, split: str):
    touch(tmp_path, f"{folder}/a/1.png", *(["train/b/2.png"] if split != "train" else []))
    found = class_files(read_source(str(tmp_path), PICTURES))
    assert found[split] == [("a", "1.png")]
    assert set(found) == {"train", split}


def test_two_folders_of_one_split_are_refused(tmp_path: Path):
    touch(tmp_path, "train/a/1.png", "val/a/2.png", "validation/a/3.png")
    with pytest.raises(UserError, match=r"val.*validation|validation.*val"):
        read_source(tmp_path, PICTURES)


def test_files_at_any_depth_below_a_class_belong_to_it(tmp_path: Path):
    touch(tmp_path, "cat/1.png", "cat/siamese/young/2.png", "dog/test/3.png")
    assert class_files(read_source(tmp_path, PICTURES))[UNSPLIT] == [
        ("cat", "1.png"),
        ("cat", "2.png"),
        ("dog", "3.png"),
    ]


def test_hidden_and_junk_files_are_no_examples(tmp_path: Path):
    touch(tmp_path, "cat/1.png", "dog/1.png")
    touch(tmp_path, "cat/.hidden.png", "cat/.cache/2.png", "cat/Thumbs.db", "cat/._1.png", "cat/notes.txt")
    touch(tmp_path, ".git/x.png", "__MACOSX/cat/1.png", "cat/__MACOSX/1.png", ".DS_Store", "readme.md")
    assert class_files(read_source(tmp_path, PICTURES))[UNSPLIT] == [("cat", "1.png"), ("dog", "1.png")]


def test_hidden_parents_of_the_data_do_not_hide_it(tmp_path: Path):
    touch(tmp_path / ".cache", "cat/1.png", "dog/1.png")
    assert len(read_source(tmp_path / ".cache", PICTURES).splits[UNSPLIT]) == 2


def test_a_folder_called_train_may_itself_be_the_data(tmp_path: Path):
    touch(tmp_path / "train", "cat/1.png", "dog/1.png")
    assert class_files(read_source(tmp_path / "train", PICTURES)) == {UNSPLIT: [("cat", "1.png"), ("dog", "1.png")]}


def test_a_class_called_train_beside_other_classes(tmp_path: Path):
    """Vehicles: the pictures lie in the folder itself, so it is a class and no split."""
    touch(tmp_path, "bus/1.png", "train/2.png", "tram/3.png")
    assert class_files(read_source(tmp_path, PICTURES)) == {
        UNSPLIT: [("bus", "1.png"), ("train", "2.png"), ("tram", "3.png")]
    }


def test_split_folders_mixed_with_others_are_refused(tmp_path: Path):
    touch(tmp_path, "train/cat/1.png", "test/cat/1.png", "extra/cat/1.png")
    with pytest.raises(UserError, match=r"mixes split folders with others \(extra\)"):
        read_source(tmp_path, PICTURES)


def test_test_folders_without_train_are_refused(tmp_path: Path):
    touch(tmp_path, "test/cat/1.png", "val/cat/1.png")
    with pytest.raises(UserError, match="has no train folder beside test, val"):
        read_source(tmp_path, PICTURES)


@pytest.mark.parametrize("junk", [[], ["train/empty/.gitkeep"], ["train/empty/notes.txt"]])
def test_an_empty_class_is_named(tmp_path: Path, junk: list[str]):
    touch(tmp_path, "train/cat/1.png", *junk)
    (tmp_path / "train" / "empty").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"the class folder '.*train/empty' holds no file of a known type"):
        read_source(tmp_path, PICTURES)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_flat_files_are_refused_with_the_layout_that_is_wanted(tmp_path: Path, prefix: str):
    touch(tmp_path, f"{prefix}1.png", f"{prefix}2.png")
    with pytest.raises(UserError, match=r"holds 2 files but no class folders\. Wanted is .*/CLASS/FILE"):
        read_source(tmp_path, PICTURES)


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds nothing to train on"):
        read_source(tmp_path, PICTURES)


def test_names_in_any_script_and_with_blanks(tmp_path: Path):
    touch(tmp_path, "Käse & Brot/bild #1.png", "猫/一.png")
    assert class_files(read_source(tmp_path, PICTURES))[UNSPLIT] == [("Käse & Brot", "bild #1.png"), ("猫", "一.png")]


# tables


def write_table(path: Path) -> Path:
    """Write ``ROWS`` in the format of the suffix."""
    columns = {"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}
    if path.suffix == ".csv":
        write_csv(path, ROWS)
    elif path.suffix == ".tsv":
        path.write_text("".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *ROWS]))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    elif path.suffix == ".json":
        path.write_text(json.dumps([{"text": text, "label": label} for text, label in ROWS]))
    else:
        Dataset.from_dict(columns).to_parquet(path)
    return path


def rows(source: Source, split: str = UNSPLIT) -> list[tuple[str, str]]:
    """Return (text, label) of every row."""
    return list(zip(source.splits[split]["text"], source.splits[split]["label"], strict=True))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_format_reads_the_same_rows(tmp_path: Path, suffix: str):
    source = read_source(write_table(tmp_path / f"rows.{suffix}"), PICTURES)
    assert rows(source) == ROWS
    assert not source.from_files
    assert source.column_names == ["text", "label"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_shards_named_as_on_the_hub_are_joined_in_order(tmp_path: Path, suffix: str):
    for index, text in enumerate(["one", "two"]):
        table = Dataset.from_dict({"text": [text], "label": ["a"]})
        path = tmp_path / f"train-0000{index}-of-00002.{suffix}"
        getattr(table, {"csv": "to_csv", "jsonl": "to_json", "parquet": "to_parquet"}[suffix])(path)
    write_csv(tmp_path / "test-00000-of-00001.csv", ROWS)
    source = read_source(tmp_path, PICTURES)
    assert list(source.splits["train"]["text"]) == ["one", "two"]
    assert rows(source, "test") == ROWS


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("my_train", "train"),
        ("intents.val", "validation"),
        ("Dev", "validation"),
        ("reviews test", "test"),
        ("validation-0", "validation"),
    ],
)
def test_a_table_tells_its_split_by_a_word_of_its_name(tmp_path: Path, stem: str, split: str):
    write_csv(tmp_path / f"{stem}.csv", ROWS)
    if split != "train":
        write_csv(tmp_path / "train.csv", ROWS[:1])
    assert rows(read_source(tmp_path, PICTURES), split) == ROWS


@pytest.mark.parametrize("stem", ["training_data_for_testers", "contest", "trained", "latest"])
def test_part_of_a_word_names_no_split(tmp_path: Path, stem: str):
    write_csv(tmp_path / f"{stem}.csv", ROWS)
    found = read_source(tmp_path, PICTURES).splits
    assert list(found) == (["train"] if stem.startswith("training_") else [UNSPLIT])


def test_a_single_table_in_a_folder_is_the_data(tmp_path: Path):
    write_csv(tmp_path / "intents.csv", ROWS)
    (tmp_path / "readme.md").write_text("# about")
    (tmp_path / ".hidden.csv").write_text("x")
    assert rows(read_source(tmp_path, PICTURES)) == ROWS


def test_several_tables_without_split_names_are_refused(tmp_path: Path):
    write_csv(tmp_path / "a.csv", ROWS)
    write_csv(tmp_path / "b.csv", ROWS)
    with pytest.raises(UserError, match=r"holds several tables \(a\.csv, b\.csv\)"):
        read_source(tmp_path, PICTURES)


def test_tables_without_a_train_table_are_refused(tmp_path: Path):
    write_csv(tmp_path / "test.csv", ROWS)
    with pytest.raises(UserError, match=r"has no train table among test\.csv"):
        read_source(tmp_path, PICTURES)


def test_shards_of_two_formats_are_refused(tmp_path: Path):
    write_table(tmp_path / "train-0.csv")
    write_table(tmp_path / "train-1.jsonl")
    with pytest.raises(UserError, match=r"train-0\.csv, .*train-1\.jsonl: a split is read from tables of one type"):
        read_source(tmp_path, PICTURES)


WORDS_FOR_MISSING = ["None", "NA", "null", "nan", "N/A", "n/a", "NULL", "NaN", "-nan", "<NA>", "#N/A"]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_words_for_missing_values_stay_text(tmp_path: Path, suffix: str):
    separator = {"csv": ",", "tsv": "\t"}[suffix]
    path = tmp_path / f"words.{suffix}"
    path.write_text(f"text{separator}label\n" + "".join(f"{w}{separator}None\n" for w in WORDS_FOR_MISSING))
    assert rows(read_source(path, PICTURES)) == [(word, "None") for word in WORDS_FOR_MISSING]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path):
    path = write_csv(tmp_path / "bom.csv", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_source(path, PICTURES).column_names == ["text", "label"]


def test_quoted_line_breaks_commas_and_quotes(tmp_path: Path):
    texts = ['a, "quoted"\nline', "second", "tab\there"]
    source = read_source(write_csv(tmp_path / "t.csv", [(text, "a") for text in texts]), PICTURES)
    assert list(source.splits[UNSPLIT]["text"]) == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", r"empty\.csv' is empty"),
        ("header.csv", b"text,label\n", r"header\.csv'.* no rows"),
        ("empty.jsonl", b"", r"empty\.jsonl' is empty"),
        ("latin.csv", "text,label\ncafé,a\n".encode("latin-1"), r"latin\.csv' cannot be read: it is not UTF-8"),
        ("ragged.csv", b"text,label\na,b\nc,d,e,f\n", r"ragged\.csv' cannot be read: .*line 3"),
        ("broken.jsonl", b'{"text": "a", "label": "b"}\n{"text": "cut\n', r"broken\.jsonl' cannot be read: .*line 2"),
        ("no.parquet", b"this is no parquet file", r"no\.parquet' cannot be read"),
        ("notes.txt", b"hello", r"notes\.txt.*\.csv, \.tsv, \.json, \.jsonl, \.parquet"),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_source(path, PICTURES)


def test_a_broken_table_logs_nothing_beside_the_error(tmp_path: Path, caplog):
    path = tmp_path / "latin.csv"
    path.write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    library = logging.getLogger("datasets")
    library.addHandler(caplog.handler)
    try:
        with pytest.raises(UserError):
            read_source(path, PICTURES)
    finally:
        library.removeHandler(caplog.handler)
    assert caplog.messages == []


def test_a_changed_file_is_read_afresh(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", ROWS)
    assert rows(read_source(path, PICTURES, str(tmp_path / "cache"))) == ROWS
    write_csv(path, ROWS[:2])
    assert rows(read_source(path, PICTURES, str(tmp_path / "cache"))) == ROWS[:2]


def test_cache_dir_is_where_converted_tables_go(tmp_path: Path):
    read_source(write_csv(tmp_path / "t.csv", ROWS), PICTURES, str(tmp_path / "cache"))
    assert list((tmp_path / "cache").rglob("*.arrow"))


# Python data sets


def test_one_data_set_has_no_splits():
    source = read_source(Dataset.from_dict({"text": ["a"], "label": ["b"]}), PICTURES)
    assert list(source.splits) == [UNSPLIT]
    assert source.origin == "the given Dataset"


def test_split_names_of_a_dict_are_made_common():
    one = Dataset.from_dict({"text": ["a"], "label": ["b"]})
    for data in (DatasetDict(train=one, val=one), {"Train": one, "dev": one}):
        assert sorted(read_source(data, PICTURES).splits) == ["train", "validation"]


def test_a_dict_that_names_one_split_twice_is_refused():
    one = Dataset.from_dict({"text": ["a"], "label": ["b"]})
    with pytest.raises(UserError, match="validation"):
        read_source({"train": one, "val": one, "validation": one}, PICTURES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"trian": Dataset.from_dict({"a": [1]})}, "split 'trian' is not one of .*Did you mean 'train'"),
        ({"train": [1, 2]}, "split 'train' is not one of test, train, validation, or no Dataset"),
        (12, r"data must be a path or a datasets\.DatasetDict, got int"),
        (None, "data must be a path or a datasets.DatasetDict, got NoneType"),
        ([{"text": "a", "label": "b"}], "got list"),
        ({}, "data"),
        (Dataset.from_dict({"text": [], "label": []}), "the given Dataset' has no rows"),
        (DatasetDict(train=Dataset.from_dict({"a": [1]}), test=Dataset.from_dict({"a": []})), "no rows in 'test'"),
    ],
)
def test_other_python_data_is_refused(data: object, message: str):
    with pytest.raises(UserError, match=message):
        read_source(data, PICTURES)


def test_pictures_of_a_data_set_stay_undecoded(tmp_path: Path):
    write_picture(tmp_path / "1.png", (9, 9, 9), np.random.default_rng(0))
    features = Features({"image": Image(), "label": Value("string")})
    given = Dataset.from_dict(
        {"image": [str(tmp_path / "1.png"), Picture.new("RGB", (2, 2))], "label": ["a", "b"]}, features=features
    )
    source = read_source(DatasetDict(train=given), PICTURES)
    first, second = source.splits["train"]["image"]
    assert first["path"] == str(tmp_path / "1.png")
    assert second["bytes"].startswith(b"\x89PNG")
    assert isinstance(given[0]["image"], Picture.Image)  # what the caller holds is left alone


def test_first_value_skips_what_is_missing():
    source = read_source(Dataset.from_dict({"text": [None, "", "x", "y"], "none": [None] * 4}), PICTURES)
    assert source.first_value("text") == "x"
    assert source.first_value("none") is None


# inputs and paths


def test_inputs_are_a_file_or_a_folder_of_files(tmp_path: Path):
    touch(tmp_path, "b.png", "a/deep/c.jpg", "notes.txt", ".hidden.png")
    found = read_inputs(tmp_path, PICTURES)
    assert [Path(p).name for p in found.splits[UNSPLIT][REFERENCE]] == ["c.jpg", "b.png"]
    assert found.from_files
    assert read_inputs(tmp_path / "b.png", PICTURES).splits[UNSPLIT][REFERENCE][0] == str(tmp_path / "b.png")


def test_inputs_are_a_table(tmp_path: Path):
    found = read_inputs(write_csv(tmp_path / "in.csv", ROWS), frozenset())
    assert list(found.splits[UNSPLIT]["text"]) == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.txt", r"--input: '.*notes\.txt' is of no known type\. Known suffixes: .*\.csv.*\.png"),
        ("folder", r"--input: the folder '.*folder' holds no files with the suffixes \.jpg, \.png"),
        ("in.cvs", r"--input: there is no file or folder '.*in\.cvs'\. Did you mean 'in\.csv'\?"),
    ],
)
def test_bad_inputs_are_named(tmp_path: Path, name: str, message: str):
    touch(tmp_path, "notes.txt", "in.csv", "folder/x.txt")
    with pytest.raises(UserError, match=message):
        read_inputs(tmp_path / name, PICTURES)


def test_the_nearest_name_is_that_of_the_first_part_that_is_missing(tmp_path: Path):
    touch(tmp_path, "pictures/train/a.png")
    with pytest.raises(UserError, match=r"--data: .*'\. Did you mean 'pictures'\?"):
        existing_path(tmp_path / "picturs" / "train" / "a.png", "--data")
    with pytest.raises(UserError, match=r"Did you mean 'train'\?"):
        existing_path(tmp_path / "pictures" / "trian", "--data")


def test_a_relative_path_finds_the_nearest_name(tmp_path: Path, monkeypatch):
    touch(tmp_path, "pictures/a.png")
    monkeypatch.chdir(tmp_path)
    assert existing_path("pictures", "--data").is_dir()
    with pytest.raises(UserError, match=r"Did you mean 'pictures'\?"):
        existing_path("pictuers/a.png", "--data")


# pandas, patterns and the Hub


def test_pandas_tables_are_read(tmp_path: Path):
    import pandas

    frame = pandas.DataFrame({"text": ["a", "b"], "label": [1, 0]}, index=[7, 9])
    source = read_source(frame, ())
    assert source.column_names == ["text", "label"]
    assert list(source.splits["all"]["label"]) == [1, 0]
    both = read_source({"train": frame, "test": frame.iloc[:1]}, ())
    assert {name: len(split) for name, split in both.splits.items()} == {"train": 2, "test": 1}


@pytest.mark.parametrize("columns", [["1", "text", "text"], ["text", "1", 1]])
def test_a_pandas_table_with_two_columns_of_one_name_is_refused(columns: list[object]):
    import pandas

    with pytest.raises(UserError, match=f"two columns '{columns[-1]}'"):
        read_source(pandas.DataFrame([["a", "b", "c"]], columns=columns), ())


def test_a_pattern_names_several_tables(tmp_path: Path):
    for name in ("a", "b"):
        write_csv(tmp_path / f"{name}.csv", [(f"text {name}", "x")])
    assert list(read_source(str(tmp_path / "*.csv"), ()).splits["all"]["text"]) == ["text a", "text b"]
    with pytest.raises(UserError, match=r"no file matches .*\*\.tsv"):
        read_source(str(tmp_path / "*.tsv"), ())


def test_files_of_a_pattern_are_put_into_the_splits_of_their_names(tmp_path: Path):
    for name in ("train-0", "train-1", "test-0"):
        write_csv(tmp_path / f"{name}.csv", [(name, "x")])
    source = read_source(str(tmp_path / "*.csv"), ())
    assert {name: list(split["text"]) for name, split in source.splits.items()} == {
        "train": ["train-0", "train-1"],
        "test": ["test-0"],
    }
    write_csv(tmp_path / "more.csv", [("more", "x")])
    with pytest.raises(UserError, match="tells of no split"):
        read_source(str(tmp_path / "*.csv"), ())


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path: Path):
    folder = tmp_path / "run [1]"
    folder.mkdir()
    write_csv(folder / "train.csv", [("a", "x")])
    assert list(read_source(str(folder), ()).splits) == ["train"]


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the Hub, and notes what it was asked for."""
    import datasets

    asked = []
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})

    def load_dataset(repo, config=None, revision=None, cache_dir=None):
        asked.append((repo, config, revision))
        if repo == "me/configs" and config is None:
            raise ValueError("Config name is missing. Please pick one among the available configs: ['a', 'b']")
        if repo == "me/alone":
            return datasets.DatasetDict(train=rows)
        if repo == "me/empty":
            return datasets.DatasetDict(train=rows.select([]), unsupervised=rows)
        return datasets.DatasetDict(train=rows, test=rows, unsupervised=rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_the_hub_is_asked_for_what_is_no_path(hub, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(read_source("stanford/imdb", ()).splits) == {"train", "test"}  # what is no split for us is left out
    assert set(read_source("me/alone", ()).splits) == {"all"}  # splits are drawn from it
    read_source("me/configs:a@v1.0", ())
    assert hub == [("stanford/imdb", None, None), ("me/alone", None, None), ("me/configs", "a", "v1.0")]
    with pytest.raises(UserError, match=r"Config name is missing.*me/configs:CONFIG"):
        read_source("me/configs", ())


def test_an_empty_train_split_of_the_hub_is_not_replaced_by_another_split(hub):
    with pytest.raises(UserError, match="'me/empty' has no rows"):
        read_source("me/empty", ())


@pytest.mark.parametrize("data", ["photos/tran", "./photos", "photos", "/photos/x", "../a/b"])
def test_what_may_be_a_mistyped_path_is_not_looked_for_on_the_hub(data, hub, tmp_path: Path, monkeypatch):
    (tmp_path / "photos" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"there is no file|holds|has no|no class"):
        read_source(data, ())
    assert hub == []


def test_without_a_network_the_hub_is_a_user_error(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"'nobody/nothing' is no file or folder here, and cannot be loaded from the Hub"
    ):
        read_source("nobody/nothing", ())
