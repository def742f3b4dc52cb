"""What gradual unfreezing refuses when training begins: what would never train, and what processes would wait for."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainingArguments

from hfft.errors import UserError, listed
from hfft.layers import LayerStack


def require_in_optimizer(stack: LayerStack, members: list[list[nn.Parameter]], optimizer: Any) -> None:
    """Raise :class:`UserError` where the optimizer lacks parameters that a layer group trains once it has thawed.

    Args:
        stack: the layers.
        members: of each of its groups the parameters that are not frozen for good.
        optimizer: any, also DeepSpeed's, which holds copies.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    layers = {group.get("layer") for group in optimizer.param_groups}
    if any(id(parameter) in held for parameters in members for parameter in parameters):
        layers = set()
    elif any(members) and layers <= {None}:
        raise UserError(
            "The optimizer holds copies of the parameters, as DeepSpeed's do, and does not say which layers they are "
            "of: make it with hfft.layerwise_optimizer, and leave optimizer out of DeepSpeed's configuration."
        )
    missing = [
        group.name
        for group, parameters in zip(stack, members, strict=True)
        if group.name not in layers and any(id(parameter) not in held for parameter in parameters)
    ]
    if missing:
        raise UserError(
            f"The optimizer does not hold the parameters of {listed(missing)}, so they would never train. Leave all "
            "parameters trainable until the trainer has made its optimizer; GradualUnfreezing freezes them."
        )
    if not any(members):
        raise UserError("No parameter requires a gradient, so there is nothing to unfreeze.")


def require_search_for_unused(args: TrainingArguments) -> None:
    """Raise :class:`UserError` where DistributedDataParallel would wait for the gradients of frozen layers."""
    is_ddp = args.distributed_state is not None and args.distributed_state.distributed_type.value.startswith("MULTI_")
    if args.ddp_find_unused_parameters is None and args.activation_checkpointing and is_ddp:
        raise UserError(
            "Gradual unfreezing on several processes with activation checkpointing needs ddp_find_unused_parameters "
            "true, which the Trainer else turns off."
        )
