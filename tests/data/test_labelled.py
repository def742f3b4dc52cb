from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hfft.arguments import DataArguments
from hfft.data import LabelledData, label_split, prepare, read_inputs, read_source
from hfft.data.columns import find_columns
from hfft.errors import UserError
from hfft.registry import load_task
from tests.conftest import COLOURS, make_sentences, write_csv, write_picture

TEXT, IMAGE = load_task("text-classification"), load_task("image-classification")


def prepare_texts(data: Any, seed: int = 0, **arguments: Any) -> LabelledData:
    """Read and prepare data for text classification; the few made-up rows may stand in two splits."""
    arguments = {"on_problem": "warn", **arguments}
    return prepare(read_source(data, TEXT.file_suffixes), TEXT, DataArguments(**arguments), seed)


prepare_strictly = partial(prepare_texts, on_problem="error")


def table(labels: list[Any], texts: list[Any] | None = None, feature: Any = None) -> Dataset:
    """Return a table whose texts are ``text 0``, ``text 1``, ..."""
    made = Dataset.from_dict({"text": texts or [f"text {i}" for i in range(len(labels))], "label": labels})
    return made if feature is None else made.cast_column("label", feature)


def texts_by_class(data: LabelledData, split: str) -> dict[str, set[str]]:
    """Return class name -> texts."""
    found: dict[str, set[str]] = {}
    for row in data.splits[split]:
        found.setdefault(data.class_names[row["label"]], set()).add(row["text"])
    return found


# given splits


def test_given_splits_are_kept_as_they_are():
    given = DatasetDict(
        train=table(["b", "a", "b"]), validation=table(["a", "b"], ["v0", "v1"]), test=table(["b"], ["t0"])
    )
    data = prepare_texts(given)
    assert data.class_names == ["a", "b"]
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.splits["train"]["text"] == given["train"]["text"]
    assert data.splits["train"]["label"] == [1, 0, 1]
    assert data.splits["validation"]["label"] == [0, 1]
    assert data.splits["test"][0] == {"text": "t0", "reference": 1, "label": 1}
    assert data.notes == ["the test split has no example of a: nothing is measured about what is absent."]


def test_columns_get_the_names_of_their_roles_and_others_go():
    given = Dataset.from_dict(
        {"id": range(8), "question": list("abcdefgh"), "answer": list("ABCDEFGH"), "class": ["x", "y"] * 4}
    )
    data = prepare_texts(DatasetDict(train=given, test=given, validation=given))
    assert sorted(data.splits["train"].column_names) == ["label", "reference", "text", "text_pair"]
    assert data.splits["train"][1] == {"text": "b", "text_pair": "B", "reference": 2, "label": 1}


def test_named_columns_win_over_columns_that_are_called_like_roles():
    given = Dataset.from_dict(
        {"text": ["no"] * 8, "title": list("abcdefgh"), "label": ["n"] * 8, "topic": ["x", "y"] * 4}
    )
    data = prepare_texts(
        DatasetDict(train=given, test=given, validation=given), text_column="title", label_column="topic"
    )
    assert list(data.splits["train"]["text"]) == list("abcdefgh")
    assert data.class_names == ["x", "y"]


def test_columns_that_swap_the_names_of_roles():
    given = Dataset.from_dict({"text": list("abcd"), "text_pair": list("ABCD"), "label": ["x", "y"] * 2})
    data = prepare_texts(
        DatasetDict(train=given, test=given, validation=given), text_column="text_pair", text_pair_column="text"
    )
    assert data.splits["train"][0] == {"text": "A", "text_pair": "a", "reference": 1, "label": 0}


def test_a_column_called_reference_can_be_the_text():
    given = Dataset.from_dict({"reference": list("abcd"), "label": ["x", "y"] * 2})
    data = prepare_texts(DatasetDict(train=given, test=given, validation=given), text_column="reference")
    assert list(data.splits["train"]["text"]) == list("abcd")


def test_data_without_a_train_split_is_refused():
    with pytest.raises(UserError, match="'the given data sets' has no train split, only test"):
        prepare_texts({"test": table(["a", "b"])})


# drawn splits


