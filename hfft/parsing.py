"""The flags of a run: the fields of its argument dataclasses, typed once, and nearest names for misspelt ones.

Only what was given comes back, so that the defaults of task and strategy can stand beneath it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from hfft.arguments import DataArguments, ModelArguments
from hfft.errors import UserError, listed, nearest
from hfft.training_arguments import REPLACED, FineTuningArguments

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


def run_parser(
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
