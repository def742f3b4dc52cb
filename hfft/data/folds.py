"""Folds for cross-validation on few examples: stratified, groups whole, no class ever left without an example."""

from __future__ import annotations

import numpy as np

ALWAYS_TRAINED = -1
_REPEAT_BELOW = 300
_MOST_REPEATS = 10


def draw_folds(
    strata: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None, repeats: int | None = None
) -> np.ndarray:
    """Deal the rows into folds, several times where there are few rows, for one division of 16 rows says little.

    Groups that hold all examples of a class are never held out. The number of folds is cut down to the number of groups
    that can be held out of the class that has most.

    Args:
        strata: (rows,) class indices.
        folds: at most so many.
        seed: the same seed draws the same folds.
        groups: (rows,) what each row belongs to; each row for itself if ``None``.
        repeats: how often they are dealt (default: once, and up to ten times for less than 300 rows).

    Returns:
        (repeats, rows) int64 fold of each row, ``ALWAYS_TRAINED`` where it is never held out; no repeats where nothing
        can be held out.
    """
    strata = np.unique(strata, return_inverse=True)[1]
    groups = np.arange(len(strata)) if groups is None else np.unique(groups, return_inverse=True)[1]
    table = np.zeros((groups.max() + 1, strata.max() + 1), dtype=np.int64)
    np.add.at(table, (groups, strata), 1)
    free = ~(table == table.sum(axis=0)).any(axis=1, where=table > 0)
    folds = min(folds, int((table[free] > 0).sum(axis=0).max(initial=0)))
    if folds < 2:
        return np.empty((0, len(strata)), dtype=np.int64)
    generator = np.random.default_rng(seed)
    if repeats is None:
        repeats = int(np.clip(_REPEAT_BELOW // len(strata), 1, _MOST_REPEATS))
    return np.stack([_deal(table, free, folds, generator)[groups] for _ in range(repeats)])


def _deal(table: np.ndarray, free: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """Give each group to the fold that has fewest of the group's classes, then fewest rows; large groups first."""
    fold_of = np.full(len(table), ALWAYS_TRAINED)
    filled = np.zeros((folds, table.shape[1]))
    left = table.sum(axis=0)
    order = generator.permutation(np.flatnonzero(free))
    for group in order[np.argsort(-table[order].max(axis=1), kind="stable")]:
        row = table[group]
        # a class must keep an example in training: a fold may not come to hold all of it
        open_to = ~((filled + row >= left) & (row > 0)).any(axis=1)
        if open_to.any():
            crowding = filled @ (row / left)
            crowding += filled.sum(axis=1) / table.sum() * 1e-3 + generator.random(folds) * 1e-9
            fold = int(np.where(open_to, crowding, np.inf).argmin())
            fold_of[group] = fold
            filled[fold] += row
    return fold_of
