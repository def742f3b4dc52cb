"""The space that is searched: for some arguments of a run a range or a list each, as a file or a strategy has them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from hfft.arguments import DataArguments, ModelArguments
from hfft.command_arguments import SearchArguments
from hfft.errors import UserError, listed, nearest
from hfft.parsing import SettingsParser, run_parser
from hfft.running.recipes import is_of_once
from hfft.running.resuming import binds_result
from hfft.training_arguments import REPLACED, FineTuningArguments
from hfft.training_checks import RANGES
from hfft.values import require_range
from hfft.yaml_settings import items_of, plain_items, read_plain, typed_settings

_RANGE_KEYS = ("low", "high", "step", "log")
# Arguments that are the same in every trial, and why.
_FIXED = {
    **{f.name: "data are read and split once for all trials" for f in dataclasses.fields(DataArguments)},
    **{f.name: "it belongs to the search itself" for f in dataclasses.fields(SearchArguments)},
    "seed": "trials have the seed of the run, and differ in what is searched alone",
    "output_dir": "trials leave nothing behind",
    **dict.fromkeys(("metric_for_best_model", "greater_is_better", "metrics"), "trials are compared by it"),
    **dict.fromkeys(("calibration", "keep_adapter"), "it comes after what trials are compared by"),
}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Attributes:
        low, high: integers where the argument is one.
        step: between the values; ``None`` for all numbers between (all whole ones).
        log: whether they are drawn evenly in their logarithm.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def grid(self) -> list[Any]:
        """Return the values, for those that can be counted."""
        step = self.step or (1 if isinstance(self.low, int) and not self.log else None)
        if step is None:
            raise UserError("a range without a step has no end of values; give it a step, or list the values")
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [round(self.low + index * step, 12) for index in range(count)]


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Attributes:
        values: any, ``None`` for the argument's default.
    """

    values: tuple[Any, ...]

    def grid(self) -> list[Any]:
        """Return what :attr:`labels` are."""
        return self.labels

    @property
    def labels(self) -> list[Any]:
        """What the values are stored as: those that are no number, word or truth value as JSON."""
        return [value if isinstance(value, str | int | float | None) else json.dumps(value) for value in self.values]


Space = dict[str, Range | Choice]
"""Argument -> what it may be."""


def read_space(source: str | Path | Mapping[str, Any]) -> Space:
    """Read a space from a YAML file, or from a mapping of the same form, which may be JSON.

    Every entry is an argument's name with ``{low, high}``, ``{low, high, step}``, ``{low, high, log: true}`` or a list
    of values; the values are typed as flags are.

    Raises:
        UserError: for what is no such file, an unknown name, one that cannot be searched, and bad bounds.
    """
    if isinstance(source, str) and source.lstrip().startswith("{"):
        named, items = "--space", plain_items(source, "--space")
    elif isinstance(source, Mapping):
        named = "space"
        try:
            items = plain_items(yaml.safe_dump(dict(source), sort_keys=False), named)
        except yaml.YAMLError as error:
            raise UserError(f"space: {' '.join(str(error).split())}") from error
    else:
        named, items = f"--space: '{source}'", read_plain(source, "--space")
    if not items:
        raise UserError(f"{named} names no argument to search.")
    parser = run_parser()
    return {name: _entry(name, node, named, parser) for name, node in items.items()}


def _entry(name: str, node: yaml.Node, named: str, parser: SettingsParser) -> Range | Choice:
    where = f"{named}, line {node.start_mark.line + 1}"
    known = _searchable()
    if name in _FIXED or name in REPLACED or is_of_once(name):
        reason = _FIXED.get(name) or REPLACED.get(name) or "it belongs to one start of a run"
        raise UserError(f"{where}: {name} cannot be searched: {reason}.")
    if name not in known:
        raise UserError(f"{where}: there is no argument '{name}'.{nearest(name, known)}")
    if not binds_result(name):
        raise UserError(f"{where}: {name} cannot be searched: no result depends on it.")

    def read(value: yaml.Node) -> Any:
        typed = typed_settings({name: value}, f"{named}, line {value.start_mark.line + 1}", parser).get(name)
        _require_possible(name, typed, f"{named}, line {value.start_mark.line + 1}")
        return typed

    if isinstance(node, yaml.SequenceNode):
        return _choice(name, node, read, where)
    if isinstance(node, yaml.MappingNode):
        return _range(name, items_of(node, named), read, where)
    raise UserError(f"{where}: {name} needs a list of values or {{low: ..., high: ...}}, got '{node.value}'.")


