"""How the weights of convolutions lie in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import channels_last as channels_last_format
from torch import nn


@contextlib.contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Lay the weights of convolutions out with the channels last for the time, which makes them faster on a CPU.

    Only where nothing is differentiated: in this layout RepVGG, GERNet, MobileOne and FastViT crash in the backward
    pass with torch 2.15. Only models of transformers, which wrap timm's: another may look at its maps in a way that
    this layout does not allow (``view``). The very tensors of before are put back: copies may be aligned otherwise in
    memory, with other last digits of what is computed than in a run that finds its features in the cache. What is
    done to weights in this context is lost.
    """
    fits = type(model).__module__.startswith("transformers.models.")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)] if fits else []
    before = [(module.weight, module.weight.data) for module in convolutions if module.weight.device.type == "cpu"]
    try:
        for weight, values in before:
            weight.data = values.to(memory_format=channels_last_format)
        yield
    finally:
        for weight, values in before:
            weight.data = values