@pytest.mark.parametrize(("seed", "test_size", "validation_size"), [(0, 0.2, 0.1), (1, 0.5, 0.5), (2, 0.3, 0)])
def test_drawn_splits_are_disjoint_complete_and_stratified(seed: int, test_size: float, validation_size: float):
    labels = ["a"] * 60 + ["b"] * 40
    data = prepare_texts(table(labels), seed, test_size=test_size, validation_size=validation_size)
    parts = [set(split["text"]) for split in data.splits.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 100
    counts = data.counts()
    assert counts["test"] == {"a": 60 * test_size, "b": 40 * test_size}
    assert ("validation" in counts) == (validation_size > 0)
    if validation_size:
        rest = {"a": 60 * (1 - test_size), "b": 40 * (1 - test_size)}
        assert counts["validation"] == pytest.approx({c: n * validation_size for c, n in rest.items()}, abs=1)
    for name in data.splits:  # each text kept the class it had
        found = texts_by_class(data, name)
        assert found["a"] <= {f"text {i}" for i in range(60)}
        assert found["b"] <= {f"text {i}" for i in range(60, 100)}


def test_references_are_rows_of_the_file_after_the_draw():
    data = prepare_texts(table(["a", "b"] * 20))
    for split in data.splits.values():
        for row in split:
            assert row["reference"] == int(row["text"].split()[1]) + 1


def test_the_seed_decides_what_is_drawn():
    def drawn(seed: int) -> dict[str, list[str]]:
        return {name: list(split["text"]) for name, split in prepare_texts(table(["a", "b"] * 30), seed).splits.items()}

    assert drawn(1) == drawn(1)
    assert drawn(1)["test"] != drawn(2)["test"]


def test_a_validation_size_changes_nothing_of_the_test_split():
    tests = [
        list(prepare_texts(table(["a", "b"] * 30), 5, validation_size=size).splits["test"]["text"])
        for size in (0, 0.1, 0.5)
    ]
    assert tests[0] == tests[1] == tests[2]


def test_rare_classes_stay_in_train():
    data = prepare_texts(table(["common"] * 40 + ["twice"] * 2 + ["once"]), test_size=0.4, validation_size=0.4)
    assert data.class_names == ["common", "once", "twice"]
    assert all(count >= 1 for count in data.counts()["train"].values())
    assert data.counts()["train"]["once"] == 1


def test_what_was_drawn_is_noted():
    given = DatasetDict(train=table(["a", "b"] * 20), test=table(["a", "b"], ["other", "texts"]))
    assert prepare_texts(given).notes == ["no validation split was given: 4 of 40 training examples were drawn for it."]
    assert prepare_texts(given, validation_size=0).notes == []
    assert "validation" not in prepare_texts(given, validation_size=0).splits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train": table(["a", "b", "a"])},
            r"has 3 training examples for 2 classes, too few to hold back a test split",
        ),
        (
            {"train": table([["a"], ["b"], ["c"], ["d"]])},
            r"--data: drawn by example, the test split of .* takes every example of \w\. Give the splits yourself",
        ),
        (
            {"train": table(["a", "b", "a"]), "test": table(["a"])},
            r"too few to hold back a validation split\. Give a validation split, or set validation_size to 0\.",
        ),
    ],
)
def test_too_few_examples_to_draw_from(given: Mapping[str, Dataset], message: str):
    with pytest.raises(UserError, match=message):
        prepare_texts(given)


@pytest.mark.parametrize("classes", [5, 20])
def test_a_large_share_empties_no_class(classes: int):
    given = table(["common"] * 2 * classes + [f"rare {i}" for i in range(classes)])
    data = prepare_texts(given, test_size=0.9, validation_size=0)
    train, test = data.counts()["train"], data.counts()["test"]
    assert {train[f"rare {i}"] for i in range(classes)} == {1}
    assert train["common"] >= 1
    assert test["common"] == pytest.approx(0.9 * 2 * classes, abs=1)


# classes


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "2", "1"], ["1", "2", "10"]),
        ([10, 2, 0], ["0", "2", "10"]),
        ([1.0, 0.0, 1.0], ["0", "1"]),
        (["-1", "1", "0.5"], ["-1", "0.5", "1"]),
        (["b", "A", "a"], ["A", "a", "b"]),
        (["b", "10", "2"], ["2", "10", "b"]),
        ([True, False], ["False", "True"]),
        (["None", "nan", "null"], None),
        (["été", "猫"], ["été", "猫"]),
    ],
)
def test_classes_are_sorted_numbers_first(labels: list[Any], names: list[str] | None):
    data = prepare_texts(DatasetDict(train=table(labels), test=table(labels), validation=table(labels)))
    if names is None:  # words that are no numbers, though float("nan") reads one of them
        assert sorted(data.class_names) == sorted(labels)
    else:
        assert data.class_names == names
    assert [data.class_names[i] for i in data.splits["test"]["label"]] == [
        str(int(v)) if isinstance(v, float) else str(v) for v in labels
    ]