def _searchable() -> list[str]:
    fields = (*dataclasses.fields(ModelArguments), *dataclasses.fields(FineTuningArguments))
    return sorted({f.name for f in fields if f.init} - _FIXED.keys() - REPLACED.keys())


def _choice(name: str, node: yaml.SequenceNode, read: Callable[[yaml.Node], Any], where: str) -> Choice:
    found = Choice(tuple(read(item) for item in node.value))
    if not found.values:
        raise UserError(f"{where}: the list of {name} is empty.")
    if len(set(found.labels)) < len(found.values):
        raise UserError(f"{where}: the list of {name} names a value twice.")
    return found


def _range(name: str, items: Mapping[str, yaml.Node], read: Callable[[yaml.Node], Any], where: str) -> Range:
    for key in items:
        if key not in _RANGE_KEYS:
            raise UserError(
                f"{where}: a range has no '{key}'.{nearest(key, _RANGE_KEYS)} Known: {listed(_RANGE_KEYS)}."
            )
    if missing := [key for key in ("low", "high") if key not in items]:
        raise UserError(f"{where}: the range of {name} has no {missing[0]}.")
    low, high = read(items["low"]), read(items["high"])
    if any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in (low, high)):
        raise UserError(f"{where}: {name} is no number, so it has no range; list its values.")
    log, step = _scalar(items.get("log"), "false").lower(), _scalar(items.get("step"), "")
    if log not in ("true", "false"):
        raise UserError(f"{where}: log must be true or false, got '{log}'.")
    try:
        found = Range(low, high, type(low)(step) if step else None, log == "true")
    except ValueError as error:
        raise UserError(f"{where}: step must be a number such as those of {name}, got '{step}'.") from error
    if not all(math.isfinite(bound) for bound in (low, high, found.step or 0)):
        raise UserError(f"{where}: the bounds of {name} must be finite.")
    if not low < high:
        raise UserError(f"{where}: low must be less than high, got {low} and {high}.")
    if found.log and low <= 0:
        raise UserError(f"{where}: a range with log must begin above 0, got {low}.")
    if found.log and found.step is not None:
        raise UserError(f"{where}: log and step exclude each other.")
    if found.step is not None and not 0 < found.step <= high - low:
        raise UserError(f"{where}: step must be above 0 and fit between {low} and {high}, got {found.step}.")
    return found


def _scalar(node: yaml.Node | None, default: str) -> str:
    return default if node is None else str(node.value)


def _require_possible(name: str, value: Any, where: str) -> None:
    """Raise :class:`UserError` for a value that no run takes, whatever the other arguments are."""
    try:
        if name in RANGES:
            require_range(SimpleNamespace(**{name: value}), name, **RANGES[name])
        if name in {f.name for f in dataclasses.fields(ModelArguments)}:
            ModelArguments(**{name: value})
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def fitting(space: Space, known: Mapping[str, Sequence[Any]]) -> Space:
    """Return a space without the values that a model or target does not know, and without what then has one value."""
    kept: Space = {}
    for name, entry in space.items():
        if isinstance(entry, Choice) and name in known:
            entry = Choice(tuple(value for value in entry.values if value in known[name]))
            if len(entry.values) < 2:
                continue
        kept[name] = entry
    return kept


def grid_of(space: Space) -> list[dict[str, Any]]:
    """Return every combination, as trials are stored; raises :class:`UserError` for ranges without a step."""
    axes = []
    for name, entry in space.items():
        try:
            axes.append(entry.grid())
        except UserError as error:
            raise UserError(f"--sampler grid: {name} is {error}.") from error
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*axes)]


def settings_of(space: Space, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that stored parameters mean; those that are to be left at their default are left out."""
    found = {}
    for name, stored in parameters.items():
        entry = space[name]
        value = entry.values[entry.labels.index(stored)] if isinstance(entry, Choice) else stored
        if value is not None:
            found[name] = value
    return found


def first_settings(space: Space) -> dict[str, Any]:
    """Return some arguments of the space."""
    return settings_of(space, {name: e.labels[0] if isinstance(e, Choice) else e.low for name, e in space.items()})


def described(space: Space) -> dict[str, Any]:
    """Return the space as a file has it."""
    told: dict[str, Any] = {}
    for name, entry in space.items():
        if isinstance(entry, Choice):
            told[name] = list(entry.values)
        else:
            told[name] = {key: value for key, value in dataclasses.asdict(entry).items() if value not in (None, False)}
    return told
