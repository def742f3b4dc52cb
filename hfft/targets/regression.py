"""One number for each example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from hfft.errors import UserError
from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.regression import REGRESSION_METRICS
from hfft.targets.cells import LabelColumn, is_missing
from hfft.targets.numbers import as_number, numbers_of
from hfft.targets.target import MEAN, SCALE, Predict, Target

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_MOST_CLASSES = 20  # distinct numbers in a column of texts, or of whole numbers written as floats, that may be classes
_BINS = 10


@dataclass(frozen=True)
class Regression(Target):
    """A number. Labels and outputs are (rows,) float64, in the user's unit.

    A model is trained on standardised numbers, because learning rates suit outputs around 1; :meth:`finish` folds mean
    and scale into its last layer, so that the finished model answers in the user's unit.

    Attributes:
        output_names: the column that was learnt from, alone.
        mean: of the numbers in training.
        scale: their standard deviation.
    """

    output_names: list[str]
    mean: float = 0.0
    scale: float = 1.0

    problem_type: ClassVar[str] = "regression"
    head_solver: ClassVar[str] = "ridge"
    baseline_name: ClassVar[str] = "training mean"
    baseline_sentence: ClassVar[str] = "always answering with the mean of the training examples"

    @classmethod
    def fits(cls, column: LabelColumn, delimiter: str | None) -> bool:
        """Fractions among floats, or more than a few numbers that are no plain whole ones.

        Whole numbers written as floats, and numbers written as texts (as all cells of a CSV file are), may be names of
        classes. They are numbers where there are more than 20 of them and some have a fraction, or most occur once.
        """
        first = column.first
        if delimiter is not None or not isinstance(first, float | str) or as_number(first) is None:
            return False
        distinct = [value for value in column.distinct[1] if not is_missing(value)]
        numbers = [as_number(value) for value in distinct]
        if any(number is None for number in numbers):
            return False
        fractions = any(number is not None and not number.is_integer() for number in numbers)
        if isinstance(first, float) and fractions:
            return True
        mostly_once = isinstance(first, float) and 2 * len(distinct) > len(column.split)
        return len(distinct) > _MOST_CLASSES and (fractions or mostly_once)

    @classmethod
    def freeze(cls, column: LabelColumn, delimiter: str | None) -> Self:
        """Take the column's name; the numbers must differ."""
        if delimiter is not None:
            raise UserError("--label_delimiter belongs to multi_label_classification: a number needs none.")
        missing = set(cls.missing(column))
        values = numbers_of(column, [row for row in range(len(column.values)) if row not in missing])
        if not values:
            column.require_none_missing(sorted(missing))
        if len(set(values)) == 1:
            raise UserError(
                f"--data: every training example of '{column.origin}' has the number {values[0]:g} in column "
                f"'{column.name}': there is nothing to learn."
            )
        return cls([column.name])

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Self:
        """Take the name of the configuration, and the scale of a checkpoint in mid-training."""
        if config.num_labels != 1:
            raise UserError(f"--model: it answers with {config.num_labels} numbers; hfft knows what to do with one.")
        return cls([str(config.id2label[0])], getattr(config, MEAN, 0.0), getattr(config, SCALE, 1.0))

    def encode(self, column: LabelColumn) -> list[float]:
        """Return the number of every row."""
        column.require_none_missing(self.missing(column))
        return numbers_of(column, list(range(len(column.values))))

    @property
    def feature(self) -> Any:
        """A float."""
        from datasets import Value

        return Value("float64")

    def array(self, labels: Any) -> np.ndarray:
        """Return (rows,) float64."""
        return np.asarray(labels, dtype=np.float64)

    def for_model(self, labels: list[Any]) -> list[float]:
        """Return standardised numbers."""
        return ((self.array(labels) - self.mean) / self.scale).tolist()

    def from_model(self, labels: np.ndarray) -> np.ndarray:
        """Return numbers in the user's unit."""
        return labels.astype(np.float64).reshape(len(labels)) * self.scale + self.mean

    def shown(self, label: Any) -> str:
        """Return the number."""
        return f"{label:g}"

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return the tenth of the rows, by size, that each number belongs to; fewer bins for few rows."""
        bins = max(1, min(_BINS, len(labels) // 4))
        edges = np.quantile(labels, np.arange(1, bins) / bins)
        return np.searchsorted(edges, labels, side="right")

    def lost(self, labels: np.ndarray) -> list[str]:
        """Return the number's name where no example is left."""
        return [] if len(labels) else self.output_names

    def counts(self, labels: np.ndarray) -> dict[str, float]:
        """Return what is told of the numbers."""
        return {
            "examples": len(labels),
            "lowest": float(labels.min()),
            "mean": float(labels.mean()),
            "highest": float(labels.max()),
            "standard deviation": float(labels.std()),
        }

    def start(self, model: PreTrainedModel, labels: np.ndarray, config: PretrainedConfig) -> tuple[Self, str | None]:
        """Measure mean and scale, and let a head that knows the user's unit answer in standardised numbers."""
        from hfft.targets.output_layer import output_layer, rescale

        layer = output_layer(model)
        mean = float(labels.mean()) if layer.bias is not None else 0.0  # nothing else could hold it in the end
        scale = math.sqrt(float(np.mean((labels - mean) ** 2)))
        if scale == 0 or not math.isfinite(scale):
            raise UserError("--data: the training examples all have the same number, or numbers beyond computing with.")
        started = replace(self, mean=mean, scale=scale)
        super().start(model, labels, config)
        if self.matches(config):
            old = self.from_config(config)
            rescale(layer, old.scale / scale, (old.mean - mean) / scale)
        setattr(model.config, MEAN, mean)
        setattr(model.config, SCALE, scale)
        if layer.bias is not None:
            return started, None
        return started, (
            f"the head of a {type(model).__name__} has no bias that could hold the mean of the numbers "
            f"({labels.mean():g}): they are scaled, but not centred, and learnt badly where they are all far from 0."
        )

    def finish(self, model: PreTrainedModel, predict: Predict | None) -> tuple[Self, str | None]:
        """Fold mean and scale into the last layer."""
        from hfft.targets.output_layer import output_layer, rescale

        rescale(output_layer(model), self.scale, self.mean)
        for name in (MEAN, SCALE):
            delattr(model.config, name)
        return replace(self, mean=0.0, scale=1.0), None

    def class_counts(self, labels: np.ndarray) -> None:
        """There are no classes."""

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        """Return numbers in the user's unit, (rows,)."""
        return logits.astype(np.float64).reshape(len(logits)) * self.scale + self.mean

    @property
    def metrics(self) -> MetricSet:
        """The root mean squared error first."""
        return REGRESSION_METRICS

    def baseline(self, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Answer with the mean of the training labels."""
        return self.metrics.compute(labels, np.full(len(labels), train_labels.mean()))

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Return three numbers and three answers."""
        return np.array([0.0, 1.0, 3.0]), np.array([0.5, 1.0, 2.0])

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Return the numbers."""
        return outputs

    @property
    def data_heading(self) -> str:
        """The column."""
        return self.output_names[0]

    mistakes_told: ClassVar[str] = "Test examples whose number is farthest off."

    def mistakes(self, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return all rows, those farthest off first."""
        return np.argsort(-np.abs(labels - outputs), kind="stable")

    def answer(self, output: np.ndarray) -> str:
        """Return the number."""
        return f"{float(output):.4g}"

    def describe(self) -> str:
        """Return what the number is called."""
        return f"the number '{self.output_names[0]}'"

    def label_values(self, labels: np.ndarray) -> list[float]:
        """Return the numbers."""
        return labels.tolist()

    def prediction_columns(self, outputs: np.ndarray) -> dict[str, Any]:
        """Return ``predicted``."""
        return {"predicted": outputs}

    def read_labels(self, values: list[Any]) -> np.ndarray:
        """Return the numbers."""
        return self.array(values)

    def read_outputs(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Return ``predicted``."""
        return np.asarray(columns["predicted"], dtype=np.float64)

    def usage(self, call: str) -> str:
        """The score is the number."""
        return f'{call}[0]["score"]  # the number, in the unit of the data'
