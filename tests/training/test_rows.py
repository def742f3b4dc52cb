from __future__ import annotations

from typing import Any

from hfft.training.rows import ROWS, NumberedCollator, NumberedRows, Views, fetch


class Together(list):
    """Knows how to give several examples at once."""

    def __init__(self, examples: Any) -> None:
        super().__init__(examples)
        self.asked: list[list[int]] = []

    def __getitems__(self, rows: list[int]) -> list[Any]:
        self.asked.append(rows)
        return [self[row] for row in rows]


def test_examples_are_fetched_in_one_call_where_that_is_possible():
    data = Together("abc")
    assert fetch(data, [2, 0]) == ["c", "a"]
    assert data.asked == [[2, 0]]
    assert fetch("abc", [2, 0]) == ["c", "a"]


def test_examples_come_with_their_numbers():
    rows = NumberedRows(Together("abc"))
    assert len(rows) == 3
    assert rows[1] == (1, "b")
    assert rows.__getitems__([2, 0]) == [(2, "c"), (0, "a")]


class Drawn:
    """Three examples, each of which looks another way under each higher number."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> str:
        return f"view {index // 3} of {index % 3}"


def test_all_of_the_first_view_come_before_those_of_the_second():
    views = Views(Drawn(), 2)
    assert len(views) == 6
    assert views[4] == "view 1 of 1"
    assert views.__getitems__([5, 0]) == ["view 1 of 2", "view 0 of 0"]


def test_a_batch_says_which_rows_it_holds_where_it_has_labels():
    for target in ("labels", "label", "label_ids"):
        collate = NumberedCollator(lambda examples, target=target: {"x": examples, target: examples})
        assert collate([(7, "a"), (3, "b")]) == {"x": ["a", "b"], target: ["a", "b"], ROWS: [7, 3]}
    assert NumberedCollator(lambda examples: {"x": examples})([(7, "a")]) == {"x": ["a"]}
