"""The ``hfft`` command. Nothing heavy is imported before a command has printed its first line."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from hfft import __version__
from hfft.commands import COMMANDS
from hfft.commands.frame import DONE, INTERRUPTED, STOPPED, USER_ERROR, Parser
from hfft.errors import ProcessError, RunInterrupted, UserError, listed, nearest
from hfft.terminal import is_first_process


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 `hfft check` found what a run would refuse, 2 the user can mend it, 75 interrupted with a checkpoint to go
    on from, 130 interrupted without one; an internal error leaves with its traceback, which is 1 as well.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _dispatch(arguments)
    except UserError as error:
        if debug:
            traceback.print_exc()
        if is_first_process():
            print(f"hfft: {error}", file=sys.stderr)
        elif isinstance(error, ProcessError):
            print(f"hfft: process {os.environ.get('RANK')}: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        if is_first_process():
            print(f"hfft: {str(interrupt) or 'interrupted.'}", file=sys.stderr)
        return INTERRUPTED if isinstance(interrupt, RunInterrupted) else STOPPED


def _dispatch(arguments: list[str]) -> int:
    parser = Parser(
        prog="hfft",
        description="Fine-tune pretrained Hugging Face models on small data, and know how good they are.",
        epilog="`hfft COMMAND --help` tells more. --debug shows the traceback of an error.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hfft {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary, add_help=False)
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments)
        parser.print_help()
        return DONE if arguments else USER_ERROR
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"There is no command '{name}'.{nearest(name, COMMANDS)} Commands: {listed(COMMANDS)}.")
    return COMMANDS[name].run(rest)


if __name__ == "__main__":
    sys.exit(main())
