"""What a solver is given, checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hfft.errors import UserError
from hfft.features.heads.basis import Basis

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(2, -9, -1))
"""From 10 to 0.0001 in half decades, strongest first."""

FIRST_STRENGTH = STRENGTHS[3]
"""Where the search begins: about 0.3."""

DEFAULT_STRENGTH = 0.1
"""Where nothing can be held out: one example per class."""

FOLDS = 5
"""Of the cross-validation; fewer where no class has so many examples."""


@dataclass(frozen=True)
class Problem:
    """Features and targets of one head.

    Attributes:
        basis: of the features, those of pseudo-examples behind those of examples.
        targets: (rows of the basis, outputs) float32: of 0 and 1, or numbers.
        categorical: whether the targets are classes, not numbers.
        single_label: whether each example has just one class.
        strata: (examples,) what folds are stratified by.
        groups: (examples,) what each example belongs to, or ``None``.
        strength: of the penalty, ``None`` where it is to be chosen.
        cross_validate: whether the held-out loss of a strength that is given is asked for, too.
        seed: of the folds of the cross-validation.
        intercept: whether the layer has a bias.
    """

    basis: Basis
    targets: torch.Tensor
    categorical: bool
    single_label: bool
    strata: np.ndarray
    groups: np.ndarray | None
    strength: float | None
    cross_validate: bool
    seed: int
    intercept: bool


def state_problem(
    features: np.ndarray | torch.Tensor,
    targets: np.ndarray | torch.Tensor,
    *,
    classes: int | None,
    strength: float | None,
    cross_validate: bool,
    groups: np.ndarray | None,
    seed: int,
    intercept: bool,
    pseudo_examples: tuple[np.ndarray | torch.Tensor, np.ndarray | torch.Tensor] | None,
) -> Problem:
    """Check the arguments of :func:`solve_head` and decompose the features; raises :class:`UserError`."""
    features, targets = _tensor(features), _tensor(targets)
    if features.ndim != 2 or not len(features):
        raise UserError(f"A head is solved on features of shape (examples, dims), not {tuple(features.shape)}.")
    if len(targets) != len(features) or (groups is not None and len(groups) != len(features)):
        raise UserError(f"There are {len(features)} rows of features, and not as many targets or groups.")
    for what, values in (("features", features), ("targets", targets)):
        _require_finite(what, "examples", values)
    if strength is not None and not strength > 0:
        raise UserError(f"The strength of a head's penalty is {strength}; it has to be above 0.")
    columns, single_label, strata = _columns(targets, classes)
    categorical = not targets.is_floating_point() or targets.ndim == 2
    if pseudo_examples is not None:
        more, of_class = map(_tensor, pseudo_examples)
        if not categorical:
            raise UserError("Pseudo-examples have classes, and the targets are numbers.")
        if more.shape != (len(of_class), features.shape[1]):
            raise UserError(f"Features of {len(of_class)} pseudo-examples are not of shape {tuple(more.shape)}.")
        _require_finite("features", "pseudo-examples", more)
        features = torch.cat([features, more.to(features)])
        columns = torch.cat([columns, _columns(of_class, columns.shape[1])[0].to(columns)])
    return Problem(
        Basis.of(features, intercept=intercept),
        columns.to(features.device),
        categorical,
        single_label,
        strata,
        None if groups is None else np.asarray(groups),
        strength,
        cross_validate,
        seed,
        intercept,
    )


def _require_finite(what: str, whose: str, values: torch.Tensor) -> None:
    """Raise :class:`UserError` where a row of values holds what is no number."""
    rows = torch.isfinite(values.reshape(len(values), -1)).all(dim=1)
    if not rows.all():
        first = int((~rows).nonzero()[0])
        raise UserError(
            f"The {what} of {int((~rows).sum())} {whose} are not finite, the first is number {first}; "
            "a head cannot be solved on them. Half precision may have overflowed: --precision fp32."
        )


def _tensor(values: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return values as a tensor; an array that may not be written to, such as a column of Arrow, is copied."""
    values = values if isinstance(values, torch.Tensor) else np.require(values, requirements="W")
    return torch.as_tensor(values).detach()


def _columns(targets: torch.Tensor, classes: int | None) -> tuple[torch.Tensor, bool, np.ndarray]:
    """Return the targets as (examples, outputs), whether they are one class each, and their strata."""
    if targets.ndim == 1 and targets.is_floating_point():
        return targets[:, None].float(), False, np.zeros(len(targets), dtype=np.int64)
    if targets.ndim == 1:
        count = int(targets.max()) + 1 if classes is None else classes
        if int(targets.min()) < 0 or int(targets.max()) >= count:
            raise UserError(
                f"Class indices run from {int(targets.min())} to {int(targets.max())}; 0 to {count - 1} fit."
            )
        return torch.nn.functional.one_hot(targets.long(), count).float(), True, targets.cpu().numpy()
    columns = targets.float()
    if columns.ndim != 2 or not ((columns == 0) | (columns == 1)).all():
        raise UserError("Targets are (examples,) classes or numbers, or (examples, classes) of 0 and 1.")
    # several classes an example: it belongs to the rarest, or to none
    frequency = torch.where(columns > 0, columns.sum(dim=0), torch.inf)
    strata = torch.where(columns.any(dim=1), frequency.argmin(dim=1), columns.shape[1])
    return columns, False, strata.cpu().numpy()
