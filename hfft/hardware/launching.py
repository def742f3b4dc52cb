"""What a launcher was asked for, and whether a run can have it: what would silently train something else is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from hfft.errors import UserError, listed
from hfft.layers import blocks_of

_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_YES = ("1", "true", "yes", "on", "y", "t")  # as accelerate reads them


def require_one_world(launched: int, seen: int) -> None:
    """Raise :class:`UserError` where the launcher's processes do not belong to one training."""
    if launched != seen:
        raise UserError(
            f"The launcher started {launched} processes, but the training sees {seen}: they would train separate "
            "models. Start them with torchrun or `accelerate launch`, all on the same kind of device."
        )


def require_all_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Raise :class:`UserError` where ``accelerate launch`` was asked for several processes and started one.

    It does so without ``--multi_gpu``, which also the configurations of CPUs lack: it leaves the address where the
    processes would meet in the environment, and none of them a rank.
    """
    simple = "ACCELERATE_USE_CPU" in environment and "ACCELERATE_MIXED_PRECISION" in environment
    if simple and "MASTER_PORT" in environment and not any(name in environment for name in _RANKS):
        raise UserError(
            "`accelerate launch` was asked for several processes, but has started one: add --multi_gpu, which on a "
            "machine without GPUs starts processes on the CPU, or use torchrun. (For one process leave --num_processes "
            "out, and MASTER_PORT out of the environment.)"
        )


def require_fsdp(args: TrainingArguments, environment: Mapping[str, str] = os.environ) -> None:
    """Raise :class:`UserError` where FSDP is asked for in its first version, or could not be had.

    Args:
        args: after their own checks, so that they know of devices and processes.
        environment: in which ``accelerate launch`` leaves its settings.
    """
    launched = is_on(environment, "ACCELERATE_USE_FSDP")
    if not args.fsdp and not launched:
        return
    chosen = args.fsdp_plugin_args["fsdp_version"] if args.fsdp else int(environment.get("FSDP_VERSION", "1"))
    if chosen != 2:
        where = 'fsdp_config {"version": 2}' if args.fsdp else "fsdp_version: 2 in the configuration of the launcher"
        raise UserError(
            f"FSDP {chosen} flattens parameters, and layers can then have no learning rates of their own: choose FSDP2 "
            f"with {where}."
        )
    if args.parallel_mode.value != "distributed" or args.device.type == "cpu":
        raise UserError(
            "fsdp was asked for, but this run is on the CPU or was not started by a launcher, and nothing would be "
            "sharded: start it with torchrun or `accelerate launch` on GPUs, or leave fsdp out."
        )


def require_whole_model(args: TrainingArguments, environment: Mapping[str, str] = os.environ) -> None:
    """Raise :class:`UserError` where not each process has all weights before training, on which a head is solved."""
    settings = args.fsdp_config if args.fsdp else {}
    by_fsdp = is_on(settings, "cpu_ram_efficient_loading")
    if not args.fsdp and is_on(environment, "ACCELERATE_USE_FSDP"):
        by_fsdp = is_on(environment, "FSDP_CPU_RAM_EFFICIENT_LOADING")
    if by_fsdp:
        raise UserError(
            "A head cannot be solved where only the first process has the pretrained weights: set "
            "fsdp_cpu_ram_efficient_loading to false, or head_start to random."
        )
    if is_zero3():
        raise UserError(
            "A head cannot be solved where each process has only a part of the weights, as with ZeRO stage 3: set "
            "head_start to random, or take stage 2."
        )


def require_training(args: TrainingArguments, strategy: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise :class:`UserError` where FSDP or DeepSpeed is asked for, which prepare no model that is not trained."""
    if is_sharded(args, environment) or args.deepspeed or is_on(environment, "ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            f"FSDP and DeepSpeed have no place with {strategy}, which trains nothing that could be shared out: start "
            "it without them."
        )


