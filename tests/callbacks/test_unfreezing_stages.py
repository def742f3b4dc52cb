"""When groups thaw, by shares of a run, epochs and steps."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hfft import UserError
from hfft.callbacks.unfreezing_stages import UnfreezeStages


def test_by_default_everything_is_thawed_by_half_of_the_run():
    schedule = UnfreezeStages().schedule(groups=6, total_steps=100, steps_per_epoch=10)
    assert schedule.starts == (50, 40, 30, 20, 10, 0)
    assert UnfreezeStages(epochs_per_group=0.5).schedule(6, 100, 10).starts == (25, 20, 15, 10, 5, 0)
    assert UnfreezeStages(start_epochs=[0, 1, 1.5]).schedule(3, 100, 10).starts == (15, 10, 0)
    assert UnfreezeStages(groups_per_stage=2, steps_per_group=7).schedule(4, 100, 10).starts == (14, 7, 7, 0)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"start_steps": [3, 5]}, "the head's is 0"),
        ({"start_steps": []}, "the head's is 0"),
        ({"start_steps": [0, 2.5]}, "whole numbers"),
        ({"start_steps": [0, 5, 3]}, "rise from the head down"),
        ({"start_steps": [0, 1, 2, 3]}, "at most 3 layer groups"),
        ({"steps_per_group": math.inf}, "cannot be meant"),
    ],
)
def test_steps_that_cannot_be_meant_are_refused(stages: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        UnfreezeStages(**stages).schedule(groups=3, total_steps=100, steps_per_epoch=10)
