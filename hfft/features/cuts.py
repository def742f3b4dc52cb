"""Where a model can be cut: after which module nothing but that module's output goes up.

The model is watched in a forward pass of two small batches that differ in size and in padded length, each module with
the output that it gave. No table of model names, and no knowledge of what the modules do.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._pytree import tree_leaves

Inputs = Mapping[str, Any]
"""A batch without labels: what ``model(**inputs)`` is called with."""


class CannotCutError(Exception):
    """The model cannot be cut; the message is why, as the end of a sentence."""


@dataclass(frozen=True)
class Output:
    """What a module gives: a tensor, or a tuple whose first element is one.

    Attributes:
        sizes: of the axes after the batch; on one that follows the tokens by how much it exceeds their number.
        follows_tokens: for each of these axes whether it follows the padded length.
        dtype: of the tensor.
        others: how many further elements the tuple has; ``None`` for a tensor.
    """

    path: str
    sizes: tuple[int, ...]
    follows_tokens: tuple[bool, ...]
    dtype: torch.dtype
    others: int | None

    def shape(self, batch: int, tokens: int) -> tuple[int, ...]:
        """Return the tensor's shape in a batch of this size, padded to so many tokens."""
        axes = zip(self.sizes, self.follows_tokens, strict=True)
        return (batch, *(size + tokens * follows for size, follows in axes))

    def wrap(self, tensor: torch.Tensor) -> Any:
        """Return the tensor as the module would."""
        return tensor if self.others is None else (tensor, *[None] * self.others)

    @property
    def per_token(self) -> bool:
        """Whether there is one value for each token: (batch, tokens, ...)."""
        return bool(self.sizes) and self.follows_tokens[0] and self.sizes[0] == 0 and not any(self.follows_tokens[1:])

    @property
    def can_be_kept(self) -> bool:
        """Whether each example has a part of its own, without padding."""
        return self.per_token or not any(self.follows_tokens)


@dataclass(frozen=True)
class Cut:
    """A module whose output is kept, and what below it need not run then.

    Attributes:
        output: of the module.
        below: of the modules that have run before it is done, do not run again and need not run.
    """

    output: Output
    below: tuple[Output, ...]

    @property
    def path(self) -> str:
        """The module's name."""
        return self.output.path

    @property
    def stubs(self) -> tuple[Output, ...]:
        """Of the modules below that are replaced: those that lie in no other one of them."""
        paths = {output.path for output in self.below}
        return tuple(output for output in self.below if not any(_is_inside(output.path, path) for path in paths))

    def keeping(self, paths: Iterable[str]) -> Cut:
        """Return the cut with these modules left in place; what lies inside them may still be replaced."""
        kept = set(paths)
        return replace(self, below=tuple(output for output in self.below if output.path not in kept))


@dataclass(frozen=True)
class _Call:
    """A module that ran, and what it gave.

    Attributes:
        path: of the module.
        shape, dtype: of the tensor that it gave, ``None`` for an output of another kind.
        others: as of :class:`Output`.
        is_fixed: whether nothing had drawn random numbers so far, and nothing that trains reaches the output.
    """

    path: str
    shape: torch.Size | None
    dtype: torch.dtype | None
    others: int | None
    is_fixed: bool


def find_cuts(model: nn.Module, small: Inputs, large: Inputs) -> list[Cut]:
    """Return the cuts that look possible with what is frozen now, the highest first.

    Args:
        model: in the modes of a training step.
        small: a batch.
        large: one with more examples, and longer ones where lengths differ.

    Raises :class:`CannotCutError` where there is none.
    """
    first, second = _watch(model, small), _watch(model, large)
    if [call.path for call in first] != [call.path for call in second]:
        raise CannotCutError("its modules do not run in the same order for each batch")
    fixed = list(takewhile(lambda pair: all(call.is_fixed for call in pair), zip(first, second, strict=True)))
    outputs = [output for one, other in fixed if (output := _output(one, other, small, large)) is not None]
    times = Counter(call.path for call in first)
    times_before = Counter[str]()
    cuts: dict[str, Cut] = {}
    for position, output in enumerate(outputs):
        times_before[output.path] += 1
        if output.can_be_kept and times[output.path] == 1:
            below = {
                other.path: other
                for other in outputs[:position]
                if times_before[other.path] == times[other.path] and not _is_inside(other.path, output.path)
            }
            cuts[output.path] = Cut(output, tuple(below.values()))
    outermost = [cut for path, cut in cuts.items() if not any(_is_inside(path, other) for other in cuts)]
    if not outermost:
        raise CannotCutError(
            "no module below what trains gives one tensor for each example without drawing random numbers"
        )
    return outermost[::-1]


def tokens_of(inputs: Inputs) -> int:
    """Return the length that a batch of texts is padded to, 0 of other batches."""
    mask = token_mask(inputs)
    return 0 if mask is None else mask.shape[1]


def token_mask(inputs: Inputs) -> torch.Tensor | None:
    """Return which tokens are no padding, (batch, tokens) bool, or ``None`` for a batch without a mask."""
    mask = inputs.get("attention_mask")
    return mask.bool() if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None


def device_of(inputs: Inputs) -> torch.device:
    """Return where a batch is."""
    return next(value.device for value in inputs.values() if isinstance(value, torch.Tensor))


def batch_size(inputs: Inputs) -> int:
    """Return the number of examples in a batch."""
    return next(len(value) for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim)


def first_tensor(output: Any) -> torch.Tensor | None:
    """Return a module's output, or the first element of it where it is a tuple; ``None`` for anything else."""
    first = output[0] if type(output) in (tuple, list) and output else output
    return first if isinstance(first, torch.Tensor) and first.is_floating_point() else None


def _watch(model: nn.Module, inputs: Inputs) -> list[_Call]:
    """Return the calls of a forward pass in the order in which they were done."""
    paths = {id(module): path for path, module in model.named_modules() if path}
    calls: list[_Call] = []
    before = _random_states()

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        if id(module) not in paths:
            return
        tensor = first_tensor(output)
        trains = any(leaf.requires_grad for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
        drawn = before != _random_states()
        calls.append(
            _Call(
                path=paths[id(module)],
                shape=None if tensor is None else tensor.shape,
                dtype=None if tensor is None else tensor.dtype,
                others=None if tensor is None or output is tensor else len(output) - 1,
                is_fixed=not trains and not drawn,
            )
        )

    handle = register_module_forward_hook(note)
    try:
        model(**inputs)
    finally:
        handle.remove()
    return calls


def _random_states() -> list[Any]:
    on_device = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    tensors = [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_device)]
    _, numbers, place, *_ = np.random.get_state()  # wav2vec2 hides stretches of a sound with NumPy
    return [*tensors, random.getstate(), np.asarray(numbers).tobytes(), place]


def _output(one: _Call, other: _Call, small: Inputs, large: Inputs) -> Output | None:
    """Return what of an output's shape belongs to the batch and to its tokens; ``None`` where more changes."""
    if one.shape is None or other.shape is None or one.dtype is None or len(one.shape) != len(other.shape):
        return None
    if not one.shape or (one.shape[0], other.shape[0]) != (batch_size(small), batch_size(large)):
        return None
    sizes, follows = [], []
    tokens, more = tokens_of(small), tokens_of(large)
    for size, larger in zip(one.shape[1:], other.shape[1:], strict=True):
        if size != larger and larger - size != more - tokens:
            return None
        follows.append(size != larger)
        sizes.append(size - tokens if size != larger else size)
    return Output(one.path, tuple(sizes), tuple(follows), one.dtype, one.others)


def _is_inside(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")
