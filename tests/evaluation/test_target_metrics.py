"""Metrics of several classes and of numbers, their resampled forms, and the thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.multi_label import best_thresholds, multi_label_metrics
from hfft.evaluation.regression import REGRESSION_METRICS
from hfft.evaluation.single_label import single_label_metrics
from hfft.targets import MultiLabel, Regression

Case = tuple[MetricSet, np.ndarray, np.ndarray]
ERRORS = {"rmse", "mae", "mse", "median_absolute_error"}
THRESHOLDS = np.array([0.5, 0.3, 0.6, 0.5])


def several(rows: int = 40, seed: int = 0) -> Case:
    """Return labels and probabilities with ties; the last class never occurs."""
    generator = np.random.default_rng(seed)
    labels = generator.random((rows, 4)) < [0.5, 0.3, 0.2, 0.0]
    probabilities = np.round(np.clip(labels * 0.3 + generator.random((rows, 4)) * 0.7, 0, 1), 1)
    return multi_label_metrics(THRESHOLDS), labels, probabilities


def numbers(rows: int = 40, seed: int = 0) -> Case:
    """Return labels far from 0, and predictions with ties."""
    generator = np.random.default_rng(seed)
    labels = 1e4 + np.round(generator.normal(size=rows) * 3)
    return REGRESSION_METRICS, labels, np.round(labels + generator.normal(size=rows) * 2)


CASES = pytest.mark.parametrize("case", [several, numbers])


def test_values_of_scikit_learn_and_scipy():
    metrics, labels, probabilities = several()
    predicted, found = probabilities >= THRESHOLDS, metrics.compute(labels, probabilities)
    for average in ("micro", "macro"):
        expected = sklearn.metrics.f1_score(labels, predicted, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    assert found["subset_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert found["hamming_loss"] == pytest.approx(sklearn.metrics.hamming_loss(labels, predicted))
    occurring = slice(0, 3)
    args = (labels[:, occurring], probabilities[:, occurring])
    assert found["mean_average_precision"] == pytest.approx(sklearn.metrics.average_precision_score(*args))
    assert found["macro_auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(*args))
    flat = sklearn.metrics.log_loss(labels.ravel(), np.clip(probabilities, 1.2e-7, 1 - 1.2e-7).ravel())
    assert found["log_loss"] == pytest.approx(flat, rel=1e-5)
    assert found["brier_score"] == pytest.approx(
        sklearn.metrics.brier_score_loss(labels.ravel(), probabilities.ravel())
    )
    metrics, labels, predictions = numbers(41)
    found = metrics.compute(labels, predictions)
    assert found["mse"] == pytest.approx(sklearn.metrics.mean_squared_error(labels, predictions))
    assert found["rmse"] == pytest.approx(found["mse"] ** 0.5)
    assert found["median_absolute_error"] == sklearn.metrics.median_absolute_error(labels, predictions)
    assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(labels, predictions))
    assert found["r2"] == pytest.approx(sklearn.metrics.r2_score(labels, predictions))
    assert found["pearson"] == pytest.approx(np.corrcoef(labels, predictions)[0, 1])
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(labels, predictions).statistic)


@CASES
@pytest.mark.parametrize("seed", range(3))
def test_whole_weights_give_the_metric_of_repeated_rows(case, seed: int):
    metrics, labels, outputs = case(seed=seed)
    weights = np.random.default_rng(seed + 100).integers(0, 4, size=(20, len(labels))).astype(float)
    weights[0], weights[1] = 1.0, np.eye(len(labels))[3]  # every row once, one row alone
    for name in metrics.weighted:
        function, found = metrics.functions[name], metrics.weighted[name](labels, outputs, weights)
        assert found.shape == (20,)
        for value, row in zip(found, weights, strict=True):
            rows = np.repeat(np.arange(len(labels)), row.astype(int))
            assert value == pytest.approx(function(labels[rows], outputs[rows]), rel=1e-7, abs=1e-9, nan_ok=True), name


@CASES
def test_intervals_hold_the_value_and_depend_on_the_seed_alone(case):
    metrics, labels, outputs = case(rows=80)
    values, found = metrics.compute(labels, outputs), metrics.intervals(labels, outputs, seed=1)
    assert values.keys() == metrics.functions.keys()
    assert found.keys() == values.keys() - metrics.without_interval.keys()
    assert all(low <= values[name] <= high and low < high for name, (low, high) in found.items())
    assert metrics.intervals(labels, outputs, seed=1) == found


def test_what_has_no_value_is_left_out():
    metrics, labels, probabilities = several()
    none = np.zeros_like(labels)
    undefined = {"mean_average_precision", "macro_auroc"}
    assert metrics.functions.keys() - metrics.compute(none, probabilities).keys() == undefined
    without = metrics.functions.keys() - metrics.intervals(none, probabilities, 0).keys()
    assert without == undefined | {"micro_f1", "macro_f1", "expected_calibration_error"}  # of F1 all resamples are 0
    constant = np.full(5, 0.1)  # whose mean is not quite 0.1
    varied = np.arange(5.0)
    assert REGRESSION_METRICS.compute(varied, constant).keys() == ERRORS | {"r2"}
    assert REGRESSION_METRICS.compute(constant, varied).keys() == ERRORS
    assert REGRESSION_METRICS.intervals(constant, varied, 0).keys() == ERRORS
    assert REGRESSION_METRICS.intervals(varied, constant, 0).keys() == ERRORS | {"r2"}


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_has_a_better_f1(seed: int):
    _, labels, probabilities = several(seed=seed)
    thresholds = best_thresholds(labels, probabilities)
    for label, probability, threshold in zip(labels.T, probabilities.T, thresholds, strict=True):
        tried = {t: sklearn.metrics.f1_score(label, probability >= t, zero_division=0) for t in np.linspace(0, 1, 21)}
        found = sklearn.metrics.f1_score(label, probability >= threshold, zero_division=0)
        assert found == pytest.approx(max(tried.values()))
        if tried[0.5] == max(tried.values()):
            assert threshold == 0.5


@pytest.mark.parametrize(
    ("labels", "probabilities", "threshold"),
    [
        ([1, 0, 0], [0.3, 0.1, 0.2], 0.25),
        ([1, 1, 0], [0.9, 0.8, 0.7], 0.75),
        ([1, 1, 1], [0.4, 0.3, 0.2], 0.1),
        ([0, 0, 0], [0.9, 0.8, 0.7], 0.5),
        ([1, 0, 0], [0.5, 0.2, 0.2], 0.5),
        ([1, 0, 1], [0.2, 0.2, 0.2], 0.1),
    ],
)
def test_thresholds_by_hand(labels: list[int], probabilities: list[float], threshold: float):
    found = best_thresholds(np.array(labels, dtype=bool)[:, None], np.array(probabilities)[:, None])
    assert found.tolist() == [pytest.approx(threshold)]


def test_the_baseline_of_several_classes_is_the_better_of_two_constant_answers():
    train = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], dtype=bool)
    labels = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], dtype=bool)
    found = MultiLabel(["a", "b"], thresholds=[0.1, 0.9]).baseline(train, labels)
    assert found["micro_f1"] == pytest.approx(10 / 13)  # always both; a alone reaches 6 / 9
    assert found["subset_accuracy"] == 0.5  # a alone
    assert found["hamming_loss"] == pytest.approx(3 / 8)
    assert found["macro_auroc"] == 0.5
    entropy = -np.mean([0.75 * math.log(0.75) + 0.25 * math.log(0.25), math.log(0.25) / 2 + math.log(0.75) / 2])
    assert found["log_loss"] == pytest.approx(entropy)


def test_the_baseline_of_numbers_is_the_training_mean():
    found = Regression(["y"]).baseline(np.array([1.0, 2.0, 6.0]), np.array([2.0, 5.0]))
    assert found == pytest.approx(
        {"rmse": 2.5**0.5, "mae": 1.5, "mse": 2.5, "median_absolute_error": 1.0, "r2": -1 / 9}
    )


def test_thresholds_of_one_sample_help_on_another():
    """Rare classes with honest probabilities, which seldom reach a half."""
    generator = np.random.default_rng(0)
    probabilities = generator.beta(0.5, 4, size=(3000, 5))
    labels = generator.random((3000, 5)) < probabilities
    tuned = MultiLabel(list("abcde"), best_thresholds(labels[:500], probabilities[:500]).tolist())
    held_out = labels[500:], probabilities[500:]
    before, after = (t.metrics.compute(*held_out)["macro_f1"] for t in (MultiLabel(list("abcde")), tuned))
    assert after > before + 0.1


def test_a_class_that_few_rows_have_is_told_and_not_ranked():
    metrics, labels, probabilities = several()
    labels[:, 2] = np.arange(len(labels)) < 3
    found = metrics.intervals(labels, probabilities, 0)
    assert not {"mean_average_precision", "macro_auroc"} & found.keys()
    notes = metrics.interval_notes(labels, metrics.functions, found)
    assert "1 class has fewer than 5 test examples: intervals of averages over classes may be too narrow." in notes
    assert "No interval of macro_auroc: 1 class has fewer than 5 test examples, too few to rank." in notes


def test_every_metric_is_told_of_once():
    for metrics, labels, outputs in (several(80), numbers()):
        found = metrics.intervals(labels, outputs, 0)
        notes = metrics.interval_notes(labels, metrics.functions, found)
        told = [name for note in notes for name in note.split(" of ", 1)[1].split(":")[0].split(", ")]
        assert sorted(told) == sorted(metrics.functions)


def one_of_several(rows: int = 40, seed: int = 0) -> Case:
    """Return labels and probabilities of one class each."""
    generator = np.random.default_rng(seed)
    return single_label_metrics(7), generator.integers(0, 7, rows), generator.dirichlet(np.full(7, 0.1), rows)


@pytest.mark.parametrize("case", [one_of_several, several, numbers])
def test_every_metric_has_a_range_that_holds_its_values(case):
    for seed in range(5):
        metrics, labels, outputs = case(seed=seed)
        assert metrics.ranges.keys() >= metrics.functions.keys()
        for name, value in metrics.compute(labels, outputs).items():
            low, high = metrics.ranges[name]
            assert low <= value <= high, name


def test_what_is_all_right_or_all_wrong_lies_at_the_ends_of_the_range():
    metrics, labels, _ = one_of_several()
    right, wrong = (metrics.compute(labels, np.eye(7)[(labels + shift) % 7]) for shift in (0, 1))
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "brier_score", "expected_calibration_error"):
        assert sorted((right[name], wrong[name])) == pytest.approx(metrics.ranges[name]), name
    metrics, numbered, _ = numbers()
    found = metrics.compute(numbered, numbered)
    assert all(found[name] == pytest.approx(metrics.ranges[name][0]) for name in ERRORS)
    assert all(found[name] == pytest.approx(metrics.ranges[name][1]) for name in ("r2", "pearson", "spearman"))
    assert metrics.compute(numbered, -numbered)["spearman"] == pytest.approx(metrics.ranges["spearman"][0])
