"""hfft's metrics as ``evaluate.Metric`` modules.

Nothing is fetched for them. ``predictions`` are the class probabilities of each row, ``references`` its class
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