@pytest.mark.parametrize("index", range(12))
def test_a_class_called_nan_does_not_upset_the_order(index: int):
    """NaN compares with nothing; the order would depend on the hashes of the names, so on the process."""
    labels = ["nan", "10", f"a{index}", "2", f"b{index}", "-inf"]
    given = table(np.random.default_rng(index).permutation(labels).tolist())
    names = prepare_texts(DatasetDict(train=given, test=given, validation=given)).class_names
    assert [name for name in names if name != "-inf"] == ["2", "10", f"a{index}", f"b{index}", "nan"]


def test_class_label_features_keep_their_own_order():
    feature = ClassLabel(names=["zebra", "ant", "cat"])
    given = table([0, 2, 1, 0], feature=feature)
    data = prepare_texts(DatasetDict(train=given, test=given, validation=given))
    assert data.class_names == ["zebra", "ant", "cat"]
    assert data.splits["test"]["label"] == [0, 2, 1, 0]


def test_labels_of_other_splits_are_matched_by_name_not_by_number():
    train = table([0, 1, 0, 1], feature=ClassLabel(names=["cat", "dog"]))
    test = table([0, 1], feature=ClassLabel(names=["dog", "cat"]))
    data = prepare_texts(DatasetDict(train=train, test=test, validation=table(["dog"])))
    assert data.splits["test"]["label"] == [1, 0]
    assert data.splits["validation"]["label"] == [1]


def test_a_declared_class_without_a_training_example_is_named():
    given = table([0, 1, 0, 1], feature=ClassLabel(names=["cat", "dog", "fox"]))
    with pytest.raises(UserError, match="has no training example of the class fox"):
        prepare_texts(DatasetDict(train=given, test=given))


def test_an_unlabelled_class_label_is_missing():
    given = table([0, 1, -1, 0], feature=ClassLabel(names=["cat", "dog"]))
    with pytest.raises(UserError, match=r"no label in column 'label' for 1 of 4 examples \(row 3\)"):
        prepare_strictly(DatasetDict(train=given, test=given))


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        (["a", None, "b", "a"], "row 2"),
        (["a", "", "b", " \t"], "row 2, 4"),
        ([1.0, float("nan"), 0.0, 1.0], "row 2"),
        ([1, None, 0, None], "row 2, 4"),
    ],
)
def test_missing_labels_are_reported_by_row(labels: list[Any], rows: str):
    with pytest.raises(UserError, match=rf"the train split of .* for \d of 4 examples \({rows}\)\. Fill them in"):
        prepare_strictly(table(labels))


def test_missing_labels_of_a_csv_are_no_class(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [("one", "a"), ("two", ""), ("three", "b"), ("four", "nan")])
    with pytest.raises(UserError, match=r"for 1 of 4 examples \(row 2\)"):
        prepare_strictly(path)


def test_integer_labels_of_a_csv(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [(f"text {i}", str(10 - i % 3)) for i in range(30)])
    data = prepare_texts(path)
    assert data.class_names == ["8", "9", "10"]
    for row in data.splits["train"]:
        assert data.class_names[row["label"]] == str(10 - int(row["text"].split()[1]) % 3)


@pytest.mark.parametrize("labels", [["01", "1"], ["true", "TRUE"], ["1e3", "1000"], ["1_0", "10"], ["007", "7.0"]])
def test_a_class_of_a_csv_is_called_as_it_is_written(tmp_path: Path, labels: list[str]):
    data = prepare_texts(write_csv(tmp_path / "t.csv", [(f"text {i}", labels[i % 2]) for i in range(20)]))
    assert sorted(data.class_names) == sorted(labels)
    assert texts_by_class(data, "test")[labels[0]] <= {f"text {i}" for i in range(0, 20, 2)}


