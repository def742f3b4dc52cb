from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hfft.tasks import ImageClassification, TextClassification
from transformers import TimeSeriesTransformerConfig

import hfft
from hfft import Task, UserError, list_tasks, load_task, registry
from hfft.task import Inspection
from tests.forkserver import call, run_hfft

PLUGIN = '''
from hfft.task import InputColumn, Task
from hfft.tasks import TextClassification


class ShoutClassification(TextClassification):
    """Reads files of capitals: another modality as far as the core can tell."""

    name = "shout-classification"
    summary = "one class for each shout"
    inputs = (InputColumn("text", ("shout",)),)
    file_suffixes = frozenset({".shout"})

    def accepts(self, value):
        return isinstance(value, str) and value.isupper()

    def from_file(self, path):
        with open(path, encoding="utf-8") as file:
            return {"text": file.read().lower()}
'''


def test_the_tasks_of_the_package_are_registered():
    assert isinstance(load_task("image-classification"), ImageClassification)
    assert isinstance(load_task("text-classification"), TextClassification)
    assert {"image-classification", "text-classification"} <= set(list_tasks())


def test_a_task_object_and_a_class_pass_through():
    task = TextClassification()
    assert load_task(task) is task
    assert isinstance(load_task(TextClassification), Task)


def test_an_unknown_name_is_an_error_with_the_nearest_one():
    with pytest.raises(UserError, match="Did you mean 'image-classification'"):
        load_task("image-classificaton")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """An installed third-party package, as pip would leave it: a module and its entry point."""
    site = tmp_path / "site"
    info = site / "shouts-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "shouts.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hfft.tasks]\nshout-classification = shouts:ShoutClassification\n")
    return site


def test_a_third_party_task_is_found_listed_and_trained(plugin: Path, tiny_bert: Path, tmp_path: Path):
    assert "shout-classification" in run_hfft(["tasks"], tmp_path, plugin).stdout
    for split, count in (("train", 8), ("test", 3)):
        for name in ("cat", "dog"):
            folder = tmp_path / "shouts" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.shout").write_text(f"THIS {split.upper()} {index} IS {name.upper()}")
    flags = ["--num_train_epochs", "3", "--learning_rate", "1e-2", "--output_dir", "out"]
    done = run_hfft(["train", "--model", tiny_bert, "--data", "shouts", *flags], tmp_path, plugin)
    assert done.returncode == 0, done.stderr
    assert "shout-classification" in done.stdout  # chosen by the data alone
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("model", "data", "name", "value"),
    [
        ("tiny_bert", "text_folder", "image_size", 64),
        ("tiny_bert", "text_folder", "crop_pct", 1),
        ("tiny_bert", "text_folder", "crop_mode", "center"),
        ("tiny_timm", "image_folder", "max_length", 64),
    ],
)
def test_how_inputs_of_another_kind_are_cut_is_refused(model, data, name, value, request, tmp_path: Path):
    model, data = (str(request.getfixturevalue(each)) for each in (model, data))
    out, asked = tmp_path / "out", {"model": model, "data": data, name: value}
    commands = [
        lambda: hfft.finetune(**asked, output_dir=str(out)),
        lambda: hfft.evaluate(**asked),
        lambda: hfft.check(**asked),
    ]
    for command in commands[: 3 if name in ("image_size", "max_length") else 2]:
        with pytest.raises(UserError, match=f"--{name} has no place in (text|image) classification. Leave it out."):
            command()
    assert not out.exists()


def test_a_broken_plugin_is_named(plugin: Path, tmp_path: Path):
    (plugin / "shouts.py").write_text("import no_such_module_anywhere")
    done = run_hfft(["train", "--task", "shout-classification", "--model", "m", "--data", "shouts"], tmp_path, plugin)
    assert done.returncode == 2
    assert "'shout-classification' could not be imported from 'shouts:ShoutClassification'" in done.stderr


def test_the_core_imports_no_task():
    script = (
        "import sys, hfft.finetuning, hfft.results.evaluating, hfft.cli\n"
        "assert not [name for name in sys.modules if name.startswith('hfft.tasks')]\n"
    )
    assert call(exec, script, {}) == 0


def test_a_batch_is_inspected_example_by_example_unless_a_task_knows_better():
    class Counting(TextClassification):
        def inspect(self, example):
            return Inspection(problem=None if example["text"] == "fine" else f"{example['text']}, {example['n']}")

    looks = Counting().inspect_batch({"text": ["fine", "bad"], "n": [1, 2]})
    assert [look.problem for look in looks] == [None, "bad, 2"]


@pytest.fixture
def broken_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two installed tasks that are none, beside those of the package."""
    told = {"no-task": "pathlib:Path", "gone": "no_such_module_anywhere:Task"}
    points = {name: EntryPoint(name, value, "hfft.tasks") for name, value in told.items()} | registry._entry_points()
    monkeypatch.setattr(registry, "_entry_points", lambda: points)


@pytest.mark.usefixtures("broken_plugins")
def test_what_is_no_task_is_named_and_left_out():
    with pytest.raises(UserError, match=r"'pathlib:Path' is not a subclass of hfft\.Task"):
        load_task("no-task")
    with pytest.warns(UserWarning, match="no_such_module_anywhere"):
        found = registry.installed_tasks()
    assert {type(task) for task in found} >= {ImageClassification, TextClassification}


def test_an_architecture_of_no_task_is_told():
    with pytest.raises(UserError, match="no installed task fits a TimeSeriesTransformerConfig model"):
        registry.task_for_config(TimeSeriesTransformerConfig())
