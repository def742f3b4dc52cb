"""A pytest plugin that runs every command and snippet of a document: one test for each block, in its order.

    pytest -n 0 -p tests.documents.snippets README.md docs

The blocks of a document share a folder and a Python namespace, both of their own. What the languages mean:

- ``bash``: each line runs for itself, `hfft` commands in this process, everything else in a shell.
- ``python``: runs in the namespace of the document.
- ``yaml``, ``toml``: a first line ``# NAME`` writes the block to that file; it must be valid.
- ``text``: output, for people alone.

An HTML comment before a block says what no reader should see: ``<!-- skip: next "reason" -->``, or a block
``<!-- invisible-code-block: python ... -->`` that prepares or asserts something.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tomllib
import traceback
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.documents import workplace  # first: it says where libraries keep their files  # isort: skip

import pytest
import yaml
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

OPERATORS = frozenset({"|", "||", "&", "&&", ";", "<", ">", "<<", ">>", "(", ")"})
FEW_EPOCHS = 5  # where a run would take as many as make 400 steps: what is tried is the command
_PATCHES = "__patches__"


def start_document(namespace: dict[str, Any]) -> None:
    """Go into a folder of the document's own."""
    patches = pytest.MonkeyPatch()
    folder = workplace.make_workplace()
    patches.chdir(folder)
    patches.setenv("HOME", str(folder))
    namespace |= {_PATCHES: patches, "find_spec": find_spec}


def end_document(namespace: dict[str, Any]) -> None:
    """Go back."""
    namespace[_PATCHES].undo()


def run_commands(example: Example) -> str | None:
    """Run a block of commands, each line for itself; return what went wrong where one does not end with 0."""
    from hfft.running import settling

    with (
        workplace.hub() if "hfft push" in example.parsed else nullcontext(),
        pytest.MonkeyPatch.context() as patches,
    ):
        patches.setattr(settling, "MOST_EPOCHS", FEW_EPOCHS)
        for command in str(example.parsed).replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            if words and (code := exit_code(words[1:]) if is_plain(command) else shell_exit_code(command)):
                return f"exit code {code}: {command}"
    return None


def shell_exit_code(command: str) -> int:
    """Run a command in a shell."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=False, text=True, capture_output=True)
    print(f"$ {command}\n{done.stdout}{done.stderr}")
    return done.returncode


def is_plain(command: str) -> bool:
    """Say whether a line is empty, a comment, or a command of hfft that needs no shell."""
    tokens = list(shlex.shlex(command, posix=False, punctuation_chars=True))
    return not tokens or (tokens[0] == "hfft" and not OPERATORS & set(tokens) and "$" not in command)


def exit_code(arguments: list[str]) -> int:
    """Run a command of hfft in this process."""
    from hfft.cli import main

    try:
        return main(arguments)
    except SystemExit as end:  # --help, --version
        return int(end.code or 0)


def run_python(example: Example) -> str | None:
    """Run a block of Python; return the traceback where it raises."""
    from hfft.running import settling

    with workplace.hub() if "hfft.push(" in example.parsed else nullcontext(), pytest.MonkeyPatch.context() as patches:
        patches.setattr(settling, "MOST_EPOCHS", FEW_EPOCHS)
        try:
            return PythonEvaluator()(example)
        except Exception:
            return traceback.format_exc()


def write_yaml(example: Example) -> None:
    """Write a block of YAML to the file that its first line names."""
    assert isinstance(yaml.safe_load(str(example.parsed)), dict), example.parsed
    write_named(example)


def write_toml(example: Example) -> None:
    """Write a block of TOML to the file that its first line names, if it does."""
    tomllib.loads(str(example.parsed))
    if str(example.parsed).startswith("#"):
        write_named(example)


def write_named(example: Example) -> None:
    """Write a block to the file that its first line names: ``# NAME`` or ``# NAME, more words``."""
    first = str(example.parsed).partition("\n")[0]
    name = first.removeprefix("# ").partition(",")[0]
    names_file = first.startswith("# ") and Path(name).suffix
    assert names_file, f"a first line '# file.yaml' must name the file, got: {first}"
    Path(name).write_text(str(example.parsed), "utf-8")


LANGUAGES = {"bash": run_commands, "python": run_python, "yaml": write_yaml, "toml": write_toml}

pytest_collect_file = Sybil(
    parsers=[*(CodeBlockParser(language, run) for language, run in LANGUAGES.items()), SkipParser()],
    path=os.sep,
    patterns=["*.md"],
    setup=start_document,
    teardown=end_document,
).pytest()
