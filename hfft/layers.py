"""LayerStack: a model as an ordered list of layer groups, from input to head.

The one source of layer depth: learning rates, and whatever else needs to know what lies below what, read it here.
The order is derived from the structure of the model, never from a table of model names:

* timm models say themselves how their parameters group (``group_matcher``);
* in other models the repeated blocks of the module tree are the groups, what precedes them is the stem, a module
  between two runs of blocks is a transition, and what lies outside the base model is the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, overload

from torch import nn

from hfft.errors import UserError, listed

HEAD = "head"
STEM = "stem"
TRUNK = "trunk"

# A repeated list of modules is a run of blocks only if it holds at least this share of the trunk's parameters;
# smaller ones (a list of two norms, a stem of three convolutions) belong to what surrounds them.
_MIN_SHARE_OF_TRUNK = 0.05


@dataclass(frozen=True)
class LayerGroup:
    """One step of the stack: a stem, a block, a transition, or the head, with the full names of its parameters."""

    name: str
    parameter_names: tuple[str, ...]


class LayerStack(Sequence[LayerGroup]):
    """An ordered sequence of layer groups, input first, head last; each parameter is in exactly one."""

    def __init__(self, groups: Sequence[LayerGroup]) -> None:
        self._groups = tuple(groups)

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
    def from_model(cls, model: nn.Module) -> LayerStack:
        """Order the layers of ``model``; runs no forward pass.

        Raises :class:`UserError` where no order can be derived, with the modules that were seen.
        """
        names = [name for name, _ in model.named_parameters()]  # a tied parameter is named once
        timm_model, prefix = _timm_model(model)
        head = head_parameter_names(model)
        groups = _from_group_matcher(timm_model, prefix, head) if timm_model is not None else None
        groups = groups or _from_structure(model, names, head)
        _require_each_parameter_once(groups, names)
        return cls(groups)


def head_parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the classifier's parameters, in order of registration.

    In a timm model that is what ``get_classifier`` says; in a transformers model what lies outside its base model.
    """
    timm_model, prefix = _timm_model(model)
    if timm_model is not None:
        classifier = timm_model.get_classifier()
        modules = classifier if isinstance(classifier, tuple | list) else (classifier,)
        in_head = {id(parameter) for module in modules for parameter in module.parameters()}
        return [prefix + name for name, parameter in timm_model.named_parameters() if id(parameter) in in_head]
    trunk_prefix = _trunk_prefix(model)
    return [name for name, _ in model.named_parameters() if not name.startswith(trunk_prefix)] if trunk_prefix else []


def _trunk_prefix(model: nn.Module) -> str:
    """Return the prefix of the base model's parameters, empty where the model has no base model."""
    name = getattr(model, "base_model_prefix", "")
    return f"{name}." if name and isinstance(getattr(model, name, None), nn.Module) else ""


def _timm_model(model: nn.Module) -> tuple[Any, str]:
    """Return the timm model in ``model`` and the prefix of its parameter names, or ``None``."""
    for prefix, candidate in (("", model), ("timm_model.", getattr(model, "timm_model", None))):
        if candidate is not None and hasattr(candidate, "group_matcher") and hasattr(candidate, "get_classifier"):
            return candidate, prefix
    return None, ""


def _from_group_matcher(model: Any, prefix: str, head: list[str]) -> list[LayerGroup] | None:
    """Group by timm's own matcher; ``None`` where it tells no more than trunk and head apart."""
    from timm.models import group_parameters

    grouping = group_parameters(model, model.group_matcher(coarse=False))
    in_head = set(head)
    trunk = [[prefix + name for name in grouping[depth]] for depth in sorted(grouping)]
    trunk = [names for members in trunk if (names := [name for name in members if name not in in_head])]
    if len(trunk) < 3 or not head:
        return None
    named = [(STEM if depth == 0 else _common_module(names), names) for depth, names in enumerate(trunk)]
    return [
        LayerGroup(name or f"layer {depth}", tuple(names)) for depth, (name, names) in enumerate([*named, (HEAD, head)])
    ]


def _from_structure(model: nn.Module, names: list[str], head: list[str]) -> list[LayerGroup]:
    trunk_prefix = _trunk_prefix(model)
    trunk = model.get_submodule(trunk_prefix.removesuffix("."))
    in_head = set(head)
    size = sum(parameter.numel() for parameter in trunk.parameters())
    blocks = [trunk_prefix + path for path in _block_paths(trunk, "", _MIN_SHARE_OF_TRUNK * size)]
    if not blocks:
        seen = listed(f"{name} ({type(child).__name__})" for name, child in trunk.named_children())
        raise UserError(
            f"The layers of {type(model).__name__} cannot be ordered: no list of repeated blocks was found among "
            f"{seen or 'its modules'}. Set layer_decay to 1 to give every layer the same learning rate."
        )
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    groups: list[tuple[str, list[str]]] = []
    pending: list[str] = []  # trunk parameters that belong to no block, since the last block
    for name in names:
        if name in in_head:
            continue
        block = next((path for path in blocks if name.startswith(path + ".")), None)
        if block is None:
            pending.append(name)
        elif groups and groups[-1][0] == block:
            groups[-1][1].append(name)
        else:
            if pending:
                groups.append((_common_module(pending) if groups else STEM, pending))
                pending = []
            groups.append((block, [name]))
    if any(name in matrices for name in pending) or not head:
        # a pooler: dense layers between trunk and classifier learn with the classifier
        head = pending + head
    else:
        groups[-1][1].extend(pending)  # the norm after the last block
    return [LayerGroup(name or "transition", tuple(members)) for name, members in [*groups, (HEAD, head)]]


def _block_paths(module: nn.Module, path: str, min_size: float) -> list[str]:
    """Return the paths of the trunk's blocks in the order of registration."""
    found: list[str] = []
    for name, child in module.named_children():
        child_path = f"{path}.{name}" if path else name
        if sum(parameter.numel() for parameter in child.parameters()) < min_size:
            continue
        links = [(key, link) for key, link in child.named_children() if next(link.parameters(), None) is not None]
        if not isinstance(child, nn.ModuleList) and not (isinstance(child, nn.Sequential) and len(links) > 1):
            found += _block_paths(child, child_path, min_size)
        elif len(links) > 1 and len({_signature(link) for _, link in links}) == 1:
            found += [f"{child_path}.{key}" for key, _ in links]
        else:
            # stages of different widths, or one block that is used again and again (ALBERT): look inside, and take
            # what has no inner blocks as one block
            for key, link in links:
                found += _block_paths(link, f"{child_path}.{key}", 0.5 * _size(link)) or [f"{child_path}.{key}"]
    return found


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _signature(module: nn.Module) -> tuple[Any, ...]:
    """What makes two blocks alike: class, and names and shapes of the parameters."""
    return (type(module), tuple((name, tuple(p.shape)) for name, p in module.named_parameters()))


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
            + "Set layer_decay to 1 to give every layer the same learning rate."
        )
