"""hfft's metrics as ``evaluate.Metric`` modules, and other ``evaluate`` metrics by name or path.

Nothing is fetched for hfft's own. ``predictions`` are the class probabilities of each row, ``references`` its class
index::

    from hfft.evaluation.modules import MacroF1
    MacroF1().compute(predictions=[[0.9, 0.1], [0.2, 0.8]], references=[0, 1])
"""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from hfft.errors import UserError
from hfft.evaluation.metrics import METRICS


class ClassificationMetric(evaluate.Metric):
    """An ``evaluate.Metric`` over one function of :data:`METRICS`."""

    metric_name: ClassVar[str]

    def __init__(self, **kwargs: Any) -> None:
        # an id of its own keeps two processes from waiting for each other's file locks
        kwargs.setdefault("experiment_id", uuid.uuid4().hex)
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            module_name=self.metric_name,
            description=METRICS[self.metric_name].__doc__,
            citation="",
            inputs_description="predictions: class probabilities (rows, classes); references: class indices (rows,).",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: Any, references: Any, **_: Any) -> dict[str, float]:
        return {self.metric_name: METRICS[self.metric_name](np.asarray(references), np.asarray(predictions))}


class Accuracy(ClassificationMetric):
    """Share of rows whose most probable class is the label."""

    metric_name = "accuracy"


class BalancedAccuracy(ClassificationMetric):
    """Mean recall over the classes."""

    metric_name = "balanced_accuracy"


class MacroF1(ClassificationMetric):
    """Mean F1 over the classes."""

    metric_name = "macro_f1"


class Top5Accuracy(ClassificationMetric):
    """Share of rows whose label is among the five most probable classes."""

    metric_name = "top_5_accuracy"


class MacroAUROC(ClassificationMetric):
    """Mean area under the ROC curve of each class against the rest."""

    metric_name = "macro_auroc"


class MeanAveragePrecision(ClassificationMetric):
    """Mean average precision of each class against the rest."""

    metric_name = "mean_average_precision"


class BrierScore(ClassificationMetric):
    """Mean squared distance between probabilities and truth."""

    metric_name = "brier_score"


class LogLoss(ClassificationMetric):
    """Mean negative log probability of the label."""

    metric_name = "log_loss"


class ExpectedCalibrationError(ClassificationMetric):
    """Mean gap between confidence and accuracy."""

    metric_name = "expected_calibration_error"


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
