"""One class for each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from hfft.errors import UserError
from hfft.evaluation.baseline import class_frequencies
from hfft.evaluation.calibration import accuracy_at_coverage, reliability_curve
from hfft.evaluation.label_errors import suspected_label_errors
from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.metrics import softmax
from hfft.evaluation.per_class import confusion_matrix, per_class_table
from hfft.evaluation.single_label import single_label_metrics
from hfft.targets.cells import LabelColumn, class_indices, class_list, class_texts, is_missing
from hfft.targets.classes import ClassTarget

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class SingleLabel(ClassTarget):
    """One of several classes. Labels are class indices, (rows,); outputs are probabilities, (rows, classes)."""

    output_names: list[str]

    problem_type: ClassVar[str] = "single_label_classification"
    baseline_name: ClassVar[str] = "majority class"
    baseline_sentence: ClassVar[str] = "always answering with the most frequent class"

    @classmethod
    def fits(cls, column: LabelColumn, delimiter: str | None) -> bool:
        """What is nothing else is a class."""
        return delimiter is None

    @classmethod
    def freeze(cls, column: LabelColumn, delimiter: str | None) -> Self:
        """Take the classes that occur, numbers in their order before words in theirs."""
        if delimiter is not None:
            raise UserError("--label_delimiter belongs to multi_label_classification: one class needs none.")
        present = [value for value in _cells(column)[1] if not _is_missing(column, value)]
        if not present:
            column.require_none_missing(cls.missing(column))
        return cls(class_list(column, class_texts(column, present, column.feature), column.feature))

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Self:
        """Take the names of the configuration."""
        return cls([str(config.id2label[index]) for index in range(config.num_labels)])

    @classmethod
    def missing(cls, column: LabelColumn, delimiter: str | None = None) -> np.ndarray:
        """Return the rows without a label; a ClassLabel says it with a negative number."""
        codes, cells = _cells(column)
        return np.flatnonzero(np.array([_is_missing(column, cell) for cell in cells], dtype=bool)[codes])

    def encode(self, column: LabelColumn) -> np.ndarray:
        """Return the class index of every row, (rows,) int."""
        column.require_none_missing(self.missing(column))
        codes, cells = _cells(column)
        texts = class_texts(column, cells, column.feature)
        return np.asarray(class_indices(column, texts, self.output_names), dtype=np.int64)[codes]

    def unknown(self, column: LabelColumn) -> dict[int, str]:
        """Return row -> class of the rows whose class is not trained."""
        codes, cells = _cells(column)
        texts, known = class_texts(column, cells, column.feature), set(self.output_names)
        rows = np.flatnonzero(np.array([text not in known for text in texts], dtype=bool)[codes])
        return {int(row): texts[codes[row]] for row in rows}

    @property
    def feature(self) -> Any:
        """A whole number."""
        from datasets import Value

        return Value("int64")

    def array(self, labels: Any) -> np.ndarray:
        """Return (rows,) class indices."""
        return np.asarray(labels)

    def shown(self, label: Any) -> str:
        """Return the class."""
        return self.output_names[label]

    @property
    def fewest_rows(self) -> int:
        """Two of each class."""
        return 2 * len(self.output_names)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return the classes."""
        return labels

    def counts(self, labels: np.ndarray) -> dict[str, float]:
        """Return class -> number of examples."""
        counted = np.bincount(labels, minlength=len(self.output_names))
        return dict(zip(self.output_names, counted.tolist(), strict=True))

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        """Return probabilities (rows, classes)."""
        return softmax(logits)

    @property
    def metrics(self) -> MetricSet:
        """Accuracy first."""
        return single_label_metrics(len(self.output_names))

    def baseline(self, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Answer with the class frequencies."""
        answers = class_frequencies(train_labels, len(self.output_names), len(labels))
        return self.metrics.compute(labels, answers)

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Return one example of each class, and the right answer."""
        return np.arange(len(self.output_names)), np.eye(len(self.output_names))

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Return the most probable class of each row, (rows,)."""
        return outputs.argmax(axis=1)

    def details(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
        """Return the classes one by one, what is taken for what, and the curves of confidence."""
        predicted, classes = self.decide(outputs), np.arange(len(self.output_names))
        is_class, is_predicted = labels[:, None] == classes, predicted[:, None] == classes
        return {
            "per_class": per_class_table(is_class, is_predicted, self.output_names),
            "confusion_matrix": confusion_matrix(labels, predicted, len(classes)),
            "reliability_curve": reliability_curve(labels, outputs),
            "accuracy_at_coverage": accuracy_at_coverage(labels, outputs),
        }

    def mistakes(self, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return the rows whose class is another, the surest first."""
        wrong = np.flatnonzero(self.decide(outputs) != labels)
        return wrong[np.argsort(-outputs[wrong].max(axis=1), kind="stable")]

    def suspects(self, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return them by confident learning."""
        return suspected_label_errors(labels, outputs)

    def answer(self, output: np.ndarray) -> str:
        """Return the class and its probability."""
        return f"{self.output_names[int(output.argmax())]} ({float(output.max()):.2f})"

    def describe(self) -> str:
        """Return how many classes there are."""
        return f"{len(self.output_names)} classes"

    def label_values(self, labels: np.ndarray) -> list[str]:
        """Return the names."""
        return [self.output_names[index] for index in labels]

    def read_labels(self, values: list[Any]) -> np.ndarray:
        """Return the indices of the names."""
        return np.array(self.indices_of(values), dtype=np.int64)


def _cells(column: LabelColumn) -> tuple[np.ndarray, list[Any]]:
    """Return codes and distinct cells; raises :class:`UserError` for lists."""
    if isinstance(column.first, list | dict):
        class_texts(column, [column.first], column.feature)
    return column.distinct


def _is_missing(column: LabelColumn, value: Any) -> bool:
    from datasets import ClassLabel

    return is_missing(value) or (isinstance(column.feature, ClassLabel) and value < 0)
