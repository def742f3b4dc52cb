"""Several penalised linear problems on the same examples, solved side by side."""

from __future__ import annotations

import torch

from hfft.features.heads.basis import Basis
from hfft.features.heads.losses import HeadLoss

_CHUNK_ELEMENTS = 2**22
_MOST_ITERATIONS = 500
_MOST_EVALUATIONS = 25  # of one line search
_LEAST_CURVATURE = 1e-5


def minimise(
    basis: Basis,
    targets: torch.Tensor,
    included: torch.Tensor,
    loss: HeadLoss,
    strength: float,
    start: torch.Tensor,
    *,
    intercept: bool,
    tolerance: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the weights that minimise, for each problem p, sum_i included[i, p] loss_i + strength / 2 |W_p|^2.

    The problems (folds) differ in the examples that they include alone, so that one product of matrices serves all.
    L-BFGS runs in coordinates in which the Hessian is near the identity: each axis of ``basis`` is divided by the root
    of curvature * deviation^2 + strength. That takes a tenth of the steps that the bare coordinates take. There half of
    the squared norm of the gradient is about the distance to the minimum, and where it is small enough the steps end.

    Args:
        basis: of the features.
        targets: (examples, classes) of 0 and 1.
        included: (examples, problems) of 0 and 1.
        loss: of the outputs.
        strength: of the penalty; the intercept is not penalised.
        start: (rank + 1, problems, classes), the last row the intercepts.
        intercept: whether there is one; if not the last row stays 0.
        tolerance: ends where the loss is about so far from its minimum, per example and problem.
        dtype: to compute in.

    Returns:
        (rank + 1, problems, classes) of ``dtype``.
    """
    rows, rank = basis.coordinates.shape
    targets, included, start = targets.to(dtype), included.to(dtype), start.to(dtype)
    ones = torch.full((rows, 1), float(intercept), dtype=dtype, device=start.device)
    inputs = torch.cat([basis.coordinates.to(dtype), ones], dim=1)
    curvature = max(_mean_curvature(inputs, start, loss), _LEAST_CURVATURE)
    penalty = torch.full((rank + 1, 1), strength, dtype=dtype, device=start.device)
    penalty[-1] = 0
    squares = torch.cat([basis.deviations.square(), basis.deviations.new_full((1,), rows)]).to(dtype)[:, None]
    step = (curvature * squares + penalty).rsqrt()
    inputs, penalty = inputs * step.T, penalty * step.square()
    variables = (start.flatten(1) / step).requires_grad_(True)
    chunk = max(1, _CHUNK_ELEMENTS // variables.shape[1])

    def evaluate() -> tuple[torch.Tensor, torch.Tensor]:
        current = variables.detach()
        gradient = penalty * current
        value = 0.5 * (gradient * current).sum(dtype=torch.float64)
        for part in range(0, rows, chunk):
            rows_here = slice(part, part + chunk)
            outputs = (inputs[rows_here] @ current).unflatten(1, start.shape[1:])
            losses, by_output = loss(outputs, targets[rows_here, None])
            value += (losses * included[rows_here]).sum(dtype=torch.float64)
            by_output *= included[rows_here, :, None]
            gradient.addmm_(inputs[rows_here].T, by_output.flatten(1))
        return value, gradient

    at, (value, gradient) = variables.detach().clone(), evaluate()

    def closure() -> torch.Tensor:
        nonlocal at, value, gradient
        if not torch.equal(variables.detach(), at):  # each step begins where the one before has looked last
            at, (value, gradient) = variables.detach().clone(), evaluate()
        variables.grad = gradient
        return value

    steps = torch.optim.LBFGS(
        [variables],
        lr=max(1.0, float(gradient.abs().sum())),  # by which it divides its first step; a whole one is near Newton's
        max_iter=1,
        max_eval=_MOST_EVALUATIONS,
        tolerance_grad=0.0,
        tolerance_change=1e-9 if dtype == torch.float32 else 1e-14,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    for _ in range(_MOST_ITERATIONS):
        closure()
        before = at
        distance = 0.5 * float(gradient.square().sum(dtype=torch.float64))
        if not distance > tolerance * float(included.sum()):  # nor where it is no number
            break
        steps.step(closure)
        steps.param_groups[0]["lr"] = 1.0
        if torch.equal(variables.detach(), before):
            break
    return (variables.detach() * step).unflatten(1, start.shape[1:])


def _mean_curvature(inputs: torch.Tensor, start: torch.Tensor, loss: HeadLoss) -> float:
    """Return the mean second derivative of the loss at ``start``, read from every so many rows."""
    sample = inputs[:: max(1, inputs.shape[0] * start[0].numel() // _CHUNK_ELEMENTS)]
    return float(loss.curvature((sample @ start.flatten(1)).unflatten(1, start.shape[1:])).mean())
