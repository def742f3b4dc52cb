from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from hfft.data.columns import find_columns, input_column, label_column, task_for_source
from hfft.data.sources import Source, read_source
from hfft.errors import UserError
from hfft.registry import load_task
from tests.conftest import write_csv

TEXT, IMAGE = load_task("text-classification"), load_task("image-classification")
TASKS = [IMAGE, TEXT]


def table(**columns: list[Any]) -> Source:
    """Return a source of one table."""
    return read_source(Dataset.from_dict(columns), IMAGE.file_suffixes)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("text", "label"), {"text": "text", "label": "label"}),
        (("Sentence", "TARGET"), {"text": "Sentence", "label": "TARGET"}),
        (("id", "review", "category"), {"text": "review", "label": "category"}),
        (("premise", "hypothesis", "label"), {"text": "premise", "text_pair": "hypothesis", "label": "label"}),
        (("sentence1", "sentence2", "y"), {"text": "sentence1", "text_pair": "sentence2", "label": "y"}),
        # the first common name wins, whatever the order of the columns
        (("labels", "sentence", "text", "label"), {"text": "text", "label": "label"}),
        # one column that can be it, under no common name
        (("utterance", "intent"), {"text": "utterance", "label": "intent"}),
    ],
)
def test_columns_are_found_by_common_names(columns: tuple[str, ...], found: dict[str, str]):
    source = table(**{name: ["x", "y"] for name in columns})
    assert find_columns(source, TEXT, {}, labelled=True) == found


def test_named_columns_go_before_common_names():
    source = table(text=["a"], title=["b"], label=["c"], topic=["d"])
    named = {"text": "title", "label": "topic"}
    assert find_columns(source, TEXT, named, labelled=True) == {"text": "title", "label": "topic"}


def test_a_named_column_is_not_used_twice():
    source = table(sentence1=["a"], text=["b"], label=["c"])
    assert find_columns(source, TEXT, {"text_pair": "text"}, labelled=True) == {
        "text": "sentence1",
        "text_pair": "text",
        "label": "label",
    }
    source = table(target=["a"], category=["c"])
    assert find_columns(source, TEXT, {"text": "target"}, labelled=True) == {"text": "target", "label": "category"}


def test_a_column_of_numbers_is_no_text():
    source = table(text=[1, 2], body=["a", "b"], label=["x", "y"])
    assert input_column(source, TEXT, "text", {}) == "body"


def test_two_columns_that_could_be_it_are_not_guessed():
    source = table(title=["a"], body=["b"], label=["x"])
    with pytest.raises(UserError) as caught:
        find_columns(source, TEXT, {}, labelled=True)
    assert str(caught.value) == (
        "--data: no text column in 'the given Dataset'. Its columns are title, body, label: "
        "name one with --text_column."
    )


def test_a_missing_label_column_is_reported_with_the_columns(tmp_path):
    path = write_csv(tmp_path / "t.csv", [("a", "b")], header=("text", "mood"))
    with pytest.raises(UserError, match=r"no label column in '.*t\.csv'.*are text, mood: .* --label_column"):
        find_columns(read_source(path, frozenset()), TEXT, {}, labelled=True)


def test_inputs_alone_need_no_label():
    assert find_columns(table(text=["a"]), TEXT, {}, labelled=False) == {"text": "text"}


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            {"text": "txet"},
            r"--text_column: there is no column 'txet' .*Did you mean 'text'\? Its columns are text, label",
        ),
        ({"label": "labl"}, r"--label_column: there is no column 'labl' .*Did you mean 'label'\?"),
        ({"image": "text"}, r"--image_column: text-classification has no such input; it reads text, text_pair"),
    ],
)
def test_a_named_column_that_is_not_there(named: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        find_columns(table(text=["a"], label=["b"]), TEXT, named, labelled=True)


def test_one_column_cannot_be_input_and_label():
    with pytest.raises(UserError, match="text"):
        find_columns(table(text=["a", "b"], n=["c", "d"]), TEXT, {"text": "text", "label": "text"}, labelled=True)


def test_every_split_needs_the_columns():
    one = Dataset.from_dict({"text": ["a"], "label": ["b"]})
    source = read_source(DatasetDict(train=one, test=one.rename_column("label", "target")), frozenset())
    with pytest.raises(UserError, match="the test split of 'the given data sets' has no column 'label'"):
        find_columns(source, TEXT, {}, labelled=True)


def test_label_column_may_be_named_in_capitals():
    assert label_column(table(text=["a"], Label=["b"]), {}) == "Label"
    assert label_column(table(text=["a"], mood=["b"]), {}) is None


@pytest.mark.parametrize(
    ("columns", "task"),
    [
        ({"text": ["a b"], "label": ["x"]}, "text-classification"),
        ({"image": ["folder/1.jpg"], "label": ["x"]}, "image-classification"),
        ({"file_name": ["1.PNG"], "label": ["x"]}, "image-classification"),
        ({"image": [{"bytes": b"", "path": "1.png"}], "label": [0]}, "image-classification"),
        ({"utterance": ["a b"], "intent": ["x"]}, "text-classification"),
    ],
)
def test_the_data_decides_the_task(columns: dict[str, list[Any]], task: str):
    assert task_for_source(table(**columns), TASKS, {}).name == task


def test_class_folders_of_pictures_decide_the_task(image_folder):
    assert task_for_source(read_source(image_folder, IMAGE.file_suffixes), TASKS, {}) is IMAGE


def test_a_named_column_of_another_task_is_never_passed_over():
    source = table(image=["1.jpg"], caption=["a dog"], label=["x"])
    named = {"text": "caption"}
    task = task_for_source(source, TASKS, named)
    if task is IMAGE:
        with pytest.raises(UserError, match="--text_column: image-classification has no such input"):
            find_columns(source, task, named, labelled=True)
    else:
        assert find_columns(source, task, named, labelled=True)["text"] == "caption"


def test_data_that_fits_no_task():
    with pytest.raises(UserError, match=r"no installed task knows what to read .*\(columns: x, y\)"):
        task_for_source(table(x=[1], y=[2]), TASKS, {})


def test_data_that_fits_two_tasks_alike_needs_the_task_named():
    class Other(type(TEXT)):
        name = "other-text"

    with pytest.raises(UserError, match=r"--task: .* fits text-classification, other-text\. Name one"):
        task_for_source(table(text=["a"], label=["b"]), [TEXT, Other()], {})
