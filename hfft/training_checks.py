"""Which arguments of training can be meant, and which of them this machine and this launcher can have."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from hfft.adapters.settings import require_adapter_arguments
from hfft.errors import UserError
from hfft.hardware.launching import (
    require_all_processes,
    require_deepspeed,
    require_fsdp,
    require_one_world,
    require_plain_checkpointing,
    require_training,
    require_unfreezable,
    require_whole_model,
)
from hfft.strategies import load_strategy
from hfft.trackers import require_trackers
from hfft.values import require_choice, require_range

RANGES: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 0, "low_included": False},
    "head_learning_rate": {"low": 0, "low_included": False},
    "head_penalty": {"low": 0, "low_included": False},
    "layer_decay": {"low": 0, "high": 1, "low_included": False},
    "weight_decay": {"low": 0},
    "num_train_epochs": {"low": 0, "low_included": False},
    "epochs_per_group": {"low": 0, "low_included": False},
    "early_stopping_patience": {"low": 1},
    "cached_views": {"low": 1},
    "per_device_train_batch_size": {"low": 1},
    "per_device_eval_batch_size": {"low": 1},
    "gradient_accumulation_steps": {"low": 1},
    "warmup_steps": {"low": 0},
    "label_smoothing_factor": {"low": 0, "high": 1, "high_included": False},
    "max_grad_norm": {"low": 0},
    "adam_beta1": {"low": 0, "high": 1, "high_included": False},
    "adam_beta2": {"low": 0, "high": 1, "high_included": False},
    "adam_epsilon": {"low": 0, "low_included": False},
    "seed": {"low": 0, "high": 2**32 - 1},
    "data_seed": {"low": 0, "high": 2**32 - 1},
    "save_seconds": {"low": 0},
    "save_total_limit": {"low": 1},
    "dataloader_num_workers": {"low": 0},
    "max_steps": {"low": -1},
}

CHOICES = {
    "head_start": ("auto", "solved", "random"),
    "on_nan": ("error", "skip"),
    "calibration": ("none", "temperature"),
}


def require_meant(args: Any) -> None:
    """Check what does not depend on the machine.

    Args:
        args: :class:`hfft.FineTuningArguments` as they were given.

    Raises:
        UserError: for a value out of its range, an unknown name, and values that exclude each other.
    """
    for name, bounds in RANGES.items():
        require_range(args, name, **bounds)
    for f in dataclasses.fields(args):
        if isinstance(getattr(args, f.name), float):
            require_range(args, f.name)
    load_strategy(args.strategy)
    for name, known in CHOICES.items():
        require_choice(args, name, known)
    _require_of_strategy(args)
    if args.resume and args.overwrite:
        raise UserError("resume and overwrite exclude each other: go on with the old run, or replace it?")
    require_all_processes()
    require_deepspeed(args.deepspeed, args.uses_layerwise_rates)
    if load_strategy(args.strategy).gradual:
        require_unfreezable(args)
    elif args.freeze:
        require_plain_checkpointing(args, "freeze")
    pushes = str(getattr(args.hub_strategy, "value", args.hub_strategy))
    if args.push_to_hub and pushes != "end":
        raise UserError(
            f"hub_strategy {pushes} has no place here: a checkpoint holds pickles and, with pooling or numbers, a "
            "model that is not finished. Use end, which pushes the finished model."
        )


def require_possible(args: Any) -> None:
    """Check what this machine can do, and complete the arguments of adapters.

    Args:
        args: :class:`hfft.FineTuningArguments` after transformers' own checks, so that they know of devices and
            processes.

    Raises:
        UserError: for packages that are missing, and what a launcher, FSDP or DeepSpeed would not train as asked.
    """
    require_trackers(args.report_to or ())
    for name in ("lr_multipliers", "lr_scheduler_kwargs"):
        if not isinstance(getattr(args, name), dict | None):
            raise UserError(f'{name} must be names and values, such as {{"a": 1}}, got {getattr(args, name)!r}.')
    require_one_world(int(os.environ.get("WORLD_SIZE", "1")), args.world_size)
    require_fsdp(args)
    strategy = load_strategy(args.strategy)
    require_adapter_arguments(args, strategy)
    if not strategy.trains:
        require_training(args, strategy.name)
    if args.starts_solved:
        require_whole_model(args)


def _require_of_strategy(args: Any) -> None:
    """Raise :class:`UserError` for arguments that belong to another strategy, or to another start of the head."""
    strategy = load_strategy(args.strategy)
    if args.head_start == "random" and not strategy.trains:
        raise UserError(f"head_start random has no place in the strategy '{strategy.name}', which trains no head.")
    if args.head_penalty is not None and not args.starts_solved:
        raise UserError("head_penalty has no place where the head starts at random: it is that of a solved one.")
    if args.epochs_per_group is not None and not strategy.gradual:
        raise UserError(f"epochs_per_group has no place in the strategy '{strategy.name}': it belongs to gradual.")
