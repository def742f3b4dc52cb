from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hfft.arguments import DataArguments, ModelArguments, column_settings
from hfft.errors import UserError
from hfft.settings import training_arguments
from hfft.training_arguments import FineTuningArguments
from hfft.values import require_range


@dataclass
class Setting:
    share: object


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.0, 0.5, None])
def test_values_within_closed_bounds_pass(value: object):
    require_range(Setting(value), "share", low=0, high=1)


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (-0.1, {"low": 0, "high": 1}, "share must be at least 0 and at most 1, got -0.1."),
        (1.1, {"low": 0, "high": 1}, "share must be at least 0 and at most 1, got 1.1."),
        (0, {"low": 0, "low_included": False}, "share must be more than 0, got 0."),
        (1, {"high": 1, "high_included": False}, "share must be less than 1, got 1."),
        (-1e-300, {"low": 0}, "share must be at least 0, got -1e-300."),
    ],
)
def test_values_beyond_the_bounds_are_refused(value: float, bounds: dict[str, float], message: str):
    with pytest.raises(UserError) as caught:
        require_range(Setting(value), "share", **bounds)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.5", [0.5]])
def test_what_is_no_finite_number_is_refused(value: object):
    with pytest.raises(UserError, match="share must be a finite number, got"):
        require_range(Setting(value), "share")


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("validation_size", [0, 0.1, 0.9], [-0.01, 0.91, math.nan]),
        ("test_size", [0.001, 0.9], [0, -0.2, 1, math.nan]),
    ],
)
def test_sizes_of_drawn_splits(field: str, good: list[float], bad: list[float]):
    for value in good:
        assert getattr(DataArguments(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(UserError, match=field):
            DataArguments(**{field: value})


def test_max_length_leaves_room_for_special_tokens():
    assert ModelArguments(max_length=4).max_length == 4
    with pytest.raises(UserError, match="max_length must be at least 4, got 3"):
        ModelArguments(max_length=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("learning_rate", -1e-3),
        ("head_learning_rate", 0.0),
        ("layer_decay", 0),
        ("layer_decay", 1.01),
        ("weight_decay", -0.1),
        ("num_train_epochs", 0),
        ("num_train_epochs", math.inf),
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("early_stopping_patience", 0),
        ("warmup_steps", -1),
        ("label_smoothing_factor", 1.0),
        ("seed", -1),
        ("seed", 2**32),
        ("max_grad_norm", math.nan),
        ("adam_beta2", 1.0),
    ],
)
def test_training_values_that_cannot_be_meant_are_refused(tmp_path, field: str, value: float):
    with pytest.raises(UserError, match=rf"^{field} must be"):
        FineTuningArguments(output_dir=str(tmp_path), **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("layer_decay", 1), ("seed", 2**32 - 1), ("label_smoothing_factor", 0), ("warmup_steps", 0), ("weight_decay", 0)],
)
def test_training_values_on_the_bound_pass(tmp_path, field: str, value: float):
    arguments = FineTuningArguments(output_dir=str(tmp_path), **{field: value})
    assert getattr(arguments, field) == value


def test_named_columns_are_those_the_user_named():
    assert DataArguments().named_columns() == {}
    arguments = DataArguments(text_column="sentence", text_pair_column="answer", label_column="intent")
    assert arguments.named_columns() == {"text": "sentence", "text_pair": "answer", "label": "intent"}
    assert DataArguments(image_column="file").named_columns() == {"image": "file"}


def test_columns_of_other_inputs_are_named_by_what_they_are():
    named = DataArguments(columns='{"audio": "take"}', label_column="who").named_columns()
    assert named == {"audio": "take", "label": "who"}
    assert DataArguments(columns={"audio": "take"}).named_columns() == {"audio": "take"}
    assert column_settings(named) == {"label_column": "who", "columns": {"audio": "take"}}


@pytest.mark.parametrize("columns", ["take", '["take"]', '{"audio": 1}', 3])
def test_columns_that_are_no_mapping_of_texts_are_refused(columns: object):
    with pytest.raises(UserError, match="columns must be JSON such as"):
        DataArguments(columns=columns)


def test_an_input_with_a_flag_of_its_own_is_named_by_that():
    with pytest.raises(UserError, match="text has a flag of its own: --text_column"):
        DataArguments(columns={"text": "review"})


@pytest.mark.parametrize(
    ("chosen", "saved", "best"),
    [
        ({}, ("epoch", 500), True),
        ({"eval_strategy": "no"}, ("epoch", 500), False),
        ({"eval_strategy": "steps", "eval_steps": 5}, ("steps", 5), True),
        ({"eval_strategy": "steps", "eval_steps": 5, "save_steps": 10}, ("steps", 10), True),
        ({"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "best"}, ("best", 500), True),
    ],
)
def test_checkpoints_follow_the_evaluations(tmp_path: Path, chosen: dict[str, Any], saved: tuple[str, int], best: bool):
    args = training_arguments({"output_dir": str(tmp_path), **chosen})
    assert (args.save_strategy, args.save_steps) == saved
    assert args.load_best_model_at_end == best
