from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hfft.errors import UserError
from hfft.evidence import Evidence
from hfft.parsing import run_parser
from hfft.record import RunRecord
from hfft.settings import split_settings, training_arguments
from hfft.yaml_settings import read_yaml


def parse(*argv: str) -> dict[str, Any]:
    return run_parser().parse_settings(argv)


@pytest.fixture
def read(tmp_path: Path):
    """Return a function that reads a text or bytes as run.yaml."""

    def read_content(content: str | bytes) -> dict[str, Any]:
        path = tmp_path / "run.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_yaml(path)

    return read_content


@pytest.mark.parametrize(
    ("argv", "settings"),
    [
        ([], {}),
        (["--model", "m", "--data", "d"], {"model": "m", "data": "d"}),
        (["--learning_rate", "1e-4"], {"learning_rate": 1e-4}),
        (["--learning-rate", "1e-4"], {"learning_rate": 1e-4}),
        (["--per-device-train-batch-size=4"], {"per_device_train_batch_size": 4}),
        (["--max_steps", "-1"], {"max_steps": -1}),
        (["--resume"], {"resume": True}),
        (["--resume", "false"], {"resume": False}),
        (["--resume", "--model", "m"], {"resume": True, "model": "m"}),
        (["--freeze_batch_norm=false"], {"freeze_batch_norm": False}),
        (["--no_freeze_batch_norm"], {"freeze_batch_norm": False}),
        (["--freeze_batch_norm"], {"freeze_batch_norm": True}),
        (["--metrics", "f1:average=macro", "mcc"], {"metrics": ["f1:average=macro", "mcc"]}),
        (["--model", "a", "--model", "b"], {"model": "b"}),
        (["--model=-x"], {"model": "-x"}),
        (["--label_column", "on"], {"label_column": "on"}),
        # what equals the default was given all the same
        (["--layer_decay", "0.75", "--validation_size", "0.1"], {"layer_decay": 0.75, "validation_size": 0.1}),
    ],
)
def test_only_what_was_given_comes_back_typed(argv: list[str], settings: dict[str, Any]):
    assert parse(*argv) == settings


def test_a_parser_forgets_what_it_parsed():
    parser = run_parser()
    assert parser.parse_settings(["--resume", "--seed", "3"]) == {"resume": True, "seed": 3}
    assert parser.parse_settings(["--model", "m"]) == {"model": "m"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--laer_decay", "1"], r"There is no flag --laer_decay\. Did you mean '--layer_decay'\?"),
        (["--lerning-rate=1"], r"There is no flag --lerning-rate\. Did you mean '--learning.rate'\?"),
        (["--zzz"], r"There is no flag --zzz\.$"),
        (["--learn", "1"], r"There is no flag --learn\."),  # no abbreviations: they change when flags are added
        (["stray"], r"'stray' belongs to no flag"),
        (["--data", "a", "b"], r"'b' belongs to no flag"),
        (["--learning_rate", "fast"], r"--learning_rate.*'fast'"),
        (["--seed", "1.5"], r"--seed.*'1\.5'"),
        (["--learning_rate"], r"--learning_rate.*expected one argument"),
        (["--resume", "maybe"], r"--resume.*maybe"),
    ],
)
def test_a_bad_flag_is_named(argv: list[str], message: str):
    with pytest.raises(UserError, match=message):
        parse(*argv)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ("# nothing\n", {}),
        ("learning_rate: 1e-4", {"learning_rate": 1e-4}),  # YAML 1.1 takes this for a text
        ("learning_rate: 0.001\nseed: 7\n", {"learning_rate": 1e-3, "seed": 7}),
        ("num_train_epochs: 3", {"num_train_epochs": 3.0}),
        ("model: m\ndata: d", {"model": "m", "data": "d"}),
        ("model: m\nmax_length: null\ndata: ~", {"model": "m"}),
        ("resume: true\nfreeze_batch_norm: false", {"resume": True, "freeze_batch_norm": False}),
        ("resume: yes", {"resume": True}),
        ("metrics: [f1, 'mcc']", {"metrics": ["f1", "mcc"]}),
        ("metrics:\n- f1\n- mcc\nseed: 1", {"metrics": ["f1", "mcc"], "seed": 1}),
        ("metrics: f1", {"metrics": ["f1"]}),
        ("text_column: 12", {"text_column": "12"}),
        ("model: -x", {"model": "-x"}),
        ("model: 'a=b c'", {"model": "a=b c"}),
        ("data: 2024-01-01", {"data": "2024-01-01"}),
    ],
)
def test_yaml_is_typed_like_the_flags(read, text: str, settings: dict[str, Any]):
    found = read(text)
    assert found == settings
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in settings.items()}


