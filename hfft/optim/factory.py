"""Optimizer factories for the Trainer's own slot, ``Trainer(optimizer_cls_and_kwargs=...)``.

The Trainer instantiates what is no ``Optimizer`` subclass and calls it with the model, at the moment when it builds
the optimizer. So the groups are made from the model that is really trained, and ``model_init`` and FSDP2 work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

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
        groups = layerwise_param_groups(model, **group_arguments)
        parameters = [parameter for group in groups for parameter in group["params"]]
        options = {**_fastest_kernel(optimizer_class, parameters), **optimizer_arguments}
        try:
            return optimizer_class(groups, **options)
        except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
            # such as "CUDA required", an option that it does not have, a value that cannot be
            name = getattr(optimizer_class, "__name__", str(optimizer_class))
            raise UserError(f"The optimizer {name} cannot be made: {error}.") from error


def layerwise_optimizer(
    optimizer: str | OptimizerClass,
    *,
    lr: float,
    layer_decay: float = 0.75,
    weight_decay: float = 0.0,
    head_lr: float | None = None,
    layer_patterns: Sequence[str] | None = None,
    lr_multipliers: Mapping[str, float] | None = None,
    **optimizer_arguments: Any,
) -> tuple[type[LayerwiseOptimizerFactory], dict[str, Any]]:
    """Return the value for ``Trainer(optimizer_cls_and_kwargs=...)``.

    Plain convolutional nets are often trained better by ``"sgd"`` with ``momentum=0.9``, at rates a hundred times those
    of Adam.

    Args:
        optimizer: an optimizer class, the lower-case name of torch's ("adamw", "sgd"), a name of timm's registry
            ("lamb", "lion", ...), or an ``optim`` name of transformers' TrainingArguments ("adamw_8bit", ...).
        lr: learning rate of the head.
        layer_decay: factor from one layer group to the next lower one.
        weight_decay: of the parameters that are decayed.
        head_lr: learning rate of the head, if it is not ``lr``.
        layer_patterns: see :meth:`hfft.LayerStack.from_model`.
        lr_multipliers: see :func:`layerwise_param_groups`.
        **optimizer_arguments: what else the optimizer takes (``betas``, ``momentum``, ``fused``, ...).

    Raises:
        UserError: for an unknown name, and for optimizers that insist on parameter groups of their own.
    """
    groups = {
        "lr": lr,
        "layer_decay": layer_decay,
        "weight_decay": weight_decay,
        "head_lr": head_lr,
        "layer_patterns": layer_patterns,
        "lr_multipliers": lr_multipliers,
    }
    optimizer_class, defaults = _optimizer_class(optimizer) if isinstance(optimizer, str) else (optimizer, {})
    return LayerwiseOptimizerFactory, {
        "optimizer_class": optimizer_class,
        "group_arguments": groups,
        # also as the default of the optimizer, for what reads `optimizer.defaults["lr"]`
        "optimizer_arguments": {**defaults, "lr": lr, **optimizer_arguments},
    }


def require_optimizer(args: TrainingArguments) -> tuple[Any, dict[str, Any]]:
    """Return class, or factory, and options of the optimizer that ``args.optim`` names.

    Raises :class:`UserError` where a package is missing, or ``optim_args`` cannot be read.
    """
    try:
        return Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:
        name = getattr(args.optim, "value", args.optim)
        raise UserError(f"optim: {name} cannot be used: {error}") from error


def optimizer_of_arguments(args: TrainingArguments) -> tuple[OptimizerClass, dict[str, Any]]:
    """Return class and options of the optimizer that ``args.optim`` names.

    Raises :class:`UserError` for optimizers that insist on parameter groups of their own.
    """
    name = str(getattr(args.optim, "value", args.optim))
    optimizer_class, options = require_optimizer(args)
    own_groups = {"params", "model", "optimizer_dict"} & options.keys()
    if own_groups or not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        raise UserError(
            f"optim: {name} makes its own parameter groups, which leaves no room for layer-wise learning rates. Choose "
            "another optimizer, or set layer_decay to 1."
        )
    return optimizer_class, options


_TORCH = {
    key.lower(): value
    for key, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
}
del _TORCH["muon"]  # takes matrices only; timm's gives the other parameters to AdamW
_UNFIT = {"lbfgs": "takes a single parameter group", "sparseadam": "takes sparse gradients only"}
IN_TRANSFORMERS = tuple(name.value for name in OptimizerNames)


def require_known_optimizer(name: str) -> None:
    """Raise :class:`UserError` for a name that neither torch nor timm nor transformers knows."""
    if name in _TORCH or name in IN_TRANSFORMERS:
        return  # without timm, which takes 40 MB of memory that texts have no use for
    from timm.optim import list_optimizers

    known = [*_TORCH, *list_optimizers(), *IN_TRANSFORMERS]
    if name not in known:
        raise UserError(f"There is no optimizer '{name}'.{nearest(name, known)}")


def _optimizer_class(name: str) -> tuple[OptimizerClass, dict[str, Any]]:
    """Find torch's own optimizers with torch's own defaults first, then those of timm, then those of transformers."""
    require_known_optimizer(name)
    if name in _UNFIT:
        raise UserError(f"optim: {name} {_UNFIT[name]}, which leaves no room for layer-wise learning rates.")
    if name in _TORCH:
        return _TORCH[name], {}
    from timm.optim import get_optimizer_class, get_optimizer_info, list_optimizers

    if name in list_optimizers():
        info = get_optimizer_info(name)
        if info.second_order:
            raise UserError(f"optim: {name} needs second derivatives, which the Trainer does not take.")
        try:
            return get_optimizer_class(name), {"momentum": 0.9} if info.has_momentum else {}  # as timm has it
        except (AssertionError, ImportError) as error:  # such as "CUDA required"
            raise UserError(f"optim: {name} cannot be used: {error}.") from error
    return optimizer_of_arguments(TrainingArguments(optim=name, use_cpu=not torch.accelerator.is_available()))


def _fastest_kernel(optimizer_class: OptimizerClass, parameters: list[nn.Parameter]) -> dict[str, Any]:
    """Return ``fused=True`` where the optimizer has fused kernels for where the parameters are."""
    takes = inspect.signature(optimizer_class).parameters
    on_device = all(parameter.device.type == "cuda" and parameter.is_floating_point() for parameter in parameters)
    return {"fused": True} if "fused" in takes and parameters and on_device else {}
