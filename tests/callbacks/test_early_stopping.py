from __future__ import annotations

from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from hfft import FineTuningArguments
from hfft.callbacks.early_stopping import EarlyStopping


def stopped_at(callback: EarlyStopping, args: FineTuningArguments, values: list[float], first: int = 0) -> int | None:
    """Return the step of the evaluation after which training ends, of one evaluation for each step."""
    state: Any = TrainerState(best_metric=values[0], global_step=first)
    callback.on_train_begin(args, state, TrainerControl())
    for step, value in enumerate(values, start=first):
        state.global_step, control = step, TrainerControl()
        callback.on_evaluate(args, state, control, {"eval_loss": value})
        if control.should_training_stop:
            return step
    return None


@pytest.fixture
def args() -> FineTuningArguments:
    return FineTuningArguments(greater_is_better=False)


def test_training_is_compared_with_itself_and_not_with_its_start(args):
    assert stopped_at(EarlyStopping(1), args, [0.1, 0.9, 0.8, 0.7, 0.6]) is None
    assert stopped_at(EarlyStopping(1), args, [0.1, 0.9, 0.8, 0.85, 0.6]) == 3
    assert stopped_at(EarlyStopping(2), args, [0.1, 0.9, 0.8, 0.85, 0.81, 0.6]) == 4


def test_what_is_to_be_bettered_survives_a_checkpoint(args):
    first = EarlyStopping(2)
    assert stopped_at(first, args, [0.1, 0.9, 0.5, 0.6]) is None
    kept, again = first.state(), EarlyStopping(2)
    state: Any = TrainerState(global_step=3, stateful_callbacks={"EarlyStopping": kept})
    again.on_train_begin(args, state, TrainerControl())
    assert (again.best, again.early_stopping_patience_counter) == (0.5, 1)
    again.on_train_begin(args, TrainerState(), TrainerControl())  # training from its beginning
    assert again.best is None