@pytest.mark.parametrize("minimum", ["0.000001", "1.0e-6", "1e-6"])
def test_yaml_mappings_reach_the_training_arguments(read, tmp_path: Path, minimum: str):
    text = f"lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {{num_cycles: 2, min_lr: {minimum}}}"
    arguments = training_arguments({**read(text), "output_dir": str(tmp_path)})
    assert arguments.lr_scheduler_kwargs == {"num_cycles": 2, "min_lr": 1e-6}


def test_yaml_dates_within_a_mapping_are_texts(read, tmp_path: Path):
    settings = read("lr_scheduler_kwargs: {day: 2024-01-01}")
    arguments = training_arguments({**settings, "output_dir": str(tmp_path)})
    assert arguments.lr_scheduler_kwargs == {"day": "2024-01-01"}


def test_yaml_empty_list_is_an_empty_list(read):
    assert read("metrics: []").get("metrics", []) == []


def test_yaml_list_of_trackers_is_what_python_takes(read):
    assert read("report_to: [tensorboard, wandb]")["report_to"] == ["tensorboard", "wandb"]


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "true", "010", "1:30", "2024-01-01", "1_000", "0x10"])
def test_yaml_texts_are_kept_as_written(read, word: str):
    """YAML 1.1 takes ``text_column: on`` for True and ``1:30`` for 90."""
    assert read(f"text_column: {word}") == {"text_column": word}


@pytest.mark.parametrize("words", ["[a, --resume]", "[--resume]", "[a, '--output_dir=elsewhere']", "[a, -h]"])
def test_yaml_list_items_are_never_flags(read, words: str):
    with pytest.raises(UserError, match="metrics"):
        read(f"metrics: {words}")


def test_python_tags_run_nothing(read, tmp_path: Path):
    trace = tmp_path / "trace"
    for tag in ("python/object/apply:pathlib.Path.touch", "python/object/apply:os.mkdir"):
        with pytest.raises(UserError, match=r"run\.yaml"):
            read(f"model: !!{tag} ['{trace}']")
    for text in ("model: !!python/name:os.system", "model: !!python/object/new:os.system ['true']", "model: !own x"):
        with pytest.raises(UserError, match=r"run\.yaml"):
            read(text)
    assert not trace.exists()


def test_nested_aliases_are_refused_before_they_unfold(read):
    laughs = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    with pytest.raises(UserError, match="line 1: aliases are not read here"):
        read("\n".join(laughs))
    with pytest.raises(UserError, match="line 2: aliases"):
        read("seed: 1\nmodel: &x m\n")


