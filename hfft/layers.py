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

import dis
import functools
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from types import CodeType
from typing import Any, NoReturn, overload

from torch import nn

from hfft.errors import UserError, listed

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
        """The last group: the classifier and what stands between it and the trunk."""
        return self._groups[-1]

    def depth_of(self) -> dict[str, int]:
        """Return parameter name -> index of its group."""
        return {name: depth for depth, group in enumerate(self) for name in group.parameter_names}

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
        inner, prefix = _without_adapters(model)
        head = head_parameter_names(model)
        timm_model, timm_prefix = _timm_model(inner)
        if timm_model is not None:
            inner, prefix = timm_model, prefix + timm_prefix
        groups, blocks = _from_structure(inner, prefix, head)
        _require_each_parameter_once(groups, names)
        return cls(groups, _sharing(inner, blocks))


def head_parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the classifier's parameters, in order of registration.

    In a timm model that is what ``get_classifier`` says; in a transformers model what lies outside its base model.
    """
    inner, prefix = _without_adapters(model)
    timm_model, timm_prefix = _timm_model(inner)
    if timm_model is not None:
        classifier = timm_model.get_classifier()
        modules = classifier if isinstance(classifier, tuple | list) else (classifier,)
        in_head = {id(parameter) for module in modules for parameter in module.parameters()}
        timm_prefix = prefix + timm_prefix
        return [timm_prefix + name for name, parameter in timm_model.named_parameters() if id(parameter) in in_head]
    trunk_prefix = _trunk_prefix(inner)
    if not trunk_prefix:
        return []
    return [prefix + name for name, _ in inner.named_parameters() if not name.startswith(trunk_prefix)]


def _without_adapters(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the model that PEFT wraps, which holds the adapters' parameters as well, and its parameters' prefix."""
    peft = sys.modules.get("peft")  # a model that it wraps has imported it
    if peft is None or not isinstance(model, peft.PeftModel):
        return model, ""
    inner = model.get_base_model()
    return inner, next(path for path, module in model.named_modules() if module is inner) + "."


def _trunk_prefix(model: nn.Module) -> str:
    """Return the prefix of the base model's parameters, empty where the model has no base model."""
    name = getattr(model, "base_model_prefix", "")
    return f"{name}." if name and isinstance(getattr(model, name, None), nn.Module) else ""


def _timm_model(model: nn.Module) -> tuple[Any, str]:
    """Return the timm model in ``model`` and the prefix of its parameter names, or ``None``."""
    for prefix, candidate in (("", model), ("timm_model.", getattr(model, "timm_model", None))):
        if candidate is not None and hasattr(candidate, "get_classifier"):
            return candidate, prefix
    return None, ""


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
    blocks = {
        prefix + path: prefix + name for path, name in _blocks(model, [n.removeprefix(prefix) for n in head]).items()
    }
    if not blocks:
        _raise_unordered(model)
    names = {id(parameter): prefix + name for name, parameter in model.named_parameters()}
    dimensions = {names[id(parameter)]: parameter.ndim for parameter in model.parameters()}
    seen = set(head)
    groups: dict[str, list[str]] = {}
    pending: list[str] = []  # parameters that belong to no block, since the last block
    for parameter, block in _in_order_of_use(model, prefix, blocks):
        name = names[id(parameter)]
        if name in seen:
            continue
        seen.add(name)
        if block is None:
            pending.append(name)
            continue
        if block not in groups:
            _settle(pending, groups, dimensions)
            pending = []
        groups.setdefault(block, []).append(name)
    if any(dimensions[name] == 2 for name in pending):
        # a pooler: dense layers between trunk and classifier learn with the classifier
        head = pending + head
    else:
        _settle(pending, groups, dimensions)
    if head:
        groups[HEAD] = head
    return [LayerGroup(name, tuple(members)) for name, members in groups.items()], len(set(blocks.values()))


