"""Commands that train."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from hfft.commands.frame import DONE, announce, quiet_libraries
from hfft.commands.tables import print_range_test
from hfft.terminal import make_console


def train_command(argv: Sequence[str]) -> int:
    """Fine-tune a model and test it."""
    settings = run_settings("train", train_command.__doc__, argv)
    if settings is not None:
        from hfft.finetuning import finetune

        finetune(**settings)
    return DONE


def crossval_command(argv: Sequence[str]) -> int:
    """Fine-tune a model for each fold of the training examples, and test it on the others."""
    from hfft.command_arguments import CrossValidationArguments

    settings = run_settings("crossval", crossval_command.__doc__, argv, CrossValidationArguments)
    if settings is not None:
        from hfft.crossval.running import cross_validate

        cross_validate(**settings)
    return DONE


def search_command(argv: Sequence[str]) -> int:
    """Find the arguments that fine-tune best on the validation split, and train and test with them."""
    from hfft.command_arguments import SearchArguments

    settings = run_settings("search", search_command.__doc__, argv, SearchArguments)
    if settings is not None:
        from hfft.searching import search

        search(**settings)
    return DONE


def lr_find_command(argv: Sequence[str]) -> int:
    """Find a learning rate: a few steps at rising ones, on the training examples."""
    from hfft.command_arguments import RangeTestArguments

    hidden = (*RangeTestArguments.settled, "output_dir", "max_steps", "num_train_epochs")
    settings = run_settings("lr-find", lr_find_command.__doc__, argv, RangeTestArguments, hidden=hidden)
    if settings is not None:
        from hfft.range_test import lr_find

        console = make_console()
        print_range_test(console, lr_find(**settings))
        if settings.get("output") is not None:
            console.print(f"Drawn: {settings['output']}")
    return DONE


def run_settings(
    command: str, description: str | None, argv: Sequence[str], *more: type, hidden: Collection[str] = ()
) -> dict[str, Any] | None:
    """Return what flags and YAML say of a run, or ``None`` where only help was asked for.

    Args:
        command, description, more, hidden: see :func:`hfft.parsing.train_parser`.
        argv: the flags.
    """
    if not {"-h", "--help", "--help_all"} & set(argv):
        announce(command)
    quiet_libraries()
    from hfft.parsing import train_parser
    from hfft.yaml_settings import read_yaml

    parser = train_parser(command, description, *more, hidden=hidden)
    parser.add_argument("--config", metavar="RUN.YAML", help="Read arguments from YAML; flags go before it.")
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