@pytest.mark.parametrize("opening", ["[", "model: [", "{a: ", "- "])
def test_deep_nesting_is_refused(read, opening: str):
    # PyYAML needs quadratic time for it, so it must be refused while it is read, not by the full stack
    start, repeated = ("model: ", "[") if opening == "model: [" else ("", opening)
    with pytest.raises(UserError, match="nested"):
        read(start + repeated * 5_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: a\nseed: 1\nmodel: b", "line 3: the key 'model' stands there twice"),
        ("lr_scheduler_kwargs:\n  power: 1\n  power: 2", "line 3: the key 'power' stands there twice"),
        ("lerning_rate: 1", r"key 'lerning_rate', which is no argument\. Did you mean 'learning_rate'\?"),
        ("1: x", "key '1', which is no argument"),
        ("null: x", "key '(None|null)', which is no argument"),
        ("? [a, b]\n: x", r"run\.yaml"),
        ("? {a: b}\n: x", r"run\.yaml"),
        ("lr_scheduler_kwargs: {? [a] : 1}", r"run\.yaml"),
        ("model: [a, b]", r"run\.yaml"),
        ("learning_rate: [1, 2]", r"run\.yaml"),
        ("learning_rate: {a: 1}", "learning_rate"),
        ("learning_rate: fast", "learning_rate.*'fast'"),
        ("seed: 1.5", "seed.*'1.5'"),
        ("seed: " + "9" * 5000, r"run\.yaml"),
        ("metrics: [null]", r"run\.yaml"),
        ("metrics: [[a, b]]", r"run\.yaml"),
        ("model: !!binary aGVsbG8=", r"run\.yaml"),
        ("model: !!set {a, b}", r"run\.yaml"),
        ("- model\n- data", "must hold lines of the form name: value, got a sequence"),
        ("model", "must hold lines of the form name: value, got a scalar"),
        ("model: a\n---\nmodel: b", r"run\.yaml"),
        ("model: 'open", r"line 1: no valid YAML: .*, while scanning a quoted scalar that begins in line 1"),
        ("seed: 1\nmodel: [a", r"run\.yaml.*, line 2: no valid YAML: .* that begins in line 2"),
        ("\tmodel: a", "no valid YAML"),
        (b"\xff\xfem\x00", "no UTF-8 text"),
        (b"model: caf\xe9", "no UTF-8 text"),
        (b"\x00\x01\x02", "no valid YAML"),
        (bytes(range(128)), "no valid YAML"),
        ("#" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
)
def test_hostile_or_broken_yaml_is_refused(read, text: str | bytes, message: str):
    with pytest.raises(UserError, match=message):
        read(text)


def test_config_must_be_a_file_that_is_there(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("seed: 1")
    with pytest.raises(UserError, match="is no file"):
        read_yaml(tmp_path)
    with pytest.raises(UserError, match=r"no file or folder .*rum\.yaml'\. Did you mean 'run\.yaml'\?"):
        read_yaml(tmp_path / "rum.yaml")


def test_run_file_reads_back_as_it_was(tmp_path: Path):
    settings = {
        "task": "text-classification",
        "model": "models/é, 'quoted': #1",
        "data": "1e-4",
        "text_column": "on",
        "label_column": "null",
        "learning_rate": 1e-05,
        "weight_decay": 1e-10,
        "num_train_epochs": 3.0,
        "seed": 4294967295,
        "resume": False,
        "freeze_batch_norm": True,
        "metrics": ["f1:average=macro", "my metric.py"],
    }
    RunRecord(settings, "text-classification", [], {}, Evidence.of_test(1)).write_run_file(tmp_path)
    assert read_yaml(tmp_path / "run.yaml") == settings


def test_settings_are_sorted_by_what_they_tell():
    model, data, training = split_settings(
        {"model": "m", "max_length": 16, "data": "d", "test_size": 0.5, "seed": 3, "layer_decay": 0.5}
    )
    assert (model.model, model.max_length) == ("m", 16)
    assert (data.data, data.test_size, data.validation_size) == ("d", 0.5, 0.1)
    assert training == {"seed": 3, "layer_decay": 0.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lerning_rate": 1}, r"There is no argument 'lerning_rate'\. Did you mean 'learning_rate'\?"),
        ({"resume_from_checkpoint": "c"}, "resume_from_checkpoint has no place in a run of hfft: use resume"),
        ({"test_size": 2}, "test_size must be"),
        ({"max_length": 1}, "max_length must be"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        split_settings(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_strategy": "sometimes"}, "sometimes"),
        ({"strategy": "ful"}, "Did you mean 'full'"),
        ({"learning_rate": np.nan}, "learning_rate must be a finite number"),
        ({"lr_scheduler_kwargs": '{"a": 1'}, "lr_scheduler_kwargs|JSON|delimiter"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ],
)
def test_what_the_trainer_would_refuse_is_a_user_error(tmp_path: Path, settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        training_arguments({**settings, "output_dir": str(tmp_path)})
