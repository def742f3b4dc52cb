"""Strategies: each is a record that says what is trained, not a branch in the code."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    name: str
    summary: str
    layerwise: bool
    gradual: bool = False
    solved_head: bool = False
    trains: bool = True


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("full", "all layers from the first step", layerwise=True),
        Strategy(
            "gradual",
            "a solved head first, then layer by layer from the top",
            layerwise=True,
            gradual=True,
            solved_head=True,
        ),
        Strategy(
            "linear-probe",
            "the head alone, solved on the features of the frozen trunk",
            layerwise=False,
            solved_head=True,
            trains=False,
        ),
        # Kumar et al. 2022, arXiv:2202.10054: a head that fits does not distort the features in the first steps
        Strategy("lp-ft", "a solved head first, then all layers", layerwise=True, solved_head=True),
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
