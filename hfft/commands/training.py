"""Commands that train."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from hfft.commands.frame import DONE, announce, quiet_libraries
from hfft.commands.tables import print_range_test
from hfft.terminal import make_console

if TYPE_CHECKING:
    from hfft.parsing import SettingsParser


def train_parser() -> SettingsParser:
    """Return the parser of ``hfft train``."""
    return _parser("train", train_command.__doc__)


def train_command(argv: Sequence[str]) -> int:
    """Fine-tune a model and test it."""
    settings = run_settings("train", train_parser, argv)
    if settings is not None:
        from hfft.finetuning import finetune

        finetune(**settings)
    return DONE


def crossval_parser() -> SettingsParser:
    """Return the parser of ``hfft crossval``."""
    from hfft.command_arguments import CrossValidationArguments

    return _parser("crossval", crossval_command.__doc__, CrossValidationArguments)


def crossval_command(argv: Sequence[str]) -> int:
    """Fine-tune a model for each fold of the training examples, and test it on the others."""
    settings = run_settings("crossval", crossval_parser, argv)
    if settings is not None:
        from hfft.crossval.running import cross_validate

        cross_validate(**settings)
    return DONE


def search_parser() -> SettingsParser:
    """Return the parser of ``hfft search``."""
    from hfft.command_arguments import SearchArguments

    return _parser("search", search_command.__doc__, SearchArguments)


def search_command(argv: Sequence[str]) -> int:
    """Find the arguments that fine-tune best on the validation split, and train and test with them."""
    settings = run_settings("search", search_parser, argv)
    if settings is not None:
        from hfft.searching import search

        search(**settings)
    return DONE


def lr_find_parser() -> SettingsParser:
    """Return the parser of ``hfft lr-find``."""
    from hfft.command_arguments import RangeTestArguments

    hidden = (*RangeTestArguments.settled, "output_dir", "max_steps", "num_train_epochs")
    return _parser("lr-find", lr_find_command.__doc__, RangeTestArguments, hidden=hidden)


def lr_find_command(argv: Sequence[str]) -> int:
    """Find a learning rate: a few steps at rising ones, on the training examples."""
    settings = run_settings("lr-find", lr_find_parser, argv)
    if settings is not None:
        from hfft.range_test import lr_find

        console = make_console()
        print_range_test(console, lr_find(**settings))
        if settings.get("output") is not None:
            console.print(f"Drawn: {settings['output']}")
    return DONE


def _parser(command: str, description: str | None, *more: type, hidden: Collection[str] = ()) -> SettingsParser:
    """Return the parser of a run and of ``--config``: see :func:`hfft.parsing.run_parser`."""
    from hfft.parsing import run_parser

    parser = run_parser(command, description, *more, hidden=hidden)
    parser.add_argument("--config", metavar="RUN.YAML", help="Read arguments from YAML; flags go before it.")
    return parser


def run_settings(command: str, make_parser: Callable[[], SettingsParser], argv: Sequence[str]) -> dict[str, Any] | None:
    """Return what flags and YAML say of a run, or ``None`` where only help was asked for.

    Args:
        command: of ``hfft``.
        make_parser: makes its parser, after the first line has been printed.
        argv: the flags.
    """
    if not {"-h", "--help", "--help_all"} & set(argv):
        announce(command)
    quiet_libraries()
    from hfft.yaml_settings import read_yaml

    parser = make_parser()
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return None
    if "--help_all" in argv:
        print(parser.format_help_all())
        return None
    given = parser.parse_settings(argv)
    settings = {**(read_yaml(given["config"], parser) if "config" in given else {}), **given}
    settings.pop("config", None)
    return settings
