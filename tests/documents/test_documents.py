"""What can be said of the documents without running them; `snippets.py` says how their snippets are run."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forkserver import call

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REASONS = {
    "CI runs this command by itself",
    "installs packages",
    "needs several GPUs",
    "takes minutes, and data of your own",
    "needs the extra onnx",
    "needs the extra quantize",
    "needs the extra search",
    "needs the extra track",
}


def test_each_block_that_is_not_run_says_why():
    reasons = set()
    for path in DOCUMENTS:
        for arguments in re.findall(r"<!-- skip: (.*) -->", path.read_text("utf-8")):
            reason = re.search(r'"([^"]+)"\)?$', arguments)
            assert arguments.startswith("next "), f"{path}: {arguments}"
            assert reason, f"{path}: {arguments}"
            reasons.add(reason[1])
    assert reasons <= REASONS, "a new reason not to run a snippet: run it, or add the reason here"


def test_each_block_has_a_language_that_is_run_or_is_output():
    known = {"bash", "python", "yaml", "toml", "text"}
    for path in DOCUMENTS:
        blocks = re.findall(r"^(`{3,})(.*)\n(?:.*\n)*?\1$", path.read_text("utf-8"), re.MULTILINE)
        for _, language in blocks:
            assert language in known or language.startswith("{"), f"{path}: a block of the language '{language}'"


def templates() -> Iterator[str]:
    """Yield every text of the code, with a NUL where a value is put in."""
    for path in [*(ROOT / "hfft").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_that_are_explained_are_those_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    messages = [message for _, message in re.findall(r"^### (`+)(.*)\1$", page, re.MULTILINE)]
    assert len(messages) >= 25
    texts = list(templates())
    patterns = {m: re.compile(".*".join(re.escape(part) for part in m.split("…")), re.DOTALL) for m in messages}
    unknown = [message for message, found in patterns.items() if not any(found.search(text) for text in texts)]
    assert not unknown


BROKEN = [
    ("bash", "hfft trian --model m", "There is no command 'trian'"),
    ("bash", "false | cat", "exit code 1"),
    ("python", "assert 1 == 2, 'one is not two'", "one is not two"),
    ("yaml", "model: m", "must name the file"),
]


def test_every_broken_snippet_fails(tmp_path: Path):
    for index, (language, snippet, _) in enumerate(BROKEN):
        (tmp_path / f"broken-{index}.md").write_text(f"# Broken\n\n```{language}\n{snippet}\n```\n")
    said = tmp_path / "said"
    assert call(run_snippets, tmp_path, said) == 1, said.read_text()
    assert f"{len(BROKEN)} failed" in said.read_text()
    for *_, told in BROKEN:
        assert told in said.read_text()


def run_snippets(folder: Path, said: Path) -> None:
    """Run the snippets of a folder as CI does those of the documents."""
    with said.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.chdir(ROOT)
    sys.exit(pytest.main(["-n", "0", "-p", "tests.documents.snippets", str(folder)]))
