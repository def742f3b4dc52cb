from __future__ import annotations

import json

import pytest
from datasets import Dataset, DatasetDict

from hfft.arguments import DataArguments
from hfft.data import prepare, read_source
from hfft.errors import UserError
from hfft.findings import ERROR, MOST_OFFENDERS, WARNING, Findings, Offender
from hfft.registry import load_task

TEXT = load_task("text-classification")


def test_an_error_is_raised_unless_errors_are_collected():
    with pytest.raises(UserError, match="it is wrong"):
        Findings().add(ERROR, "a check", "it is wrong")
    findings = Findings(collect=True)
    findings.add(ERROR, "a check", "it is wrong")
    assert findings.refused


def test_warnings_refuse_nothing():
    findings = Findings()
    findings.add(WARNING, "a check", "it is odd")
    assert not findings.refused
    assert findings.messages() == ["it is odd"]


@pytest.mark.parametrize(("message", "is_finding"), [("--data: bad", True), ("--text_column: no", False)])
def test_an_error_about_another_flag_is_no_finding(message: str, is_finding: bool):
    findings = Findings(collect=True)
    if is_finding:
        with findings.catching("a check"):
            raise UserError(message)
        assert findings.messages() == [message]
    else:
        with pytest.raises(UserError, match="--text_column"), findings.catching("a check"):
            raise UserError(message)


def test_a_finding_names_the_first_offenders_and_the_report_all_that_were_left_out():
    findings = Findings()
    offenders = [Offender(f"row {row}", "empty") for row in range(100)]
    findings.add(WARNING, "a check", "some are empty", "train", 100, offenders)
    findings.leave_out("train", offenders)
    findings.leave_out("train", [Offender("row 5", "no label")])
    report = json.loads(json.dumps(findings.report()))
    assert len(report["findings"][0]["offenders"]) == MOST_OFFENDERS
    assert len(report["left_out"]) == 100
    assert report["left_out"][5] == {"split": "train", "reference": "row 5", "reason": "empty; no label"}


# classes


def messages(labels: list[str], test: list[str] | None = None) -> list[str]:
    def table(values: list[str], what: str) -> Dataset:
        return Dataset.from_dict({"text": [f"{what} {i} {v}" for i, v in enumerate(values)], "label": values})

    splits = DatasetDict(train=table(labels, "train"), test=table(test or sorted(set(labels)), "test"))
    return prepare(read_source(splits, ()), TEXT, DataArguments(validation_size=0), 0).notes


@pytest.mark.parametrize(
    "names",
    [
        ("Dog", "dog"),
        ("dog ", "dog"),
        ("dogs", "dog"),
        ("ice cream", "ice-cream"),
        ("1", "01"),
        ("a_b", "A B"),
        ("A", "a"),
        ("caf\u00e9", "cafe\u0301"),
        ("1.50", "1.5"),
    ],
)
def test_class_names_that_look_alike_are_told(names: tuple[str, str]):
    told = messages([*names, "cat"] * 3)
    assert any(note.startswith("class names look alike") and all(f"'{n}'" in note for n in names) for note in told)


@pytest.mark.parametrize(
    "names",
    [
        *(("C", "C++"), ("+", "-"), ("a", "as"), ("1", "10"), ("glass", "gla"), ("x-", "x"), ("nan", "inf")),
        ("4611686018427387904", "4611686018427387905"),  # equal as floats
    ],
)
def test_other_class_names_are_not(names: tuple[str, str]):
    assert not any("look alike" in note for note in messages([*names, "cat"] * 3))


@pytest.mark.parametrize(("rare", "told"), [(1, True), (9, True), (10, False), (50, False)])
def test_uneven_classes_are_told(rare: int, told: bool):
    notes = messages(["common"] * 100 + ["rare"] * rare)
    uneven = [note for note in notes if "Accuracy alone is not enough" in note]
    assert bool(uneven) == told
    if told:
        assert f"'common' has 100 of {100 + rare} training examples, 'rare' {rare}" in uneven[0]


def test_of_uneven_tags_examples_are_counted():
    rows = [("one", "two")] * 60 + [("three",)] * 4

    def table(values: list[tuple[str, ...]], what: str) -> Dataset:
        texts = [f"{what} {i}" for i in range(len(values))]
        return Dataset.from_dict({"text": texts, "label": [list(value) for value in values]})

    splits = DatasetDict(train=table(rows, "train"), test=table(rows[-8:], "test"))
    notes = prepare(read_source(splits, ()), TEXT, DataArguments(validation_size=0), 0).notes
    (uneven,) = [note for note in notes if "uneven" in note]
    assert "has 60 of 64 training examples, 'three' 4. Micro F1 alone is not enough; read macro F1." in uneven


def test_classes_that_are_not_tested_are_told():
    (note,) = messages(["a", "b", "c"] * 3, ["a", "b"])
    assert note == "the test split has no example of c: nothing is measured about what is absent."


def test_a_class_that_loses_all_its_examples_is_an_error():
    table = Dataset.from_dict({"text": ["one", "two", "", "four"], "label": ["a", "b", "c", "a"]})
    source = read_source(DatasetDict(train=table, test=table.select([0, 1])), ())
    with pytest.raises(UserError, match="has no training example of c left"):
        prepare(source, TEXT, DataArguments(validation_size=0, on_problem="skip"), 0)


def test_a_test_split_without_labels_is_one_finding_and_the_rest_is_looked_at():
    train = Dataset.from_dict({"text": ["one", "two", "", "four"], "label": ["a", "b", "b", "a"]})
    test = Dataset.from_dict({"text": ["five", "six"], "label": [None, None]})
    findings = Findings(collect=True)
    arguments = DataArguments(validation_size=0)
    prepare(read_source(DatasetDict(train=train, test=test), ()), TEXT, arguments, 0, findings=findings)
    errors = [(finding.check, finding.split, finding.count) for finding in findings.items if finding.severity == ERROR]
    assert errors == [("unusable input", "train", 1), ("missing label", "test", 2)]
