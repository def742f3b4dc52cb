"""LayerStack: a model as an ordered list of layer groups, from input to head.

The one source of layer depth: learning rates, unfreezing, and whatever else needs to know what lies below what, read it
here. The order is derived from the structure of the model, without a forward pass and without a table of model names:

* a *block* is a module that repeats: an element of a list of modules of one class that has more than one weight and a
  norm, which tells blocks from their parts, or what transformers marks as a unit of activation checkpointing;
* the order of use is that in which the code of ``forward`` mentions the children of a module, methods that it calls
  included; what it does not mention stays behind what it was registered behind;
* what is used before the first block is the stem, what stands between two blocks and holds more than a norm is a
  transition, what lies outside the base model is the head, and so are dense layers that follow the last block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from torch import nn

from hfft.errors import UserError, listed
from hfft.layers.blocks import find_blocks
from hfft.layers.by_patterns import groups_by_patterns
from hfft.layers.by_structure import groups_by_structure
from hfft.layers.groups import HEAD, TRUNK, LayerGroup
from hfft.layers.heads import head_parameter_names, timm_model_in, without_adapters


class LayerStack(Sequence[LayerGroup]):
    """An ordered sequence of layer groups, input first, head last; each parameter is in exactly one.

    Attributes:
        notes: what a reader of the stack should know, a sentence each (blocks that share their parameters).
    """

    def __init__(self, groups: Sequence[LayerGroup], notes: Sequence[str] = ()) -> None:
        self._groups = tuple(groups)
        self.notes = tuple(notes)

    @overload
    def __getitem__(self, index: int) -> LayerGroup: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerGroup]: ...
    def __getitem__(self, index: int | slice) -> LayerGroup | Sequence[LayerGroup]:
        return self._groups[index]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[LayerGroup]:
        return iter(self._groups)

    def __repr__(self) -> str:
        return f"LayerStack({', '.join(group.name for group in self)})"

    @property
    def head(self) -> LayerGroup:
        """The last group, the classifier and what stands between it and the trunk."""
        return self._groups[-1]

    @classmethod
    def trunk_and_head(cls, model: nn.Module) -> LayerStack:
        """Tell only trunk and head apart, which needs no order of the layers; a model without a head is all trunk."""
        head = head_parameter_names(model)
        trunk = [name for name, _ in model.named_parameters() if name not in set(head)]
        return cls([LayerGroup(name, tuple(names)) for name, names in ((TRUNK, trunk), (HEAD, head)) if names])

    @classmethod
    def from_model(cls, model: nn.Module, patterns: Sequence[str] | None = None) -> LayerStack:
        """Order the layers of ``model``; runs no forward pass.

        Args:
            model: a transformers or timm model, wrapped by PEFT or not, or any module with a ``base_model_prefix``.
            patterns: for models whose order cannot be derived: regular expressions, input first, head last. A parameter
                belongs to the first one that its name matches (``re.search``); a pattern with a capturing group makes
                one group of layers for each text that it captures, in the order of registration:
                ``["embed", r"layers\\.(\\d+)", "score"]``.

        Raises :class:`UserError` where no order can be derived, with the modules that were seen, and for patterns that
        leave a parameter out or match none.
        """
        names = [name for name, _ in model.named_parameters()]  # a tied parameter is named once
        if patterns is not None:
            return cls(groups_by_patterns(names, patterns))
        inner, prefix, head = _unwrapped(model)
        groups, blocks = groups_by_structure(inner, prefix, head)
        _require_each_parameter_once(groups, names)
        wrapping = without_adapters(model)[1]  # layers are called alike with adapters and without
        groups = [LayerGroup(group.name.removeprefix(wrapping), group.parameter_names) for group in groups]
        return cls(groups, _sharing(inner, blocks))


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules of which the trunk is a repetition, in order of registration; none where none is seen."""
    inner, prefix, head = _unwrapped(model)
    paths = find_blocks(inner, [name.removeprefix(prefix) for name in head])
    return [module for path, module in inner.named_modules() if path in paths]


def _unwrapped(model: nn.Module) -> tuple[nn.Module, str, list[str]]:
    """Return what holds the layers, the prefix of its parameters, and the names of the head's."""
    inner, prefix = without_adapters(model)
    timm_model, timm_prefix = timm_model_in(inner)
    if timm_model is not None:
        inner, prefix = timm_model, prefix + timm_prefix
    return inner, prefix, head_parameter_names(model)


def _sharing(model: nn.Module, blocks: int) -> list[str]:
    """Say where fewer blocks hold parameters than the configuration has layers."""
    config = getattr(model, "config", None)
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int) or layers <= blocks:
        return []
    return [f"{layers} layers share the parameters of {blocks} block{'s' if blocks > 1 else ''}: one group each."]


def _require_each_parameter_once(groups: list[LayerGroup], names: list[str]) -> None:
    grouped = [name for group in groups for name in group.parameter_names]
    if sorted(grouped) != sorted(names):
        missing, twice = set(names) - set(grouped), {name for name in grouped if grouped.count(name) > 1}
        raise UserError(
            "The layers of the model cannot be ordered: "
            + (f"in no group: {listed(sorted(missing))}. " if missing else "")
            + (f"in more than one group: {listed(sorted(twice))}. " if twice else "")
            + "Give the order with layer_patterns, or set layer_decay to 1."
        )
