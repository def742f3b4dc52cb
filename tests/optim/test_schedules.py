from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from hfft import FineTuningArguments, UserError
from hfft.optim import schedule_factor
from hfft.optim.schedules import slanted_triangular

STEPS = 100


def optimizer(rate: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.9)


def rates(scheduler, steps: int = STEPS) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("options", [{}, {"cut_frac": 0.25, "ratio": 10}])
def test_slanted_triangular_is_the_paper_s_formula(options):
    cut_frac, ratio = options.get("cut_frac", 0.1), options.get("ratio", 32)
    factor = schedule_factor("slanted_triangular", STEPS, options=options)
    for step in range(STEPS):
        cut = math.floor(STEPS * cut_frac)
        p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_frac - 1))
        assert factor(step) == pytest.approx((1 + p * (ratio - 1)) / ratio, abs=1e-12)
    assert max(factor(step) for step in range(STEPS)) == 1


def test_slanted_triangular_works_where_the_cut_would_be_no_step():
    assert all(0 < slanted_triangular(step, 5) <= 1 for step in range(5))


@pytest.mark.parametrize(
    "options", [{}, {"pct_start": 0.5, "div_factor": 10.0}, {"anneal_strategy": "linear", "final_div_factor": 100.0}]
)
def test_one_cycle_is_torch_s(options):
    factor = schedule_factor("one_cycle", STEPS, options=options)
    expected = rates(OneCycleLR(optimizer(), max_lr=1.0, total_steps=STEPS, cycle_momentum=False, **options))
    assert [factor(step) for step in range(STEPS)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("triangular", {"step_size_up": 10}),
        ("triangular", {"step_size_up": 7, "step_size_down": 13}),
        ("triangular2", {"step_size_up": 10}),
        ("exp_range", {"step_size_up": 10, "gamma": 0.97}),
    ],
)
def test_cyclical_rates_are_torch_s(mode, options):
    factor = schedule_factor(mode, STEPS, options={**options, "base_ratio": 0.2})
    expected = rates(CyclicLR(optimizer(), base_lr=0.2, max_lr=1.0, mode=mode, cycle_momentum=False, **options))
    assert [factor(step) for step in range(STEPS)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "name",
    ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"],
)
def test_those_of_transformers_are_theirs(name):
    from transformers import get_scheduler

    factor = schedule_factor(name, STEPS, 10)
    expected = rates(get_scheduler(name, optimizer(), 10, STEPS))
    # polynomial ends at 1e-7 whatever the rate is
    assert [factor(step) for step in range(STEPS)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slanted_triangle", {}, "Did you mean 'slanted_triangular'"),
        ("one_cycle", {"pct_stat": 0.1}, "pct_start"),
        ("one_cycle", {"anneal_strategy": "cosine"}, "cos or linear"),
        ("triangular", {"mode": "exp_range"}, "not 'mode'"),
        ("one_cycle", {"step": 3}, "not 'step'"),
        ("reduce_lr_on_plateau", {}, "follows a metric"),
        ("cosine", {"cycles": 3}, "lr_scheduler"),
    ],
)
def test_what_does_not_fit_is_an_error(name, options, message):
    with pytest.raises(UserError, match=message):
        schedule_factor(name, STEPS, options=options)


def test_the_arguments_know_all_schedules(tmp_path: Path):
    assert FineTuningArguments(output_dir=str(tmp_path), lr_scheduler_type="one_cycle").lr_scheduler_type == "one_cycle"
    with pytest.raises(UserError, match="Did you mean 'cosine'"):
        FineTuningArguments(output_dir=str(tmp_path), lr_scheduler_type="cosin")
