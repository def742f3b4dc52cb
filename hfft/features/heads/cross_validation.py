"""The path through the strengths of regularisation: all folds side by side, each begun where those before lead to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from hfft.data.folds import ALWAYS_TRAINED, draw_folds
from hfft.features.heads.linear import LinearHead, PathPoint, choose_strength
from hfft.features.heads.problem import DEFAULT_STRENGTH, FIRST_STRENGTH, FOLDS, STRENGTHS, Problem

_FINE_ELEMENTS = 2**22  # examples x dims x classes


class Fit(Protocol):
    """Solves problems that include different examples side by side: see :func:`minimise`."""

    def __call__(
        self,
        included: torch.Tensor,
        strength: float,
        start: torch.Tensor,
        tolerance: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Return (rank + 1, problems, classes)."""


def solve_path(
    problem: Problem,
    fit: Fit,
    held_out_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> LinearHead:
    """Choose the strength by cross-validation where none is given, then solve on all examples.

    Held-out losses are known to a hundredth: folds are solved to a millionth in the loss per example, or to a
    ten-thousandth where there is much to solve; the head itself to a millionth of that, or a thousandth.

    Args:
        problem: what to solve.
        fit: how.
        held_out_loss: of (..., classes) outputs and targets, (...).
    """
    basis, (rows, outputs), examples = problem.basis, problem.targets.shape, len(problem.strata)
    everything = basis.coordinates.new_ones(rows, 1)
    start = basis.coordinates.new_zeros(basis.coordinates.shape[1] + 1, 1, outputs)
    path: list[PathPoint] = []
    out_of_fold, strength = None, problem.strength
    fine = basis.coordinates.numel() * outputs <= _FINE_ELEMENTS
    if strength is None or problem.cross_validate:
        folds = draw_folds(problem.strata, FOLDS, problem.seed, problem.groups)
        folds = np.pad(folds, ((0, 0), (0, rows - examples)), constant_values=ALWAYS_TRAINED)
        strength = strength or DEFAULT_STRENGTH
        if len(folds):
            steps = _follow(problem, folds, fit, held_out_loss, 1e-6 if fine else 1e-4)
            path = [step.point() for step in steps]
            chosen = choose_strength(path)
            strength, start = path[chosen].strength, steps[chosen].weights.mean(dim=1, keepdim=True)
            out_of_fold = _out_of_fold(steps, folds)[:examples]
    dtype, tolerance = (torch.float64, 1e-12) if fine else (torch.float32, 1e-7)
    solution = fit(everything, strength, start, tolerance, dtype)[:, 0]
    weight, bias = basis.to_features(solution[:-1], solution[-1])
    return LinearHead(weight, bias, strength, tuple(path), out_of_fold)


@dataclass(frozen=True)
class _Step:
    """One strength, solved in every fold.

    Attributes:
        strength: of the penalty.
        weights: (rank + 1, problems, classes).
        outputs: (repeats, examples, classes) of the heads that had not seen the example, else NaN.
        losses: (examples,) of them, a mean over the repeats.
    """

    strength: float
    weights: torch.Tensor
    outputs: torch.Tensor
    losses: torch.Tensor

    def point(self, without: torch.Tensor | None = None) -> PathPoint:
        """Return the mean loss of all examples that were held out, or of those but for some."""
        counted = ~self.losses.isnan()
        losses = self.losses[counted if without is None else counted & ~without].double()
        return PathPoint(self.strength, float(losses.mean()), float(losses.std(correction=0)) / len(losses) ** 0.5)


def _follow(
    problem: Problem,
    folds: np.ndarray,
    fit: Fit,
    held_out_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    tolerance: float,
) -> list[_Step]:
    """Return the strengths that come into question, strongest first.

    From the first one, which most data sets leave for weaker ones, the path goes down until a step gains less than half
    the standard error, and up as long as what is stronger may still be chosen. Each starts where the two before lead
    to: in equal steps of the strength's logarithm weights change by about as much. A strength that is given is the
    only one.
    """
    coordinates, targets = problem.basis.coordinates, problem.targets
    held_out = torch.as_tensor(_problems(folds), device=coordinates.device)
    included, repeats = (~held_out).float(), len(folds)

    def step(strength: float, *before: _Step) -> _Step:
        """Solve for a strength, behind those of before, the nearest first."""
        weights = before[0].weights if before else nothing
        if len(before) > 1:
            weights = 2 * weights - before[1].weights
        weights = fit(included, strength, weights, tolerance, torch.float32)
        outputs = targets.new_full((repeats, *targets.shape), torch.nan)
        for index, rows in enumerate(held_out.T):
            found = coordinates[rows] @ weights[:-1, index] + weights[-1, index]
            outputs[index * repeats // held_out.shape[1], rows] = found
        return _Step(strength, weights, outputs, held_out_loss(outputs, targets).nanmean(dim=0))

    def least() -> PathPoint:
        return min((each.point() for each in steps), key=lambda point: point.loss)

    nothing = coordinates.new_zeros(coordinates.shape[1] + 1, held_out.shape[1], targets.shape[1])
    if problem.strength is not None:
        return [step(problem.strength)]
    first = STRENGTHS.index(FIRST_STRENGTH)
    steps = [step(FIRST_STRENGTH)]
    for strength in STRENGTHS[first + 1 :]:
        steps.append(step(strength, *steps[:-3:-1]))
        if steps[-2].point().loss - steps[-1].point().loss < steps[-1].point().standard_error / 2:
            break
    for strength in reversed(STRENGTHS[:first]):
        if steps[0].point().loss > least().loss + least().standard_error:
            break
        steps.insert(0, step(strength, *steps[:2]))
    return steps


def _problems(folds: np.ndarray) -> np.ndarray:
    """Return (examples, repeats x folds): which examples each problem holds out."""
    is_held_out = folds[:, :, None] == np.arange(int(folds.max()) + 1)
    return np.concatenate(is_held_out, axis=1)


def _out_of_fold(steps: list[_Step], folds: np.ndarray) -> torch.Tensor:
    """Return (examples, classes) outputs at the strength that the other folds choose; a mean over the repeats.

    The losses of a fold have no say in the strength that it is predicted with: at the one that they chose, its own
    error would look too small (Varma and Simon 2006, https://doi.org/10.1186/1471-2105-7-91).
    """
    found = torch.full_like(steps[0].outputs, torch.nan)
    for index, held_out in enumerate(_problems(folds).T):
        rows = torch.as_tensor(held_out, device=found.device)
        if rows.any():
            repeat = index // (int(folds.max()) + 1)
            chosen = choose_strength([step.point(without=rows) for step in steps])
            found[repeat, rows] = steps[chosen].outputs[repeat, rows]
    return found.nanmean(dim=0)
