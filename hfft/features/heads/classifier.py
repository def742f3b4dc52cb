"""The linear layer that makes the logits, what it sees, and the hidden layer of the head before it, if any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hfft.errors import UnsolvableHeadError
from hfft.layers.heads import head_parameter_names

Activation = Callable[[torch.Tensor], torch.Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": lambda values: nn.functional.gelu(values, approximate="tanh"),
    "silu": nn.functional.silu,
    "quick_gelu": lambda values: values * torch.sigmoid(1.702 * values),
}
"""The activations that are recognised between a hidden layer and the last one."""


@dataclass(frozen=True)
class HiddenLayer:
    """A fresh dense layer of the head and the name of its activation, a key of :data:`ACTIVATIONS`."""

    name: str
    dense: nn.Linear
    activation: str


@dataclass(frozen=True)
class Classifier:
    """The last linear layer of a model.

    Attributes:
        name: of the layer in the model.
        layer: an ``nn.Linear``, or an ``nn.Conv2d`` with a kernel of 1 on a map of one position.
        hidden: the layer of the head before it, or ``None``.
    """

    name: str
    layer: nn.Linear | nn.Conv2d
    hidden: HiddenLayer | None

    @property
    def has_bias(self) -> bool:
        """Whether a head for it is solved with an intercept."""
        return self.layer.bias is not None


@torch.no_grad()
def find_classifier(model: nn.Module, inputs: Mapping[str, Any]) -> Classifier:
    """Find the layer whose output the logits are, by running ``model`` once on a small batch, in eval mode.

    A layer of the trunk before it (BERT's pooler) is no hidden layer: it was pretrained, and belongs to the features.

    Args:
        model: that returns ``logits``.
        inputs: its keyword arguments for a few examples.

    Raises :class:`UnsolvableHeadError` where no linear layer of the head makes the logits alone.
    """
    uses, logits = _run(model, inputs)
    last = next((use for use in reversed(uses) if _same(_positions_of(use.made, logits), logits)), None)
    if last is None:
        raise UnsolvableHeadError(
            f"The logits of {type(model).__name__} are not the output of one linear layer, so its head cannot be "
            "solved."
        )
    return Classifier(last.name, last.layer, _hidden_layer(uses, last))


@dataclass(frozen=True)
class _Use:
    """A linear layer of the head, what it was given and what it made of it: (examples, ..., dims)."""

    name: str
    layer: nn.Linear | nn.Conv2d
    given: torch.Tensor
    made: torch.Tensor


def _hidden_layer(uses: list[_Use], last: _Use) -> HiddenLayer | None:
    """Return the layer whose output the last one is given, through an activation."""
    features = _rows(last.given)
    for use in reversed(uses):
        if use is last or not isinstance(use.layer, nn.Linear):
            continue
        for activation, function in ACTIVATIONS.items():
            if _same(_rows(function(use.made)), features):
                return HiddenLayer(use.name, use.layer, activation)
    return None


def _run(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[list[_Use], torch.Tensor]:
    """Return the last use of every linear layer of the head, in the order of their first use, and the logits."""
    seen: dict[str, _Use] = {}
    in_head = set(head_parameter_names(model))

    def watch(name: str, layer: nn.Linear | nn.Conv2d) -> Any:
        def note(module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
            seen[name] = _Use(name, layer, given[0].clone(), made.clone())

        return layer.register_forward_hook(note)

    handles = [
        watch(name, module)
        for name, module in model.named_modules()
        if f"{name}.weight" in in_head
        and (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)))
    ]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        logits = model(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return list(seen.values()), logits


def _rows(values: torch.Tensor) -> torch.Tensor:
    """Drop the positions of a map of one position."""
    return values.flatten(1) if values.ndim == 4 else values


def _positions_of(made: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Of outputs at every token choose, for each example, the one that became the logits."""
    made = _rows(made)
    if made.ndim != 3 or made.shape[0] != logits.shape[0] or made.shape[2] != logits.shape[1]:
        return made
    nearest = (made - logits[:, None]).abs().sum(dim=2).argmin(dim=1)
    return made[torch.arange(len(made), device=made.device), nearest]


def _same(values: torch.Tensor, others: torch.Tensor) -> bool:
    return values.shape == others.shape and torch.allclose(values.float(), others.float(), rtol=1e-4, atol=1e-6)
