"""The table in examples/README.md has a row for every file, and commands that are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = re.findall(r"^\| \[`([^`]+)`\]\(([^)]+)\) \| (.+?) \| `([^`]+)` \|$", (EXAMPLES / "README.md").read_text(), re.M)


def test_every_file_has_a_row():
    found = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.is_file()}
    found = {name for name in found if "__pycache__" not in name and not name.endswith(".md")}
    of_folders = ("accelerate/", "audio_classification/", "benchmarks/", "pretraining/")  # have texts of their own
    assert {name for name, *_ in ROWS} == {name for name in found if not name.startswith(of_folders)}


def test_a_row_links_its_file_and_says_the_command_that_the_file_says():
    assert ROWS
    for name, link, told, command in ROWS:
        assert link == name
        assert told
        words = shlex.split(command)
        assert any(Path("examples", name) == Path(word) for word in words), command
        if name.endswith((".py", ".sh", ".yaml")) and name != "configs/search_space.yaml":
            assert command in (EXAMPLES / name).read_text(), command


def test_every_script_has_a_docstring_with_its_command():
    for path in EXAMPLES.glob("*.py"):
        assert re.match(r'r?"""\S.*\n\n', path.read_text()), path
        assert f"examples/{path.name}" in path.read_text(), path
