from __future__ import annotations

import numpy as np
import pytest
from hfft.tasks.text_classification.inspection import plain_text

from hfft.data.copies import find_copies, find_repeats
from hfft.data.inspecting import Inspected, pack
from hfft.data.shingles import are_near, candidate_pairs, text_bands
from hfft.registry import load_task

TEXT = load_task("text-classification")
WORDS = np.array(["".join(np.random.default_rng(i).choice(list("abcdefghijklmnop"), 6)) for i in range(2000)])


def sentences(count: int, words: int, seed: int = 0) -> list[str]:
    return [" ".join(row) for row in np.random.default_rng(seed).choice(WORDS, (count, words))]


def inspected(texts: list[str]) -> Inspected:
    """Look at texts, each of which near copies are looked for."""
    found = pack(TEXT.inspect_batch({"text": texts}), np.ones(len(texts), dtype=bool))
    found.read_texts = lambda rows: [plain_text(texts[row]) for row in rows]
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, World!", "hello world"),
        ("it's  a\ttest...", "It\u2019s a test"),
        ("\ufeffzero\u200b width", "zero width"),
        ("(see above)", "see above"),
        ("stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_texts_that_are_the_same_but_for_case_blanks_and_punctuation(one: str, other: str):
    assert plain_text(one) == plain_text(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("it is 1.5 metres", "it is 15 metres"),
        ("-5 degrees", "5 degrees"),
        ("C++", "C"),
        ("great \U0001f600", "great \U0001f621"),
        ("!!!", "???"),
        ("not good", "good"),
    ],
)
def test_texts_that_mean_something_else(one: str, other: str):
    assert plain_text(one) != plain_text(other)


def test_near_copies_share_nearly_all_pieces_and_every_number():
    text = sentences(1, 40)[0]
    assert are_near(text, text.replace(text[100:103], "xyz", 1))
    assert are_near(text, text + " and")
    assert not are_near(text, text[: len(text) * 3 // 4])
    assert not are_near(f"{text} order 12", f"{text} order 13")
    assert not are_near("a short text", "b short text")
    assert not are_near(text, sentences(1, 40, seed=1)[0])


def test_near_copies_are_the_pairs_of_a_plain_comparison():
    """Against Jaccard's index of all pairs, with sets."""
    generator = np.random.default_rng(3)
    originals = sentences(60, 30)
    changed = []
    for text in originals:  # up to six letters changed, so that some are near and some are not
        letters = list(text)
        for place in generator.integers(0, len(letters), generator.integers(0, 7)):
            letters[place] = "z"
        changed.append("".join(letters))

    def pieces(text: str) -> set[str]:
        padded = "\0" * 4 + plain_text(text) + "\0" * 4
        return {padded[i : i + 5] for i in range(len(padded) - 4)}

    wanted = {}
    for row, one in enumerate(changed):
        for other, text in enumerate(originals):
            first, second = pieces(one), pieces(text)
            if len(first & second) >= 0.9 * len(first | second):
                wanted[row] = other
    copies = find_copies(inspected(changed), inspected(originals))
    found = dict(zip(copies.rows.tolist(), copies.originals.tolist(), strict=True))
    assert 10 < len(wanted) < 50
    assert found.items() <= wanted.items()  # nothing else is called a copy
    assert len(found) >= 0.95 * len(wanted)


def test_bands_of_other_texts_hardly_meet():
    pairs = candidate_pairs(text_bands(sentences(500, 10)), text_bands(sentences(500, 10, seed=1)))
    assert len(pairs) < 10


def test_copies_name_the_first_original_and_whether_they_are_exact():
    copies = find_copies(inspected(["b", "A!", "new", "a"]), inspected(["a", "b", "a"]))
    assert copies.rows.tolist() == [0, 1, 3]
    assert copies.originals.tolist() == [1, 0, 0]
    assert copies.exact.tolist() == [True, False, True]


def test_repeats_are_copies_of_rows_before_them():
    copies = find_repeats(inspected(["a", "b", "A.", "c", "b", "a"]))
    assert copies.rows.tolist() == [2, 4, 5]
    assert copies.originals.tolist() == [0, 1, 0]
    assert copies.exact.tolist() == [False, True, True]


def test_rows_that_could_not_be_read_are_no_copies():
    looks = inspected(["", "a", None, ""])  # type: ignore[list-item]
    assert find_repeats(looks).rows.tolist() == []
    assert sorted(looks.problems) == [0, 2, 3]


def test_selected_rows_keep_what_was_seen_of_them():
    texts = sentences(50, 20)
    looks = inspected(texts)
    rows = np.array([3, 7, 40])
    chosen = looks.select(rows)
    alone = inspected([texts[row] for row in rows])
    for name in ("exact", "loose", "banded", "bands"):
        assert np.array_equal(getattr(chosen, name), getattr(alone, name))
    assert chosen.texts(np.array([2])) == [plain_text(texts[40])]
