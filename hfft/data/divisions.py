"""Labelled data divided for cross-validation: which training examples each fold holds out, and the data of its run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from hfft.data.drawing import draw_split
from hfft.data.folds import ALWAYS_TRAINED, draw_folds
from hfft.data.kin import kin_of_train
from hfft.data.labelled import LabelledData
from hfft.data.leaks import settle_leaks
from hfft.errors import UserError
from hfft.storage.arrays import other_rows, select_rows


@dataclass
class Fold:
    """One division of the training examples.

    Attributes:
        name: of its folder.
        held: the rows that are predicted, sorted.
        seed: of the run.
    """

    name: str
    held: np.ndarray
    seed: int


def plan_folds(data: LabelledData, folds: int, repeats: int, seed: int) -> tuple[list[Fold], list[str]]:
    """Deal the training examples into stratified folds, kin together.

    Args:
        data: whose training split is dealt.
        folds: at most so many; fewer where no class has so many examples, or groups.
        repeats: how often the examples are dealt anew.
        seed: of the first repeat, and of its runs; the next have the next.

    Returns:
        the folds, and what to tell of them, a sentence each.

    Raises:
        UserError: where nothing can be held out.
    """
    train, labels = data.splits["train"], data.labels("train")
    dealt = draw_folds(data.target.strata(labels), folds, seed, kin_of_train(data), repeats)
    if not len(dealt):
        raise UserError(
            f"--data: no fold can be held out of the {len(train)} training examples of '{data.origin}' without all of "
            "a class: every class needs two examples (or groups)."
        )
    count, notes = int(dealt.max()) + 1, []
    if count < folds:
        notes.append(f"{count} folds in place of {folds}: no class has more examples, or groups, that can be held out.")
    never = int((dealt[0] == ALWAYS_TRAINED).sum())
    if never:
        notes.append(f"{never} examples are held out of no fold: a class would have none left to train on.")
    plan = []
    for repeat, fold_of in enumerate(dealt):
        for fold in range(count):
            name = f"fold-{fold + 1}" if repeats == 1 else f"repeat-{repeat + 1}-fold-{fold + 1}"
            plan.append(Fold(name, np.flatnonzero(fold_of == fold), seed + repeat))
    return plan, notes


def data_of_fold(data: LabelledData, fold: Fold, validation_size: float, seed: int) -> LabelledData:
    """Return the data of one fold: what is held out is its test split; a validation split is drawn from the rest.

    Args:
        data: all of it.
        fold: of :func:`plan_folds`.
        validation_size: share of the rest that is drawn where no validation split was given; 0 draws none.
        seed: of the draw.
    """
    train, looks = data.splits["train"], data.inspected["train"]
    kept = other_rows(len(train), fold.held)
    given = {name: data.splits[name] for name in ("validation",) if name in data.splits}
    splits = {"train": select_rows(train, kept), **given, "test": select_rows(train, fold.held)}
    inspected = {**data.inspected, "train": looks.select(kept), "test": looks.select(fold.held)}
    found = dataclasses.replace(data, splits=splits, inspected=inspected, findings=type(data.findings)(), pool=train)
    if validation_size > 0 and not given:
        draw_split(found, "validation", validation_size, seed)
        settle_leaks(found, {"train", "test"}, "skip")
    found.splits = {name: found.splits[name] for name in ("train", "validation", "test") if name in found.splits}
    return found