@pytest.mark.parametrize("classes", [("true", "false", "unsure"), ("01", "02", "other"), ("1.50", "2.50", "none")])
def test_what_other_rows_hold_does_not_rename_a_class(tmp_path: Path, classes: tuple[str, ...]):
    """A test table with some of the classes alone must not be read as numbers or truth values."""
    write_csv(tmp_path / "train.csv", [(f"text {i}", classes[i % 3]) for i in range(30)])
    write_csv(tmp_path / "test.csv", [("x", classes[0]), ("y", classes[1])])
    data = prepare_texts(tmp_path)
    assert [data.class_names[i] for i in data.splits["test"]["label"]] == list(classes[:2])


def test_a_word_far_down_a_column_of_numbers(tmp_path: Path):
    texts = [f"{i * 2_654_435_761 % 2**32:08x}" for i in range(10_059)]  # none of them nearly another
    rows = [(text, str(i % 2) if i < 10_050 else "many") for i, text in enumerate(texts)]
    data = prepare_texts(write_csv(tmp_path / "t.csv", rows))
    assert data.class_names == ["0", "1", "many"]


def test_texts_of_digits_are_texts(tmp_path: Path):
    rows = [(str(i).zfill(5), "even" if i % 2 == 0 else "odd") for i in range(20)]
    data = prepare_texts(write_csv(tmp_path / "t.csv", rows))
    assert {t for split in data.splits.values() for t in split["text"]} == {text for text, _ in rows}


def test_a_missing_integer_label_of_a_csv_is_reported(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [("one", "1"), ("two", ""), ("three", "0"), ("four", "1")])
    with pytest.raises(UserError, match=r"for 1 of 4 examples \(row 2\)"):
        prepare_strictly(path)


def test_a_missing_label_in_the_test_split_is_reported():
    with pytest.raises(UserError, match=r"the test split of .* for 1 of 2 examples \(row 2\)"):
        prepare_strictly(DatasetDict(train=table(["a", "b"] * 4), test=table(["a", None])))


@pytest.mark.parametrize("split", ["test", "validation"])
def test_an_unknown_class_outside_train_is_named(split: str):
    given = {"train": table(["cat", "dog"] * 4), split: table(["cat", "dgo"])}
    with pytest.raises(UserError) as caught:
        prepare_texts(given)
    assert str(caught.value) == (
        f"--data: the {split} split of 'the given data sets' has the class 'dgo', which is not among the classes "
        "that are trained (cat, dog). Did you mean 'dog'?"
    )


@pytest.mark.parametrize("labels", [["a"] * 6, [1] * 6])
def test_a_single_class_is_refused(labels: list[Any]):
    with pytest.raises(UserError, match=f"only one class, '{labels[0]}', in its train split: there is nothing to tell"):
        prepare_texts(table(labels))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0, 0.25, 0.0], r"column 'label' holds 0\.5, a number that is no class"),
        ([float("inf"), 1.0, 0.0, 1.0], "column 'label' holds inf, a number that is no class"),
        ([["a"], ["b"], ["a", "b"], []], r"column 'label' holds \['a'\]; wanted is one class for each example"),
    ],
)
def test_numbers_and_lists_that_are_no_class(labels: list[Any], message: str):
    with pytest.raises(UserError, match=message):
        prepare_texts(table(labels), problem_type="single_label_classification")


def test_classes_come_from_train_alone():
    data = prepare_texts(DatasetDict(train=table(["a", "b"] * 4), test=table(["a", "a"]), validation=table(["b"])))
    assert data.class_names == ["a", "b"]
    assert data.counts()["test"] == {"a": 2, "b": 0}


# inputs


@pytest.mark.parametrize("empty", ["", "  ", "\t\n", None])
def test_empty_texts_are_named_by_row(empty: str | None):
    with pytest.raises(UserError) as caught:
        prepare_strictly(table(["a", "b"] * 3, ["x", empty, "y", empty, "z", "w"]))
    assert str(caught.value) == (
        "--data: the train split of 'the given Dataset', row 2: the text is empty. (1 more like it: row 4)"
    )


def test_an_empty_text_of_a_csv_is_named_with_the_file(tmp_path: Path):
    write_csv(tmp_path / "train.csv", make_sentences(12, 1))
    write_csv(tmp_path / "test.csv", [("fine", "animal"), ("", "animal")])
    with pytest.raises(UserError, match=rf"the test split of '{tmp_path}', row 2: the text is empty"):
        prepare_strictly(tmp_path)


