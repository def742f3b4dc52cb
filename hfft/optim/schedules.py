"""Learning-rate schedules as factors: pure functions of the step, so that the ratios between layers stay.

The ones of transformers (linear, cosine, constant, ...) are used as they are; here are those that it lacks, each with
the names of its source. Every factor is 1 at the peak.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType, get_scheduler

from hfft.errors import UserError, listed, nearest


def slanted_triangular(step: int, total_steps: int, cut_frac: float = 0.1, ratio: float = 32.0) -> float:
    """Return the factor of slanted triangular learning rates, ULMFiT's equation 3 (arXiv:1801.06146, section 3.2).

    Args:
        step: from 0.
        total_steps: T.
        cut_frac: share of the steps in which the rate rises.
        ratio: how much smaller the lowest rate is than the highest.
    """
    cut = max(1, math.floor(total_steps * cut_frac))
    share = step / cut if step < cut else max(0.0, 1 - (step - cut) / (cut * (1 / cut_frac - 1)))
    return (1 + share * (ratio - 1)) / ratio


def one_cycle(
    step: int,
    total_steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal_strategy: str = "cos",
) -> float:
    """Return the factor of the one-cycle policy (Smith & Topin 2018, arXiv:1708.07120), as torch's ``OneCycleLR``.

    Args:
        step: from 0.
        total_steps: of the run.
        pct_start: share of the steps in which the rate rises.
        div_factor: peak over initial rate.
        final_div_factor: initial over final rate.
        anneal_strategy: ``cos`` or ``linear``.

    Raises:
        ValueError: for another strategy.
    """
    if anneal_strategy not in ("cos", "linear"):
        raise ValueError(f"anneal_strategy must be cos or linear, got {anneal_strategy!r}")
    initial, final = 1 / div_factor, 1 / (div_factor * final_div_factor)
    top, end = float(pct_start * total_steps) - 1, total_steps - 1
    step = min(step, end)
    rising = step <= top
    start, stop = (initial, 1.0) if rising else (1.0, final)
    share = step / top if rising and top else 1.0 if rising else (step - top) / (end - top)
    if anneal_strategy == "linear":
        return start + (stop - start) * share
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))


def cyclical(
    step: int,
    total_steps: int,
    step_size_up: int | None = None,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    base_ratio: float = 0.1,
) -> float:
    """Return the factor of cyclical learning rates (Smith 2017, arXiv:1506.01186), as torch's ``CyclicLR``.

    Args:
        step: from 0.
        total_steps: of the run.
        step_size_up: steps of the rising half of a cycle (default: an eighth of the run, which makes four cycles).
        step_size_down: of the falling half (default: as many).
        mode: ``triangular``, ``triangular2`` (half the height each cycle) or ``exp_range`` (height times gamma**step).
        gamma: of ``exp_range``.
        base_ratio: lowest over highest rate.

    Raises:
        ValueError: for another mode.
    """
    if mode not in ("triangular", "triangular2", "exp_range"):
        raise ValueError(f"mode must be triangular, triangular2 or exp_range, got {mode!r}")
    step_size_up = max(1, total_steps // 8) if step_size_up is None else step_size_up
    length = step_size_up + (step_size_up if step_size_down is None else step_size_down)
    cycle, place = divmod(step, length)
    share = place / step_size_up if place <= step_size_up else (length - place) / (length - step_size_up)
    height = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": gamma**step}[mode]
    return base_ratio + (1 - base_ratio) * share * height


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "slanted_triangular": slanted_triangular,
    "one_cycle": one_cycle,
    "triangular": cyclical,
    "triangular2": cyclical,
    "exp_range": cyclical,
}
"""What transformers lacks: name -> factor(step, ...). They warm up themselves, ``warmup_steps`` is not used."""

FOLLOW_METRICS = frozenset({"reduce_lr_on_plateau", "greedy"})


def require_known(name: str) -> None:
    """Raise :class:`UserError` for a name that is no schedule of transformers and none of :data:`SCHEDULES`."""
    known = [*SCHEDULES, *(kind.value for kind in SchedulerType)]
    if name not in known:
        raise UserError(
            f"--lr_scheduler_type: there is no schedule '{name}'.{nearest(name, known)} Known: {listed(known, 20)}."
        )


def schedule_factor(
    name: str, total_steps: int, warmup_steps: int = 0, options: Mapping[str, Any] | None = None
) -> Callable[[int], float]:
    """Return ``step -> factor`` of a schedule of transformers or of :data:`SCHEDULES`.

    Raises:
        UserError: for an unknown name or option, and for schedules that depend on more than the step.
    """
    options = dict(options or {})
    require_known(name)
    if name in FOLLOW_METRICS:
        raise UserError(f"--lr_scheduler_type: {name} follows a metric, not the step.")
    if name not in SCHEDULES:
        return _factor_of_transformers(name, total_steps, warmup_steps, options)
    function = SCHEDULES[name]
    takes = inspect.signature(function).parameters
    fixed: dict[str, Any] = {"total_steps": total_steps} | ({"mode": name} if "mode" in takes else {})
    for option in options:
        if option in ("step", *fixed) or option not in takes:
            free = [other for other in takes if other not in ("step", *fixed)]
            raise UserError(f"--lr_scheduler_kwargs: {name} takes {listed(free, 8)}, not '{option}'.")

    def factor(step: int) -> float:
        return function(step, **fixed, **options)

    try:
        tried = [factor(step) for step in {*range(0, total_steps + 1, max(1, total_steps // 200)), total_steps}]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"--lr_scheduler_kwargs: {name} with {options}: {error}.") from error
    if not all(isinstance(value, float | int) and -1e-9 <= value <= 1 + 1e-9 for value in tried):
        raise UserError(f"--lr_scheduler_kwargs: {name} with {options} gives rates below 0 or above the peak.")
    return factor


def _factor_of_transformers(
    name: str, total_steps: int, warmup_steps: int, options: dict[str, Any]
) -> Callable[[int], float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        scheduler = get_scheduler(name, optimizer, warmup_steps, total_steps, options)
        assert isinstance(scheduler, LambdaLR)
        for step in (0, warmup_steps + 1, total_steps):
            scheduler.lr_lambdas[0](step)  # options of the wrong type show only here
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise UserError(f"--lr_scheduler_type: {error}. See lr_scheduler_kwargs.") from error
    return scheduler.lr_lambdas[0]
