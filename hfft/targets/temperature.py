"""Temperature scaling (Guo et al. 2017, arXiv:1706.04599, section 4.2), folded into the layer that gives the logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from hfft.errors import UserError
from hfft.evaluation.calibration import fit_temperature
from hfft.targets.output_layer import head_layers, rescale
from hfft.targets.target import TEMPERATURE, Target


def logit_layers(model: PreTrainedModel, batch: dict[str, Any]) -> list[nn.Linear]:
    """Return the linear layers by which the logits scale: one, or the few whose outputs are averaged.

    That is tried out, with the batch: weights and bias so many times as large must give logits as many times as large.

    Args:
        model: a classifier with ``config.num_labels`` outputs.
        batch: model inputs, two examples or more.

    Raises:
        UserError: where no layer does that.
    """
    if is_deepspeed_zero3_enabled():
        raise UserError("--calibration: under DeepSpeed ZeRO-3 the last layer lies in pieces and cannot be rescaled.")
    found = head_layers(model, model.config.num_labels)
    logits = _logits(model, batch)
    for layers in (found, *([layer] for layer in reversed(found))):
        if layers and _scales_with(layers, logits, lambda: _logits(model, batch)):
            return layers
    raise UserError(
        f"--calibration: the logits of a {type(model).__name__} are not those of a linear layer that could hold the "
        "temperature. Leave it out, or choose another model."
    )


def calibrate(
    target: Target, model: PreTrainedModel, layers: list[nn.Linear], labels: np.ndarray, logits: np.ndarray
) -> tuple[float | None, str]:
    """Divide the layers by the temperature that gives the least log loss, and keep it in the configuration.

    Args:
        target: what the model predicts.
        model: the classifier.
        layers: what :func:`logit_layers` found in it.
        labels: of the validation split, in array form.
        logits: of the model for them, (rows, outputs).

    Returns:
        the temperature, ``None`` where the split does not determine one, and what to tell, as a sentence.
    """
    log_loss = target.metrics.functions["log_loss"]
    logits = logits.astype(np.float64)

    def loss(temperature: float) -> float:
        return log_loss(labels, target.outputs(logits / temperature))

    temperature = fit_temperature(loss)
    if temperature is None:
        return None, (
            f"no temperature was fitted: the {len(labels)} validation examples call for none between 1 / 20 and 20, as "
            "where every answer is right. The probabilities are as they were trained."
        )
    for layer in layers:
        rescale(layer, 1 / temperature, 0.0)
    setattr(model.config, TEMPERATURE, temperature)
    return temperature, (
        f"the logits are divided by a temperature of {temperature:.3g}, which is folded into the last layer: log loss "
        f"on the {len(labels)} validation examples that it was fitted on is {loss(temperature):.4f}, before "
        f"{loss(1):.4f}."
    )


def _scales_with(layers: list[nn.Linear], logits: torch.Tensor, compute: Callable[[], torch.Tensor]) -> bool:
    largest = float(logits.abs().max())
    factor = 2.0 ** max(1, math.ceil(math.log2(32 / max(largest, 1e-3))))  # a bounded output shows itself then
    saved = [(parameter, parameter.detach().clone()) for layer in layers for parameter in layer.parameters()]
    try:
        for layer in layers:
            rescale(layer, factor, 0.0)
        return torch.allclose(compute() / factor, logits, rtol=1e-3, atol=1e-4 * largest)
    finally:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: dict[str, Any]) -> torch.Tensor:
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        return model(**inputs).logits.float()
    finally:
        for module in training:
            module.training = True
