"""What the commands share: flags, the first line, quiet libraries, and how numbers and files are given."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hfft import __version__
from hfft.errors import UserError, nearest
from hfft.paths import require_writable
from hfft.terminal import is_first_process

DONE, REFUSED, USER_ERROR, INTERRUPTED, STOPPED = 0, 1, 2, 75, 130  # an internal error is a traceback and 1


@dataclass(frozen=True)
class Command:
    """A command of ``hfft``.

    Attributes:
        parser: makes the parser of its flags, and imports what they need.
        run: does it, and returns the exit code; its docstring says what it does.
    """

    parser: Callable[[], argparse.ArgumentParser]
    run: Callable[[Sequence[str]], int]

    @property
    def summary(self) -> str | None:
        """What it does, in a sentence."""
        return self.run.__doc__


class Parser(argparse.ArgumentParser):
    """Flags in full alone; what is wrong with them is a :class:`UserError`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise :class:`UserError` in place of leaving the process."""
        flags = [option for action in self._actions for option in action.option_strings]
        unknown = next((word for word in message.split() if word.startswith("--")), "")
        hint = nearest(unknown.split("=")[0], flags) if "unrecognized" in message else ""
        raise UserError(f"{message[0].upper()}{message[1:]}.{hint}")


def parse(parser: Parser, argv: Sequence[str], stream: TextIO | None = None) -> dict[str, Any]:
    """Return what was given, and print the first line of the command."""
    given = vars(parser.parse_args(argv))
    announce(parser.prog.removeprefix("hfft "), stream)
    quiet_libraries()
    return given


def announce(command: str, stream: TextIO | None = None) -> None:
    """Print the first line of a command: what runs, and its version."""
    if is_first_process():
        print(f"hfft {__version__} {command}", file=stream, flush=True)


def quiet_libraries() -> None:
    """Leave the terminal to hfft: the libraries' own bars and notices off, unless the user asked for them."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of optional kernels wherever it is installed
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def model_parser(command: str, description: str | None) -> Parser:
    """Return a parser of what every command needs that uses a fine-tuned model."""
    parser = Parser(prog=f"hfft {command}", description=description, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", required=True, help="Folder that `hfft train` wrote, or a Hub id.")
    parser.add_argument("--revision", help="Branch, tag or commit of a model on the Hub.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run the code that a repository brings along.")
    parser.add_argument("--task", help="Registered task (default: what the model was trained for).")
    for role in ("text", "text_pair", "image"):
        parser.add_argument(f"--{role}_column", help=f"Column of the {role.replace('_', ' ')}.")
    parser.add_argument("--columns", help='Columns of other inputs, by what they are, as JSON: {"audio": "take"}.')
    parser.add_argument("--batch_size", type=positive_number, help="Examples at a time (default: 64).")
    parser.add_argument("--cache_dir", help="Folder for converted data.")
    return parser


def positive_number(text: str) -> int:
    """Read a whole number above 0."""
    if count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def count(text: str) -> int:
    """Read a whole number."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number")
    return int(text)


def take_output(given: dict[str, Any], *suffixes: str, inputs: str | None = None) -> Path | None:
    """Take ``--output`` out of what was given to a command, and return it.

    Args:
        given: name -> value of the flags.
        suffixes: those that the command writes.
        inputs: what it reads, which it does not write over.

    Raises:
        UserError: where it cannot be written, before anything is computed.
    """
    if "output" not in given:
        return None
    output = Path(given.pop("output"))
    require_writable(output, suffixes, None if inputs is None else Path(inputs))
    return output


def write_json(output: Path | None, content: dict[str, Any]) -> None:
    """Write a file if the user named one; what goes wrong is a :class:`UserError`."""
    from hfft.failures import writing_output

    if output is not None:
        with writing_output(output):
            output.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
