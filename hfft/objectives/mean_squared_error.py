"""Mean squared error, scaled right under gradient accumulation and on several ranks."""

from __future__ import annotations

import torch
from torch import nn

from hfft.objectives.ignored import IGNORED


def mean_squared_error(
    logits: torch.Tensor,
    labels: torch.Tensor,
    items: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the sum over these rows divided by ``items``, or the mean where ``items`` is ``None``.

    Args:
        logits: (batch, 1), or of the labels' shape.
        labels: (batch,) numbers, or several for each row, or ``IGNORED``.
        items: number of labels of the whole optimizer step, over all micro-batches and ranks.
        label_smoothing: must be 0, for there are no classes; ValueError is raised otherwise.
    """
    if label_smoothing:
        raise ValueError(f"label_smoothing must be 0 in regression, got {label_smoothing}")
    counts = labels != IGNORED
    logits, labels = logits.reshape(labels.shape)[counts], labels[counts]
    reduction = "mean" if items is None else "sum"
    loss = nn.functional.mse_loss(logits.float(), labels.float(), reduction=reduction)
    return loss if items is None else loss / items
