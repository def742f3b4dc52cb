"""Optimizer factories for the Trainer's own slot, ``Trainer(optimizer_cls_and_kwargs=...)``.

The Trainer instantiates what is no ``Optimizer`` subclass and calls it with the model, at the moment when it builds
the optimizer. So the groups are made from the model that is really trained, and ``model_init`` and FSDP2 work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hfft.errors import UserError, nearest
from hfft.optim.param_groups import layerwise_param_groups

OptimizerClass = Callable[..., torch.optim.Optimizer]


class LayerwiseOptimizerFactory:
    """Builds an optimizer with layer-wise parameter groups; made for ``optimizer_cls_and_kwargs``."""

    def __call__(
        self,
        model: nn.Module,
        optimizer_class: OptimizerClass,
        group_arguments: dict[str, Any],
        optimizer_arguments: dict[str, Any],
    ) -> torch.optim.Optimizer:
        """Return ``optimizer_class`` over :func:`layerwise_param_groups` of ``model``."""
        return optimizer_class(layerwise_param_groups(model, **group_arguments), **optimizer_arguments)


def layerwise_optimizer(
    optimizer: str | OptimizerClass,
    *,
    lr: float,
    layer_decay: float = 0.75,
    weight_decay: float = 0.0,
    head_lr: float | None = None,
    layer_patterns: Sequence[str] | None = None,
    **optimizer_arguments: Any,
) -> tuple[type[LayerwiseOptimizerFactory], dict[str, Any]]:
    """Return the value for ``Trainer(optimizer_cls_and_kwargs=...)``.

    Args:
        optimizer: an optimizer class, the lower-case name of torch's ("adamw", "sgd"), or a name of timm's registry
            ("lamb", "lion", ...).
        lr: learning rate of the head.
        layer_decay: factor from one layer group to the next lower one.
        weight_decay: of the parameters that are decayed.
        head_lr: learning rate of the head, if it is not ``lr``.
        layer_patterns: see :meth:`hfft.LayerStack.from_model`.
        **optimizer_arguments: what else the optimizer takes (``betas``, ``momentum``, ``fused``, ...).

    Raises:
        UserError: for a name that the registry does not know.
    """
    groups = {
        "lr": lr,
        "layer_decay": layer_decay,
        "weight_decay": weight_decay,
        "head_lr": head_lr,
        "layer_patterns": layer_patterns,
    }
    return LayerwiseOptimizerFactory, {
        "optimizer_class": _optimizer_class(optimizer) if isinstance(optimizer, str) else optimizer,
        "group_arguments": groups,
        # also as the default of the optimizer, for what reads `optimizer.defaults["lr"]`
        "optimizer_arguments": {"lr": lr, **optimizer_arguments},
    }


def _optimizer_class(name: str) -> OptimizerClass:
    """Find torch's own optimizers with torch's own defaults first, then those of timm's registry."""
    from timm.optim import get_optimizer_class, list_optimizers

    in_torch = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    if name in in_torch:
        return in_torch[name]
    if name not in list_optimizers():
        raise UserError(f"There is no optimizer '{name}'.{nearest(name, [*in_torch, *list_optimizers()])}")
    return get_optimizer_class(name)