def test_an_empty_second_text_is_named_by_its_role():
    given = Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["c", ""], "label": ["x", "y"]})
    with pytest.raises(UserError, match="row 2: the text_pair is empty"):
        prepare_strictly(given)


def test_many_problems_are_counted():
    with pytest.raises(UserError, match=r"row 1: the text is empty\. \(11 more like it: row 2, .*row 6 and 6 more\)"):
        prepare_texts(table(["a", "b"] * 6, [""] * 12), text_column="text")


def test_a_text_that_is_a_number_is_named():
    with pytest.raises(UserError, match="row 1: the text is 7, no text"):
        prepare_texts(table(["a", "b"], [7, 8]), text_column="text")


def test_words_for_missing_values_are_texts_and_classes(tmp_path: Path):
    rows = [(word, label) for word in ("None", "NA", "null", "nan") for label in ("None", "NA")] * 3
    data = prepare_texts(write_csv(tmp_path / "t.csv", rows))
    assert data.class_names == ["NA", "None"]
    assert {t for split in data.splits.values() for t in split["text"]} == {"None", "NA", "null", "nan"}


# pictures


def prepare_pictures(data: Any, **arguments: Any) -> LabelledData:
    """Read and prepare data for image classification."""
    return prepare(read_source(data, IMAGE.file_suffixes), IMAGE, DataArguments(**arguments), 0)


def test_class_folders_become_labelled_pictures(image_folder: Path):
    data = prepare_pictures(image_folder)
    assert data.class_names == ["blue", "green", "red"]
    assert data.counts()["test"] == {"blue": 4, "green": 4, "red": 4}
    assert sum(len(data.splits[name]) for name in ("train", "validation")) == 24
    for name, split in data.splits.items():
        for row in split:
            assert row["image"] == row["reference"]
            assert Path(row["image"]).parent.name == data.class_names[row["label"]]
            assert Path(row["image"]).parent.parent.name == ("test" if name == "test" else "train")


def test_an_unreadable_picture_is_named(tmp_path: Path):
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        write_picture(tmp_path / name / "1.png", colour, generator)
    (tmp_path / "red" / "2.png").write_bytes(b"")
    (tmp_path / "red" / "3.png").write_text("no picture")
    with pytest.raises(
        UserError, match=r"red/2\.png: it cannot be read as a picture.*\(1 more like it: .*red/3\.png\)"
    ):
        prepare_pictures(tmp_path)


def picture_table(tmp_path: Path, names: list[str]) -> Dataset:
    """Return a data set with an image feature and one picture of each name."""
    generator = np.random.default_rng(0)
    for index, name in enumerate(names):
        write_picture(tmp_path / f"{index}.png", COLOURS[name], generator)
    paths = [str(tmp_path / f"{index}.png") for index in range(len(names))]
    features = Features({"img": Image(), "label": ClassLabel(names=["red", "blue"]), "note": Value("string")})
    return Dataset.from_dict(
        {"img": paths, "label": [["red", "blue"].index(n) for n in names], "note": names}, features=features
    )


def test_image_features_of_a_data_set(tmp_path: Path):
    given = picture_table(tmp_path, ["red", "blue"] * 6)
    data = prepare_pictures(DatasetDict(train=given, test=given.select([1, 2])), on_problem="warn")
    assert data.class_names == ["red", "blue"]
    assert data.splits["test"]["label"] == [1, 0]
    row = data.splits["test"][0]
    assert set(row) == {"image", "reference", "label"}
    assert row["image"]["path"] == str(tmp_path / "1.png")
    assert row["reference"] == 1


def test_paths_of_pictures_in_a_table(tmp_path: Path):
    picture_table(tmp_path, ["red", "blue"] * 4)
    rows = [(str(tmp_path / f"{i}.png"), ["red", "blue"][i % 2]) for i in range(8)]
    data = prepare_pictures(write_csv(tmp_path / "labels.csv", rows, header=("file_name", "label")))
    assert data.class_names == ["blue", "red"]
    assert data.splits["train"]["image"][0].endswith(".png")


def test_relative_paths_of_a_table_are_relative_to_it(tmp_path: Path):
    picture_table(tmp_path / "photos", ["red", "blue"] * 4)
    rows = [(f"photos/{i}.png", ["red", "blue"][i % 2]) for i in range(8)]
    data = prepare_pictures(write_csv(tmp_path / "labels.csv", rows, header=("file_name", "label")))
    assert sum(len(split) for split in data.splits.values()) == 8


