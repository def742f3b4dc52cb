"""The shape of a parameter when it is whole."""

from __future__ import annotations

import torch
from torch import nn


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Return the shape that a parameter has when it is whole; ZeRO stage 3 leaves an empty one of one dimension."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def is_matrix(parameter: nn.Parameter) -> bool:
    """Say whether a parameter has more than one dimension, which biases and the scales of norms have not."""
    return len(whole_shape(parameter)) > 1
