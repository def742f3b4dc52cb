"""Dropout, stochastic depth and patch dropout, under whatever names a model's configuration has them.

They act in training alone. What ships keeps them in its configuration, as every model of transformers does: whoever
trains it further goes on with the same rates.
"""

from __future__ import annotations

import copy
import inspect
import re
from typing import TYPE_CHECKING, Any

from hfft.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfft.arguments import ModelArguments

_DROPOUT = re.compile(r"(?!qa_).*(dropout|pdrop).*|(attention_)?drop_rate|drop_(mlp|conv_encoder)_rate")
_DROP_PATH = re.compile(r"drop_path_rate|drop_connect_rate")
_TIMM_DROPOUT = re.compile(r"(attn_|proj_)?drop_rate")
_PATCH_DROP = re.compile(r"patch_drop_rate")
# argument -> fields of a configuration, options of timm's architectures, and what it is
_PATTERNS = {
    "dropout": (_DROPOUT, _TIMM_DROPOUT, "dropout"),
    "drop_path_rate": (_DROP_PATH, _DROP_PATH, "stochastic depth"),
    "patch_drop_rate": (_PATCH_DROP, _PATCH_DROP, "patch dropout"),
}
# DiffLlama raises for any, MPT allows whole numbers alone, PP-LCNet scales what it answers by it.
_WITHOUT_DROPOUT = frozenset({"diffllama", "mpt", "pp_lcnet"})
# SAM reads its patches in windows, and needs every one of them; in a distilled DeiT timm 1.0.31 takes the token that is
# to be distilled into for a patch.
_WITHOUT_PATCH_DROP = frozenset({"VisionTransformerSAM", "VisionTransformerDistilled"})
_TIMM = "timm_wrapper"
_ARCHITECTURE_OPTIONS = "model_args"  # of timm's create_model, in the configuration of such a model


def changed_rates(config: PretrainedConfig, arguments: ModelArguments) -> dict[str, Any]:
    """Return what ``dropout`` and the rates by its side change of a configuration, as its loader takes it.

    Dropout is that of hidden states, attention and classifier alike (Srivastava et al. 2014); the rate of stochastic
    depth (Huang et al. 2016, arXiv:1603.09382) is that of the last block, and in most models less towards the input;
    patch dropout (Liu et al. 2023, arXiv:2208.07220) leaves patches of each picture out before the first block.

    Returns:
        name of a field -> value; a configuration within the configuration is given whole.

    Raises:
        UserError: for a model that has none.
    """
    changes: dict[str, Any] = {}
    is_timm = config.model_type == _TIMM
    for name, rate in arguments.rates().items():
        pattern, of_timm, what = _PATTERNS[name]
        found = _timm_options(config, of_timm, rate) if is_timm else _fields(config, pattern, rate)
        if not found:
            architecture = config.architecture if is_timm else config.model_type
            raise UserError(f"{name}: a model of the architecture {architecture} has no {what}. Leave {name} out.")
        changes = _merged(changes, found)
    return changes


def with_changed_rates(config: PretrainedConfig, arguments: ModelArguments) -> PretrainedConfig:
    """Return a copy of the configuration with what :func:`changed_rates` changes."""
    changed = copy.deepcopy(config)
    for name, value in changed_rates(config, arguments).items():
        own = getattr(changed, name)
        is_config = isinstance(value, dict) and hasattr(own, "to_dict")
        setattr(changed, name, type(own)(**{**own.to_dict(), **value}) if is_config else value)
    return changed


def without_rates(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration without the rates, which make no difference to what a model answers."""
    if settings.get("model_type") in _WITHOUT_DROPOUT:
        return settings
    kept = {
        name: without_rates(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if not any(pattern.fullmatch(str(name)) for pattern in (_DROPOUT, _DROP_PATH, _TIMM_DROPOUT, _PATCH_DROP))
    }
    if not kept.get(_ARCHITECTURE_OPTIONS, True):
        del kept[_ARCHITECTURE_OPTIONS]  # nothing but rates
    return kept


def is_for_training(module: Any) -> bool:
    """Say whether a module does nothing in evaluation: dropout of any kind, stochastic depth, or none."""
    from torch import nn
    from torch.nn.modules.dropout import _DropoutNd

    return isinstance(module, nn.Identity | _DropoutNd) or type(module).__name__.endswith(
        ("DropPath", "PatchDropout", "PatchDropoutWithIndices")
    )


def _fields(config: PretrainedConfig, pattern: re.Pattern[str], rate: float) -> dict[str, Any]:
    """Return the fields of a configuration, and those of the configurations within, with the rate."""
    found: dict[str, Any] = {}
    if config.model_type in _WITHOUT_DROPOUT:
        return found
    for name, value in config.to_dict().items():
        wanted = [rate] * len(value) if isinstance(value, list | tuple) else rate  # one for each stage
        if pattern.fullmatch(name) and not isinstance(value, bool) and _takes(config, name, wanted):
            found[name] = wanted
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        inside = _fields(part, pattern, rate) if part is not None else {}
        if part is not None and inside:
            found[name] = _merged(part.to_dict(), inside)
    return found


def _takes(config: PretrainedConfig, name: str, value: Any) -> bool:
    """Say whether the type of a field allows the value: some rates are declared to be whole numbers."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        setattr(copy.copy(config), name, value)
    except StrictDataclassError:
        return False
    return True


def _timm_options(config: Any, pattern: re.Pattern[str], rate: float) -> dict[str, Any]:
    """Return the options of timm's architecture with the rate in those that its class names."""
    import timm
    import torch

    options = dict(config.model_args or {})
    with torch.device("meta"):
        model = timm.create_model(config.architecture, pretrained=False, **options)
    makers = [vars(base)["__init__"] for base in type(model).__mro__ if "__init__" in vars(base)]
    known = {name: None for maker in makers for name in inspect.signature(maker).parameters}
    if type(model).__name__ in _WITHOUT_PATCH_DROP:
        known.pop("patch_drop_rate", None)
    found = {name: rate for name in known if pattern.fullmatch(name)}
    return {_ARCHITECTURE_OPTIONS: {**options, **found}} if found else {}


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return both, dictionaries in them merged likewise."""
    merged = dict(first)
    for name, value in second.items():
        own = merged.get(name)
        merged[name] = _merged(own, value) if isinstance(own, dict) and isinstance(value, dict) else value
    return merged
