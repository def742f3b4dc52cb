"""What a model is trained to minimise."""

from collections.abc import Callable, Mapping

import torch

from hfft.objectives.binary_cross_entropy import binary_cross_entropy
from hfft.objectives.cross_entropy import cross_entropy
from hfft.objectives.ignored import IGNORED
from hfft.objectives.mean_squared_error import mean_squared_error

Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | int | None, float], torch.Tensor]
"""(logits, labels, items, label_smoothing) -> loss."""

OBJECTIVES: Mapping[str, Objective] = {
    "single_label_classification": cross_entropy,
    "multi_label_classification": binary_cross_entropy,
    "regression": mean_squared_error,
}
"""By the problem type of a model's configuration."""

__all__ = ["IGNORED", "OBJECTIVES", "Objective", "binary_cross_entropy", "cross_entropy", "mean_squared_error"]
