"""Stubs: a forward pass that starts from kept activations, while the model's own code runs unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from hfft.features.cuts import CannotCutError, Cut, Inputs, batch_size, tokens_of
from hfft.hardware.seeding import random_state_kept


@contextmanager
def starting_from(model: nn.Module, cut: Cut, kept: torch.Tensor, inputs: Inputs, fill: float = 0.0) -> Iterator[None]:
    """Let the module at the cut hand on what was kept, and those below it tensors of the right shape.

    Args:
        model: whose forward pass is run inside.
        cut: where it starts.
        kept: the output at the cut for this batch, (batch, ...).
        inputs: the batch.
        fill: what the outputs below the cut are full of; nobody reads them.
    """
    batch, tokens = batch_size(inputs), tokens_of(inputs)
    dummy = torch.full((), fill, device=kept.device)
    stubs = {
        output.path: output.wrap(dummy.to(output.dtype).expand(output.shape(batch, tokens))) for output in cut.stubs
    }
    before: list[tuple[nn.Module, Any]] = []
    try:
        for path, value in {**stubs, cut.path: cut.output.wrap(kept)}.items():
            module = model.get_submodule(path)
            before.append((module, vars(module).get("forward")))
            module.forward = _returning(value)
        yield
    finally:
        for module, forward in before:
            del module.forward
            if forward is not None:  # a wrapper of somebody else
                module.forward = forward


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


def proven(model: nn.Module, cut: Cut, kept: torch.Tensor, inputs: Inputs, tolerance: float) -> Cut:
    """Return the cut, with as many modules below it in place as the model needs for the same outputs.

    The outputs of what is replaced are NaN here: wherever one of them is used the model's outputs tell.

    Args:
        model: in the modes of a training step.
        cut: to be tried.
        kept: the output at the cut, recorded in other batches than this one.
        inputs: a batch of examples of different lengths.
        tolerance: by which outputs may differ, as a share of the largest.

    Raises :class:`CannotCutError` where the outputs differ whatever is left in place.
    """
    expected = _outputs(model, inputs)

    def differs(trial: Cut) -> bool:
        try:
            with starting_from(model, trial, kept, inputs, fill=float("nan")):
                return not _close(_outputs(model, inputs), expected, tolerance)
        except Exception:  # whatever the model's own code raises about what it is handed
            return True

    if differs(Cut(cut.output, ())):
        raise CannotCutError(
            f"its outputs are others when {cut.path} hands on what it gave for the same examples in another batch"
        )
    while differs(cut):
        needed = [stub.path for stub in cut.stubs if differs(Cut(cut.output, (stub,)))]
        if not needed:
            raise CannotCutError(f"what lies below {cut.path} is needed above it")
        cut = cut.keeping(needed)
    return cut


def _outputs(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    """Return the outputs of a forward pass, always with the same dropout."""
    with random_state_kept(), torch.no_grad():
        set_seed(0)
        outputs = model(**inputs)
    logits = outputs["logits"] if isinstance(outputs, dict) and "logits" in outputs else outputs
    return [leaf for leaf in torch.utils._pytree.tree_leaves(logits) if isinstance(leaf, torch.Tensor)]


def _close(outputs: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> bool:
    return all(
        one.shape == other.shape and bool((one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())))
        for one, other in zip(outputs, expected, strict=True)
    )
