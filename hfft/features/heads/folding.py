"""A solved head put into a model's own classifier, through a hidden layer if there is one."""

from __future__ import annotations

import torch
from torch import nn

from hfft.features.heads.classifier import HiddenLayer
from hfft.features.heads.linear import LinearHead

_CUBIC_ERROR = 1e-5


@torch.no_grad()
def install_head(layer: nn.Linear | nn.Conv2d, head: LinearHead) -> None:
    """Copy a head into the last linear layer of a model (a 1x1 convolution too)."""
    layer.weight.copy_(head.weight.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(head.bias)
    elif head.bias.any():
        raise ValueError("the layer has no bias and the head has one: solve it with intercept=False")


def can_fold(hidden: HiddenLayer, classes: int) -> bool:
    """Say whether :func:`fold_head` can put a head for so many classes through the hidden layer."""
    units = classes if hidden.activation == "tanh" else 2 * classes
    return hidden.dense.bias is not None and units <= hidden.dense.out_features


def can_pass_on(hidden: HiddenLayer) -> bool:
    """Say whether :func:`near_identity` can let the hidden layer hand its input on."""
    dense = hidden.dense
    return hidden.activation == "tanh" and dense.in_features == dense.out_features and dense.bias is not None


@torch.no_grad()
def fold_head(head: LinearHead, hidden: HiddenLayer, layer: nn.Linear, features: torch.Tensor) -> None:
    """Make ``layer(activation(dense(x)))`` equal ``head(x)``, where ``head`` was solved on what ``dense`` sees.

    relu, gelu and silu: two units a class, which hold z and -z for the logit z. f(z) - f(-z) = z for every
    f(z) = z s(z) with s(z) + s(-z) = 1, so this is exact. tanh: one unit a class, which holds e z, for
    tanh(e z) / e = z - e^2 z^3 / 3 + ...; e is such that the error is 1e-5 of the largest logit. Such a small e ships
    well and trains badly, for the layers differ in scale: before further training use :func:`near_identity`.

    Units that are left over keep their weights; the last layer does not read them yet.

    Args:
        head: solved on the input of ``hidden.dense``.
        hidden: the hidden layer, changed in place.
        layer: the last layer, changed in place.
        features: (examples, dims) that tell how large the logits are.

    Raises ``ValueError`` where :func:`can_fold` says no.
    """
    classes = len(head.weight)
    if not can_fold(hidden, classes):
        raise ValueError(f"{hidden.dense.out_features} hidden units are too few for {classes} classes")
    dense, identity = hidden.dense, torch.eye(classes, dtype=layer.weight.dtype, device=layer.weight.device)
    weight, bias = head.weight.to(dense.weight), head.bias.to(dense.weight)
    layer.weight.zero_()
    if layer.bias is not None:
        layer.bias.zero_()
    if hidden.activation == "tanh":
        largest = float(head(features.to(head.weight.device)).abs().max())
        factor = (3 * _CUBIC_ERROR) ** 0.5 / max(largest, 1.0)
        dense.weight[:classes], dense.bias[:classes] = factor * weight, factor * bias
        layer.weight[:, :classes] = identity / factor
        return
    dense.weight[: 2 * classes] = torch.cat([weight, -weight])
    dense.bias[: 2 * classes] = torch.cat([bias, -bias])
    layer.weight[:, : 2 * classes] = torch.cat([identity, -identity], dim=1)


@torch.no_grad()
def near_identity(hidden: HiddenLayer, features: torch.Tensor) -> torch.Tensor:
    """Let a tanh layer hand its input on almost as it is, and return what the last layer then sees.

    The weights become a multiple of the identity that brings the centred features to a deviation of 0.3, where tanh is
    almost straight. A head that is solved on the result is exact in the model, and both layers have weights of a size
    that trains well.

    Args:
        hidden: the hidden layer, changed in place.
        features: (examples, dims), the input of ``hidden.dense``.

    Returns:
        (examples, units) features for the last layer.

    Raises ``ValueError`` where :func:`can_pass_on` says no.
    """
    if not can_pass_on(hidden):
        raise ValueError("only a square tanh layer with a bias can hand its input on")
    dense, centre = hidden.dense, features.mean(dim=0)
    factor = 0.3 / float((features - centre).square().mean().sqrt().clamp(min=1e-6))
    dense.weight.copy_(factor * torch.eye(dense.in_features))
    dense.bias.copy_(-factor * centre)
    return torch.tanh(dense(features.to(dense.weight)))
