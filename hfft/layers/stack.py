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

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NoReturn, overload

from torch import nn

from hfft.errors import UserError, listed
from hfft.layers.blocks import find_blocks
from hfft.layers.heads import head_parameter_names, timm_model_in, without_adapters
from hfft.layers.order import order_of_use
from hfft.layers.shapes import whole_shape

HEAD = "head"
STEM = "stem"
TRUNK = "trunk"


@dataclass(frozen=True)
class LayerGroup:
    """One step of the stack: a stem, a block, a transition, or the head, with the full names of its parameters."""

    name: str
    parameter_names: tuple[str, ...]


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
            return cls(_from_patterns(names, patterns))
        inner, prefix, head = _unwrapped(model)
        groups, blocks = _from_structure(inner, prefix, head)
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


def _from_patterns(names: list[str], patterns: Sequence[str]) -> list[LayerGroup]:
    members: dict[tuple[int, str], list[str]] = {}
    unmatched = []
    compiled = [_compiled(pattern) for pattern in patterns]
    for name in names:
        found = ((index, pattern.search(name)) for index, pattern in enumerate(compiled))
        index, match = next(((index, match) for index, match in found if match), (-1, None))
        if match is None:
            unmatched.append(name)
        else:
            members.setdefault((index, ".".join(text for text in match.groups() if text)), []).append(name)
    unused = [pattern for index, pattern in enumerate(patterns) if not any(index == key[0] for key in members)]
    if unmatched or unused:
        raise UserError(
            "layer_patterns do not fit the model: "
            + (f"{listed(unmatched)} match no pattern. " if unmatched else "")
            + (f"No parameter matches {listed(unused)}." if unused else "")
        )
    ordered = sorted(members.items(), key=lambda item: item[0][0])  # stable: captured texts as they are registered
    *lower, (_, last) = [(_common_module(group) or f"layer {i}", group) for i, (_, group) in enumerate(ordered)]
    return [LayerGroup(name, tuple(group)) for name, group in [*lower, (HEAD, last)]]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"layer_patterns: '{pattern}' is no regular expression: {error}.") from error


def _from_structure(model: nn.Module, prefix: str, head: list[str]) -> tuple[list[LayerGroup], int]:
    """Return the groups and how many of them are blocks."""
    found = find_blocks(model, [name.removeprefix(prefix) for name in head])
    blocks = {prefix + path: prefix + name for path, name in found.items()}
    if not blocks:
        _raise_unordered(model)
    names = {id(parameter): prefix + name for name, parameter in model.named_parameters()}
    dimensions = {names[id(parameter)]: len(whole_shape(parameter)) for parameter in model.parameters()}
    seen = set(head)
    groups: dict[str, list[str]] = {}
    pending: list[str] = []  # parameters that belong to no block, since the last block
    unused: list[str] = []  # of these what forward does not name, such as the head of another task
    for parameter, block, is_named in _in_order_of_use(model, prefix, blocks):
        name = names[id(parameter)]
        if name in seen:
            continue
        seen.add(name)
        if block is None:
            owner = name.rpartition(".")[0]
            if groups and any(path.startswith(f"{owner}." if owner else "") for path in blocks):
                groups[next(iter(groups))].append(name)  # a class token that joins between two blocks is the stem's
            else:
                (pending if is_named else unused).append(name)
            continue
        if block not in groups:
            stage = block.rpartition(".")[0]
            if groups and stage == next(reversed(groups)).rpartition(".")[0] and not _inside(stage, pending):
                groups[next(reversed(groups))].extend(pending)  # between two blocks of a stage there is no transition
                pending = []
            _settle(pending + unused, groups, dimensions)
            pending, unused = [], []
        groups.setdefault(block, []).append(name)
    if any(dimensions[name] == 2 for name in pending):
        # a pooler: dense layers between trunk and classifier learn with the classifier
        head = pending + head
    else:
        _settle(pending, groups, dimensions)
    groups[next(reversed(groups))].extend(unused)
    if head:
        groups[HEAD] = head
    return [LayerGroup(name, tuple(members)) for name, members in groups.items()], len(set(blocks.values()))


def _inside(path: str, names: list[str]) -> bool:
    return any(name.startswith(f"{path}." if path else "") for name in names)


def _settle(pending: list[str], groups: dict[str, list[str]], dimensions: dict[str, int]) -> None:
    """Give what stands before a block a group of its own; a norm alone belongs to the block that it follows."""
    weights = [name for name in pending if dimensions[name] > 1]
    if not groups and pending:
        groups[STEM] = pending
    elif weights:
        common = _common_module(pending)
        is_apart = common not in ("", HEAD) and not any(name.startswith(f"{common}.") for name in groups)
        groups[common if is_apart else weights[0].rpartition(".")[0] or weights[0]] = pending
    elif pending:
        groups[next(reversed(groups))].extend(pending)


def _in_order_of_use(
    module: nn.Module, path: str, blocks: dict[str, str], is_named: bool = True
) -> Iterator[tuple[nn.Parameter, str | None, bool]]:
    """Yield the parameters in the order of their use, with the block that each is in and whether the code names it."""
    for name, named in order_of_use(module).items():
        own = module._parameters.get(name)
        if own is not None:
            yield own, None, is_named and named
        elif name not in module._parameters:
            child, child_path = module.get_submodule(name), path + name
            if child_path in blocks:
                yield from ((parameter, blocks[child_path], True) for parameter in child.parameters())
            else:
                yield from _in_order_of_use(child, f"{child_path}.", blocks, is_named and named)


def _raise_unordered(model: nn.Module) -> NoReturn:
    seen = listed(f"{name} ({type(child).__name__})" for name, child in model.named_children())
    raise UserError(
        f"The layers of {type(model).__name__} cannot be ordered: no repeated blocks were found among "
        f"{seen or 'its modules'}. Give the order with layer_patterns, or set layer_decay to 1 to give every layer the "
        "same learning rate."
    )


def _sharing(model: nn.Module, blocks: int) -> list[str]:
    """Say where fewer blocks hold parameters than the configuration has layers."""
    config = getattr(model, "config", None)
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int) or layers <= blocks:
        return []
    return [f"{layers} layers share the parameters of {blocks} block{'s' if blocks > 1 else ''}: one group each."]


def _common_module(names: list[str]) -> str:
    """Return the deepest module path that holds all the parameters, without the parameter's own name."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


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
