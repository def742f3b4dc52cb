"""Where adapters stand: the dense layers of a model's blocks, found through its LayerStack."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hfft.errors import UserError, listed
from hfft.layers import LayerGroup, LayerStack
from hfft.layers.groups import HEAD, STEM
from hfft.patterns import compiled


def find_targets(
    model: nn.Module,
    stack: LayerStack,
    patterns: Sequence[str] | None = None,
    layers: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> tuple[list[str], list[str]]:
    """Return the paths of the modules that get adapters, and of those that would have if the model called them.

    Args:
        model: not yet wrapped.
        stack: its layers.
        patterns: regular expressions of module paths (``re.search``); left out, the linear layers and the convolutions
            that mix all channels.
        layers: which blocks, see :func:`chosen_layers`.
        inputs: a small batch that the model is run on: some read the weights of a layer without calling it, where an
            adapter would silently have no effect. Left out, all count as called.

    Raises:
        UserError: where nothing is left.
    """
    expressions = None if patterns is None else [compiled(pattern, "adapter_targets") for pattern in patterns]
    allowed = {name for group in chosen_layers(stack, layers) for name in group.parameter_names}
    found = [
        path
        for path, module in model.named_modules()
        if (own := [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)])
        and allowed.issuperset(own)
        and (_is_dense(module) if expressions is None else any(expression.search(path) for expression in expressions))
    ]
    where = "the layers of the model" if layers is None else f"the layers {layers}"
    if not found:
        asked = "no linear layer or convolution" if patterns is None else f"nothing that matches {listed(patterns)}"
        inside = [path for path, module in model.named_modules() if path and next(module.children(), None) is None]
        raise UserError(f"adapter_targets: {where} have {asked}. There are {listed(inside, 12)}.")
    called = set(found) if inputs is None else _called(model, found, inputs)
    if not called:
        raise UserError(
            f"adapter_targets: the model reads the weights of {listed(found, 3)} without calling them: adapters there "
            "would have no effect."
        )
    return [path for path in found if path in called], [path for path in found if path not in called]


def chosen_layers(stack: LayerStack, layers: str | None) -> list[LayerGroup]:
    """Return the layer groups between stem and head that ``layers`` names.

    Args:
        stack: all layer groups.
        layers: ``"4"`` for the last four, ``"6-11"`` for a range counted from 0 at the input; ``None`` for all.

    Raises:
        UserError: for anything else, and for a range that the model does not have.
    """
    between = [group for group in stack if group.name not in (STEM, HEAD)]
    if layers is None:
        return between
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(layers).strip())
    last = len(between) - 1
    if match is None:
        raise UserError(
            f"adapter_layers must be a number (of the last layers) or a range such as 6-11, got '{layers}'."
        )
    low, high = int(match[1]), int(match[2]) if match[2] else last
    if match[2] is None:
        low = len(between) - int(match[1])
    if not 0 <= low <= high <= last:
        raise UserError(f"adapter_layers: the model has the layers 0-{last} between stem and head, got '{layers}'.")
    return between[low : high + 1]


def head_modules(model: nn.Module, stack: LayerStack) -> list[str]:
    """Return the modules that hold the head's parameters."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in stack.head.parameter_names))


def _is_dense(module: nn.Module) -> bool:
    """Say whether a layer multiplies its inputs with one matrix; depthwise convolutions do not mix channels."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D) or (isinstance(module, nn.Conv2d) and module.groups == 1)


@torch.no_grad()
def _called(model: nn.Module, paths: Sequence[str], inputs: Mapping[str, Any]) -> set[str]:
    """Return which modules the model calls on a batch."""
    called: set[str] = set()
    was_training = model.training
    hooks = [model.get_submodule(path).register_forward_hook(lambda *_, path=path: called.add(path)) for path in paths]
    try:
        model.eval()(**inputs)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return called
