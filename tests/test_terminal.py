from __future__ import annotations

import pytest

from hfft.terminal import make_console, print_metrics

ROWS = [{"name": "accuracy", "value": 0.91234, "low": 0.85, "high": 0.95, "baseline": 0.5}]


def test_brackets_in_names_are_shown_as_they_are(capsys):
    print_metrics(make_console(), ROWS, "Test split of [red]my[/] data, [/unopened]", "majority class")
    out = capsys.readouterr().out
    assert "[red]my[/] data, [/unopened]" in out
    assert "0.912" in out
    assert "0.850 to 0.950" in out
    assert "0.500" in out


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_only_the_first_process_speaks(rank, speaks, capsys, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    make_console().print("hello")
    assert ("hello" in capsys.readouterr().out) == speaks
