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
    """

    name: str
    summary: str
    layerwise: bool
    gradual: bool = False


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("full", "all layers from the first step", layerwise=True),
        Strategy("gradual", "the head first, then layer by layer from the top", layerwise=True, gradual=True),
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
