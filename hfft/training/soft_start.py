"""A solved head that begins less sure than it was solved, and ships as it was solved where training is no better."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer

from hfft.targets.output_layer import rescale


class SoftStart(Trainer):
    """A Trainer whose training may begin from the logits of a solved head at a fraction of their size.

    A head that is solved on many features answers few training examples almost perfectly: the loss is small, its
    gradient too, and the layers below learn little. The smaller logits give the same answers, less surely. The
    evaluation of the start is that of the head as it was solved, which is also what is loaded where no checkpoint is
    better.
    """

    _softened: tuple[nn.Linear | nn.Conv2d, float] | None = None

    def soften(self, layer: nn.Linear | nn.Conv2d, scale: float) -> None:
        """Multiply weights and bias of the layer that gives the logits, before training.

        Args:
            layer: the last linear layer.
            scale: a power of two, so that it can be taken back to the bit; 1 changes nothing.
        """
        if scale != 1:
            rescale(layer, scale, 0.0)
            self._softened = (layer, scale)

    def prediction_step(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        """Predict as the Trainer does; before the first step as the head was solved."""
        loss, logits, labels = super().prediction_step(*args, **kwargs)
        if self._softened is None or self.state.global_step > 0:
            return loss, logits, labels
        if isinstance(logits, torch.Tensor):
            return loss, logits / self._softened[1], labels
        return loss, None if logits is None else (logits[0] / self._softened[1], *logits[1:]), labels

    def _load_best_model(self) -> None:
        """Load as the Trainer does; the start with its head as it was solved."""
        super()._load_best_model()
        if self._softened is not None and not self.state.best_global_step:
            layer, scale = self._softened
            rescale(layer, 1 / scale, 0.0)
            self._softened = None
