from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binom

from hfft.evaluation import intervals
from hfft.evaluation.intervals import WEIGHTED_METRICS, bootstrap_intervals
from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.metrics import METRICS, compute_metrics
from hfft.evaluation.summary import metric_rows, summarize


def random_case(rows: int = 40, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities; the last class never occurs and is never predicted."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes - 1, rows)
    logits = generator.normal(size=(rows, classes)) + np.eye(classes)[labels]
    logits[:, -1] -= 20
    return labels, softmax(logits, axis=1)


def test_every_metric_has_a_weighted_form():
    assert set(WEIGHTED_METRICS) == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_weights_of_one_give_the_metric(name: str, seed: int):
    labels, probabilities = random_case(seed=seed)
    values = WEIGHTED_METRICS[name](labels, probabilities, np.ones((2, len(labels))))
    assert values.shape == (2,)
    np.testing.assert_allclose(values, METRICS[name](labels, probabilities), rtol=1e-9)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_whole_weights_give_the_metric_of_repeated_rows(name: str, seed: int):
    labels, probabilities = random_case(seed=seed)
    generator = np.random.default_rng(seed + 100)
    weights = generator.integers(0, 4, size=(20, len(labels))).astype(float)
    weights[0] = np.where(labels == 0, 2, 0)  # one class alone
    weights[1] = np.eye(len(labels))[3]  # one row alone
    repeated = [np.repeat(np.arange(len(labels)), row.astype(int)) for row in weights]
    expected = [METRICS[name](labels[rows], probabilities[rows]) for rows in repeated]
    np.testing.assert_allclose(WEIGHTED_METRICS[name](labels, probabilities, weights), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_certain_wrong_answers_are_weighted_alike(name: str):
    labels = np.array([0, 1, 2, 0])
    probabilities = np.eye(3)[[1, 2, 0, 0]]
    values = WEIGHTED_METRICS[name](labels, probabilities, np.ones((1, 4)))
    assert values[0] == pytest.approx(METRICS[name](labels, probabilities))


def test_the_seed_decides():
    case = random_case()
    first = bootstrap_intervals(METRICS, *case, seed=1, resamples=200)
    assert bootstrap_intervals(METRICS, *case, seed=1, resamples=200) == first
    assert bootstrap_intervals(METRICS, *case, seed=2, resamples=200) != first


def test_the_intervals_do_not_depend_on_which_metrics_are_asked_for():
    case = random_case()
    together = bootstrap_intervals(METRICS, *case, seed=1, resamples=100)
    for name in METRICS:
        assert bootstrap_intervals([name], *case, seed=1, resamples=100) == {name: together[name]}


def test_chunks_do_not_change_the_intervals(monkeypatch):
    case = random_case()
    whole = bootstrap_intervals(METRICS, *case, seed=1, resamples=50)
    monkeypatch.setattr(intervals, "_CHUNK", 7 * len(case[0]))  # seven resamples at a time, then one
    chunked = bootstrap_intervals(METRICS, *case, seed=1, resamples=50)
    for name in METRICS:
        assert chunked[name] == pytest.approx(whole[name])
    monkeypatch.setattr(intervals, "_CHUNK", 1)
    assert bootstrap_intervals(["accuracy"], *case, seed=1, resamples=50)["accuracy"] == whole["accuracy"]


@pytest.mark.parametrize("name", METRICS)
def test_intervals_are_the_quantiles_of_resampled_rows(name: str):
    """Against the bootstrap written out: draw rows with replacement, compute the metric, take percentiles."""
    labels, probabilities = random_case(rows=80)
    generator = np.random.default_rng(7)
    values = []
    for _ in range(500):
        rows = generator.integers(0, 80, 80)
        values.append(METRICS[name](labels[rows], probabilities[rows]))
    low, high = bootstrap_intervals([name], labels, probabilities, seed=3)[name]
    assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.35 * np.std(values))


def test_the_interval_of_the_accuracy_is_that_of_the_binomial():
    labels = np.zeros(200, dtype=int)
    probabilities = np.where(np.arange(200)[:, None] < 150, [0.9, 0.1], [0.1, 0.9])
    low, high = bootstrap_intervals(["accuracy"], labels, probabilities)["accuracy"]
    assert low == pytest.approx(binom.ppf(0.025, 200, 0.75) / 200, abs=0.006)
    assert high == pytest.approx(binom.ppf(0.975, 200, 0.75) / 200, abs=0.006)


def test_more_rows_give_a_narrower_interval():
    labels, probabilities = random_case(30)
    narrow = bootstrap_intervals(METRICS, np.tile(labels, 16), np.tile(probabilities, (16, 1)), resamples=500)
    wide = bootstrap_intervals(METRICS, labels, probabilities, resamples=500)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss"):
        ratio = (narrow[name][1] - narrow[name][0]) / (wide[name][1] - wide[name][0])
        assert ratio == pytest.approx(1 / 4, abs=0.1)


def test_one_row_has_a_degenerate_interval():
    found = bootstrap_intervals(METRICS, np.array([0]), np.array([[0.6, 0.4]]), resamples=10)
    assert found["accuracy"] == (1.0, 1.0)
    assert found["log_loss"] == pytest.approx((-np.log(0.6),) * 2)


def test_a_summary_holds_value_interval_and_baseline():
    labels, probabilities = random_case()
    names = ("accuracy", "log_loss")
    metrics = MetricSet({n: METRICS[n] for n in names}, {n: WEIGHTED_METRICS[n] for n in names})
    baseline = metrics.compute(labels, np.full_like(probabilities, 0.25))
    flat = summarize(metrics, labels, probabilities, baseline, prefix="dev", seed=4)
    values, bounds = (
        compute_metrics(METRICS, labels, probabilities),
        bootstrap_intervals(METRICS, labels, probabilities, 4),
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
    assert metric_rows(metrics, ["b", "absent", "a"], "test") == [
        {"name": "b", "value": 3.0, "low": None, "high": None, "baseline": None},
        {"name": "a", "value": 1.0, "low": 0.5, "high": 1.5, "baseline": 0.2},
    ]
