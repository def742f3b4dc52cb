"""Metrics of the ``evaluate`` library that a user asks for beside hfft's own, by name or path."""

from __future__ import annotations

import uuid
from typing import Any

import evaluate
import numpy as np

from hfft.errors import UserError


class EvaluateMetric:
    """A metric of the ``evaluate`` library, by name or path of a local script, with options: ``f1:average=macro``.

    It gets as ``predictions`` what is predicted of every row: the most probable class, a 0 or 1 for each of several
    classes, or the number.

    Raises:
        UserError: where ``evaluate`` cannot load it (unknown, or not cached while the network is off).
    """

    def __init__(self, specification: str) -> None:
        self.specification = specification
        name, _, options = specification.partition(":")
        self.options: dict[str, Any] = {}
        for option in filter(None, options.split(",")):
            key, equals, value = option.partition("=")
            if not equals:
                raise UserError(f"--metrics: '{specification}': '{option}' is not of the form option=value.")
            self.options[key.strip()] = _plain_value(value.strip())
        try:
            self.module = evaluate.load(name, experiment_id=uuid.uuid4().hex)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"--metrics: '{name}' cannot be loaded: {reason} Offline, give the path of a metric script. "
                "Those of hfft are always computed."
            ) from error

    def compute(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Return the metric's scalar results by their own names."""
        try:
            results = self.module.compute(
                predictions=predictions.tolist(), references=labels.astype(predictions.dtype).tolist(), **self.options
            )
        except Exception as error:  # the script is the user's
            raise UserError(f"--metrics: '{self.specification}' cannot be computed: {error}") from error
        return {name: float(value) for name, value in (results or {}).items() if np.ndim(value) == 0}


def _plain_value(text: str) -> Any:
    """Read a number or a truth value where the text is one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
