"""Parameter groups with a real learning rate for each layer.

Discriminative rates are from Howard & Ruder 2018 (ULMFiT, arXiv:1801.06146, section 3.2); the geometric decay from
the head down is that of ELECTRA (arXiv:2003.10555) and BEiT (arXiv:2106.08254):

    lr(group i of n) = lr * layer_decay ** (n - 1 - i)
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hfft.errors import UserError, listed
from hfft.layers import LayerStack
from hfft.layers.shapes import is_matrix
from hfft.patterns import compiled

# What transformers' Trainer does not decay, by name, and factors of adapters that are not 0 where they change nothing.
_NO_DECAY_NAME = re.compile(
    r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)|ia3_l\.|magnitude_vector", re.IGNORECASE
)


def layerwise_param_groups(
    model: nn.Module,
    lr: float,
    layer_decay: float = 0.75,
    weight_decay: float = 0.0,
    head_lr: float | None = None,
    layer_patterns: Sequence[str] | None = None,
    lr_multipliers: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for ``torch.optim``, input first, head last, with the decayed rate in ``lr``.

    The rates are plain ``lr`` entries, so every scheduler that multiplies them keeps their ratios. Each layer gives
    at most two groups, with and without weight decay; biases, norms, every other parameter of one dimension, what
    the model lists in ``no_weight_decay()``, and what transformers' Trainer leaves out are not decayed. Only
    parameters that require a gradient now are grouped, and no group is empty.

    Args:
        model: any model that :class:`LayerStack` can order.
        lr: learning rate of the head.
        layer_decay: factor from one layer group to the next lower one; 1 gives all the same rate and needs no order.
        weight_decay: of the parameters that are decayed.
        head_lr: learning rate of the head, if it is not ``lr``.
        layer_patterns: see :meth:`LayerStack.from_model`.
        lr_multipliers: regular expression of parameter names -> what their rate is multiplied by, the first one that
            matches (``re.search``): ``{"embeddings": 0, r"layer\\.11\\.": 2.0}``; ``{"lora_B": 16}`` is LoRA+
            (arXiv:2402.12354).

    Returns:
        dicts with ``params``, ``param_names``, ``lr``, ``weight_decay`` and ``layer`` (the layer group's name).

    Raises:
        UserError: for a pattern of ``lr_multipliers`` that matches no parameter or is none, and a multiplier that is no
            number from 0 on.
    """
    parameters = dict(model.named_parameters())
    exempt = _no_weight_decay(model)
    ordered = layer_decay != 1 or layer_patterns is not None
    stack = LayerStack.from_model(model, layer_patterns) if ordered else LayerStack.trunk_and_head(model)
    multipliers = _multipliers(list(parameters), lr_multipliers or {})
    groups = []
    for layer, rate in zip(stack, layer_learning_rates(len(stack), lr, layer_decay, head_lr), strict=True):
        names = [name for name in layer.parameter_names if parameters[name].requires_grad]
        is_decayed = {
            name: is_matrix(parameters[name]) and name not in exempt and not _NO_DECAY_NAME.search(name)
            for name in names
        }
        # in a fixed order, for a checkpoint's optimizer state to fit
        for multiplier, decayed in itertools.product(dict.fromkeys(map(multipliers.get, names)), (True, False)):
            members = [name for name in names if multipliers[name] == multiplier and is_decayed[name] == decayed]
            if members:
                groups.append(
                    {
                        "params": [parameters[name] for name in members],
                        "param_names": members,
                        "lr": rate * multipliers[members[0]],
                        "weight_decay": weight_decay if decayed else 0.0,
                        "layer": layer.name,
                    }
                )
    return groups


def _multipliers(names: list[str], patterns: Mapping[str, float]) -> dict[str, float]:
    """Return the multiplier of every parameter."""
    found = dict.fromkeys(names, 1.0)
    for pattern, multiplier in reversed(list(patterns.items())):  # the first one to match is written last
        if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 <= multiplier < math.inf:
            raise UserError(f"lr_multipliers: '{pattern}' must be given a number from 0 on, got {multiplier!r}.")
        expression = compiled(pattern, "lr_multipliers")
        matching = [name for name in names if expression.search(name)]
        if not matching:
            raise UserError(f"lr_multipliers: '{pattern}' matches no parameter. There are {listed(names, 5)}.")
        found |= dict.fromkeys(matching, float(multiplier))
    return found


def layer_learning_rates(groups: int, lr: float, layer_decay: float, head_lr: float | None = None) -> list[float]:
    """Return the peak learning rate of each layer group, input first: the formula at the top of this module."""
    rates = [lr * layer_decay**height for height in reversed(range(groups))]
    return rates if head_lr is None else [*rates[:-1], head_lr]


def _no_weight_decay(model: nn.Module) -> set[str]:
    """Collect what timm models exempt from weight decay (class token, position embedding), with full names."""
    exempt: set[str] = set()
    for path, module in model.named_modules():
        rule = getattr(module, "no_weight_decay", None)
        if callable(rule):
            exempt.update(f"{path}.{name}" if path else name for name in rule())
    return exempt
