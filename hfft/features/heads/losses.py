"""Convex losses of a linear head: value, gradient, curvature."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch


class HeadLoss(ABC):
    """A loss of (..., classes) outputs against (..., classes) targets of 0 and 1; reduced over the classes alone."""

    @abstractmethod
    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (...) losses and their gradient, (..., classes)."""

    @abstractmethod
    def curvature(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the second derivative by each output, (..., classes)."""


class Softmax(HeadLoss):
    """Multinomial logistic loss."""

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -log softmax of the true class, and its gradient."""
        log_probabilities = outputs.log_softmax(dim=-1)
        losses = -(log_probabilities * targets).sum(dim=-1)
        return losses, log_probabilities.exp_().sub_(targets)

    def curvature(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return p (1 - p)."""
        probabilities = outputs.softmax(dim=-1)
        return probabilities * (1 - probabilities)


class Logistic(HeadLoss):
    """One logistic loss per class, for examples of any number of classes."""

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum over the classes of the binary log losses, and its gradient."""
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs, targets.expand_as(outputs), reduction="none"
        )
        return losses.sum(dim=-1), outputs.sigmoid() - targets

    def curvature(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return p (1 - p)."""
        probabilities = outputs.sigmoid()
        return probabilities * (1 - probabilities)


class SquaredHinge(HeadLoss):
    """One linear support vector machine per class, loss max(0, 1 - y f)^2 with y = -1 or 1."""

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum over the classes of the squared hinge losses, and its gradient."""
        signs = 2 * targets - 1
        slack = (1 - signs * outputs).clamp_(min=0)
        return slack.square().sum(dim=-1), -2 * signs * slack

    def curvature(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return 2 between the margins: what an example outside does depends on its class."""
        return 2.0 * (outputs.abs() < 1)
