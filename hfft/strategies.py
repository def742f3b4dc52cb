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
        head_scale: what the logits of a solved head are multiplied by before the training, a power of two. The smaller
            they are, the less a head that answers all training examples keeps from the layers below.
        trains: whether anything is trained after that.
        cautious: whether the solved head ships where it is better on the validation split than what was trained from
            it; where no head can be solved, one at random is trained.
        space: what `hfft search` tries unless it is told: arguments with their ranges and lists, as in its file.
        adapter: fields of the PEFT configuration whose adapters are trained beside the trunk, which itself stays as it
            is; ``None`` trains the trunk.
        rate: what the task's learning rate is multiplied by where the user gives none; the head's stays what it is.
    """

    name: str
    summary: str
    layerwise: bool
    gradual: bool = False
    solved_head: bool = False
    head_scale: float = 1.0
    trains: bool = True
    cautious: bool = False
    adapter: Mapping[str, Any] | None = None
    rate: float = 1.0
    space: Mapping[str, Any] = field(default_factory=dict)


_RATES: Mapping[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    "head_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "layer_decay": {"low": 0.5, "high": 1.0},
}
_ADAPTER_RATES: Mapping[str, Any] = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "head_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}
_HEADS: Mapping[str, Any] = {
    "head_penalty": {"low": 1e-4, "high": 10.0, "log": True},
    "pooling": ["model", "mean"],
}

STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "auto",
            "a solved head first, then all layers; whichever is better on the validation split ships",
            layerwise=True,
            solved_head=True,
            head_scale=0.25,
            cautious=True,
            space={**_RATES, "pooling": ["model", "mean"]},
        ),
        Strategy(
            "full",
            "all layers from the first step",
            layerwise=True,
            head_scale=0.25,
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
            head_scale=0.25,
            space={**_RATES, "pooling": ["model", "mean"]},
        ),
        # Hu et al. 2022, arXiv:2106.09685
        Strategy(
            "lora",
            "a solved head first, then low-rank adapters beside the layers, merged into them in the end",
            layerwise=True,
            solved_head=True,
            adapter={"peft_type": "LORA"},
            rate=10.0,
            space={**_ADAPTER_RATES, "lora_rank": [4, 8, 16, 32]},
        ),
        # Liu et al. 2024, arXiv:2402.09353
        Strategy(
            "dora",
            "as lora, but with the norm of each output's weights trained apart",
            layerwise=True,
            solved_head=True,
            adapter={"peft_type": "LORA", "use_dora": True},
            rate=10.0,
            space={**_ADAPTER_RATES, "lora_rank": [4, 8, 16, 32]},
        ),
        # Liu et al. 2022, arXiv:2205.05638
        Strategy(
            "ia3",
            "a solved head first, then a factor for each output of the layers, merged into them in the end",
            layerwise=True,
            solved_head=True,
            adapter={"peft_type": "IA3", "feedforward_modules": []},
            rate=30.0,
            space=_ADAPTER_RATES,
        ),
        Strategy(
            "peft",
            "a solved head first, then what adapter_config says, merged in the end",
            layerwise=True,
            solved_head=True,
            adapter={},
            rate=10.0,
            space=_ADAPTER_RATES,
        ),
    )
}
DEFAULT_STRATEGY = "auto"


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
