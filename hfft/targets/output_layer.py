"""The layer that gives a model's outputs, and their unit: that of a number, or the temperature of logits."""

from __future__ import annotations

import torch
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from hfft.errors import UserError
from hfft.layers import head_parameter_names


def output_layer(model: nn.Module) -> nn.Linear:
    """Return the head's linear layer with one output.

    Raises :class:`UserError` where there is none, or more than one, or where its weights lie in pieces.
    """
    if is_deepspeed_zero3_enabled():
        raise UserError("Regression is not trained under DeepSpeed ZeRO-3, where the last layer cannot be rescaled.")
    found = head_layers(model, 1)
    if len(found) != 1:
        raise UserError(
            f"--model: the head of a {type(model).__name__} has {len(found)} linear layers with one output, where "
            "regression needs one to put the unit of the numbers into."
        )
    return found[0]


def head_layers(model: nn.Module, outputs: int) -> list[nn.Linear]:
    """Return the head's linear layers with so many outputs, in order of registration."""
    head = set(head_parameter_names(model))
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == outputs and f"{name}.weight" in head
    ]


@torch.no_grad()
def rescale(layer: nn.Linear | nn.Conv2d, scale: float, shift: float) -> None:
    """Make the layer's output y become ``scale * y + shift``, which needs a bias unless ``shift`` is 0."""
    layer.weight.copy_(layer.weight.double() * scale)
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.double() * scale + shift)
