from __future__ import annotations

import pytest

from hfft.terminal import MOST_CLASSES, figure, make_console, print_metrics, print_per_class

ROWS = [{"name": "accuracy", "value": 0.91234, "low": 0.85, "high": 0.95, "baseline": 0.5, "probe": None}]


def test_brackets_in_names_are_shown_as_they_are(capsys):
    print_metrics(make_console(), ROWS, "Test split of [red]my[/] data, [/unopened]", "majority class")
    out = capsys.readouterr().out
    assert "[red]my[/] data, [/unopened]" in out
    assert "0.912" in out
    assert "0.850 to 0.950" in out
    assert "0.500" in out


@pytest.mark.parametrize(("classes", "shown"), [(0, False), (MOST_CLASSES, True), (MOST_CLASSES + 1, False)])
def test_classes_are_shown_one_by_one_where_they_are_few(classes: int, shown: bool, capsys):
    row = {"precision": 0.25, "recall": 0.5, "f1": 1 / 3, "support": 17}
    print_per_class(make_console(), {"per_class": [{"class": f"[b]{index}", **row} for index in range(classes)]})
    out = capsys.readouterr().out
    assert all((text in out) is shown for text in ("[b]0", "0.250", "0.500", "0.333", "17"))


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_only_the_first_process_speaks(rank, speaks, capsys, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    make_console().print("hello")
    assert ("hello" in capsys.readouterr().out) == speaks


@pytest.mark.parametrize(
    ("value", "text"),
    [(8.3e-16, "0.000"), (-8.3e-16, "0.000"), (0.00012, "0.00012"), (0.5, "0.500"), (123456, "123456")],
)
def test_a_figure_has_its_places_and_no_traces_of_rounding(value: float, text: str):
    assert figure(value) == text
