"""Where the trunk of a model ends and its head begins."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


def head_parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the classifier's parameters, in order of registration.

    In a timm model that is what ``get_classifier`` says; in a transformers model what lies outside its base model.
    """
    inner, prefix = without_adapters(model)
    timm_model, timm_prefix = timm_model_in(inner)
    if timm_model is not None:
        classifier = timm_model.get_classifier()
        modules = classifier if isinstance(classifier, tuple | list) else (classifier,)
        in_head = {id(parameter) for module in modules for parameter in module.parameters()}
        timm_prefix = prefix + timm_prefix
        return [timm_prefix + name for name, parameter in timm_model.named_parameters() if id(parameter) in in_head]
    trunk_prefix = trunk_prefix_of(inner)
    if not trunk_prefix:
        return []
    return [prefix + name for name, _ in inner.named_parameters() if not name.startswith(trunk_prefix)]


def without_adapters(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the model that PEFT wraps, which holds the adapters' parameters as well, and its parameters' prefix."""
    peft = sys.modules.get("peft")  # a model that it wraps has imported it
    if peft is None or not isinstance(model, peft.PeftModel):
        return model, ""
    inner = model.get_base_model()
    return inner, next(path for path, module in model.named_modules() if module is inner) + "."


def trunk_prefix_of(model: nn.Module) -> str:
    """Return the prefix of the base model's parameters, empty where the model has no base model."""
    name = getattr(model, "base_model_prefix", "")
    return f"{name}." if name and isinstance(getattr(model, name, None), nn.Module) else ""


def timm_model_in(model: nn.Module) -> tuple[Any, str]:
    """Return the timm model in ``model`` and the prefix of its parameter names, or ``None``."""
    for prefix, candidate in (("", model), ("timm_model.", getattr(model, "timm_model", None))):
        if candidate is not None and hasattr(candidate, "get_classifier"):
            return candidate, prefix
    return None, ""
