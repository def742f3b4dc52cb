"""Strategies: each is a record that says what is trained, not a branch in the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hfft.errors import UserError, listed, nearest


@dataclass(frozen=True)
class Strategy:
    """What a run trains.

    Attributes:
        name: what ``--strategy`` says.
        summary: one line for people.
        layerwise: whether the learning rate falls from the head down by ``layer_decay``.
        gradual: whether the layers thaw one after the other, the head first.
        solved_head: whether the head starts as the solution for the trunk's features, and not at random, unless
            ``head_start`` says otherwise.
        trains: whether anything is trained after that.
        space: what `hfft search` tries unless it is told: arguments with their ranges and lists, as in its file.
    """

    name: str
    summary: str
    layerwise: bool
    gradual: bool = False
    solved_head: bool = False
    trains: bool = True
    space: Mapping[str, Any] = field(default_factory=dict)


_RATES: Mapping[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    "head_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "layer_decay": {"low": 0.5, "high": 1.0},
}
_HEADS: Mapping[str, Any] = {
    "head_penalty": {"low": 1e-4, "high": 10.0, "log": True},
    "pooling": ["model", "mean"],
}

STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "full",
            "all layers from the first step",
            layerwise=True,
            space={**_RATES, "weight_decay": {"low": 1e-3, "high": 0.3, "log": True}},
        ),
        Strategy(
            "gradual",
            "a solved head first, then layer by layer from the top",
            layerwise=True,
            gradual=True,
            solved_head=True,
            space={**_RATES, "pooling": ["model", "mean"]},
        ),
        Strategy(
            "linear-probe",
            "the head alone, solved on the features of the frozen trunk",
            layerwise=False,
            solved_head=True,
            trains=False,
            space={**_HEADS, "head_solver": ["logistic", "svm", "ridge"]},
        ),
        # Kumar et al. 2022, arXiv:2202.10054: a head that fits does not distort the features in the first steps
        Strategy(
            "lp-ft",
            "a solved head first, then all layers",
            layerwise=True,
            solved_head=True,
            space={**_RATES, "pooling": ["model", "mean"]},
        ),
    )
}
DEFAULT_STRATEGY = "full"


def list_strategies() -> list[str]:
    """Return the names of all strategies, sorted."""
    return sorted(STRATEGIES)


def load_strategy(name: str) -> Strategy:
    """Return the strategy of that name; raises :class:`UserError` for an unknown one."""
    if name not in STRATEGIES:
        raise UserError(
            f"--strategy: there is no strategy '{name}'.{nearest(name, STRATEGIES)} Known: {listed(list_strategies())}."
        )
    return STRATEGIES[name]
