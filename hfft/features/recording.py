"""The outputs at cuts for one batch: taken from a forward pass, divided into examples, and joined to a batch again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hfft.features.cuts import CannotCutError, Cut, Inputs, batch_size, first_tensor, token_mask, tokens_of


class _ReachedError(Exception):
    """The highest cut: what lies above need not run."""


def outputs_at(model: nn.Module, cuts: Sequence[Cut], inputs: Inputs) -> list[torch.Tensor]:
    """Return the outputs at cuts, the lowest first; above the last nothing runs."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            tensor = first_tensor(output)
            assert tensor is not None
            outputs[path] = tensor
            if path == cuts[-1].path:
                raise _ReachedError

        return hook

    handles = [model.get_submodule(cut.path).register_forward_hook(keep(cut.path)) for cut in cuts]
    try:
        with torch.no_grad():
            model(**inputs)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return [outputs[cut.path] for cut in cuts]


def rows_of(cut: Cut, output: torch.Tensor, inputs: Inputs) -> list[np.ndarray]:
    """Return the part of each example, without padding, as NumPy knows it."""
    mask = token_mask(inputs)
    if (
        tuple(output.shape) != cut.output.shape(batch_size(inputs), tokens_of(inputs))
        or output.dtype != cut.output.dtype
    ):
        raise CannotCutError(f"the output of {cut.path} has another shape for some examples")
    output = output.detach().cpu()
    if cut.output.per_token and mask is not None:
        parts = list(output[mask.cpu()].split(mask.sum(dim=1).tolist()))
    else:
        parts = list(output)
    as_integer = output.dtype == torch.bfloat16
    return [(part.contiguous().view(torch.int16) if as_integer else part).numpy() for part in parts]


def joined(cut: Cut, values: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """Return the output at a cut for a batch, zero where it is padded.

    Args:
        values: the parts of its examples one after the other, (elements,).
        inputs: the batch.
    """
    mask = token_mask(inputs)
    if mask is None or not cut.output.per_token:
        return values.view(batch_size(inputs), *cut.output.sizes)
    tail = cut.output.sizes[1:]
    if bool(mask.all()):
        return values.view(*mask.shape, *tail)
    padded = values.new_zeros(*mask.shape, *tail)
    padded[mask.to(values.device)] = values.view(-1, *tail)
    return padded
