"""LayerRates: a Trainer that logs the learning rate of every layer group."""

from __future__ import annotations

from typing import Any

from transformers import Trainer


class LayerRates(Trainer):
    """A Trainer whose log has the rate of the head as ``learning_rate``, and that of each group as ``lr/<group>``."""

    unfreezing: Any  # the callback that freezes groups for a time, or None
    _rates: dict[str, float] | None = None  # of each layer in the last step

    def _get_learning_rate(self) -> float:
        """Return the head's rate in the step that was just made, and keep those of the other layers for the log.

        The Trainer reads the first group's, which with layer-wise rates is that of the stem.
        """
        rate = super()._get_learning_rate()
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        if self.lr_scheduler is None or not any("layer" in group for group in groups):
            return rate
        step = self.state.global_step
        factors = self.unfreezing.rate_factors(self.optimizer, step) if self.unfreezing else [1.0] * len(groups)
        rates: dict[str, float] = {}
        for group, factor in zip(groups, factors, strict=True):  # where multipliers split a layer, its highest rate
            rates[group["layer"]] = max(group["lr"] * factor, rates.get(group["layer"], 0.0))
        self._rates = rates
        return list(rates.values())[-1]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, and beside ``learning_rate``, which is the head's, that of every layer group."""
        if "learning_rate" in logs:
            logs |= {f"lr/{layer}": rate for layer, rate in (self._rates or {}).items()}
        super().log(logs, start_time)

    def layer_rates(self) -> list[dict[str, Any]]:
        """Return name, number of parameters and peak learning rate of every layer group, input first.

        Empty before training, and where the optimizer has no layer-wise groups.
        """
        layers: dict[str, dict[str, Any]] = {}
        for group in self.optimizer.param_groups if self.optimizer is not None else []:
            if "layer" in group:
                rate = group.get("initial_lr", group["lr"])
                row = layers.setdefault(group["layer"], {"name": group["layer"], "parameters": 0, "lr": rate})
                row["parameters"] += sum(parameter.numel() for parameter in group["params"])
        return list(layers.values())
