"""Where a model's features are read, and how a head that is solved on them gets into the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hfft.features.heads import (
    ACTIVATIONS,
    Classifier,
    HiddenLayer,
    LinearHead,
    can_fold,
    can_pass_on,
    find_classifier,
    fold_head,
    install_head,
    near_identity,
)

Solve = Callable[..., LinearHead]
"""Solves a head on (examples, width) features, and on those of pseudo-examples where there are any."""


@dataclass(frozen=True)
class Readout:
    """Features are what the last linear layer of a model reads.

    Of a head with a fresh hidden layer they are what that layer reads, as long as a head can be put through it: its
    random weights would only lose something.

    Attributes:
        classifier: the last linear layer.
        hidden: the hidden layer before it, if the features are what that reads.
    """

    classifier: Classifier
    hidden: HiddenLayer | None

    @classmethod
    def of(cls, model: Any, inputs: Mapping[str, Any]) -> Readout:
        """Find the features of a model, on a small batch; raises :class:`UserError` where its head is not linear."""
        classifier = find_classifier(model, inputs)
        hidden = classifier.hidden
        foldable = hidden is not None and can_fold(hidden, model.config.num_labels)
        return cls(classifier, hidden if foldable else None)

    @property
    def path(self) -> str:
        """The layer whose input the features are."""
        return self.classifier.name if self.hidden is None else self.hidden.name

    @property
    def behind(self) -> tuple[str, ...]:
        """The parameters that come behind the features."""
        layers = {self.classifier.name: self.classifier.layer}
        if self.hidden is not None:
            layers[self.hidden.name] = self.hidden.dense
        return tuple(f"{path}.{name}" for path, layer in layers.items() for name, _ in layer.named_parameters())

    @contextlib.contextmanager
    def reading(self, model: nn.Module) -> Iterator[Callable[[Any], torch.Tensor]]:
        """Give what turns the output of the model, called with a batch, into features; in eval mode for the time."""
        was_training = model.training
        model.eval()
        try:
            with _replaced(model, self.path) if self.hidden is None else _heard(self.hidden.dense) as features:
                yield features
        finally:
            model.train(was_training)

    @torch.no_grad()
    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return (examples, outputs) what the head makes of (examples, width) features as it now is."""
        layer = self.classifier.layer
        values = features.to(layer.weight.dtype)
        if self.hidden is not None:
            values = ACTIVATIONS[self.hidden.activation](self.hidden.dense(values))
        return nn.functional.linear(values, layer.weight.flatten(1), layer.bias)

    @torch.no_grad()
    def install(self, solve: Solve, features: torch.Tensor, *pseudo: torch.Tensor) -> LinearHead:
        """Solve a head on (examples, width) features, and on those of pseudo-examples; put it into the model."""
        layer, hidden = self.classifier.layer, self.hidden
        if hidden is not None and not can_pass_on(hidden):
            head = solve(features, *pseudo)
            assert isinstance(layer, nn.Linear), layer
            fold_head(head, hidden, layer, features)
            return head
        if hidden is not None:
            features = near_identity(hidden, features)
            pseudo = tuple(
                ACTIVATIONS[hidden.activation](hidden.dense(values.to(hidden.dense.weight))) for values in pseudo
            )
        head = solve(features, *pseudo)
        install_head(layer, head)
        return head


@contextlib.contextmanager
def _replaced(model: nn.Module, path: str) -> Iterator[Callable[[Any], torch.Tensor]]:
    """Let the logits be what the last layer is given: a decoder's picks one of all tokens only behind it."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    layer = getattr(parent, name)
    setattr(parent, name, nn.Identity())
    try:
        yield lambda output: output.logits
    finally:
        setattr(parent, name, layer)


@contextlib.contextmanager
def _heard(layer: nn.Module) -> Iterator[Callable[[Any], torch.Tensor]]:
    """Listen to what a layer is given."""
    heard: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    try:
        yield lambda output: heard.pop()
    finally:
        handle.remove()
