"""The solvers by name, and solve_head, which runs one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from hfft.errors import UserError, listed, nearest
from hfft.features.heads.cross_validation import solve_path
from hfft.features.heads.linear import LinearHead
from hfft.features.heads.losses import HeadLoss, Logistic, Softmax, SquaredHinge
from hfft.features.heads.minimise import minimise
from hfft.features.heads.problem import Problem, state_problem
from hfft.features.heads.ridge import solve_ridge


@dataclass(frozen=True)
class HeadSolver:
    """A way to solve a linear head.

    Attributes:
        name: what it is asked for by.
        solve: does it.
        numbers: whether the targets may be numbers.
        several_labels: whether an example may have several classes.
    """

    name: str
    solve: Callable[[Problem], LinearHead]
    numbers: bool = False
    several_labels: bool = True


def solve_head(
    features: np.ndarray | torch.Tensor,
    targets: np.ndarray | torch.Tensor,
    *,
    classes: int | None = None,
    solver: str = "logistic",
    strength: float | None = None,
    cross_validate: bool = False,
    groups: np.ndarray | None = None,
    seed: int = 0,
    intercept: bool = True,
    pseudo_examples: tuple[np.ndarray | torch.Tensor, np.ndarray | torch.Tensor] | None = None,
) -> LinearHead:
    """Solve a linear head on features that stay as they are.

    Args:
        features: (examples, dims); solved on the device on which they lie.
        targets: (examples,) int class indices, (examples, classes) of 0 and 1, or (examples,) floats for ``ridge``.
        classes: their number, where the highest index may be missing from ``targets``.
        solver: a name of :func:`list_solvers`.
        strength: of the penalty, on features scaled to a mean squared norm of 1; chosen by cross-validation
            if ``None``, in which ``ridge`` leaves one out.
        cross_validate: also where the strength is given: its held-out loss stands in the ``path`` of the head then.
        groups: (examples,) what each example belongs to; a group is held out as a whole.
        seed: of the folds.
        intercept: ``False`` for a layer without a bias.
        pseudo_examples: (rows, dims) features and (rows,) int class indices of what is learned from as examples are,
            and never held out: the names of the classes, read as texts.

    Raises :class:`UserError` for an unknown solver, targets that it or pseudo-examples cannot take, and features that
    are not finite.
    """
    chosen = load_solver(solver)
    problem = state_problem(
        features,
        targets,
        classes=classes,
        strength=strength,
        cross_validate=cross_validate,
        groups=groups,
        seed=seed,
        intercept=intercept,
        pseudo_examples=pseudo_examples,
    )
    if not (problem.categorical or chosen.numbers):
        fitting = [name for name in list_solvers() if SOLVERS[name].numbers]
        raise UserError(
            f"The solver '{solver}' needs classes, and the targets are numbers; {listed(fitting)} takes them."
        )
    if problem.categorical and not (problem.single_label or chosen.several_labels):
        fitting = [name for name in list_solvers() if SOLVERS[name].several_labels]
        raise UserError(f"The solver '{solver}' needs one class per example; {listed(fitting)} take several.")
    return chosen.solve(problem)


def list_solvers() -> list[str]:
    """Return the names of all solvers, sorted."""
    return sorted(SOLVERS)


def load_solver(name: str) -> HeadSolver:
    """Return the solver of that name; raises :class:`UserError` for an unknown one."""
    if name not in SOLVERS:
        raise UserError(f"There is no head solver '{name}'.{nearest(name, SOLVERS)} Known: {listed(list_solvers())}.")
    return SOLVERS[name]


def _solve_with(problem: Problem, loss: HeadLoss) -> LinearHead:
    def fit(
        included: torch.Tensor, strength: float, start: torch.Tensor, tolerance: float, dtype: torch.dtype
    ) -> torch.Tensor:
        return minimise(
            problem.basis,
            problem.targets,
            included,
            loss,
            strength,
            start,
            intercept=problem.intercept,
            tolerance=tolerance,
            dtype=dtype,
        )

    return solve_path(problem, fit, lambda outputs, targets: loss(outputs, targets)[0])


def _solve_logistic(problem: Problem) -> LinearHead:
    """One softmax where each example has one class, one logistic regression per class elsewhere."""
    return _solve_with(problem, Softmax() if problem.single_label else Logistic())


def _solve_prototypes(problem: Problem) -> LinearHead:
    """Nearest class mean: logits -|x - mean|^2 / strength, less the |x|^2 that all classes share.

    The strength is a temperature: it moves no decision between classes, and is chosen by the held-out log loss.
    """

    def fit(
        included: torch.Tensor, strength: float, start: torch.Tensor, tolerance: float, dtype: torch.dtype
    ) -> torch.Tensor:
        coordinates, targets = problem.basis.coordinates.to(dtype), problem.targets.to(dtype)
        members = included.to(dtype)[:, :, None] * targets[:, None]
        counts = members.sum(dim=0)
        means = (coordinates.T @ members.flatten(1)).unflatten(1, counts.shape) / counts.clamp(min=1)
        # a class without examples is no candidate
        biases = torch.where(counts > 0, -means.square().sum(dim=0), -4.0)
        return torch.cat([2 * means, biases[None]]) / strength

    return solve_path(problem, fit, lambda outputs, targets: Softmax()(outputs, targets)[0])


SOLVERS = {
    solver.name: solver
    for solver in (
        HeadSolver("logistic", _solve_logistic),
        HeadSolver("svm", partial(_solve_with, loss=SquaredHinge())),
        HeadSolver("ridge", solve_ridge, numbers=True),
        HeadSolver("prototypes", _solve_prototypes, several_labels=False),
    )
}
