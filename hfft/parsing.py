"""Settings from flags and YAML: the same words everywhere, typed once, and nearest names for misspelt ones.

Only what was given comes back, so that the defaults of task and strategy can stand beneath it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser, TrainingArguments

from hfft.arguments import DataArguments, ModelArguments
from hfft.errors import UserError, listed, nearest
from hfft.paths import existing_path
from hfft.training_arguments import REPLACED, FineTuningArguments

_LARGEST_YAML = 1_000_000  # bytes
_DEEPEST_YAML = 20
_EXAMPLES = {"--config": "run.yaml", "--space": "space of arguments"}  # what each flag names
_LISTS = frozenset({"report_to", "optim_target_modules"})  # a word on the command line, in Python also a list
# What most runs set of the 130 fields that are transformers' own; --help_all shows the others.
_COMMON = frozenset(
    [
        "output_dir",
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "weight_decay",
        "warmup_steps",
        "lr_scheduler_type",
        "optim",
        "seed",
        "bf16",
        "fp16",
        "eval_strategy",
        "metric_for_best_model",
        "dataloader_num_workers",
        "report_to",
    ]
)


class _HelpFormatter(argparse.HelpFormatter):
    """One spelling of each flag, no lists of choices, and the default where there is one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return ", ".join(action.option_strings)
        metavar = action.metavar or ("[true|false]" if action.nargs == "?" else action.dest.split("_")[-1].upper())
        return f"{action.option_strings[0]} {metavar}"

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        if action.default in (None, argparse.SUPPRESS) or "default:" in text:
            return text
        return (
            f"{text.rstrip('.')} (default: {str(action.default).lower() if action.nargs == '?' else action.default})."
        )


class SettingsParser(HfArgumentParser):
    """Parses flags of argument dataclasses into a dict of what was given."""

    def __init__(self, dataclass_types: Sequence[type], hidden: Collection[str] = (), **kwargs: Any) -> None:
        super().__init__(list(dataclass_types), allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        inherited = {f.name for f in dataclasses.fields(TrainingArguments)} - _COMMON
        for action in self._actions:
            if action.dest in REPLACED or action.dest in hidden or action.option_strings[0].startswith("--no_"):
                action.help = argparse.SUPPRESS
            elif action.dest in inherited:
                action.help = f"[more] {action.help or ''}"

    def error(self, message: str) -> NoReturn:
        """Raise :class:`UserError` instead of leaving the process."""
        raise UserError(message[0].upper() + message[1:] + ("" if message.endswith(".") else "."))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = list(action.choices or [])
        if choices and value not in choices:
            names = [str(getattr(choice, "value", choice)) for choice in choices]
            raise UserError(
                f"{action.option_strings[0]}: '{value}' is not known.{nearest(value, names)} "
                f"Known: {listed(names, 12)}."
            )

    def format_help(self) -> str:
        """Show hfft's own flags and the common ones of transformers."""
        hidden = [action for action in self._actions if (action.help or "").startswith("[more]")]
        helps = [action.help for action in hidden]
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            text = super().format_help()
        finally:
            for action, help_text in zip(hidden, helps, strict=True):
                action.help = help_text
        return (
            f"{text}\nEvery other field of transformers.TrainingArguments is a flag too: {len(hidden)} in --help_all.\n"
        )

    def format_help_all(self) -> str:
        """Show every flag."""
        return super().format_help()

    def parse_settings(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return name -> value of the flags in ``argv``; raises :class:`UserError` for unknown ones and bad values."""
        defaults = {action: action.default for action in self._actions}
        for action in defaults:
            action.default = argparse.SUPPRESS
        try:
            given, unknown = self.parse_known_args(list(argv))
        finally:
            for action, default in defaults.items():
                action.default = default
        if unknown:
            flag = unknown[0].split("=")[0]
            flags = [option for action in self._actions for option in action.option_strings]
            if not flag.startswith("-"):
                raise UserError(f"'{flag}' belongs to no flag. Values follow their flag: --name value.")
            raise UserError(f"There is no flag {flag}.{nearest(flag, flags)}")
        return vars(given)


def train_parser(
    command: str = "train", description: str | None = None, *more: type, hidden: Collection[str] = ()
) -> SettingsParser:
    """Return the parser of everything that a run can be told.

    Args:
        command: of ``hfft``.
        description: what it does.
        *more: argument dataclasses beside those of a run.
        hidden: names of arguments that the help leaves out, because the command settles them itself.
    """
    output = "" if "output_dir" in hidden else "[--output_dir OUT] "
    return SettingsParser(
        (ModelArguments, DataArguments, FineTuningArguments, *more),
        hidden,
        prog=f"hfft {command}",
        usage=f"hfft {command} --model MODEL --data DATA {output}[--config RUN.YAML] [--any_argument VALUE]",
        description=description,
    )


def read_yaml(path: str | Path, parser: SettingsParser | None = None) -> dict[str, Any]:
    """Read a run's settings; the values are typed by the parser of the flags, so ``1e-4`` is a number here too.

    Raises:
        UserError: for a file that :func:`read_plain` refuses, or a key that is no argument.
    """
    named = f"--config: '{path}'"
    return typed_settings(read_plain(path, "--config"), named, parser or train_parser())


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


def split_settings(settings: dict[str, Any]) -> tuple[ModelArguments, DataArguments, dict[str, Any]]:
    """Sort settings into model, data and training arguments; the latter stay a dict, for task defaults to go below.

    Raises :class:`UserError` for a name that is no argument, and for bad values of model and data.
    """
    names = {
        kind: {f.name for f in dataclasses.fields(kind) if f.init}
        for kind in (ModelArguments, DataArguments, FineTuningArguments)
    }
    known = set().union(*names.values())
    for name in settings:
        if name not in known:
            raise UserError(f"There is no argument '{name}'.{nearest(name, known)}")
        if name in REPLACED:
            raise UserError(f"{name} has no place in a run of hfft: {REPLACED[name]}.")
    own = {kind: {n: v for n, v in settings.items() if n in names[kind]} for kind in names}
    return (
        ModelArguments(**own[ModelArguments]),
        DataArguments(**own[DataArguments]),
        own[FineTuningArguments],
    )


def training_arguments(settings: dict[str, Any]) -> FineTuningArguments:
    """Build the training arguments; what transformers refuses is a :class:`UserError` as well."""
    try:
        return FineTuningArguments(**settings)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"The training arguments do not fit: {' '.join(str(error).split())}") from error
