"""Layer groups as the structure of a model gives them: its blocks, and what is used before, between and after them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn

from torch import nn

from hfft.errors import UserError, listed
from hfft.layers.blocks import find_blocks
from hfft.layers.groups import HEAD, STEM, LayerGroup, common_module
from hfft.layers.order import order_of_use
from hfft.layers.shapes import whole_shape


def groups_by_structure(model: nn.Module, prefix: str, head: list[str]) -> tuple[list[LayerGroup], int]:
    """Group the parameters of a model in the order of their use; return the groups, and how many of them are blocks.

    Args:
        model: what holds the layers.
        prefix: of the names of its parameters in what wraps it.
        head: full names of the head's parameters.

    Raises :class:`UserError` where nothing repeats in the model.
    """
    found = find_blocks(model, [name.removeprefix(prefix) for name in head])
    blocks = {prefix + path: prefix + name for path, name in found.items()}
    if not blocks:
        _raise_unordered(model)
    names = {id(parameter): prefix + name for name, parameter in model.named_parameters()}
    dimensions = {names[id(parameter)]: len(whole_shape(parameter)) for parameter in model.parameters()}
    seen = set(head)
    grouping = _Grouping(blocks, dimensions)
    for parameter, block, is_named in _in_order_of_use(model, prefix, blocks):
        name = names[id(parameter)]
        if name in seen:
            continue
        seen.add(name)
        if block is None:
            grouping.add_outside_blocks(name, is_named)
        else:
            grouping.add_to_block(name, block)
    return grouping.finished(head), len(set(blocks.values()))


class _Grouping:
    """Puts parameters, which come in the order of their use, into groups.

    Args:
        blocks: path of a module -> name of the block that it is, or is a part of.
        dimensions: of each parameter.
    """

    def __init__(self, blocks: Mapping[str, str], dimensions: Mapping[str, int]) -> None:
        self._blocks, self._dimensions = blocks, dimensions
        self._groups: dict[str, list[str]] = {}
        self._pending: list[str] = []  # what belongs to no block, since the last block
        self._unused: list[str] = []  # of that what forward does not name, such as the head of another task

    def add_to_block(self, name: str, block: str) -> None:
        """Add a parameter of a block."""
        if block not in self._groups:
            self._begin(block)
        self._groups[block].append(name)

    def add_outside_blocks(self, name: str, is_named: bool) -> None:
        """Add a parameter of no block; ``is_named`` says whether forward names it."""
        owner = name.rpartition(".")[0]
        if self._groups and _any_inside(owner, self._blocks):
            self._groups[next(iter(self._groups))].append(name)  # a class token that joins between two blocks: the stem
        else:
            (self._pending if is_named else self._unused).append(name)

    def finished(self, head: list[str]) -> list[LayerGroup]:
        """Return the groups, the head's parameters last."""
        if any(self._dimensions[name] == 2 for name in self._pending):
            # a pooler: dense layers between trunk and classifier learn with the classifier
            head = self._pending + head
        else:
            self._settle(self._pending)
        self._last().extend(self._unused)
        if head:
            self._groups[HEAD] = head
        return [LayerGroup(name, tuple(members)) for name, members in self._groups.items()]

    def _begin(self, block: str) -> None:
        stage = block.rpartition(".")[0]
        is_same_stage = bool(self._groups) and stage == next(reversed(self._groups)).rpartition(".")[0]
        if is_same_stage and not _any_inside(stage, self._pending):
            self._last().extend(self._pending)  # between two blocks of a stage there is no transition
            self._pending = []
        self._settle(self._pending + self._unused)
        self._pending, self._unused = [], []
        self._groups[block] = []

    def _settle(self, pending: list[str]) -> None:
        """Give what stands before a block a group of its own; a norm alone belongs to the block that it follows."""
        weights = [name for name in pending if self._dimensions[name] > 1]
        if not self._groups and pending:
            self._groups[STEM] = pending
        elif weights:
            common = common_module(pending)
            is_apart = common not in ("", HEAD) and not _any_inside(common, self._groups)
            self._groups[common if is_apart else weights[0].rpartition(".")[0] or weights[0]] = pending
        elif pending:
            self._last().extend(pending)

    def _last(self) -> list[str]:
        return self._groups[next(reversed(self._groups))]


def _any_inside(path: str, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{path}." if path else "") for name in names)


def _in_order_of_use(
    module: nn.Module, path: str, blocks: Mapping[str, str], is_named: bool = True
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
