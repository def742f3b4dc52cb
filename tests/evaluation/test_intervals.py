from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from hfft.evaluation.bootstrap import bootstrap_intervals
from hfft.evaluation.intervals import logit_interval, standard_error, wilson_interval
from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.metrics import METRICS, RANGES, compute_metrics
from hfft.evaluation.ranking import auroc_influence, average_precision_influence
from hfft.evaluation.single_label import WEIGHTED_METRICS, single_label_metrics
from hfft.evaluation.summary import metric_rows, summarize
from tests.evaluation.cases import random_case


@pytest.mark.parametrize("classes", [4, 6])
def test_every_metric_has_an_interval_or_says_why_not(classes: int):
    metrics = single_label_metrics(classes)
    ways = [metrics.weighted, metrics.influences, metrics.without_interval]
    assert set(METRICS) == {name for way in ways for name in way}
    assert set(metrics.functions) == set(METRICS) - ({"top_5_accuracy"} if classes < 6 else set())


def test_the_interval_of_the_accuracy_is_wilson_s_score():
    labels, probabilities = random_case(rows=100)
    metrics = single_label_metrics(4)
    found = metrics.intervals(labels, probabilities, seed=0)["accuracy"]
    share, z = METRICS["accuracy"](labels, probabilities), scipy.stats.norm.ppf(0.975)
    middle = (share + z**2 / 200) / (1 + z**2 / 100)
    reach = z / (1 + z**2 / 100) * (share * (1 - share) / 100 + z**2 / 40_000) ** 0.5
    assert found == pytest.approx((middle - reach, middle + reach))
    low, high = wilson_interval(np.ones(20, dtype=bool))
    assert (low, high) == pytest.approx((0.8389, 1.0), abs=1e-4)


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (auroc_influence, sklearn.metrics.roc_auc_score),
        (average_precision_influence, sklearn.metrics.average_precision_score),
    ],
)
@pytest.mark.parametrize("decimals", [1, 8])  # with ties, and without
def test_the_influence_of_a_row_is_the_derivative_by_its_weight(function, reference, decimals: int):
    generator = np.random.default_rng(0)
    label = generator.random(40) < 0.3
    score = np.round(generator.random(40) + 0.4 * label, decimals)
    value, influence = function(label, score)
    assert value == pytest.approx(reference(label, score))
    step = 1e-5
    for row in range(40):
        weights = [np.where(np.arange(40) == row, 1 + sign * step, 1.0) for sign in (1, -1)]
        up, down = (reference(label, score, sample_weight=weight) for weight in weights)
        assert influence[row] == pytest.approx((up - down) / (2 * step), abs=1e-6)


def test_the_error_of_the_auroc_is_delong_s():
    generator = np.random.default_rng(0)
    label = generator.random(60) < 0.4
    score = generator.random(60) + 0.5 * label
    value, influence = auroc_influence(label, score)
    above = score[label][:, None] > score[~label]
    variance = above.mean(axis=1).var(ddof=1) / label.sum() + above.mean(axis=0).var(ddof=1) / (~label).sum()
    assert standard_error(influence, label) == pytest.approx(variance**0.5)
    low, high = logit_interval(value, influence, label)
    reach = 1.959964 * variance**0.5 / (value * (1 - value))
    assert np.log([low / (1 - low), high / (1 - high)]) == pytest.approx(
        np.log(value / (1 - value)) + np.array([-reach, reach])
    )


def test_perfect_answers_have_an_accuracy_with_an_interval_and_nothing_else_is_certain():
    labels = np.repeat([0, 1], 20)
    probabilities = np.where(np.eye(2)[labels] > 0, 0.9, 0.1)
    metrics = single_label_metrics(2)
    found = metrics.intervals(labels, probabilities, seed=0)
    assert found == {"accuracy": wilson_interval(np.ones(40, dtype=bool))}
    notes = metrics.interval_notes(labels, metrics.functions, found)
    assert notes[0] == "Interval of accuracy: by Wilson's score."
    assert "No interval of macro_f1: every resample gives the same value." in notes
    assert any(note.startswith("No interval of expected_calibration_error: its estimate is too high") for note in notes)


