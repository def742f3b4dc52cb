from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
from scipy.special import softmax as reference_softmax

from hfft.errors import UserError
from hfft.evaluation.baseline import class_frequencies
from hfft.evaluation.calibration import CALIBRATION_BINS, calibration_bin
from hfft.evaluation.metrics import LOWER_IS_BETTER, METRICS, compute_metrics, softmax

# four rows, three classes; the predictions are 0, 1, 1, 0
LABELS = np.array([0, 1, 0, 0])
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.5, 0.25, 0.25]])


def random_case(rows: int = 60, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities that agree about half of the time."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, reference_softmax(logits, axis=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 3 / 4),
        ("balanced_accuracy", (2 / 3 + 1) / 2),  # class 2 does not occur and does not count
        ("macro_f1", (2 * 2 / (3 + 2) + 2 * 1 / (1 + 2) + 0) / 3),  # here it does, with 0
        ("log_loss", -(math.log(0.7) + math.log(0.8) + math.log(0.3) + math.log(0.5)) / 4),
        ("top_5_accuracy", 1.0),
        ("macro_auroc", 1.0),  # class 0: (0.7, 0.3, 0.5) above 0.1; class 1: 0.8 above the rest
        ("mean_average_precision", 1.0),
        ("brier_score", (0.14 + 0.06 + 0.86 + 0.375) / 4),
        # every row in a bin of its own: (0.7, 0.8, 0.6, 0.5) against (1, 1, 0, 1)
        ("expected_calibration_error", (0.3 + 0.2 + 0.6 + 0.5) / 4),
    ],
)
def test_values_computed_by_hand(name: str, value: float):
    result = METRICS[name](LABELS, PROBABILITIES)
    assert result == pytest.approx(value, abs=1e-6)
    assert type(result) is float


@pytest.mark.parametrize("seed", range(5))
def test_values_of_scikit_learn(seed: int):
    labels, probabilities = random_case(seed=seed)
    predicted = probabilities.argmax(axis=1)
    found = compute_metrics(METRICS, labels, probabilities)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities), rel=1e-5)
    assert found["macro_auroc"] == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
    )
    one_hot = np.eye(4)[labels]
    expected = sklearn.metrics.average_precision_score(one_hot, probabilities)
    assert found["mean_average_precision"] == pytest.approx(expected)
    whole = sklearn.metrics.brier_score_loss(labels, probabilities, labels=range(4), scale_by_half=False)
    assert found["brier_score"] == pytest.approx(whole)


@pytest.mark.parametrize("seed", range(3))
def test_the_five_most_probable_of_scikit_learn(seed: int):
    labels, probabilities = random_case(classes=9, seed=seed)
    expected = sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=range(9))
    assert METRICS["top_5_accuracy"](labels, probabilities) == pytest.approx(expected)


def test_of_tied_classes_the_first_are_the_most_probable():
    labels, same = np.arange(8), np.full((8, 8), 1 / 8)
    assert METRICS["accuracy"](labels, same) == 1 / 8
    assert METRICS["top_5_accuracy"](labels, same) == 5 / 8


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_the_sum_over_bins(seed: int):
    labels, probabilities = random_case(200, seed=seed)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for index in range(15):
        rows = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if rows.any():
            expected += rows.mean() * abs(hit[rows].mean() - confidence[rows].mean())
    assert METRICS["expected_calibration_error"](labels, probabilities) == pytest.approx(expected)


def test_rows_of_one_bin_are_averaged_before_the_gap():
    probabilities = np.array([[0.75, 0.25]] * 4)
    assert METRICS["expected_calibration_error"](np.array([0, 0, 0, 1]), probabilities) == pytest.approx(0)
    assert METRICS["expected_calibration_error"](np.array([1, 1, 1, 1]), probabilities) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("confidence", "index"),
    [(0.0, 0), (0.001, 0), (1 / 15, 0), (1 / 15 + 1e-9, 1), (0.5, 7), (0.999, 14), (1.0, 14), (1.0000001, 14)],
)
def test_bins_are_open_below_and_closed_above(confidence: float, index: int):
    assert calibration_bin(np.array([confidence]))[0] == index
    assert CALIBRATION_BINS == 15


def test_a_perfect_and_a_wrong_model():
    labels = np.array([0, 1, 2])
    perfect, wrong = np.eye(3), np.eye(3)[[1, 2, 0]]
    found = compute_metrics(METRICS, labels, perfect)
    assert found == pytest.approx({name: 0.0 if name in LOWER_IS_BETTER else 1.0 for name in METRICS}, abs=1e-6)
    found = compute_metrics(METRICS, labels, wrong)
    assert found["accuracy"] == found["balanced_accuracy"] == found["macro_f1"] == 0
    assert found["expected_calibration_error"] == 1
    assert 10 < found["log_loss"] < 20  # a certain wrong answer costs much, but not infinity


@pytest.mark.parametrize("name", METRICS)
def test_one_row_and_one_occurring_class(name: str):
    value = METRICS[name](np.array([1]), np.array([[0.2, 0.8]]))
    expected = {"macro_f1": 0.5, "log_loss": -math.log(0.8), "expected_calibration_error": 0.2, "brier_score": 0.08}
    expected["macro_auroc"] = math.nan  # there is no rest
    assert value == pytest.approx(expected.get(name, 1.0), abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.filterwarnings("error")
def test_half_precision_sums_that_miss_one_raise_no_warning(name: str):
    labels, probabilities = random_case()
    exact = METRICS[name](labels, probabilities)
    assert METRICS[name](labels, probabilities.astype(np.float32)) == pytest.approx(exact, rel=1e-4, abs=1e-4)
    assert METRICS[name](labels, probabilities.astype(np.float16)) == pytest.approx(exact, rel=0.05, abs=0.05)


@pytest.mark.parametrize("name", METRICS)
def test_an_extra_class_that_never_occurs(name: str):
    labels, probabilities = random_case(classes=3)
    wider = np.hstack([probabilities, np.zeros((len(labels), 1))])
    before, after = METRICS[name](labels, probabilities), METRICS[name](labels, wider)
    assert after == pytest.approx(before * 3 / 4 if name == "macro_f1" else before, abs=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_the_rows_changes_nothing(name: str):
    labels, probabilities = random_case()
    order = np.random.default_rng(1).permutation(len(labels))
    assert METRICS[name](labels[order], probabilities[order]) == pytest.approx(METRICS[name](labels, probabilities))


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match=r"There is no metric 'acuracy'\. Did you mean 'accuracy'\? Known: accuracy, "):
        compute_metrics(["acuracy"], LABELS, PROBABILITIES)


def test_only_what_was_asked_for_is_computed_in_that_order():
    assert list(compute_metrics(["log_loss", "accuracy"], LABELS, PROBABILITIES)) == ["log_loss", "accuracy"]


def test_softmax_agrees_with_scipy_and_does_not_overflow():
    logits = np.random.default_rng(0).normal(size=(5, 3)) * 10
    np.testing.assert_allclose(softmax(logits), reference_softmax(logits, axis=1))
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])


def test_the_baseline_answers_with_the_class_frequencies():
    train = np.array([0, 0, 0, 2])
    baseline = class_frequencies(train, classes=4, rows=2)
    np.testing.assert_allclose(baseline, [[0.75, 0, 0.25, 0]] * 2)
    labels = np.array([0, 2, 0, 0])
    rows = class_frequencies(train, 4, 4)
    assert METRICS["accuracy"](labels, rows) == 0.75
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert METRICS["log_loss"](labels, rows) == pytest.approx(entropy, abs=1e-5)