def _settle(pending: list[str], groups: dict[str, list[str]], dimensions: dict[str, int]) -> None:
    """Give what stands before a block a group of its own; a norm alone belongs to the block that it follows."""
    weights = [name for name in pending if dimensions[name] > 1]
    if not groups and pending:
        groups[STEM] = pending
    elif weights:
        common = _common_module(pending)
        is_apart = common not in ("", HEAD) and not any(name.startswith(f"{common}.") for name in groups)
        groups[common if is_apart else weights[0].rpartition(".")[0]] = pending
    elif pending:
        groups[next(reversed(groups))].extend(pending)


def _in_order_of_use(module: nn.Module, path: str, blocks: dict[str, str]) -> Iterator[tuple[nn.Parameter, str | None]]:
    """Yield the parameters in the order of their use, each with the name of the block that it is in."""
    for name in _order_of_use(module):
        own = module._parameters.get(name)
        if own is not None:
            yield own, None
        elif name not in module._parameters:
            child, child_path = module.get_submodule(name), path + name
            if child_path in blocks:
                yield from ((parameter, blocks[child_path]) for parameter in child.parameters())
            else:
                yield from _in_order_of_use(child, f"{child_path}.", blocks)


def _order_of_use(module: nn.Module) -> list[str]:
    """Return own parameters and children in the order in which ``forward`` uses them.

    Lists that one loop goes through together give their elements in turns: ``norms.0, layers.0, norms.1, ...``.
    """
    registered = [*module._parameters, *(name for name, child in module._modules.items() if child is not None)]
    if isinstance(module, _CONTAINERS):
        return registered
    known = set(registered)
    order: list[str] = []
    for mentioned in _mentions(type(module)):  # type: ignore[arg-type]
        names = [name for name in dict.fromkeys(mentioned) if name in known]
        known -= set(names)
        lists = {name: len(child) for name in names if isinstance(child := module._modules.get(name), nn.ModuleList)}
        if len(lists) > 1:
            turns = [f"{name}.{index}" for index in range(max(lists.values())) for name in lists if index < lists[name]]
            first = min(names.index(name) for name in lists)
            names = [*names[:first], *turns, *(name for name in names[first:] if name not in lists)]
        order += names
    # what the code does not name stays behind what it was registered behind
    for index, name in enumerate(registered):
        if name in known:
            before = registered[index - 1] if index else None
            places = [place for place, other in enumerate(order) if other.partition(".")[0] == before]
            order.insert(places[-1] + 1 if places else 0, name)
    return order


@functools.lru_cache(maxsize=256)
def _mentions(cls: type) -> list[list[str]]:
    """Return the attributes that the code of ``forward`` uses, in order, cut at the end of each loop.

    A mere mention (``if self.norm is not None``) counts only for what is never called by its name, as lists are not.
    """
    parts: list[list[tuple[str, bool]]] = [[]]
    visited: set[str] = set()

    def read(code: CodeType) -> None:
        comprehensions: list[CodeType] = []  # loaded before what they go through
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                # since Python 3.12 the lowest bit says whether an attribute is loaded to be called
                called = instruction.opname == "LOAD_METHOD" or (
                    sys.version_info >= (3, 12) and bool(instruction.arg & 1)
                )
                follow(str(instruction.argval), called)
            elif instruction.opname.startswith("JUMP_BACKWARD"):
                parts.append([])
            elif isinstance(instruction.argval, CodeType):
                comprehensions.append(instruction.argval)
            elif instruction.opname == "GET_ITER" and comprehensions:
                read(comprehensions.pop())
        for nested in comprehensions:
            read(nested)

    def follow(name: str, called: bool) -> None:
        member = inspect.getattr_static(cls, name, None)
        if not inspect.isfunction(member):
            parts[-1].append((name, called))
        elif name not in visited:
            visited.add(name)
            read(inspect.unwrap(member).__code__)

    follow("forward", True)
    used = {name for part in parts for name, called in part if called}
    return [[name for name, called in part if called or name not in used] for part in parts]


