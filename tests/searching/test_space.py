"""Spaces: as files and mappings have them, what is refused and where, and the default ones of the strategies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hfft import UserError, list_strategies, load_strategy
from hfft.searching.space import Choice, Range, described, fitting, grid_of, read_space, settings_of


def write(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def test_values_are_typed_as_flags_are(tmp_path):
    space = read_space(
        write(
            tmp_path,
            "learning_rate: {low: 1e-5, high: 1e-3, log: true}\nnum_train_epochs: {low: 2, high: 10, step: 4}\n"
            "per_device_train_batch_size: {low: 4, high: 7}\npooling: [model, mean]\n"
            "early_stopping_patience: [null, 3]\nfreeze: [[0], ['2', bert.pooler]]\n",
        )
    )
    assert space == {
        "learning_rate": Range(1e-5, 1e-3, log=True),
        "num_train_epochs": Range(2.0, 10.0, step=4.0),
        "per_device_train_batch_size": Range(4, 7),
        "pooling": Choice(("model", "mean")),
        "early_stopping_patience": Choice((None, 3)),
        "freeze": Choice((["0"], ["2", "bert.pooler"])),
    }
    assert isinstance(space["per_device_train_batch_size"].low, int)
    stored = {"pooling": "mean", "early_stopping_patience": None, "freeze": space["freeze"].labels[1]}
    assert settings_of(space, stored) == {"pooling": "mean", "freeze": ["2", "bert.pooler"]}
    assert read_space(described(space)) == space


def test_a_grid_has_every_combination():
    space = read_space({"num_train_epochs": {"low": 1, "high": 2, "step": 0.5}, "pooling": ["model", "mean"],
                        "max_length": {"low": 8, "high": 10}})  # fmt: skip
    points = grid_of(space)
    assert len(points) == 18
    assert {point["num_train_epochs"] for point in points} == {1.0, 1.5, 2.0}
    assert {point["max_length"] for point in points} == {8, 9, 10}
    with pytest.raises(UserError, match="learning_rate is a range without a step"):
        grid_of(read_space({"learning_rate": {"low": 1e-4, "high": 1e-3}}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat: [1e-4]", "no argument 'learning_rat'. Did you mean 'learning_rate'"),
        ("learning_rate: {low: 1e-3, high: 1e-4}", "low must be less than high, got 0.001 and 0.0001"),
        ("learning_rate: {low: -1, high: 1}", "learning_rate must be more than 0"),
        ("weight_decay: {low: 0, high: 1, log: true}", "must begin above 0"),
        ("weight_decay: {low: 0, high: 1, step: 2}", "step must be above 0 and fit"),
        ("weight_decay: {low: 0.1, high: 1, step: 0.1, log: true}", "log and step exclude each other"),
        ("weight_decay: {low: 0.1, hihg: 1}", "no 'hihg'. Did you mean 'high'"),
        ("weight_decay: {low: 0.1}", "has no high"),
        ("weight_decay: {low: 0, high: 1, log: perhaps}", "log must be true or false"),
        ("weight_decay: 0.1", "needs a list of values or"),
        ("pooling: {low: 1, high: 2}", "is no number"),
        ("pooling: []", "is empty"),
        ("pooling: [mean, mean]", "names a value twice"),
        ("max_length: [1, 64]", "max_length must be at least 4"),
        ("num_train_epochs: [many]", "invalid float value"),
        ("seed: [1, 2]", "seed cannot be searched"),
        ("test_size: [0.1, 0.2]", "data are read and split once"),
        ("push_to_hub: [true, false]", "push_to_hub cannot be searched"),
        ("calibration: [none, temperature]", "it comes after what trials are compared by"),
        ("per_device_eval_batch_size: [8, 64]", "no result depends on it"),
        ("pooling: !!python/object/apply:os.system [ls]", "tags such as"),
        ("pooling: &some [mean]", "aliases are not read"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(line, message, tmp_path):
    path = write(tmp_path, f"layer_decay: [0.5, 0.75]\n{line}\n")
    with pytest.raises(UserError, match=rf"^--space: '{re.escape(str(path))}', line 2: .*{re.escape(message)}"):
        read_space(path)


@pytest.mark.parametrize("text", ["", "- learning_rate", "learning_rate: [1", "pooling: [a]\npooling: [b]"])
def test_what_is_no_space_is_refused(text, tmp_path):
    with pytest.raises(UserError, match="--space"):
        read_space(write(tmp_path, text))
    with pytest.raises(UserError, match="no file or folder"):
        read_space(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("name", list_strategies())
def test_every_strategy_has_a_space(name):
    space = read_space(load_strategy(name).space)
    assert len(space) >= 2
    # a vision model reads its trunk in one way alone
    assert "pooling" not in fitting(space, {"pooling": ("model",)})
