"""How far training has moved each layer group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hfft.layers.groups import HEAD, LayerGroup

_AT_ONCE = 2**20  # numbers in double precision: a whole embedding would be the most memory of a run


@torch.no_grad()
def relative_distances(model: nn.Module, before: nn.Module, stack: Iterable[LayerGroup]) -> list[dict[str, Any]]:
    """Return ``name`` and ``distance`` of each layer group but the head, input first.

    The distance is that of all its weights together from what they were, divided by the norm of what they were.

    Args:
        model: as trained.
        before: the same architecture with the weights that training started from.
        stack: the layers of ``model``.
    """
    then, found = dict(before.named_parameters()), []
    for group in stack:
        moved, size = 0.0, 0.0
        for name in group.parameter_names:
            now = model.get_parameter(name)
            if name in then and then[name].shape == now.shape:
                of_both = zip(now.flatten().split(_AT_ONCE), then[name].flatten().split(_AT_ONCE), strict=True)
                for new, old in ((new.cpu().double(), old.cpu().double()) for new, old in of_both):
                    moved += float((new - old).square().sum())
                    size += float(old.square().sum())
        if group.name != HEAD and size > 0:
            found.append({"name": group.name, "distance": (moved / size) ** 0.5})
    return found
