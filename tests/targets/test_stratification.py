from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from hfft.targets.stratification import draw_groups, draw_iteratively, draw_stratified


def labels_of(*counts: int) -> np.ndarray:
    """Return shuffled labels with this many rows of each class."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize(
    ("counts", "share", "drawn"),
    [
        ((10, 10), 0.2, (2, 2)),
        ((100, 50, 10), 0.1, (10, 5, 1)),
        ((40, 20), 0.5, (20, 10)),
        ((98, 2), 0.5, (49, 1)),
    ],
)
def test_every_class_gives_the_same_share(counts: tuple[int, ...], share: float, drawn: tuple[int, ...]):
    labels = labels_of(*counts)
    rows = draw_stratified(labels, share, seed=1)
    assert tuple(np.bincount(labels[rows], minlength=len(counts))) == drawn


@pytest.mark.parametrize("counts", [(10, 10), (33, 17, 9), (5, 5, 5, 5), (200, 3, 3), (7, 1, 1)])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.33, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_draws_are_rows_of_their_own_and_leave_every_class_behind(counts: tuple[int, ...], share: float, seed: int):
    labels = labels_of(*counts)
    rows = draw_stratified(labels, share, seed)
    assert len(set(rows.tolist())) == len(rows)
    assert rows.tolist() == sorted(rows.tolist())
    assert rows.min() >= 0
    assert rows.max() < len(labels)
    left = np.bincount(np.delete(labels, rows), minlength=len(counts))
    assert (left >= 1).all()
    taken = np.bincount(labels[rows], minlength=len(counts))
    exact = np.array(counts) * share
    assert (np.abs(taken - exact) < 1).all() or share > 0.5  # at large shares the row that stays behind weighs more
    possible = sum(count - 1 for count in counts)
    assert len(rows) == min(max(1, round(sum(counts) * share)), possible)


def test_totals_agree_with_scikit_learn():
    labels = labels_of(60, 30, 10)
    _, drawn = train_test_split(np.arange(100), test_size=0.2, stratify=labels, random_state=0)
    ours = draw_stratified(labels, 0.2, seed=0)
    assert np.bincount(labels[ours]).tolist() == np.bincount(labels[drawn]).tolist()


def test_fractions_go_to_the_largest_and_ties_are_drawn():
    # a third of a row of each of 5 classes: two of them give one
    labels = np.repeat(np.arange(5), 3)
    winners = [set(labels[draw_stratified(labels, 1 / 9, seed)].tolist()) for seed in range(30)]
    assert all(len(winner) == 2 for winner in winners)
    assert set.union(*winners) == set(range(5))
    # 0.7 of a row beats 0.2
    labels = labels_of(7, 2)
    assert labels[draw_stratified(labels, 0.1, seed=0)].tolist() == [0]


def test_a_class_of_one_row_stays_behind():
    labels = np.array([0, 0, 0, 0, 1])
    for seed in range(10):
        assert 4 not in draw_stratified(labels, 0.5, seed)


def test_the_seed_decides():
    labels = labels_of(50, 50)
    first = draw_stratified(labels, 0.2, seed=3)
    assert draw_stratified(labels, 0.2, seed=3).tolist() == first.tolist()
    assert draw_stratified(labels, 0.2, seed=4).tolist() != first.tolist()


def test_every_row_can_be_drawn():
    labels = labels_of(6, 6)
    drawn = {int(row) for seed in range(60) for row in draw_stratified(labels, 0.25, seed)}
    assert drawn == set(range(12))


def test_class_indices_may_have_gaps():
    labels = np.array([3, 3, 3, 3, 8, 8, 8, 8])
    assert np.bincount(labels[draw_stratified(labels, 0.5, seed=0)]).tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.7])
def test_groups_are_drawn_whole_and_classes_alike(share: float):
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 120, size=1200)
    labels = generator.integers(0, 3, size=1200)
    drawn = draw_groups(labels, groups, share, seed=1)
    assert not set(groups[drawn]) & set(np.delete(groups, drawn))
    assert abs(len(drawn) / 1200 - share) < 0.06
    shares = np.bincount(labels[drawn], minlength=3) / np.bincount(labels, minlength=3)
    assert np.ptp(shares) < 0.1
    assert np.array_equal(drawn, draw_groups(labels, groups, share, seed=1))
    assert not np.array_equal(drawn, draw_groups(labels, groups, share, seed=2))


def test_too_few_groups_are_an_error():
    with pytest.raises(ValueError, match="3 groups cannot be divided so that 10% are held back; 10 are needed"):
        draw_groups(np.zeros(6, int), np.array([0, 0, 1, 1, 2, 2]), 0.1, seed=0)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_iterative_stratification_spreads_every_class_alike(share: float, seed: int):
    generator = np.random.default_rng(seed)
    labels = generator.random((500, 8)) < [0.6, 0.4, 0.2, 0.1, 0.06, 0.04, 0.02, 0.02]
    drawn = draw_iteratively(labels, share, seed)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) == pytest.approx(500 * share, abs=4)
    np.testing.assert_allclose(labels[drawn].sum(axis=0), labels.sum(axis=0) * share, atol=3)
    assert draw_iteratively(labels, share, seed).tolist() == drawn.tolist()
    assert draw_iteratively(labels, share, seed + 1).tolist() != drawn.tolist()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_iterative_stratification_leaves_an_example_of_every_class_behind(share: float):
    labels = np.zeros((30, 12), dtype=bool)
    labels[np.arange(12), np.arange(12)] = True  # each class once
    labels[12:20, 0] = True
    drawn = draw_iteratively(labels, share, 0)
    assert len(drawn) > 0
    assert np.delete(labels, drawn, axis=0).any(axis=0).all()


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        ([[1, 0]] * 4 + [[0, 1]], {0, 1, 2, 3}),
        ([[1, 0]] * 2 + [[0, 1]] + [[1, 1]] * 2, {0, 1, 2, 3, 4}),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], {3}),
    ],
)
def test_of_few_rows_one_is_drawn_whose_classes_others_have(labels: list[list[int]], rows: set[int]):
    """A tenth of five rows, which rounds to none."""
    drawn = [draw_iteratively(np.array(labels, dtype=bool), 0.1, seed).tolist() for seed in range(30)]
    assert {len(each) for each in drawn} == {1}
    assert {row for (row,) in drawn} == rows
