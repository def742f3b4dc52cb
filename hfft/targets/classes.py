"""What targets with one class for each example and with several have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hfft.targets.target import Target


class ClassTarget(Target):
    """A target whose outputs are probabilities, (rows, classes)."""

    output_names: list[str]
    """The classes."""

    @property
    def data_heading(self) -> str:
        """One class a row."""
        return "class"

    def prediction_columns(self, outputs: np.ndarray) -> dict[str, Any]:
        """Return ``predicted`` and ``probability_<class>``."""
        columns: dict[str, Any] = {"predicted": self.label_values(self.decide(outputs))}
        for index, name in enumerate(self.output_names):
            columns[_probability_column(name)] = outputs[:, index].astype(np.float64)
        return columns

    def read_outputs(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Return probabilities (rows, classes) from ``probability_<class>``."""
        return np.stack([np.asarray(columns[_probability_column(name)]) for name in self.output_names], axis=1)

    def lost(self, labels: np.ndarray) -> list[str]:
        """Return the classes without an example."""
        return [name for name, count in self.counts(labels).items() if not count]

    def indices_of(self, names: Sequence[str]) -> list[int]:
        """Return the places of class names among the outputs."""
        places = {name: index for index, name in enumerate(self.output_names)}
        return [places[name] for name in names]


def _probability_column(name: str) -> str:
    return f"probability_{name}"
