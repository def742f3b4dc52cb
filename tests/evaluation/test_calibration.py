from __future__ import annotations

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics
from scipy.special import expit, softmax

from hfft.evaluation.calibration import (
    accuracy_at_coverage,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)
from hfft.evaluation.per_class import confusion_matrix, per_class_table
from hfft.targets import MultiLabel, Regression, SingleLabel


def random_case(rows: int = 300, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels that were drawn from the softmax of logits, and the logits."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(rows, classes))
    labels = (generator.random((rows, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1)
    return np.minimum(labels, classes - 1), logits


def test_the_reliability_curve_is_that_of_scikit_learn_and_sums_up_to_the_error():
    labels, logits = random_case()
    probabilities = softmax(logits, axis=1)
    hits, confidence = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
    curve = reliability_curve(labels, probabilities)
    accuracy, sure = sklearn.calibration.calibration_curve(hits, confidence, n_bins=15)
    assert [point["accuracy"] for point in curve] == pytest.approx(accuracy)
    assert [point["confidence"] for point in curve] == pytest.approx(sure)
    assert sum(point["count"] for point in curve) == 300
    error = sum(point["count"] * abs(point["accuracy"] - point["confidence"]) for point in curve) / 300
    assert expected_calibration_error(labels, probabilities) == pytest.approx(error)


def test_the_reliability_of_several_classes_is_that_of_every_decision():
    labels = np.array([[True, False], [True, True]])
    curve = reliability_curve(labels, np.array([[0.9, 0.1], [0.9, 0.9]]))
    assert curve == [
        {"confidence": pytest.approx(0.1), "accuracy": 0.0, "count": 1},
        {"confidence": pytest.approx(0.9), "accuracy": 1.0, "count": 3},
    ]


def test_accuracy_at_coverage_is_that_of_the_most_confident_rows():
    labels, logits = random_case(200)
    probabilities = softmax(logits, axis=1)
    curve = accuracy_at_coverage(labels, probabilities)
    assert [point["coverage"] for point in curve] == pytest.approx(np.arange(1, 21) / 20)
    for point in curve:
        answered = probabilities.max(axis=1) >= point["confidence"]
        assert answered.mean() == pytest.approx(point["coverage"])
        right = probabilities[answered].argmax(axis=1) == labels[answered]
        assert point["accuracy"] == pytest.approx(right.mean())
    assert curve[0]["accuracy"] > curve[-1]["accuracy"]


def test_rows_of_the_same_confidence_are_answered_together():
    probabilities = np.array([[0.9, 0.1]] * 2 + [[0.6, 0.4]] * 6)
    curve = accuracy_at_coverage(np.array([0, 0, 0, 0, 0, 1, 1, 1]), probabilities)
    assert curve == [
        {"coverage": 0.25, "accuracy": 1.0, "confidence": 0.9},
        {"coverage": 1.0, "accuracy": 0.625, "confidence": 0.6},
    ]


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_a_factor(factor: float):
    labels, logits = random_case(4000)
    found = fit_temperature(lambda t: sklearn.metrics.log_loss(labels, softmax(factor * logits / t, axis=1)))
    assert found == pytest.approx(factor, rel=0.1)


def test_no_temperature_where_every_answer_is_right():
    labels, logits = random_case(20)
    right = np.eye(3)[labels] + 0.1 * logits
    assert (right.argmax(axis=1) == labels).all()
    assert fit_temperature(lambda t: sklearn.metrics.log_loss(labels, softmax(right / t, axis=1))) is None


@pytest.mark.parametrize("several", [False, True])
def test_the_classes_one_by_one_are_those_of_scikit_learn(several: bool):
    labels, logits = random_case(60, classes=4)
    names = list("abcd")
    if several:
        target, array = MultiLabel(names, [0.2, 0.5, 0.5, 0.9]), np.random.default_rng(0).random((60, 4)) < 0.4
        outputs = expit(logits)
        predicted = outputs >= np.array(target.thresholds)
    else:
        target, array, outputs = SingleLabel(names), labels, softmax(logits, axis=1)
        predicted = outputs.argmax(axis=1)
    report = sklearn.metrics.classification_report(
        array, predicted, target_names=names, output_dict=True, zero_division=0
    )
    details = target.details(array, outputs)
    for row in details["per_class"]:
        expected = report[row["class"]]
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx(
            [expected["precision"], expected["recall"], expected["f1-score"], expected["support"]]
        )
    if not several:
        assert details["confusion_matrix"] == sklearn.metrics.confusion_matrix(array, predicted).tolist()
    assert ("accuracy_at_coverage" in details) is not several


def test_classes_that_never_occur_have_zeros():
    none = np.zeros((3, 1), dtype=bool)
    assert per_class_table(none, none, ["a"]) == [{"class": "a", "precision": 0, "recall": 0, "f1": 0, "support": 0}]
    assert confusion_matrix(np.array([0]), np.array([2]), 3) == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_numbers_have_no_classes():
    assert Regression(["y"]).details(np.array([1.0]), np.array([2.0])) == {}
