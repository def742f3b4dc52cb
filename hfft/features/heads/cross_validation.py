"""The path from strong to weak regularisation: all folds side by side, each strength started from the one before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from hfft.features.heads.folds import draw_folds
from hfft.features.heads.linear import LinearHead, PathPoint, choose_strength
from hfft.features.heads.problem import DEFAULT_STRENGTH, STRENGTHS, Problem

_FINE_ELEMENTS = 2**24


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
    strengths: tuple[float, ...] = STRENGTHS,
) -> LinearHead:
    """Choose the strength by cross-validation where none is given, then solve on all examples.

    The path ends where the held-out loss has been above its least for two strengths running. Folds are solved to a
    thousandth in the loss per example, the head itself to a billionth.

    Args:
        problem: what to solve.
        fit: how.
        held_out_loss: of (..., classes) outputs and targets, (...).
        strengths: strongest first.
    """
    basis, (rows, outputs) = problem.basis, problem.targets.shape
    everything = basis.coordinates.new_ones(rows, 1)
    start = basis.coordinates.new_zeros(basis.coordinates.shape[1] + 1, 1, outputs)
    path: list[PathPoint] = []
    out_of_fold, strength = None, problem.strength
    if strength is None:
        folds = draw_folds(problem.strata, problem.folds, problem.seed, problem.groups)
        strength = DEFAULT_STRENGTH if DEFAULT_STRENGTH in strengths else strengths[len(strengths) // 2]
        if len(folds):
            path, weights, held_out = _follow(problem, folds, fit, held_out_loss, strengths)
            chosen = choose_strength(path)
            strength, out_of_fold = path[chosen].strength, held_out[chosen]
            start = weights[chosen]
    dtype = torch.float64 if basis.coordinates.numel() <= _FINE_ELEMENTS else torch.float32
    tolerance = 1e-9 if dtype == torch.float64 else 1e-6
    solution = fit(everything, strength, start, tolerance, dtype)[:, 0]
    weight, bias = basis.to_features(solution[:-1], solution[-1])
    return LinearHead(weight, bias, strength, tuple(path), out_of_fold)


def _follow(
    problem: Problem,
    folds: np.ndarray,
    fit: Fit,
    held_out_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    strengths: tuple[float, ...],
) -> tuple[list[PathPoint], list[torch.Tensor], list[torch.Tensor]]:
    """Return points, mean weights of the folds, and held-out outputs, one of each per strength."""
    coordinates, targets = problem.basis.coordinates, problem.targets
    count = int(folds.max()) + 1
    # (repeats, rows, folds) -> (rows, problems)
    is_held_out = folds[:, :, None] == np.arange(count)
    held_out = torch.as_tensor(np.concatenate(is_held_out, axis=1), device=coordinates.device)
    scored = held_out.any(dim=1)
    weights = coordinates.new_zeros(coordinates.shape[1] + 1, held_out.shape[1], targets.shape[1])
    points: list[PathPoint] = []
    starts: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    for strength in strengths:
        weights = fit((~held_out).float(), strength, weights, 1e-3, torch.float32)
        unseen = torch.full_like(targets, torch.nan)
        losses = torch.full_like(targets[:, 0], torch.nan)
        total = torch.zeros_like(targets)
        total_loss = torch.zeros_like(losses)
        for index in range(held_out.shape[1]):
            rows = held_out[:, index]
            found = coordinates[rows] @ weights[:-1, index] + weights[-1, index]
            total[rows] += found
            total_loss[rows] += held_out_loss(found, targets[rows])
        times = held_out.sum(dim=1)
        unseen[scored] = total[scored] / times[scored, None]
        losses = (total_loss[scored] / times[scored]).double()
        error = float(losses.std(correction=0)) / len(losses) ** 0.5
        points.append(PathPoint(strength, float(losses.mean()), error))
        starts.append(weights.mean(dim=1, keepdim=True))
        outputs.append(unseen)
        least = min(point.loss for point in points)
        if len(points) > 2 and all(point.loss > least for point in points[-2:]):
            break
    return points, starts, outputs
