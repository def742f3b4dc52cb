"""Settings from YAML: the same words as the flags, typed by their parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from hfft.errors import UserError, nearest
from hfft.parsing import SettingsParser, run_parser
from hfft.paths import existing_path

_LARGEST_YAML = 1_000_000  # bytes
_DEEPEST_YAML = 20
_EXAMPLES = {"--config": "run.yaml", "--space": "space of arguments"}  # what each flag names
_LISTS = frozenset({"report_to", "optim_target_modules"})  # a word on the command line, in Python also a list


def read_yaml(path: str | Path, parser: SettingsParser | None = None) -> dict[str, Any]:
    """Read a run's settings; the values are typed by the parser of the flags, so ``1e-4`` is a number here too.

    Raises:
        UserError: for a file that :func:`read_plain` refuses, or a key that is no argument.
    """
    named = f"--config: '{path}'"
    return typed_settings(read_plain(path, "--config"), named, parser or run_parser())


def read_plain(path: str | Path, flag: str) -> dict[str, yaml.Node]:
    """Return the nodes of a YAML mapping of plain values by key; ``flag`` is what named the file.

    Raises:
        UserError: for a file that is missing, too large, no YAML, no mapping of plain values, has tags, aliases, deep
            nesting or repeated keys.
    """
    file, named = existing_path(path, flag), f"{flag}: '{path}'"
    if not file.is_file():
        raise UserError(f"{named} is no file.")
    if file.stat().st_size > _LARGEST_YAML:
        raise UserError(f"{named} is larger than {_LARGEST_YAML:,} bytes, so it is no {_EXAMPLES[flag]}.")
    try:
        return plain_items(file.read_text("utf-8"), named)
    except UnicodeDecodeError as error:
        raise UserError(f"{named} is no UTF-8 text: {error}.") from error


def plain_items(text: str, named: str) -> dict[str, yaml.Node]:
    """Return the nodes of a YAML mapping of plain values by key; raises as :func:`read_plain`."""
    try:
        _require_plain(text, named)
        # the base loader leaves every scalar as it is written: `text_column: on` is a text
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        context = "" if error.context is None else f", {error.context}"
        if error.context_mark is not None:
            context += f" that begins in line {error.context_mark.line + 1}"
        raise UserError(f"{named}{line}: no valid YAML: {error.problem}{context}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{named} is no valid YAML: {' '.join(str(error).split())}") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{named} must hold lines of the form name: value, got a {type(root).__name__[:-4].lower()}.")
    return items_of(root, named)


def _require_plain(text: str, named: str) -> None:
    """Refuse what settings do not need: tags name Python objects, aliases unfold, PyYAML is quadratic in depth."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        where = named + (f", line {event.start_mark.line + 1}" if event.start_mark else "")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST_YAML:
            raise UserError(f"{where}: nested more than {_DEEPEST_YAML} deep.")
        if (tag := getattr(event, "tag", None)) is not None:
            raise UserError(f"{where}: no valid YAML for a run, tags such as {tag} are not read here.")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise UserError(f"{where}: aliases are not read here.")


def items_of(node: yaml.MappingNode, named: str) -> dict[str, yaml.Node]:
    """Return the mapping's values by key; raises :class:`UserError` for repeated keys and keys that are no words."""
    items: dict[str, yaml.Node] = {}
    for key, value in node.value:
        where = f"{named}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{where}: a key must be a name.")
        if key.value in items:
            raise UserError(f"{where}: the key '{key.value}' stands there twice.")
        items[key.value] = value
    return items


def typed_settings(items: dict[str, yaml.Node], named: str, parser: SettingsParser) -> dict[str, Any]:
    """Return settings as the parser of the flags types them; ``named`` says in messages where they stand.

    Raises :class:`UserError` for a key that is no argument, and a value that it cannot have.
    """
    known = sorted({action.dest for action in parser._actions} - {"help", "config"})
    argv: list[str] = []
    lists: dict[str, list[str]] = {}
    for key, node in items.items():
        if key not in known:
            raise UserError(f"{named} has the key '{key}', which is no argument.{nearest(key, known)}")
        if isinstance(node, yaml.ScalarNode):
            if not _is_null(node):
                argv.append(f"--{key}={node.value}")
        elif isinstance(node, yaml.SequenceNode):
            values = [_list_item(item, key, named) for item in node.value]
            if key in _LISTS:
                lists[key] = values
            elif values:
                argv += [f"--{key}", *values]
        else:
            argv.append(f"--{key}={json.dumps(_plain(node, named))}")
    try:
        return parser.parse_settings(argv) | lists
    except UserError as error:
        raise UserError(f"{named}: {error}") from error


def _is_null(node: yaml.Node) -> bool:
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return is_plain and node.value in ("", "~", "null", "Null", "NULL")


def _list_item(node: yaml.Node, key: str, named: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or _is_null(node) or node.value.startswith("-"):
        raise UserError(f"{named}, line {node.start_mark.line + 1}: {key} cannot hold this item.")
    return str(node.value)


def _plain(node: yaml.Node, named: str) -> Any:
    """Return what the node stands for; an unquoted scalar is a number or truth value where JSON says so."""
    if isinstance(node, yaml.MappingNode):
        return {key: _plain(value, named) for key, value in items_of(node, named).items()}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, named) for item in node.value]
    if _is_null(node):
        return None
    try:
        return json.loads(node.value) if getattr(node, "style", None) is None else node.value
    except ValueError:
        return node.value
