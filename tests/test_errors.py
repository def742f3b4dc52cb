from __future__ import annotations

import pytest

from hfft.errors import UserError, listed, nearest


@pytest.mark.parametrize(
    ("name", "valid", "hint"),
    [
        ("lerning_rate", ["learning_rate", "layer_decay"], " Did you mean 'learning_rate'?"),
        ("LABEL", ["text", "Label"], " Did you mean 'Label'?"),
        ("xyz", ["learning_rate"], ""),
        ("anything", [], ""),
        (12, [123, "a"], " Did you mean '123'?"),
        (None, ["none"], " Did you mean 'none'?"),
    ],
)
def test_nearest_valid_name(name: object, valid: list[object], hint: str):
    assert nearest(name, valid) == hint


@pytest.mark.parametrize(
    ("items", "most", "text"),
    [
        ([], 8, ""),
        (["a"], 8, "a"),
        ([1, "b"], 8, "1, b"),
        (list("abcdefgh"), 8, "a, b, c, d, e, f, g, h"),
        (list("abcdefghij"), 8, "a, b, c, d, e, f, g, h and 2 more"),
        ((c for c in "abc"), 2, "a, b and 1 more"),
    ],
)
def test_long_lists_are_counted(items: object, most: int, text: str):
    assert listed(items, most) == text


def test_a_user_error_is_a_value_error_for_callers_in_python():
    with pytest.raises(ValueError, match=r"^message$"):
        raise UserError("message")
