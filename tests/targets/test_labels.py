"""Label columns become targets, and labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List

from hfft.arguments import DataArguments
from hfft.data import LabelledData, prepare, read_source
from hfft.errors import UserError
from hfft.registry import load_task
from hfft.targets import LabelColumn, MultiLabel, Regression, SingleLabel, choose_target
from tests.conftest import write_csv

TEXT, IMAGE = load_task("text-classification"), load_task("image-classification")
FRACTIONS = [i + 0.5 for i in range(30)]


def column(labels: list[Any], feature: Any = None) -> LabelColumn:
    features = None if feature is None else Features({"label": feature})
    return LabelColumn(Dataset.from_dict({"label": labels}, features), "label", "--data: the train split of 'x'", "x")


def table(labels: list[Any], feature: Any = None) -> Dataset:
    made = Dataset.from_dict({"text": [f"text {i}" for i in range(len(labels))]})
    return made.add_column("label", column(labels, feature).split["label"], feature=feature)


def prepare_texts(data: Any, **arguments: Any) -> LabelledData:
    return prepare(read_source(data, frozenset()), TEXT, DataArguments(**arguments), 0)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a", "b"], SingleLabel),
        ([0, 1, 2], SingleLabel),
        (list(range(500)), SingleLabel),
        ([True, False], SingleLabel),
        (["True", "False"], SingleLabel),
        ([1.0, 2.0, 1.0, 2.0], SingleLabel),
        ([float(i % 77) for i in range(500)], SingleLabel),
        (["0.5", "1.5", "0.5"], SingleLabel),  # a few numbers of a CSV file may be called so
        ([str(i % 77) for i in range(500)], SingleLabel),
        ([*map(str, FRACTIONS), "none"], SingleLabel),
        (["nan", *map(str, FRACTIONS)], SingleLabel),
        ([0.5, 1.0], Regression),
        ([0.5, None, 1.0, float("nan")], Regression),
        ([float(i) for i in range(30)], Regression),
        ([*map(str, FRACTIONS)], Regression),
        ([*map(str, FRACTIONS), "", "7"], Regression),
        ([["a"], []], MultiLabel),
        ([None, [1, 2]], MultiLabel),
    ],
)
def test_what_a_column_means_where_nobody_says(labels: list[Any], kind: type):
    fitting = [k for k in (MultiLabel, Regression, SingleLabel) if k.fits(column(labels), None)]
    assert fitting[0] is kind


def test_the_user_s_word_counts():
    known = TEXT.problem_types
    assert isinstance(choose_target(column([1, 2, 3]), known, "regression"), Regression)
    assert isinstance(choose_target(column(["1.50", "2"]), known, "regression"), Regression)
    assert choose_target(column([*map(str, FRACTIONS)]), known, "single_label_classification").output_names[0] == "0.5"
    assert choose_target(column(["b;a", "c"]), known, delimiter=";").output_names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (
            ["abc", "1"],
            {"problem_type": "regression"},
            r"'label' holds 'abc' in row 1; regression needs finite numbers",
        ),
        ([1.0, float("inf")], {"problem_type": "regression"}, r"holds inf in row 2"),
        ([2.5, 2.5], {}, r"every training example of 'x' has the number 2.5 in column 'label'"),
        ([float("nan")] * 2, {"problem_type": "regression"}, r"no label in column 'label' at all"),
        ([["a"], ["a"], []], {}, r"'x' has only one class, 'a', in its train split: there is nothing to tell apart"),
        ([[], []], {}, r"names no class in any training example"),
        ([None, None], {"problem_type": "multi_label_classification"}, "no label in column 'label' at all"),
        ([["a"], ["b"]], {"delimiter": ";"}, r"--label_delimiter: .* holds lists, which need no delimiter \(\['a'\]\)"),
        ([1, 2], {"delimiter": ";"}, r"--label_delimiter: .* holds no texts \(1\)"),
        (
            ["a", "b"],
            {"problem_type": "multi_label_classification"},
            r"wanted is a list of classes .*--label_delimiter",
        ),
        (["a"], {"problem_type": "single_label_classification", "delimiter": ";"}, r"one class needs none"),
        ([0.5, 1], {"problem_type": "regression", "delimiter": ";"}, r"a number needs none"),
        ([["a", None], ["b"]], {}, r"a missing class in row 1"),
        ([[0, 1, 0], [1, 1, 1]], {}, r"holds a 0 or 1 for each class \(\[0, 1, 0\]\)"),
        ([[[1]], [[2]]], {}, r"holds \[1\]; wanted is one class"),
    ],
)
def test_what_cannot_be_learned_is_refused(labels: list[Any], options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        choose_target(column(labels), TEXT.problem_types, **options)


def test_a_task_refuses_what_it_does_not_know():
    with pytest.raises(UserError, match=r"--problem_type: the task does not know regression, only single_label"):
        choose_target(column([0.5, 1.5]), IMAGE.problem_types, "regression")
    with pytest.raises(UserError, match=r"holds 0\.5, a number that is no class"):
        choose_target(column([0.5, 1.5]), IMAGE.problem_types)
    with pytest.raises(UserError, match="--label_delimiter: the task does not know multi_label_classification"):
        choose_target(column(["a;b"]), ["single_label_classification"], delimiter=";")
    with pytest.raises(UserError, match=r"problem_type must be one of .*, got 'regresion'\. Did you mean 'regression'"):
        DataArguments(problem_type="regresion")


@pytest.mark.parametrize(
    ("labels", "feature", "names", "encoded"),
    [
        ([["b", "a", "b"], [], ["a"]], None, ["a", "b"], [[0, 1], [], [0]]),
        ([[10, 2], [2], []], None, ["2", "10"], [[0, 1], [0], []]),
        ([[1, 0], [], [0]], List(ClassLabel(names=["zebra", "ant"])), ["zebra", "ant"], [[0, 1], [], [0]]),
        ([[1.0], [], [0.0]], None, ["0", "1"], [[1], [], [0]]),
        ([[True], [False, True], []], None, ["False", "True"], [[1], [0, 1], []]),
    ],
)
def test_lists_of_classes(labels: list[Any], feature: Any, names: list[str], encoded: list[list[int]]):
    given = column(labels, feature)
    target = MultiLabel.freeze(given, None)
    assert target.output_names == names
    assert target.encode(given) == encoded
    array = target.array(encoded)
    assert (array.shape, array.dtype) == ((3, 2), bool)
    assert [np.flatnonzero(row).tolist() for row in array] == encoded
    assert target.from_model(np.array(target.for_model(encoded))).tolist() == array.tolist()


def test_a_declared_class_without_a_training_example_is_named_in_lists_too():
    given = column([[0], [1, 0]], List(ClassLabel(names=["cat", "dog", "fox"])))
    with pytest.raises(UserError, match="no training example of the class fox"):
        MultiLabel.freeze(given, None)


def test_a_class_of_a_list_that_is_missing_is_reported():
    given = column([[0], [1, -1]], List(ClassLabel(names=["cat", "dog"])))
    with pytest.raises(UserError, match=r"holds a list with a missing class in row 2: \[1, -1\]"):
        MultiLabel.freeze(given, None)


def test_a_delimiter_divides_blanks_are_cut_and_empty_parts_are_none(tmp_path: Path):
    rows = [("one", "a; b"), ("two", ""), ("three", "b;;"), ("four", "c d;a")] * 5
    data = prepare_texts(
        write_csv(tmp_path / "t.csv", [(f"{t} {i}", label) for i, (t, label) in enumerate(rows)]), label_delimiter=";"
    )
    assert data.class_names == ["a", "b", "c d"]
    found = {row["text"].split()[0]: row["label"] for split in data.splits.values() for row in split}
    assert found == {"one": [0, 1], "two": [], "three": [1], "four": [0, 2]}


def test_lists_of_a_jsonl_file_keep_missing_and_empty_apart(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    labels = ["null" if i == 3 else '["a", "b"]' if i % 3 == 0 else '["b"]' if i % 3 == 1 else "[]" for i in range(24)]
    path.write_text("".join(f'{{"text": "text {i}", "label": {label}}}\n' for i, label in enumerate(labels)))
    with pytest.raises(UserError, match=r"no label in column 'label' for 1 of 24 examples \(row 4\)"):
        prepare_texts(path)
    data = prepare_texts(path, on_problem="skip")
    assert data.notes[0] == "train: 1 examples without a label were left out (row 4)."
    assert sum(len(split) for split in data.splits.values()) == 23
    counts = data.counts()
    assert sum(count["a"] for count in counts.values()) == 7
    assert sum(count["b"] for count in counts.values()) == 15


def json_lines(path: Path, labels: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"text": f"text {i}", "label": v}) + "\n" for i, v in enumerate(labels)))
    return path


def test_classes_of_several_types_are_called_as_they_are_written(tmp_path: Path):
    data = prepare_texts(json_lines(tmp_path / "t.jsonl", ["a", 1, True] * 8))
    assert data.class_names == ["1", "True", "a"]
    found = {row["text"]: data.class_names[row["label"]] for split in data.splits.values() for row in split}
    assert [found[f"text {i}"] for i in range(3)] == ["a", "1", "True"]


@pytest.mark.parametrize("labels", [["a", {"b": 1}], [0.5, [1]], ["1.5", {"x": "y"}]])
def test_records_and_lists_among_classes_are_refused(tmp_path: Path, labels: list[Any]):
    with pytest.raises(UserError, match=r"holds (\{|\[).*; wanted is one class for each example"):
        prepare_texts(json_lines(tmp_path / "t.jsonl", labels * 8))


def test_an_unknown_class_in_a_list_of_the_test_split_is_named():
    given = DatasetDict(train=table([["cat"], ["dog"]] * 4), test=table([["cat", "dgo"]]))
    with pytest.raises(UserError, match=r"the test split .* has the class 'dgo'.*\(cat, dog\)\. Did you mean 'dog'\?"):
        prepare_texts(given)


def test_numbers_are_read_from_texts_floats_and_integers(tmp_path: Path):
    data = prepare_texts(
        write_csv(tmp_path / "t.csv", [(f"t{i}", f" {i}.25") for i in range(40)]), problem_type="regression"
    )
    assert {row["text"]: row["label"] for s in data.splits.values() for row in s} == {
        f"t{i}": i + 0.25 for i in range(40)
    }
    data = prepare_texts(table(list(range(20))), problem_type="regression")
    assert sorted(label for split in data.splits.values() for label in split["label"]) == list(range(20))


def test_a_missing_number_is_reported_by_row_or_left_out():
    given = table([0.5, None, 2.5, float("nan"), *FRACTIONS])
    with pytest.raises(UserError, match=r"for 2 of 34 examples \(row 2, 4\)"):
        prepare_texts(given)
    assert sum(len(split) for split in prepare_texts(given, on_problem="skip").splits.values()) == 32


def test_a_test_split_with_words_for_numbers_is_refused():
    given = DatasetDict(train=table(FRACTIONS), test=table(["a lot"]))
    with pytest.raises(UserError, match=r"the test split .* holds 'a lot' in row 1; regression needs finite numbers"):
        prepare_texts(given)
    classes = DatasetDict(train=table(FRACTIONS), test=table([0, 1], ClassLabel(names=["bad", "good"])))
    with pytest.raises(UserError, match=r"holds classes \(bad, \.\.\.\); regression needs numbers"):
        prepare_texts(classes)


def test_standardised_labels_come_back_exactly_enough():
    target = Regression(["y"], mean=1e9, scale=0.5)
    labels = [1e9 - 0.25, 1e9, 1e9 + 0.75]
    assert target.for_model(labels) == [-0.5, 0.0, 1.5]
    assert target.from_model(np.float32(target.for_model(labels))).tolist() == labels
    np.testing.assert_array_equal(target.outputs(np.float32([[-0.5], [0], [1.5]])), labels)


def test_numbers_are_drawn_alike_from_high_and_low():
    values = [float(v) for v in np.random.default_rng(0).lognormal(size=400)]
    data = prepare_texts(table(values), validation_size=0)
    train, test = data.labels("train"), data.labels("test")
    assert len(test) == 80
    for share in (0.1, 0.5, 0.9):
        assert np.mean(test <= np.quantile(values, share)) == pytest.approx(share, abs=0.02)
    assert set(train) | set(test) == set(values)


def test_one_input_under_two_lists_is_told():
    given = Dataset.from_dict({"text": ["same", "same", *"abcdefghij"], "label": [["x"], ["y", "x"]] * 6})
    data = prepare_texts(DatasetDict(train=given, test=table([["x"]] * 9)), validation_size=0)
    assert "row 1 as 'x' and row 2 as 'x, y'" in " ".join(data.notes)


def test_a_configuration_says_what_a_model_answers_with():
    from transformers import BertConfig

    from hfft.targets import target_of_config

    several = BertConfig(num_labels=3, problem_type="multi_label_classification")
    assert target_of_config(several) == MultiLabel(["LABEL_0", "LABEL_1", "LABEL_2"], [0.5] * 3)
    several.label_thresholds = [0.1, 0.2, 0.3]
    assert target_of_config(several).thresholds == [0.1, 0.2, 0.3]
    several.label_thresholds = [0.1]
    with pytest.raises(UserError, match="1 label_thresholds for 3 classes"):
        target_of_config(several)
    assert target_of_config(BertConfig(num_labels=2)) == SingleLabel(["LABEL_0", "LABEL_1"])
    assert target_of_config(BertConfig(num_labels=1)) == Regression(["LABEL_0"])
    with pytest.raises(UserError, match="answers with 2 numbers"):
        target_of_config(BertConfig(num_labels=2, problem_type="regression"))
