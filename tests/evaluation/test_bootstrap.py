from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from scipy.special import softmax

from hfft.evaluation import bootstrap
from hfft.evaluation.bootstrap import bootstrap_intervals, jackknife_error
from hfft.evaluation.intervals import Interval
from hfft.evaluation.metrics import METRICS
from hfft.evaluation.regression import REGRESSION_METRICS
from hfft.evaluation.single_label import WEIGHTED_METRICS, single_label_metrics
from tests.evaluation.cases import random_case


def resampled(labels: np.ndarray, probabilities: np.ndarray, seed: int = 0) -> dict[str, Interval]:
    return bootstrap_intervals(WEIGHTED_METRICS, labels, probabilities, seed, resamples=200, weighted=WEIGHTED_METRICS)


@pytest.mark.parametrize("name", WEIGHTED_METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_weights_of_one_give_the_metric(name: str, seed: int):
    labels, probabilities = random_case(seed=seed)
    values = WEIGHTED_METRICS[name](labels, probabilities, np.ones((2, len(labels))))
    assert values.shape == (2,)
    np.testing.assert_allclose(values, METRICS[name](labels, probabilities), rtol=1e-9)


@pytest.mark.parametrize("name", WEIGHTED_METRICS)
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


@pytest.mark.parametrize("name", WEIGHTED_METRICS)
def test_certain_wrong_answers_are_weighted_alike(name: str):
    labels = np.array([0, 1, 2, 0])
    probabilities = np.eye(3)[[1, 2, 0, 0]]
    values = WEIGHTED_METRICS[name](labels, probabilities, np.ones((1, 4)))
    assert values[0] == pytest.approx(METRICS[name](labels, probabilities))


def test_the_seed_decides():
    case = random_case()
    first = resampled(*case, seed=1)
    assert resampled(*case, seed=1) == first
    assert resampled(*case, seed=2) != first


def test_the_intervals_do_not_depend_on_which_metrics_are_asked_for():
    case = random_case()
    together = resampled(*case)
    for name in WEIGHTED_METRICS:
        found = bootstrap_intervals([name], *case, resamples=200, weighted=WEIGHTED_METRICS)
        assert found == {key: value for key, value in together.items() if key == name}


def test_chunks_do_not_change_the_intervals(monkeypatch):
    case = random_case()
    whole = resampled(*case)
    for chunk in (7 * len(case[0]), 1):  # seven resamples at a time, then one
        monkeypatch.setattr(bootstrap, "_CHUNK", chunk)
        chunked = resampled(*case)
        assert chunked == {name: pytest.approx(interval) for name, interval in whole.items()}


@pytest.mark.parametrize("name", [name for name in WEIGHTED_METRICS if name != "top_5_accuracy"])
def test_percentile_intervals_are_the_quantiles_of_resampled_rows(name: str):
    """Against the bootstrap written out: draw rows with replacement, compute the metric, take percentiles."""
    labels, probabilities = random_case(rows=80)
    generator = np.random.default_rng(7)
    values = []
    for _ in range(300):
        rows = generator.integers(0, 80, 80)
        values.append(METRICS[name](labels[rows], probabilities[rows]))
    found = bootstrap_intervals(
        [name], labels, probabilities, seed=3, weighted=WEIGHTED_METRICS, percentile=WEIGHTED_METRICS
    )
    assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.35 * np.std(values))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("rmse", lambda x, y, axis: np.sqrt(np.mean((x - y) ** 2, axis=axis))),
        ("mae", lambda x, y, axis: np.mean(np.abs(x - y), axis=axis)),
        ("pearson", lambda x, y, axis: scipy.stats.pearsonr(x, y, axis=axis).statistic),
    ],
)
def test_bca_intervals_are_those_of_scipy(name: str, function):
    generator = np.random.default_rng(2)
    labels = generator.exponential(size=30)
    case = labels, labels + generator.normal(size=30) * generator.exponential(size=30)
    bca, plain = (
        scipy.stats.bootstrap(case, function, paired=True, n_resamples=20_000, rng=1, method=method)
        for method in ("BCa", "percentile")
    )
    found = bootstrap_intervals([name], *case, resamples=20_000, weighted=REGRESSION_METRICS.weighted)[name]
    near = 0.1 * bca.standard_error
    assert found == pytest.approx(tuple(bca.confidence_interval), abs=near)
    assert found != pytest.approx(tuple(plain.confidence_interval), abs=near)  # the correction is there to be seen


