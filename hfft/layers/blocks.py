"""Blocks: what repeats in a model, told from the stages that hold it and from the parts that it is made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from torch import nn

from hfft.layers.order import CONTAINERS, order_of_use
from hfft.layers.shapes import is_matrix, whole_shape


def find_blocks(model: nn.Module, head: list[str]) -> dict[str, str]:
    """Return the paths of the trunk's blocks, each with the name of its block.

    Blocks are looked for in lists of modules, then in lists of their parts that one loop goes through together (XLM),
    then among the children of any module (Inception), then in lists of smaller modules; in plain networks each layer is
    a block. The first of these that accounts for half of the trunk's weights is right.
    """
    in_head = set(head)
    weights = [
        name
        for name, parameter in model.named_parameters()
        if is_matrix(parameter) and name not in in_head and not any(map(_is_no_trunk, name.split(".")))
    ]
    finder = _BlockFinder(model)
    for find in (finder.in_lists, _parts_in_turns, finder.among_children, _in_lists_of_smaller, _plain_layers):
        found = find(model, "")
        heavy = {name for path, name in found.items() if any(weight.startswith(f"{path}.") for weight in weights)}
        blocks = {path: name for path, name in found.items() if name in heavy}
        covered = sum(weight.startswith(tuple(f"{path}." for path in blocks)) for weight in weights)
        if blocks and covered >= 0.5 * len(weights):
            return blocks
    return {}


def _in_lists_of_smaller(model: nn.Module, path: str) -> dict[str, str]:
    return _BlockFinder(model, composite=False).in_lists(model, path)


def _parts_in_turns(model: nn.Module, _: str) -> dict[str, str]:
    """Find blocks whose parts stand in several lists: ``attentions.0``, ``norms.0`` and ``ffns.0`` are one block."""
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        turns = [name for name in order_of_use(module) if "." in name]
        for name in turns:
            first = turns[0].partition(".")[0]
            found[f"{path}.{name}" if path else name] = f"{path}.{first}.{name.partition('.')[2]}"
    return found


class _BlockFinder:
    """Tells blocks from the stages that they are in and from the parts that they are made of.

    Args:
        model: to look through.
        composite: a block must have more than one weight and normalise, which a convolution with its norm, an expert or
            a projection does not; else any module with a weight will do that has modules of its own.
    """

    def __init__(self, model: nn.Module, composite: bool = True) -> None:
        self._composite = composite
        self._weights = {id(module): sum(map(is_matrix, module.parameters())) for module in model.modules()}
        elements = [
            child
            for module in model.modules()
            if isinstance(module, CONTAINERS)
            for child in module.children()
            if not isinstance(child, CONTAINERS) and self._may_be_block(child)
        ]
        self._classes = Counter(type(element) for element in elements)
        # a class that occurs again with the same shapes is a block; the stages of a network differ in width or depth
        self._block_classes = _repeated_classes(elements)
        # what holds for one instance holds for its class: nothing inside repeats, or most of it are blocks
        self._stage_classes: set[type] = set()
        found = [model.get_submodule(path) for path in self.in_lists(model, "")]
        self._block_classes |= {type(module) for module in found if not self._has_blocks(module)} - {*CONTAINERS}
        modules = (module for module in model.modules() if not isinstance(module, CONTAINERS))
        self._repeated_anywhere = _repeated_classes(filter(self._may_be_block, modules))

    def in_lists(self, module: nn.Module, path: str) -> dict[str, str]:
        """Return the elements of module lists that are blocks, and what stands alone but is of the same class."""
        name = path.rpartition(".")[2]
        if _is_no_trunk(name):
            return {}
        is_run = isinstance(module, CONTAINERS) and self._is_run(module)
        found: dict[str, str] = {}
        for child_path, child in _children(module, path):
            is_called_block = is_run and _holds_blocks(path) and not isinstance(child, CONTAINERS)
            is_known = type(child) in self._block_classes or is_called_block
            inner = {} if is_known else self.in_lists(child, child_path)
            is_element = is_run and self._may_be_block(child)
            if is_known or (is_element and not self._is_stage(child, child_path, inner)):
                found[child_path] = child_path
            else:
                found |= inner
        return found

    def among_children(self, module: nn.Module, path: str) -> dict[str, str]:
        """Return the outermost modules that have siblings of the same kind (``Mixed_5b``, ``Mixed_5c``, ...)."""
        if _is_no_trunk(path.rpartition(".")[2]):
            return {}
        children = _children(module, path)
        candidates = [(child_path, child) for child_path, child in children if self._may_be_block(child)]
        if any(type(child) in self._repeated_anywhere for _, child in candidates):
            return {child_path: child_path for child_path, _ in candidates}
        inner: dict[str, str] = {}
        for child_path, child in children:
            inner |= self.among_children(child, child_path)
        stages = any(self._is_stage(child, child_path, inner) for child_path, child in candidates)
        repeated = len({type(child) for _, child in candidates}) < len(candidates)
        return inner if stages or not repeated else {child_path: child_path for child_path, _ in candidates}

    def _is_run(self, module: nn.Module) -> bool:
        """Say whether the elements of a list are repetitions of a block, or stages, and not the parts of one block."""
        candidates = [child for child in module.children() if self._may_be_block(child)]
        if any(map(_is_marked, candidates)) or any(isinstance(child, CONTAINERS) for child in candidates):
            return True
        if isinstance(module, nn.Sequential) and len(module) > 1:
            return any(self._classes[type(child)] > 1 for child in candidates)
        return len({type(child) for child in candidates}) < len(candidates) or len(candidates) == 1

    def _may_be_block(self, module: nn.Module) -> bool:
        weights = self._weights[id(module)]
        if not self._composite:
            return weights > 0 and next(module.children(), None) is not None
        return _is_marked(module) or (weights > 1 and any(map(_is_norm, module.modules())))

    def _is_stage(self, module: nn.Module, path: str, blocks: dict[str, str]) -> bool:
        """Say whether blocks inside a module make up most of it, one after the other."""
        inside = sum(
            self._weights[id(module.get_submodule(block.removeprefix(f"{path}.")))]
            for block in blocks
            if block.startswith(f"{path}.")
        )
        if inside == 0 or _has_branches(module):
            return False
        if inside >= 0.5 * self._weights[id(module)]:
            self._stage_classes.add(type(module))
        return type(module) in self._stage_classes

    def _has_blocks(self, module: nn.Module) -> bool:
        return not _has_branches(module) and bool(self.in_lists(module, ""))


def _repeated_classes(modules: Iterable[nn.Module]) -> set[type]:
    """Return the classes that occur more than once with the same shapes."""
    signatures = Counter((type(module), tuple(map(whole_shape, module.parameters()))) for module in modules)
    return {cls for (cls, _), count in signatures.items() if count > 1}


def _children(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    return [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]


def _holds_blocks(path: str) -> bool:
    """Say whether a list is that of the blocks of a stage by its name: ``stages.0.blocks``."""
    return re.search(r"\.\d+\.blocks?$", path) is not None


def _is_no_trunk(name: str) -> bool:
    """Say whether a module's name is that of a stem or a downsampling, however deep that is itself."""
    return re.search(r"stem|embed|downsamp", name) is not None


def _has_branches(module: nn.Module) -> bool:
    """Say whether several sequences run side by side in a module, as in HRNet: they are parts of one block."""
    return not isinstance(module, CONTAINERS) and any(
        isinstance(child, nn.ModuleList)
        and sum(isinstance(link, nn.Sequential) and len(link) > 0 for link in child) > 1
        for child in module.children()
    )


def _is_marked(module: nn.Module) -> bool:
    """Say whether transformers marks the module as a unit of activation checkpointing, which is a block or a stage."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return isinstance(module, GradientCheckpointingLayer)


def _is_norm(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return "norm" in name or name.endswith("bn")


def _plain_layers(model: nn.Module, path: str) -> dict[str, str]:
    """Take each layer of a network that is a plain sequence of layers, but for embeddings."""
    found: dict[str, str] = {}
    for child_path, child in _children(model, path):
        if isinstance(child, CONTAINERS) or child_path == getattr(model, "base_model_prefix", None):
            found |= _plain_layers(child, child_path)
        elif not isinstance(child, nn.Embedding) and any(map(is_matrix, child.parameters(recurse=False))):
            found[child_path] = child_path
    return found