def is_sharded(args: TrainingArguments, environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether no process has the whole model while it is trained: with FSDP and ZeRO stage 3."""
    return bool(args.fsdp) or is_on(environment, "ACCELERATE_USE_FSDP") or is_zero3()


def is_zero3() -> bool:
    """Say whether ZeRO stage 3 is on, with which a model is in parts from the moment it is loaded."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    return bool(is_deepspeed_zero3_enabled())


def require_deepspeed(
    deepspeed: dict[str, Any] | str | None, layerwise_rates: bool, environment: Mapping[str, str] = os.environ
) -> None:
    """Raise :class:`UserError` where DeepSpeed is asked for and is missing, or would take the optimizer into its hands.

    Args:
        deepspeed: the configuration that the run was given: its content, as JSON or not, or the path of its file.
        layerwise_rates: whether layers are to have learning rates of their own.
        environment: in which ``accelerate launch`` leaves the path of its own.
    """
    launched = is_on(environment, "ACCELERATE_USE_DEEPSPEED")
    if deepspeed is None and not launched:
        return
    if not _has_deepspeed():
        raise UserError("DeepSpeed was asked for and is not installed: `pip install deepspeed`, or choose FSDP2.")
    given = deepspeed if deepspeed is not None else environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if given in (None, "none") or not layerwise_rates:
        return
    where = "deepspeed" if not isinstance(given, str) or given.startswith("{") else f"deepspeed: {given}"
    own = [name for name in ("optimizer", "scheduler") if name in _read(given, where)]
    if own:
        raise UserError(
            f"{where} has the section {listed(own)}, with which DeepSpeed would give every layer the same learning "
            "rate: remove it, hfft makes both (or set layer_decay to 1 for one rate)."
        )


def require_unfreezable(args: TrainingArguments, what: str = "gradual") -> None:
    """Raise :class:`UserError` for settings with which layers cannot thaw in the course of a training.

    Args:
        args: those of the training.
        what: the strategy or callback, for the message.
    """
    require_plain_checkpointing(args, what)
    if args.ddp_static_graph:
        raise UserError(f"ddp_static_graph has no place with {what}: the graph changes with each thaw. Leave it out.")
    if args.ddp_find_unused_parameters is False:
        raise UserError(
            f"ddp_find_unused_parameters false has no place with {what}: frozen layers give no gradients to reduce. "
            "Leave it out, or set it to true."
        )


def require_plain_checkpointing(args: TrainingArguments, what: str) -> None:
    """Raise :class:`UserError` for reentrant activation checkpointing: above a frozen layer it loses the gradients."""
    # the second name is the old one of the first
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        options = getattr(args, name, None)
        if isinstance(options, str):
            options = _read(options, name)
        if options and options.get("use_reentrant"):
            raise UserError(
                f"{name}: with use_reentrant what stands above a frozen layer would silently not train. Leave it out "
                f"with {what}."
            )


def shard_blocks(plugin: Any, model: nn.Module) -> None:
    """Name the classes of the model's blocks to FSDP where the user does not.

    What models name themselves it cannot use: those of timm, in transformers, a class that they do not have, and BERT
    and its kin their embeddings, in which accelerate shards the table of tokens once more.

    Args:
        plugin: accelerate's ``FullyShardedDataParallelPlugin``.
        model: not yet wrapped.
    """
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    if plugin.auto_wrap_policy is not transformer_auto_wrap_policy or plugin.transformer_cls_names_to_wrap is not None:
        return
    classes = {type(block) for block in blocks_of(model)}
    # a plain layer's class is also that of its parts
    names = sorted(cls.__name__ for cls in classes if not cls.__module__.startswith("torch.nn"))
    plugin.transformer_cls_names_to_wrap = names or None


def is_on(settings: Mapping[str, Any], name: str) -> bool:
    """Say whether a switch is on, in an environment or a configuration."""
    return str(settings.get(name, "")).lower() in _YES


def _has_deepspeed() -> bool:
    from accelerate.utils import is_deepspeed_available

    return bool(is_deepspeed_available())


def _read(given: dict[str, Any] | str, name: str) -> dict[str, Any]:
    """Read a configuration, which may be given as its content or as the path of its file."""
    if isinstance(given, dict):
        return given
    try:
        read = json.loads(given if given.startswith("{") else Path(given).expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: '{given}' is neither JSON nor a file of it: {error}.") from error
    return dict(read)