def test_a_missing_picture_of_a_table_is_named_by_row(tmp_path: Path):
    picture_table(tmp_path, ["red", "blue"])
    rows = [(str(tmp_path / name), label) for name, label in (("0.png", "red"), ("gone.png", "blue"))]
    with pytest.raises(UserError, match=r"row 2: .*gone\.png"):
        prepare_pictures(write_csv(tmp_path / "labels.csv", rows, header=("file_name", "label")))


# without labels


def test_inputs_without_labels_are_checked_and_referenced(tmp_path: Path):
    source = read_inputs(write_csv(tmp_path / "in.csv", [("one",), ("two",)], header=("text",)), frozenset())
    columns = find_columns(source, TEXT, {}, labelled=False)
    found = label_split(source.splits["all"], "all", source, TEXT, columns, None)
    assert found.to_list() == [{"text": "one", "reference": 1}, {"text": "two", "reference": 2}]


def test_progress_counts_every_example():
    seen = []

    def track(items, total: int, what: str):
        for item in items:
            seen.append((total, what))
            yield item

    test = table(["a", "b"], ["other", "texts"])
    source = read_source(DatasetDict(train=table(["a", "b"] * 4), test=test), frozenset())
    prepare(source, TEXT, DataArguments(validation_size=0), 0, track)
    assert (
        seen
        == [(8, "Checking the train split of 'the given data sets'")] * 8
        + [(2, "Checking the test split of 'the given data sets'")] * 2
    )


# groups


def grouped(rows: int = 60, per_group: int = 4) -> Dataset:
    """Return a table of two classes whose rows come in groups."""
    made = table([("no", "yes")[i % 2] for i in range(rows)])
    return made.add_column("patient", [f"p{i // per_group}" for i in range(rows)])


def patients(data: LabelledData, split: str) -> set[str]:
    return set(data.splits[split]["group"])


def test_drawn_splits_keep_groups_whole():
    data = prepare_texts(grouped(), group_column="patient", test_size=0.2, validation_size=0.2)
    drawn = [patients(data, split) for split in ("train", "validation", "test")]
    assert sum(len(group) for group in drawn) == len(set().union(*drawn)) == 15
    assert len(data.splits["test"]) == 12
    assert any("groups of 'patient' kept whole" in note for note in data.notes)
    again = prepare_texts(grouped(), group_column="patient", test_size=0.2, validation_size=0.2)
    assert patients(again, "test") == patients(data, "test")
    # without the column they are torn
    torn = prepare_texts(grouped(), test_size=0.2, validation_size=0)
    by_text = dict(zip(grouped()["text"], grouped()["patient"], strict=True))
    assert {by_text[text] for text in torn.splits["train"]["text"]} & {by_text[t] for t in torn.splits["test"]["text"]}


def test_groups_that_given_splits_tear_apart_are_told():
    splits = DatasetDict(train=grouped(), test=grouped(8))
    data = prepare_texts(splits, group_column="patient", validation_size=0)
    assert any("2 groups of 'patient' stand in train and in test (p0, p1)" in note for note in data.notes)


@pytest.mark.parametrize(
    ("data", "column", "message"),
    [
        (grouped(), "patients", r"no column 'patients'.*Did you mean 'patient'"),
        (grouped(8, 4), "patient", "2 groups cannot be divided"),
        (table(["a", "b"] * 10).add_column("g", ["x" if i % 2 else "y" for i in range(20)]), "g", "groups"),
        (table(["a", "b"] * 2).add_column("g", ["x", None, "y", "y"]), "g", "no value in 'g' in row 2"),
    ],
)
def test_groups_that_cannot_be_kept_whole_are_an_error(data, column, message):
    with pytest.raises(UserError, match=message):
        prepare_texts(data, group_column=column)


def test_a_class_that_is_one_group_is_not_taken_out_of_training():
    rows = table(["a", "b"] * 12 + ["c"] * 4)
    rows = rows.add_column("g", [f"g{i // 2}" for i in range(24)] + ["only"] * 4)
    outcomes = []
    for seed in range(8):
        try:
            data = prepare_texts(rows, seed=seed, group_column="g", validation_size=0, test_size=0.3)
            outcomes.append("c" in texts_by_class(data, "train"))
        except UserError as error:
            outcomes.append("takes every example of c" in str(error))
    assert all(outcomes)


