"""What a run says of its adapters, checked before anything slow: arguments and a PEFT configuration in a file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hfft.adapters.quantizing import require_quantizable
from hfft.errors import UserError, listed, nearest, one_line
from hfft.hardware.launching import is_sharded, require_plain_checkpointing
from hfft.paths import existing_path
from hfft.strategies import STRATEGIES, Strategy
from hfft.values import require_range

LORA = "LORA"
LORA_FIELDS = {"lora_rank": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
"""Arguments of a run, and what PEFT calls them."""

ADAPTER_ARGUMENTS = (
    *(*LORA_FIELDS, "lora_plus_ratio", "load_in_4bit"),
    *("adapter_config", "adapter_targets", "adapter_layers", "keep_adapter"),
)
"""Arguments that belong to strategies with adapters alone."""

_DEFAULT_RANK = 8
_ALPHA_OF_RANK = 2  # lora_alpha / r scales what an adapter adds
_LARGEST_FILE = 1_000_000  # bytes

# Fields of PEFT's configurations that hfft fills in, and what says the same here.
_FILLED_IN = {
    "target_modules": "use adapter_targets",
    "exclude_modules": "use adapter_targets",
    "target_parameters": "use adapter_targets",
    "layers_to_transform": "use adapter_layers",
    "layers_pattern": "use adapter_layers",
    "modules_to_save": "the head always trains whole, and nothing else does",
    "layer_replication": "what ships is the architecture of the base model",
    "inference_mode": "adapters are trained here",
}
_NOT_MERGED = (
    "gives a model something more to read, which cannot be merged into an ordinary model that pipeline() loads"
)
_UNFIT = {
    "ADALORA": "shares out its ranks in the course of training, which the Trainer has no place for",
    "XLORA": "mixes adapters that are there already",
    "ADAPTION_PROMPT": _NOT_MERGED,
}
_FIRST_SEE_DATA = ("eva", "corda", "lora_ga")  # ways to start LoRA that need a pass over the data of their own


def require_adapter_arguments(args: Any, strategy: Strategy) -> None:
    """Check and complete the arguments of adapters, in place; a file of ``adapter_config`` is read.

    Raises :class:`UserError` for what does not go together with the strategy, and for a configuration that PEFT has
    not, or that cannot be merged.
    """
    if strategy.adapter is None:
        given = [name for name in ADAPTER_ARGUMENTS if getattr(args, name) not in (None, False)]
        if given:
            own = [name for name, known in STRATEGIES.items() if known.adapter is not None]
            raise UserError(f"{given[0]} has no place in the strategy '{strategy.name}': it belongs to {listed(own)}.")
        return
    _require_frozen_trunk(args, strategy)
    for name, low in (("lora_rank", 1), ("lora_alpha", 0), ("lora_plus_ratio", 0)):
        require_range(args, name, low=low, low_included=low > 0)
    require_range(args, "lora_dropout", low=0, high=1, high_included=False)
    if isinstance(args.adapter_targets, str):
        args.adapter_targets = [args.adapter_targets]
    args.adapter_config = _read(args.adapter_config)
    fields = adapter_fields(args, strategy)
    if fields["peft_type"] == LORA:
        written = args.adapter_config or {}
        if args.lora_rank is None and "r" not in written:
            args.lora_rank = _DEFAULT_RANK
        if args.lora_alpha is None and "lora_alpha" not in written:
            args.lora_alpha = _ALPHA_OF_RANK * (args.lora_rank or int(written["r"]))
    elif lora := [name for name in (*LORA_FIELDS, "lora_plus_ratio") if getattr(args, name) is not None]:
        raise UserError(f"{lora[0]} has no place with {fields['peft_type']}: it belongs to LORA.")
    make_config(adapter_fields(args, strategy))
    if args.load_in_4bit:
        require_quantizable(args, fields, os.environ)


def _require_frozen_trunk(args: Any, strategy: Strategy) -> None:
    """Raise :class:`UserError` for arguments that say otherwise than that the trunk stays as it is, whole."""
    if args.freeze:
        raise UserError(
            f"freeze has no place in the strategy '{strategy.name}', in which all layers are frozen: adapter_layers "
            "and adapter_targets say which of them have adapters."
        )
    if not args.freeze_batch_norm:
        raise UserError(f"freeze_batch_norm false has no place in the strategy '{strategy.name}': the trunk is frozen.")
    require_plain_checkpointing(args, strategy.name)
    if is_sharded(args):
        raise UserError(
            f"The strategy '{strategy.name}' needs the whole model on each process, for adapters to be merged into it "
            "in the end: start it without FSDP and ZeRO stage 3, or take ZeRO stage 2."
        )


def adapter_fields(args: Any, strategy: Strategy) -> dict[str, Any]:
    """Return the fields of the PEFT configuration: those of the strategy, of ``adapter_config`` and of arguments.

    Raises :class:`UserError` where they contradict each other.
    """
    fields: dict[str, Any] = dict(strategy.adapter or {})
    for name, value in (args.adapter_config or {}).items():
        value = value.upper() if name == "peft_type" and isinstance(value, str) else value
        if name in ("peft_type", "use_dora") and fields.get(name, value) != value:
            raise UserError(
                f"adapter_config: {name} {value} is not what the strategy '{strategy.name}' is: take --strategy peft."
            )
        fields[name] = value
    if "peft_type" not in fields:
        raise UserError(
            f"The strategy '{strategy.name}' needs adapter_config with a peft_type: a YAML or JSON file such as "
            "'peft_type: LOHA'."
        )
    for name, field in LORA_FIELDS.items():
        value = getattr(args, name)
        if value is not None:
            if fields.get(field, value) != value:
                raise UserError(
                    f"adapter_config says {field}: {fields[field]}, and {name} is {value}: keep one of them."
                )
            fields[field] = value
    return fields


def make_config(fields: Mapping[str, Any]) -> Any:
    """Return the ``PeftConfig`` of these fields.

    Raises :class:`UserError` for a type or a field that PEFT does not have, values that it refuses, and types that
    cannot be trained by a plain loop or merged.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(kind.value): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = fields["peft_type"]
    if kind not in known:
        raise UserError(f"adapter_config: PEFT has no type '{kind}'.{nearest(kind, known)} Known: {listed(known, 60)}.")
    if kind in _UNFIT:
        raise UserError(f"adapter_config: {kind} {_UNFIT[kind]}.")
    names = {field.name for field in dataclasses.fields(known[kind]) if field.init}
    for name in fields:
        if name not in names:
            raise UserError(f"adapter_config: {kind} has no field '{name}'.{nearest(name, names)}")
    if fields.get("init_lora_weights") in _FIRST_SEE_DATA:
        raise UserError(
            f"adapter_config: init_lora_weights {fields['init_lora_weights']} needs a pass over the data before "
            "training, which hfft does not make."
        )
    try:
        config = known[kind](**fields)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"adapter_config: {kind} cannot be set up: {one_line(error)}") from error
    if config.is_prompt_learning:
        raise UserError(f"adapter_config: {kind} {_NOT_MERGED}.")
    return config


def _read(given: Any) -> dict[str, Any] | None:
    """Return the fields that a file holds, or that were given themselves; those that say nothing are left out."""
    if given is None:
        return None
    fields = _read_file(given) if isinstance(given, str | Path) else given
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise UserError(f"adapter_config must hold names and values of a PEFT configuration, got {fields!r}.")
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, instead in _FILLED_IN.items():
        if fields.pop(name, None):
            raise UserError(f"adapter_config: {name} has no place here: {instead}.")
    return fields


def _read_file(path: str | Path) -> Any:
    file = existing_path(path, "--adapter_config")
    if not file.is_file() or file.stat().st_size > _LARGEST_FILE:
        raise UserError(f"--adapter_config: '{path}' is no YAML or JSON file of at most {_LARGEST_FILE:,} bytes.")
    try:
        text = file.read_text("utf-8")
        return json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"--adapter_config: '{path}' cannot be read: {one_line(error)}") from error