def test_a_stratified_bca_interval_is_that_of_scipy_for_several_samples():
    """Balanced accuracy is the mean over the classes of the share of hits: one sample of hits for each class."""
    labels = np.repeat([0, 1, 2], [40, 15, 25])
    probabilities = softmax(np.random.default_rng(1).normal(size=(80, 3)) + 1.8 * np.eye(3)[labels], axis=1)
    hits = probabilities.argmax(axis=1) == labels
    reference = scipy.stats.bootstrap(
        [hits[labels == index].astype(float) for index in range(3)],
        lambda *samples, axis: np.mean([sample.mean(axis=axis) for sample in samples], axis=0),
        n_resamples=20_000,
        rng=1,
        method="BCa",
    )
    found = bootstrap_intervals(
        ["balanced_accuracy"], labels, probabilities, resamples=20_000, weighted=WEIGHTED_METRICS, strata=labels
    )
    near = 0.1 * reference.standard_error
    assert found["balanced_accuracy"] == pytest.approx(tuple(reference.confidence_interval), abs=near)


def accelerations(values: np.ndarray, strata: np.ndarray) -> float:
    """Return the acceleration of the mean, through the jackknife."""
    groups, told = bootstrap._left_out_groups(strata, np.random.default_rng(0))
    weights = np.concatenate(list(bootstrap._without_groups(strata, groups, told)))
    np.testing.assert_allclose(weights.sum(axis=1), len(values))
    return bootstrap._acceleration(weights @ values / len(values), told)


def test_the_acceleration_of_a_mean_is_its_skewness():
    values = np.random.default_rng(0).exponential(size=300)
    expected = scipy.stats.skew(values) / (6 * 300**0.5)
    assert accelerations(values, np.zeros(300, dtype=int)) == pytest.approx(expected)
    many = np.tile(values, 20)  # of more rows, groups are left out together
    assert accelerations(many, np.zeros(6000, dtype=int)) == pytest.approx(expected / 20**0.5, abs=0.003)


def test_a_stratum_of_one_row_stays_as_it_is():
    strata = np.array([0, 1, 1, 1])
    values = np.array([100.0, 1.0, 2.0, 6.0])
    expected = scipy.stats.skew(values[1:]) / (6 * 3**0.5)
    assert accelerations(values, strata) == pytest.approx(expected)
    weights = next(bootstrap._resampled(strata, 50, np.random.default_rng(0)))
    assert (weights[:, 0] == 1).all()
    assert (weights.sum(axis=1) == 4).all()
    assert weights[:, 1:].std() > 0


def test_one_row_has_no_bootstrap_interval():
    found = single_label_metrics(2).intervals(np.array([0]), np.array([[0.6, 0.4]]), 0)
    assert set(found) <= {"accuracy", "balanced_accuracy", "macro_f1"}
    assert found["accuracy"][0] < 0.5


def test_the_error_of_a_mean_is_the_usual_one_and_that_of_other_metrics_the_jackknife_s():
    labels, probabilities = random_case(seed=3)
    right = (probabilities.argmax(axis=1) == labels).astype(float)
    usual = right.std(ddof=1) / len(right) ** 0.5
    assert jackknife_error(WEIGHTED_METRICS["accuracy"], labels, probabilities) == pytest.approx(usual)
    rows = np.arange(len(labels))
    values = np.array([METRICS["macro_f1"](labels[rows != row], probabilities[rows != row]) for row in rows])
    tukey = ((len(rows) - 1) * values.var()) ** 0.5
    assert jackknife_error(WEIGHTED_METRICS["macro_f1"], labels, probabilities) == pytest.approx(tukey)
    assert jackknife_error(WEIGHTED_METRICS["accuracy"], labels[:1], probabilities[:1]) is None


def test_of_many_rows_groups_are_left_out():
    generator = np.random.default_rng(0)
    labels = np.zeros(5003)
    outputs = generator.exponential(size=5003)
    found = jackknife_error(REGRESSION_METRICS.weighted["mae"], labels, outputs)
    assert found == pytest.approx(outputs.std(ddof=1) / 5003**0.5, rel=0.1)


def test_rows_of_one_group_are_left_out_together():
    generator = np.random.default_rng(0)
    outputs, groups = generator.exponential(size=60), np.repeat(np.arange(12), 5) * 7
    found = jackknife_error(REGRESSION_METRICS.weighted["mae"], np.zeros(60), outputs, groups)
    assert found == pytest.approx(outputs.reshape(12, 5).mean(axis=1).std(ddof=1) / 12**0.5)
    assert jackknife_error(REGRESSION_METRICS.weighted["mae"], np.zeros(60), outputs, np.zeros(60)) is None
