"""Any number of classes for each example, none among them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from hfft.errors import UserError
from hfft.evaluation.calibration import reliability_curve
from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.metrics import LOWER_IS_BETTER
from hfft.evaluation.multi_label import UNTUNED, best_thresholds, multi_label_metrics
from hfft.evaluation.per_class import per_class_table
from hfft.targets.cells import LabelColumn, class_indices, class_list, is_missing
from hfft.targets.class_lists import class_lists, item_feature
from hfft.targets.classes import ClassTarget
from hfft.targets.stratification import draw_iteratively
from hfft.targets.target import THRESHOLDS, Predict

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class MultiLabel(ClassTarget):
    """Several classes or none. Labels in array form are (rows, classes) bool, outputs (rows, classes) probabilities.

    In column form a label is the sorted list of its class indices.

    Attributes:
        output_names: the classes.
        thresholds: the probability from which each class is predicted.
        delimiter: what divides the classes in a column of texts.
    """

    output_names: list[str]
    thresholds: list[float] = field(default_factory=list)
    delimiter: str | None = None

    problem_type: ClassVar[str] = "multi_label_classification"
    baseline_name: ClassVar[str] = "constant answer"
    baseline_sentence: ClassVar[str] = "the best answer that is the same for every example"

    def __post_init__(self) -> None:
        if not self.thresholds:
            object.__setattr__(self, "thresholds", [UNTUNED] * len(self.output_names))

    @classmethod
    def fits(cls, column: LabelColumn, delimiter: str | None) -> bool:
        """A list of classes, or a text that a delimiter divides."""
        return delimiter is not None or isinstance(column.first, list)

    @classmethod
    def freeze(cls, column: LabelColumn, delimiter: str | None) -> Self:
        """Take the classes that occur."""
        missing = set(cls.missing(column, delimiter))
        if len(missing) == len(column.values):
            column.require_none_missing(sorted(missing))
        rows = class_lists(column, delimiter, [row for row in range(len(column.values)) if row not in missing])
        texts = [text for row in rows for text in row]
        if not texts:
            raise column.problem("names no class in any training example.")
        return cls(class_list(column, texts, item_feature(column)), delimiter=delimiter)

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Self:
        """Take names and thresholds of the configuration; without thresholds every class has 0.5."""
        names = [str(config.id2label[index]) for index in range(config.num_labels)]
        thresholds = [float(value) for value in getattr(config, THRESHOLDS, None) or []]
        if len(thresholds) not in (0, len(names)):
            raise UserError(f"--model: its config.json holds {len(thresholds)} {THRESHOLDS} for {len(names)} classes.")
        return cls(names, thresholds)

    @classmethod
    def missing(cls, column: LabelColumn, delimiter: str | None = None) -> list[int]:
        """Return the rows without a list; an empty one is a label, and so is an empty text that would be divided."""
        if delimiter is None:
            return list(super().missing(column))
        return [row for row, value in enumerate(column.values) if is_missing(value) and not isinstance(value, str)]

    def encode(self, column: LabelColumn) -> list[list[int]]:
        """Return the sorted class indices of every row."""
        column.require_none_missing(self.missing(column, self.delimiter))
        rows = class_lists(column, self.delimiter, list(range(len(column.values))))
        flat = class_indices(column, (text for row in rows for text in row), self.output_names)
        ends = np.cumsum([len(row) for row in rows])
        return [sorted(set(flat[end - len(row) : end])) for row, end in zip(rows, ends, strict=True)]

    @property
    def feature(self) -> Any:
        """A list of whole numbers."""
        from datasets import List, Value

        return List(Value("int64"))

    def array(self, labels: Any) -> np.ndarray:
        """Return (rows, classes) bool."""
        rows = list(labels)
        found = np.zeros((len(rows), len(self.output_names)), dtype=bool)
        for row, indices in enumerate(rows):
            found[row, indices] = True
        return found

    def for_model(self, labels: list[Any]) -> list[list[float]]:
        """Return a 0 or 1 for each class."""
        return self.array(labels).astype(np.float32).tolist()

    def from_model(self, labels: np.ndarray) -> np.ndarray:
        """Return (rows, classes) bool."""
        return labels > UNTUNED

    def shown(self, label: Any) -> str:
        """Return the classes, divided by commas."""
        return ", ".join(self.output_names[index] for index in label) or "no class"

    def reading(self, delimiter: str | None) -> MultiLabel:
        """Return the same target, which reads labels that are divided by ``delimiter``."""
        return replace(self, delimiter=delimiter)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return the rarest class of each row, and a number of its own for rows without any."""
        rarity = np.argsort(np.argsort(labels.sum(axis=0), kind="stable"), kind="stable")
        places = np.where(labels, rarity, len(self.output_names))
        return places.min(axis=1, initial=len(self.output_names))

    def draw(self, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
        """Spread every class alike, as far as rows that hold several allow."""
        return draw_iteratively(labels, share, seed)

    def counts(self, labels: np.ndarray) -> dict[str, float]:
        """Return class -> number of examples that have it; an example counts for each of its classes."""
        return dict(zip(self.output_names, labels.sum(axis=0).tolist(), strict=True))

    def tuned(self, predict: Predict) -> Self:
        """Return the target with the threshold of each class that has the best F1."""
        return replace(self, thresholds=best_thresholds(*predict()).tolist())

    def finish(self, model: PreTrainedModel, predict: Predict | None) -> tuple[Self, str | None]:
        """Tune the thresholds on examples held out of training, and keep them in the model's configuration."""
        tuned, told = self, None
        if predict is not None:
            labels, probabilities = predict()
            tuned = self.tuned(lambda: (labels, probabilities))
            before, after = (t.metrics.functions["macro_f1"](labels, probabilities) for t in (self, tuned))
            told = (
                "the threshold of each class is the one with the best F1 on examples held out of training: macro F1 "
                f"there is {after:.3f}, with thresholds of {UNTUNED} {before:.3f}."
            )
        setattr(model.config, THRESHOLDS, tuned.thresholds)
        return tuned, told

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability of each class, (rows, classes)."""
        return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))  # beyond, float32 overflows

    @property
    def metrics(self) -> MetricSet:
        """Micro-averaged F1 first."""
        return multi_label_metrics(np.asarray(self.thresholds))

    def baseline(self, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Answer with the class frequencies, and for each metric decide in the better of two ways.

        A class is predicted where more than half of the training examples have it, or always: the best constant
        answer for accuracy and Hamming loss is near the one, that for F1 near the other.
        """
        frequencies = np.tile(train_labels.mean(axis=0), (len(labels), 1))
        ways = [multi_label_metrics(np.full(labels.shape[1], threshold)) for threshold in (UNTUNED, 0.0)]
        usual, always = (way.compute(labels, frequencies) for way in ways)
        return {n: (min if n in LOWER_IS_BETTER else max)(usual[n], always[n]) for n in usual}

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Return one example of each class, and the right answer."""
        classes = len(self.output_names)
        return np.eye(classes, dtype=bool), np.eye(classes) * 0.8 + 0.1

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Return (rows, classes) 0 or 1."""
        return (outputs >= np.asarray(self.thresholds)).astype(np.int64)

    def details(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
        """Return the classes one by one, and the probabilities of all decisions beside how often they come true."""
        return {
            "per_class": per_class_table(labels, self.decide(outputs) > 0, self.output_names),
            "reliability_curve": reliability_curve(labels, outputs),
        }

    def mistakes(self, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return the rows with a class too many or too few, by the decision that is farthest off."""
        wrong = np.flatnonzero(((self.decide(outputs) > 0) != labels).any(axis=1))
        return wrong[np.argsort(-np.abs(labels[wrong] - outputs[wrong]).max(axis=1), kind="stable")]

    def answer(self, output: np.ndarray) -> str:
        """Return the classes that reach their thresholds."""
        return ", ".join(self.label_values(self.decide(output[None]) > 0)[0]) or "none"

    def describe(self) -> str:
        """Return how many classes there are."""
        return f"{len(self.output_names)} classes, several or none for each example"

    def label_values(self, labels: np.ndarray) -> list[list[str]]:
        """Return the names of each row's classes."""
        return [[self.output_names[index] for index in np.flatnonzero(row)] for row in labels]

    def read_labels(self, values: list[Any]) -> np.ndarray:
        """Return (rows, classes) bool of lists of names."""
        return self.array([self.indices_of(names) for names in values])

    def usage(self, call: str) -> str:
        """Ask for every class, and keep those that reach their thresholds."""
        return (
            f"answers = {call[:-1]}, top_k={len(self.output_names)})\n"
            f"thresholds = dict(zip(classify.model.config.id2label.values(), classify.model.config.{THRESHOLDS}))\n"
            'predicted = [a["label"] for a in answers if a["score"] >= thresholds[a["label"]]]'
        )
