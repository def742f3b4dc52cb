"""From the arguments of a run to its layer-wise optimizer."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from hfft.adapters.models import lora_plus_multipliers
from hfft.errors import UserError
from hfft.optim import layerwise_optimizer
from hfft.optim.factory import IN_TRANSFORMERS, optimizer_of_arguments

if TYPE_CHECKING:
    from hfft.training_arguments import FineTuningArguments


def layerwise_optimizer_from_arguments(args: FineTuningArguments) -> tuple[type, dict[str, Any]]:
    """Return the layer-wise form of the optimizer that ``args.optim`` names.

    Raises :class:`UserError` for optimizers that insist on parameter groups of their own.
    """
    groups = group_arguments(args)
    if args.optim not in IN_TRANSFORMERS:
        return layerwise_optimizer(str(args.optim), **{**_options(args.optim_args), **groups})
    optimizer_class, options = optimizer_of_arguments(args)
    return layerwise_optimizer(optimizer_class, **{**options, **groups})


def group_arguments(args: FineTuningArguments) -> dict[str, Any]:
    """Return the arguments of :func:`hfft.layerwise_param_groups`."""
    assert not isinstance(args.lr_multipliers, str)  # read when the arguments were made
    multipliers = {**(args.lr_multipliers or {}), **lora_plus_multipliers(args.lora_plus_ratio)}
    return {
        "lr": args.learning_rate,
        "layer_decay": args.layer_decay,
        "weight_decay": args.weight_decay,
        "head_lr": args.head_learning_rate,
        "layer_patterns": args.layer_patterns,
        "lr_multipliers": multipliers or None,
    }


def _options(text: str | None) -> dict[str, Any]:
    """Read ``momentum=0.9,nesterov=True``, as transformers does for its own optimizers."""
    try:
        call = ast.parse(f"options({text or ''})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("a value without a name")
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise UserError(f"optim_args: '{text}' is not of the form name=value,name=value with plain values.") from error
