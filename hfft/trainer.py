"""FineTuningTrainer: transformers' Trainer with layer-wise learning rates and hfft's metrics."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from hfft.errors import UserError
from hfft.optim import layerwise_optimizer
from hfft.strategies import load_strategy
from hfft.training_arguments import FineTuningArguments


class FineTuningTrainer(Trainer):
    """A Trainer that reads :class:`FineTuningArguments`; everything else is the Trainer's own."""

    args: FineTuningArguments

    def __init__(self, model: Any = None, args: FineTuningArguments | None = None, **kwargs: Any) -> None:
        args = args if args is not None else FineTuningArguments()
        layerwise = load_strategy(args.strategy).layerwise and (
            args.layer_decay != 1 or args.head_learning_rate is not None
        )
        if layerwise and kwargs.get("optimizers") is None and kwargs.get("optimizer_cls_and_kwargs") is None:
            kwargs["optimizer_cls_and_kwargs"] = layerwise_optimizer_from_arguments(args)
        super().__init__(model=model, args=args, **kwargs)
        if args.early_stopping_patience is not None and self.eval_dataset is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        """Put what is frozen into eval mode.

        The Trainer enters this context before each forward pass, after it has put the whole model into train mode;
        a callback would come too early.
        """
        if self.args.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return super().compute_loss_context_manager()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and processor as the Trainer does, without the pickled arguments beside them."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir if output_dir is not None else str(self.args.output_dir))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)


def layerwise_optimizer_from_arguments(args: FineTuningArguments) -> tuple[type, dict[str, Any]]:
    """Return the layer-wise form of the optimizer that ``args.optim`` names.

    Raises :class:`UserError` for optimizers that insist on parameter groups of their own.
    """
    optimizer_class, arguments = Trainer.get_optimizer_cls_and_kwargs(args)
    own_groups = {"params", "model", "optimizer_dict"} & arguments.keys()
    if own_groups or not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        raise UserError(
            f"optim: {args.optim} makes its own parameter groups, which leaves no room for layer-wise learning "
            "rates. Choose another optimizer, or set layer_decay to 1."
        )
    return layerwise_optimizer(
        optimizer_class,
        layer_decay=args.layer_decay,
        weight_decay=args.weight_decay,
        head_lr=args.head_learning_rate,
        **arguments,
    )