def test_rare_classes_borrow_from_the_others():
    """Two rows of the third class, both right: resampling them would say that it is always found."""
    labels = np.repeat([0, 1, 2], [30, 30, 2])
    answers = np.where(np.arange(62) % 12 == 0, 1 - np.minimum(labels, 1), labels)
    probabilities = np.eye(3)[answers] * 0.7 + 0.1
    metrics = single_label_metrics(3)
    found = metrics.intervals(labels, probabilities, seed=0)
    stratified = bootstrap_intervals(
        ["macro_f1"], labels, probabilities, weighted=WEIGHTED_METRICS, strata=labels, percentile=["macro_f1"]
    )["macro_f1"]
    assert np.ptp(found["macro_f1"]) > 1.3 * np.ptp(stratified)
    assert found["macro_f1"][0] < METRICS["macro_f1"](labels, probabilities) < found["macro_f1"][1]
    assert not {"macro_auroc", "mean_average_precision"} & set(found)
    notes = metrics.interval_notes(labels, metrics.functions, found)
    assert (
        "Interval of balanced_accuracy, macro_f1: by a bootstrap in which rare classes borrow the rates of all."
        in notes
    )
    assert "No interval of macro_auroc: 1 class has fewer than 5 test examples, too few to rank." in notes


@pytest.mark.parametrize("right", [True, False])
def test_what_is_seen_of_rare_classes_lies_within_its_interval(right: bool):
    labels = np.array([0, 0, 1, 1, 2])
    answers = labels if right else (labels + 1) % 3
    found = single_label_metrics(3).intervals(labels, np.eye(3)[answers] * 0.7 + 0.1, seed=0)
    for name in ("balanced_accuracy", "macro_f1"):
        low, high = found[name]
        assert (high if right else low) == float(right)
        assert low < high


def test_more_rows_give_a_narrower_interval():
    labels, probabilities = random_case(30)
    metrics = single_label_metrics(4)
    narrow = metrics.intervals(np.tile(labels, 16), np.tile(probabilities, (16, 1)), 0)
    wide = metrics.intervals(labels, probabilities, 0)
    assert set(narrow) == set(wide) == set(metrics.functions) - {"expected_calibration_error"}
    for name in narrow:
        assert np.ptp(narrow[name]) / np.ptp(wide[name]) == pytest.approx(1 / 4, abs=0.1)


def test_a_summary_holds_value_interval_and_baseline():
    labels, probabilities = random_case()
    names = ("accuracy", "log_loss")
    metrics = MetricSet({n: METRICS[n] for n in names}, WEIGHTED_METRICS, RANGES)
    baseline = metrics.compute(labels, np.full_like(probabilities, 0.25))
    flat = summarize(metrics, labels, probabilities, baseline, prefix="dev", seed=4)
    values, bounds = (
        compute_metrics(METRICS, labels, probabilities),
        bootstrap_intervals(names, labels, probabilities, 4, weighted=WEIGHTED_METRICS),
    )
    assert flat == {
        "dev_accuracy": values["accuracy"],
        "dev_accuracy_ci_low": bounds["accuracy"][0],
        "dev_accuracy_ci_high": bounds["accuracy"][1],
        "baseline_dev_accuracy": np.mean(labels == 0),
        "dev_log_loss": values["log_loss"],
        "dev_log_loss_ci_low": bounds["log_loss"][0],
        "dev_log_loss_ci_high": bounds["log_loss"][1],
        "baseline_dev_log_loss": pytest.approx(np.log(4)),
    }
    assert flat["dev_accuracy_ci_low"] <= flat["dev_accuracy"] <= flat["dev_accuracy_ci_high"]


def test_rows_of_a_summary_leave_open_what_was_not_computed():
    metrics = {"test_a": 1.0, "test_a_ci_low": 0.5, "test_a_ci_high": 1.5, "baseline_test_a": 0.2, "test_b": 3.0}
    metrics["baseline_probe_test_b"] = 2.0
    assert metric_rows(metrics, ["b", "absent", "a"], "test") == [
        {"name": "b", "value": 3.0, "low": None, "high": None, "baseline": None, "probe": 2.0},
        {"name": "a", "value": 1.0, "low": 0.5, "high": 1.5, "baseline": 0.2, "probe": None},
    ]
