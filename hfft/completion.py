"""The parsers of all commands as one, for shtab, which makes shell completion of it: see ``docs/completion.md``.

Every flag is known then, so this imports what their parsers import. Nothing of it runs when a key is pressed: the
script that shtab writes is all that the shell reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from hfft.commands import COMMANDS
from hfft.registry import list_tasks
from hfft.strategies import list_strategies

_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "fish": "(__fish_complete_path (commandline -ct))"}
"""What shtab calls the completion of a path, in each shell."""

_PATHS = frozenset(
    {
        *("model", "data", "config", "space", "output_dir", "output", "inputs", "cache_dir", "adapter_config"),
        *("folder", "first", "second"),
    }
)


def parser() -> argparse.ArgumentParser:
    """Return a parser of ``hfft`` that holds those of its commands."""
    whole = argparse.ArgumentParser(prog="hfft")
    whole.add_argument("--version", action="store_true", help="Show the version.")
    commands = whole.add_subparsers()
    known = {"strategy": list_strategies(), "task": list_tasks()}
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary)
        commands.choices[name] = command.parser()
        for action in commands.choices[name]._actions:
            _prepare(action, known)
    return whole


def _prepare(action: argparse.Action, known: Mapping[str, Sequence[str]]) -> None:
    """Let an argument be completed in one spelling, and its value as a path, or as a name where names are known."""
    action.option_strings = action.option_strings[:1]
    if action.help is not None:
        action.help = action.help.removeprefix("[more] ")
    action.choices = known.get(action.dest, action.choices)
    if action.dest in _PATHS:
        action.complete = _FILES  # type: ignore[attr-defined]