# copies


def split_texts(train: list[str], test: list[str], labels: str = "ab") -> DatasetDict:
    """Return two splits whose labels take turns."""
    return DatasetDict(
        {
            name: table([labels[row % 2] for row in range(len(texts))], texts)
            for name, texts in {"train": train, "test": test}.items()
        }
    )


WORDS = [f"sentence number {index}" for index in range(200)]


def test_a_few_training_copies_of_test_rows_are_left_out_and_told():
    leak = ["Sentence  NUMBER 150 ", "sentence number 151"]
    data = prepare_strictly(split_texts([*WORDS[:100], *leak], WORDS[100:]), validation_size=0)
    assert set(data.splits["train"]["text"]) == set(WORDS[:100])
    assert len(data.splits["test"]) == 100
    note = (
        "2 train examples are copies of test examples, 1 of them nearly (row 101 of test's row 51, row 102 of test's "
        "row 52)"
    )
    assert any(note in line and "left out" in line for line in data.notes)


def test_many_leaked_test_rows_are_refused_unless_told_otherwise():
    splits = split_texts([*WORDS[:100], *WORDS[150:155]], WORDS[100:])
    with pytest.raises(UserError, match=r"5 of the 100 test examples .* stand in train as well.*--on_problem skip"):
        prepare_strictly(splits, validation_size=0)
    skipped = prepare_texts(splits, validation_size=0, on_problem="skip")
    assert set(skipped.splits["train"]["text"]) == set(WORDS[:100])
    kept = prepare_texts(splits, validation_size=0, on_problem="warn")
    assert len(kept.splits["train"]) == 105
    assert any("test metrics are too good" in note for note in kept.notes)


def test_drawn_splits_share_no_text():
    rows = [text for text in WORDS[:50] for _ in range(3)]
    data = prepare_strictly(table(["a", "b"] * 75, rows))
    drawn = [set(data.splits[name]["text"]) for name in ("train", "validation", "test")]
    assert sum(map(len, drawn)) == len(set().union(*drawn))


def test_repeated_rows_and_contrary_labels_are_told():
    rows = table(["a", "b", "a", "b", "a"], ["one", "two", "one", "one", "three"])
    data = prepare_strictly(DatasetDict(train=rows, test=table(["a", "b"], ["x", "y"])), validation_size=0)
    assert "2 training examples repeat others (row 1 = row 3 = row 4)." in data.notes
    assert "1 inputs stand in train under more than one label: row 1 as 'a' and row 4 as 'b'." in data.notes


def test_what_cannot_be_used_is_left_out_where_that_is_asked_for(tmp_path: Path):
    rows = [("one", "a"), ("", "a"), ("two", "b"), ("three", ""), ("four", "b"), ("five", "a")]
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "test.csv", [("six", "a"), ("seven", "b")])
    with pytest.raises(UserError, match="row 4"):
        prepare_strictly(str(tmp_path))
    data = prepare_texts(str(tmp_path), on_problem="skip", validation_size=0)
    assert data.splits["train"]["text"] == ["one", "two", "four", "five"]
    assert data.splits["train"]["reference"] == [1, 3, 5, 6]
    assert any("1 examples without a label were left out (row 4)" in note for note in data.notes)
    assert any("row 2: the text is empty" in note for note in data.notes)


def test_pictures_saved_again_are_found_and_others_are_not(tmp_path: Path):
    from PIL import Image as Picture

    generator = np.random.default_rng(0)
    for split, first in (("train", 0), ("test", 40)):
        for index in range(40):
            coarse = generator.integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
            picture = Picture.fromarray(coarse).resize((96, 80), Picture.Resampling.BICUBIC)
            path = tmp_path / split / ("ant", "bee")[index % 2] / f"{first + index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    clean = prepare_pictures(str(tmp_path), validation_size=0)
    assert len(clean.splits["train"]) == 40
    with Picture.open(tmp_path / "test" / "ant" / "40.png") as picture:
        picture.convert("RGB").resize((95, 79)).save(tmp_path / "train" / "ant" / "copy.jpg", quality=70)
    data = prepare_pictures(str(tmp_path), validation_size=0)
    assert len(data.splits["train"]) == 40
    assert any("copy.jpg of test's" in note and "40.png" in note for note in data.notes)
