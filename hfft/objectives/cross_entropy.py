"""Cross-entropy that is scaled right under gradient accumulation and on several ranks."""

from __future__ import annotations

import torch
from torch import nn

from hfft.objectives.ignored import IGNORED


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    items: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the sum over these rows divided by ``items``, or the mean where ``items`` is ``None``.

    Many models (BERT's sequence classifier among them) take the Trainer's ``num_items_in_batch`` and then return the
    mean over the micro-batch all the same; the stock Trainer does not divide it again, so that their gradients come
    out as many times too large as there are accumulation steps and ranks.

    Args:
        logits: (batch, classes).
        labels: (batch,) class indices, or ``IGNORED``.
        items: number of rows of the whole optimizer step, over all micro-batches and ranks.
        label_smoothing: share of each label that is spread over all classes (Szegedy et al. 2016,
            arXiv:1512.00567, section 7).
    """
    reduction = "mean" if items is None else "sum"
    loss = nn.functional.cross_entropy(
        logits.float(), labels, reduction=reduction, label_smoothing=label_smoothing, ignore_index=IGNORED
    )
    return loss if items is None else loss / items
