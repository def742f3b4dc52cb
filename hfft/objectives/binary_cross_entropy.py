"""Binary cross-entropy of each class, scaled right under gradient accumulation and on several ranks."""

from __future__ import annotations

import torch
from torch import nn

from hfft.objectives.ignored import IGNORED


def binary_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    items: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the sum over rows and classes divided by ``items``, or the mean where ``items`` is ``None``.

    Args:
        logits: (batch, classes).
        labels: (batch, classes), 0 or 1, or ``IGNORED``.
        items: number of labels, rows times classes, of the whole optimizer step, over all micro-batches and ranks; so
            the Trainer counts them.
        label_smoothing: share of each label that is spread over yes and no: 1 becomes 1 - share / 2 (the binary form
            of Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """
    counts = labels != IGNORED
    logits, labels = logits[counts], labels[counts]
    smoothed = labels.float() * (1 - label_smoothing) + label_smoothing / 2
    reduction = "mean" if items is None else "sum"
    loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), smoothed, reduction=reduction)
    return loss if items is None else loss / items
