"""The shell completion that ``docs/completion.md`` tells how to install."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

import pytest

from hfft import list_strategies
from hfft.cli import main
from hfft.commands import COMMANDS
from tests.forkserver import run_hfft

PAGE = Path(__file__).parents[1] / "docs" / "completion.md"


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command of the page writes for bash."""
    (flags,) = re.findall(r"^shtab (.*--shell=bash .*) >", PAGE.read_text("utf-8"), re.MULTILINE)
    file = tmp_path_factory.mktemp("completion") / "hfft"
    done = run_hfft(flags.split(), file.parent, module="shtab.main")
    assert done.returncode == 0, done.stderr
    file.write_text(done.stdout)
    return file


def completed(script: Path, folder: Path, *words: str) -> set[str]:
    """Return what bash offers after a press of the tab key behind the last of the words."""
    listed = " ".join(f"'{word}'" for word in words)
    asked = f"source '{script}'; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _shtab_hfft; "
    tell = 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", asked + tell], capture_output=True, text=True, cwd=folder, check=True)
    return set(done.stdout.split())


def test_bash_completes_commands_flags_names_and_paths(bash_script: Path, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    assert completed(bash_script, tmp_path, "hfft", "") >= set(COMMANDS)
    assert completed(bash_script, tmp_path, "hfft", "ev") == {"evaluate"}
    assert completed(bash_script, tmp_path, "hfft", "train", "--learning_r") == {"--learning_rate"}
    assert completed(bash_script, tmp_path, "hfft", "predict", "--inp") == {"--input"}
    assert completed(bash_script, tmp_path, "hfft", "train", "--strategy", "") == set(list_strategies())
    assert completed(bash_script, tmp_path, "hfft", "check", "--data", "pho") == {"photos"}


def test_every_command_parses_with_the_parser_that_it_gives_and_helps_without_doing_anything(
    tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name, command in COMMANDS.items():
        parser = command.parser()
        assert parser.prog == f"hfft {name}"
        assert capsys.readouterr().out == ""
        with contextlib.suppress(SystemExit):
            assert main([name, "--help"]) == 0
        assert capsys.readouterr().out == parser.format_help()
    assert not list(tmp_path.iterdir())
