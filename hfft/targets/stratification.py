"""Stratified, seeded splits that also work for rare classes, and that keep groups whole."""

from __future__ import annotations

import warnings

import numpy as np

from hfft.storage.arrays import other_rows


def draw_stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose about ``share`` of the rows, the same share of every class, and at least one row in all.

    Each class keeps at least one row behind; where the shares leave fractions, the classes with the largest
    fractions give one more (scikit-learn's stratified splitters refuse classes of one or two rows instead).

    Args:
        labels: (rows,) class indices.
        share: of the rows to draw, in (0, 1).
        seed: the same seed draws the same rows.

    Returns:
        (drawn,) sorted row indices.
    """
    generator = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * share
    take = np.minimum(np.floor(exact).astype(int), counts - 1)
    wanted = max(1, round(len(labels) * share))
    # the largest fractions first, in random order among equals
    order = np.lexsort((generator.random(len(classes)), -(exact - take)))
    for index in order:
        if take.sum() >= wanted:
            break
        if take[index] < counts[index] - 1:
            take[index] += 1
    drawn = [
        generator.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(classes, take, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def draw_groups(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose about ``share`` of the rows in whole groups, with about the same share of every class.

    Args:
        labels: (rows,) class indices.
        groups: (rows,) what each row belongs to.
        share: of the rows to draw, in (0, 1).
        seed: the same seed draws the same rows.

    Returns:
        (drawn,) sorted row indices.

    Raises:
        ValueError: where there are too few groups for the share.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if share > 0.5:
        return other_rows(len(labels), draw_groups(labels, groups, 1 - share, seed))
    folds = max(2, round(1 / share))
    distinct = len(np.unique(groups))
    if distinct < folds:
        raise ValueError(f"{distinct} groups cannot be divided so that {share:.0%} are held back; {folds} are needed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes rarer than folds are drawn as well as they can be
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        _, drawn = next(iter(splitter.split(np.zeros(len(labels)), labels, groups)))
    return np.sort(drawn)


def draw_iteratively(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose about ``share`` of rows with several classes each, with about the same share of every class.

    Iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label data"): the class with the
    fewest rows left is divided first, each of its rows going where most of that class is still wanted. Each class keeps
    at least one row behind, unless no row can be drawn that way.

    Args:
        labels: (rows, classes) bool.
        share: of the rows to draw, in (0, 1).
        seed: the same seed draws the same rows.

    Returns:
        (drawn,) sorted row indices, at least one.
    """
    generator = np.random.default_rng(seed)
    # a column more for the rows without any class, which are divided last
    counted = np.column_stack([labels, ~labels.any(axis=1)])
    order = generator.permutation(len(labels))
    shares = np.array([[1 - share], [share]])
    wanted, room = shares * counted.sum(axis=0), shares[:, 0] * len(labels)
    kept = np.zeros(counted.shape[1], dtype=int)
    side = np.full(len(labels), -1)  # 0 stays behind, 1 is drawn
    while (side < 0).any():
        left = counted[side < 0].sum(axis=0)
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        for row in order[counted[order, rarest] & (side[order] < 0)]:
            has = counted[row]
            drawn = (wanted[1, rarest], room[1]) > (wanted[0, rarest], room[0]) and bool((kept[has] > 0).all())
            side[row] = int(drawn)
            wanted[side[row], has] -= 1
            room[side[row]] -= 1
            kept[has] += not drawn
    if not side.any():  # the first row of which every class has another, if there is one
        side[order[np.argmax((~labels | (kept[:-1] > 1))[order].all(axis=1))]] = 1
    return np.flatnonzero(side == 1)