def _blocks(model: nn.Module, head: list[str]) -> dict[str, str]:
    """Return the paths of the trunk's blocks, each with the name of its block.

    Blocks are looked for in lists of modules, then in lists of their parts that one loop goes through together (XLM),
    then among the children of any module (Inception), then in lists of smaller modules; in plain networks each layer is
    a block. The first of these that accounts for half of the trunk's weights is right.
    """
    in_head = set(head)
    weights = [name for name, parameter in model.named_parameters() if parameter.ndim > 1 and name not in in_head]
    finder = _BlockFinder(model)
    smaller = _BlockFinder(model, composite=False)
    for find in (finder.in_lists, _parts_in_turns, finder.among_children, smaller.in_lists, _plain_layers):
        blocks = find(model, "")
        blocks = {
            path: name for path, name in blocks.items() if any(weight.startswith(f"{path}.") for weight in weights)
        }
        covered = sum(weight.startswith(tuple(f"{path}." for path in blocks)) for weight in weights)
        if blocks and covered >= 0.5 * len(weights):
            return blocks
    return {}


def _parts_in_turns(model: nn.Module, _: str) -> dict[str, str]:
    """Find blocks whose parts stand in several lists: ``attentions.0``, ``norms.0`` and ``ffns.0`` are one block."""
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        turns = [name for name in _order_of_use(module) if "." in name]
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
        self._weights = {id(module): sum(p.ndim > 1 for p in module.parameters()) for module in model.modules()}
        elements = [
            child
            for module in model.modules()
            if isinstance(module, _CONTAINERS)
            for child in module.children()
            if not isinstance(child, _CONTAINERS) and self._may_be_block(child)
        ]
        self._classes = Counter(type(element) for element in elements)
        # a class that occurs again with the same shapes is a block; the stages of a network differ in width or depth
        self._block_classes = _repeated_classes(elements)
        modules = (module for module in model.modules() if not isinstance(module, _CONTAINERS))
        self._repeated_anywhere = _repeated_classes(filter(self._may_be_block, modules))

    def in_lists(self, module: nn.Module, path: str) -> dict[str, str]:
        """Return the elements of module lists that are blocks."""
        if _is_no_trunk(path):
            return {}
        is_run = isinstance(module, _CONTAINERS) and self._is_run(module)
        found: dict[str, str] = {}
        for child_path, child in _children(module, path):
            inner = {} if is_run and type(child) in self._block_classes else self.in_lists(child, child_path)
            if is_run and self._may_be_block(child) and not self._is_stage(child, child_path, inner):
                found[child_path] = child_path
            else:
                found |= inner
        return found

    def among_children(self, module: nn.Module, path: str) -> dict[str, str]:
        """Return the outermost modules that have siblings of the same kind (``Mixed_5b``, ``Mixed_5c``, ...)."""
        if _is_no_trunk(path):
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
        if any(map(_is_marked, candidates)) or any(isinstance(child, _CONTAINERS) for child in candidates):
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
        return inside > 0 and inside >= 0.5 * self._weights[id(module)] and not _has_branches(module)


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _repeated_classes(modules: Iterable[nn.Module]) -> set[type]:
    """Return the classes that occur more than once with the same shapes."""
    signatures = Counter((type(module), tuple(p.shape for p in module.parameters())) for module in modules)
    return {cls for (cls, _), count in signatures.items() if count > 1}


def _children(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    return [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]


def _is_no_trunk(path: str) -> bool:
    """Say whether a path is that of a stem or a downsampling, however deep that is itself."""
    return re.search(r"stem|embed|downsamp", path.rpartition(".")[2]) is not None


def _has_branches(module: nn.Module) -> bool:
    """Say whether several sequences run side by side in a module, as in HRNet: they are parts of one block."""
    return not isinstance(module, _CONTAINERS) and any(
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
        if isinstance(child, _CONTAINERS) or child_path == getattr(model, "base_model_prefix", None):
            found |= _plain_layers(child, child_path)
        elif not isinstance(child, nn.Embedding) and any(p.ndim > 1 for p in child.parameters(recurse=False)):
            found[child_path] = child_path
    return found


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
