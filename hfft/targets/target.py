"""Target: what is predicted of an example. All that depends on it is asked here, and nowhere branched on.

Labels have three forms. The *column* form stands in the splits (a class index, a list of them, a number). The *model*
form is what the loss is computed from. The *array* form is what metrics get. The model's logits become *outputs*
(probabilities, or numbers in the user's unit), and outputs become predictions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from hfft.errors import UserError, listed
from hfft.evaluation.metric_set import MetricSet
from hfft.targets.cells import LabelColumn, is_missing
from hfft.targets.stratification import draw_stratified

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

THRESHOLDS = "label_thresholds"
"""Where a model's configuration keeps the threshold of each class, in their order."""

TEMPERATURE = "calibration_temperature"
"""Where a configuration says what the last layer was divided by; ``temperature`` alone is a word of text generation."""

MEAN, SCALE = "target_mean", "target_scale"
"""Where the configuration of a checkpoint in mid-training keeps what its numbers are to be scaled with."""

Predict = Callable[[], tuple[np.ndarray, np.ndarray]]
"""Gives array labels and outputs of examples held out of training: the validation split, where there is one."""


class Target(ABC):
    """What is predicted of each example; a value, never changed."""

    problem_type: ClassVar[str]
    """The name in a transformers configuration, by which the loss and ``pipeline()`` go too."""

    baseline_name: ClassVar[str]
    """Heading of the baseline's column."""

    baseline_sentence: ClassVar[str]
    """What the baseline does, as the subject of a sentence."""

    head_solver: ClassVar[str] = "logistic"
    """How a linear head is solved for such labels, a name of :data:`hfft.features.heads.solvers.SOLVERS`."""

    output_names: list[str]
    """What each logit stands for, the classes, or the one number."""

    # labels

    @classmethod
    @abstractmethod
    def fits(cls, column: LabelColumn, delimiter: str | None) -> bool:
        """Say whether such a column means this target where nobody said what it means."""

    @classmethod
    @abstractmethod
    def freeze(cls, column: LabelColumn, delimiter: str | None) -> Self:
        """Make the target of a training split; raises :class:`UserError` where there is nothing to learn."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: PretrainedConfig) -> Self:
        """Make the target that a fine-tuned model answers with."""

    @classmethod
    def missing(cls, column: LabelColumn, delimiter: str | None = None) -> Sequence[int] | np.ndarray:
        """Return the rows without a label."""
        return [row for row, value in enumerate(column.values) if is_missing(value)]

    @abstractmethod
    def encode(self, column: LabelColumn) -> Any:
        """Return the column form of every row; raises :class:`UserError` for missing and unknown labels."""

    def unknown(self, column: LabelColumn) -> dict[int, str]:
        """Return row -> class of the rows whose class is not trained."""
        return {}

    @property
    @abstractmethod
    def feature(self) -> Any:
        """The type of the column form in the ``datasets`` library."""

    @abstractmethod
    def array(self, labels: Any) -> np.ndarray:
        """Return the array form of labels in column form, a row each."""

    def for_model(self, labels: list[Any]) -> list[Any]:
        """Return the model form of labels in column form."""
        return labels

    def from_model(self, labels: np.ndarray) -> np.ndarray:
        """Return the array form of labels in model form."""
        return labels

    @abstractmethod
    def shown(self, label: Any) -> str:
        """Return a label in column form for people."""

    def reading(self, delimiter: str | None) -> Target:
        """Return the same target, which reads labels that are divided by ``delimiter``."""
        if delimiter is not None:
            raise UserError(f"--label_delimiter has no place in {self.problem_type.replace('_', ' ')}.")
        return self

    # splits

    @property
    def fewest_rows(self) -> int:
        """Rows below which no split can be drawn."""
        return 4

    @abstractmethod
    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return (rows,) int: the stratum of each label in array form."""

    def draw(self, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
        """Choose about ``share`` of the rows so that the labels are spread alike; returns sorted row indices."""
        return draw_stratified(self.strata(labels), share, seed)

    def lost(self, labels: np.ndarray) -> list[str]:
        """Return the classes that none of the labels in array form names."""
        return []

    def class_counts(self, labels: np.ndarray) -> np.ndarray | None:
        """Return (classes,) how often each class occurs among labels in array form; ``None`` for numbers."""
        counts = self.counts(labels)
        return np.array([counts[name] for name in self.output_names], dtype=np.int64)

    @abstractmethod
    def counts(self, labels: np.ndarray) -> dict[str, float]:
        """Return what is told of a split's labels, in array form: how often each class occurs."""

    # the model

    def config_options(self) -> dict[str, Any]:
        """Return what a model's configuration says of its outputs."""
        names = self.output_names
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
        }

    def difference(self, problem_type: str | None, output_names: list[str]) -> str | None:
        """Return how this differs from what a checkpoint was trained on, as a clause, or ``None``."""
        if problem_type not in (None, self.problem_type):
            return f"the problem type was {problem_type}, now {self.problem_type}"
        if output_names != self.output_names:
            return f"the classes were {listed(output_names)}, now {listed(self.output_names)}"
        return None

    def matches(self, config: PretrainedConfig) -> bool:
        """Say whether a checkpoint was trained on just this, so that its head can be kept."""
        trained = [config.id2label[index] for index in sorted(config.id2label or {})]
        return self.difference(config.problem_type, trained) is None

    def start(self, model: PreTrainedModel, labels: np.ndarray, config: PretrainedConfig) -> tuple[Self, str | None]:
        """Make a freshly loaded model ready for training.

        Args:
            model: what was loaded.
            labels: of the training split, in array form.
            config: the checkpoint's own, as it was on disk.

        Returns:
            the target in the units of training, and what is to be known of it, as a sentence.
        """
        for name in (THRESHOLDS, TEMPERATURE, MEAN, SCALE):
            if hasattr(model.config, name):
                delattr(model.config, name)  # of what the checkpoint was trained on before
        return self, None

    def tuned(self, predict: Predict) -> Self:
        """Return the target with its thresholds, where it has such, tuned on examples held out of training."""
        return self

    def finish(self, model: PreTrainedModel, predict: Predict | None) -> tuple[Self, str | None]:
        """Settle what the trained model still lacks, in its weights and configuration.

        Args:
            model: the trained model, of which every rank has its own.
            predict: gives labels and outputs of examples held out of training; ``None`` where there are none.

        Returns:
            the target of the finished model, and what was settled, as a sentence.
        """
        return self, None

    @abstractmethod
    def outputs(self, logits: np.ndarray) -> np.ndarray:
        """Return what the logits (rows, outputs) mean."""

    # evaluation

    @property
    @abstractmethod
    def metrics(self) -> MetricSet:
        """The metrics, the headline first."""

    @abstractmethod
    def baseline(self, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the metrics of an answer that looks at no input, from labels in array form."""

    @abstractmethod
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a few labels in array form and outputs, to try metrics out on."""

    @abstractmethod
    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Return what is predicted, in the form that metrics of other libraries expect."""

    def details(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
        """Return what stands behind the metrics, as JSON knows it; empty where there are no classes.

        ``per_class``: a row for each class, see :func:`hfft.evaluation.per_class.per_class_table`;
        ``reliability_curve`` and, for one class each, ``accuracy_at_coverage``: the functions of that name in
        :mod:`hfft.evaluation.calibration`; ``confusion_matrix``: label, then prediction, likewise for one class each.
        """
        return {}

    mistakes_told: ClassVar[str] = "Test examples that the model gets wrong, the surest first."
    """What the rows of :meth:`mistakes` are, for people."""

    def mistakes(self, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return the rows that the outputs get wrong, the worst first."""
        return np.zeros(0, dtype=np.int64)

    def suspects(self, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return the rows whose label is likely wrong, by outputs of a model that has not seen them."""
        return np.zeros(0, dtype=np.int64)

    # people

    @abstractmethod
    def answer(self, output: np.ndarray) -> str:
        """Return what the outputs of one example say, in words."""

    @property
    @abstractmethod
    def data_heading(self) -> str:
        """Heading of the rows of :meth:`counts`."""

    @abstractmethod
    def describe(self) -> str:
        """Return what is predicted in a few words: ``3 classes``."""

    @abstractmethod
    def label_values(self, labels: np.ndarray) -> list[Any]:
        """Return labels in array form as they stand in a table of predictions."""

    @abstractmethod
    def prediction_columns(self, outputs: np.ndarray) -> dict[str, Any]:
        """Return ``predicted`` and what else a table of predictions holds."""

    @abstractmethod
    def read_labels(self, values: list[Any]) -> np.ndarray:
        """Return the array form of what :meth:`label_values` wrote."""

    @abstractmethod
    def read_outputs(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Return the outputs that :meth:`prediction_columns` wrote, from a table's columns by name."""

    def usage(self, call: str) -> str:
        """Return Python lines that ask a ``pipeline``, from the task's own ``classify("a text")``."""
        return call
