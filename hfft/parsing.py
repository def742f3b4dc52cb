"""Settings from flags and YAML: the same words everywhere, typed once, and nearest names for misspelt ones.

Only what was given comes back, so that the defaults of task and strategy can stand beneath it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser, TrainingArguments

from hfft.arguments import DataArguments, ModelArguments
from hfft.data.sources import existing_path
from hfft.errors import UserError, listed, nearest
from hfft.training_arguments import REPLACED, FineTuningArguments

_LARGEST_YAML = 1_000_000  # bytes
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

    def __init__(self, dataclass_types: Sequence[type], **kwargs: Any) -> None:
        super().__init__(list(dataclass_types), allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        inherited = {f.name for f in dataclasses.fields(TrainingArguments)} - _COMMON
        for action in self._actions:
            if action.dest in REPLACED or action.option_strings[0].startswith("--no_"):
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


def train_parser() -> SettingsParser:
    """Return the parser of everything that a run can be told."""
    return SettingsParser(
        (ModelArguments, DataArguments, FineTuningArguments),
        prog="hfft train",
        usage="hfft train --model MODEL --data DATA [--output_dir OUT] [--config RUN.YAML] [--any_argument VALUE]",
        description="Fine-tune a model and test it.",
    )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a run's settings; the values are typed by the parser of the flags, so ``1e-4`` is a number here too.

    Raises:
        UserError: for a file that is missing, too large, no YAML, no mapping of plain values, has tags, anchors or
            repeated keys, or a key that is no argument.
    """
    file = existing_path(path, "--config")
    if not file.is_file():
        raise UserError(f"--config: '{path}' is no file.")
    if file.stat().st_size > _LARGEST_YAML:
        raise UserError(f"--config: '{path}' is larger than {_LARGEST_YAML:,} bytes, so it is no run.yaml.")
    try:
        text = file.read_text("utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            # a few lines of nested aliases unfold to gigabytes
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = f", line {event.start_mark.line + 1}" if event.start_mark else ""
                raise UserError(f"--config: '{path}'{line}: aliases are not read here.")
        _require_unique_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
        content = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise UserError(f"--config: '{path}' is no UTF-8 text: {error}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--config: '{path}' is no valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"--config: '{path}' must hold lines of the form name: value, got a {type(content).__name__}.")
    return _typed(content, path)


def _typed(content: dict[Any, Any], path: str | Path) -> dict[str, Any]:
    parser = train_parser()
    known = sorted({action.dest for action in parser._actions} - {"help"})
    argv: list[str] = []
    for key, value in content.items():
        if key not in known:
            raise UserError(f"--config: '{path}' has the key '{key}', which is no argument.{nearest(key, known)}")
        if value is None:
            continue
        if isinstance(value, list):
            argv += [f"--{key}", *map(str, value)]
        else:
            argv.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    try:
        return parser.parse_settings(argv)
    except UserError as error:
        raise UserError(f"--config: '{path}': {error}") from error


def _require_unique_keys(node: yaml.Node | None, path: str | Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise UserError(
                    f"--config: '{path}', line {key.start_mark.line + 1}: the key '{key.value}' stands there twice."
                )
            if isinstance(key.value, str):
                seen.add(key.value)
            _require_unique_keys(value, path)


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
