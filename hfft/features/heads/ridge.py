"""Ridge regression: the whole path and its leave-one-out errors from one decomposition."""

from __future__ import annotations

import numpy as np
import torch

from hfft.features.heads.linear import LinearHead, PathPoint, choose_strength
from hfft.features.heads.problem import STRENGTHS, Problem


def solve_ridge(problem: Problem) -> LinearHead:
    """Minimise the squared error + strength |W|^2; classes are numbers -1 and 1.

    Where the strength is to be chosen, each example (each group) is left out in turn: with H the matrix that makes the
    fitted values from the targets and r the residuals, the residuals of a group that was left out are
    (I - H_gg)^-1 r_g, so no second fit is needed (Golub, Heath and Wahba 1979 have the case of one example).
    """
    basis = problem.basis
    coordinates, squares = basis.coordinates.double(), basis.deviations.square()
    targets = problem.targets.double()
    if problem.categorical:
        targets = 2 * targets - 1
    mean = targets.mean(dim=0) if problem.intercept else torch.zeros_like(targets[0])
    products = coordinates.T @ (targets - mean)
    path, outputs = [], []
    strength, out_of_fold = problem.strength, None
    if strength is None or problem.cross_validate:
        for candidate in STRENGTHS if strength is None else [strength]:
            fitted = coordinates @ (products / (squares + candidate)[:, None]) + mean
            errors = _left_out_residuals(problem, coordinates, targets - fitted, candidate)[: len(problem.strata)]
            losses = errors.square().sum(dim=1)
            standard_error = float(losses.std(correction=0)) / len(losses) ** 0.5
            path.append(PathPoint(candidate, float(losses.mean()), standard_error))
            outputs.append((targets[: len(errors)] - errors).float())
        chosen = choose_strength(path)
        strength, out_of_fold = path[chosen].strength, outputs[chosen]
    weight, bias = basis.to_features(products / (squares + strength)[:, None], mean)
    return LinearHead(weight, bias, strength, tuple(path), out_of_fold)


def _left_out_residuals(
    problem: Problem, coordinates: torch.Tensor, residuals: torch.Tensor, strength: float
) -> torch.Tensor:
    """Return the (examples, outputs) residuals of examples whose group was left out."""
    scaled = coordinates * (problem.basis.deviations.square() + strength).rsqrt()
    share = float(problem.intercept) / len(scaled)
    if problem.groups is None:
        kept = 1 - share - scaled.square().sum(dim=1, keepdim=True)
        return residuals / kept.clamp(min=1e-12)
    left_out = residuals.clone()
    _, group_of = np.unique(problem.groups, return_inverse=True)
    for group in range(int(group_of.max()) + 1):
        rows = torch.as_tensor(np.flatnonzero(group_of == group), device=scaled.device)
        block = torch.eye(len(rows), dtype=scaled.dtype, device=scaled.device) - scaled[rows] @ scaled[rows].T - share
        left_out[rows] = torch.linalg.lstsq(block, residuals[rows]).solution
    return left_out
