from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from scipy.special import softmax

from hfft.evaluation import intervals
from hfft.evaluation.intervals import bootstrap_intervals, logit_interval, standard_error, wilson_interval
from hfft.evaluation.metric_set import MetricSet
from hfft.evaluation.metrics import METRICS, RANGES, compute_metrics
from hfft.evaluation.ranking import auroc_influence, average_precision_influence
from hfft.evaluation.regression import REGRESSION_METRICS
from hfft.evaluation.single_label import WEIGHTED_METRICS, single_label_metrics
from hfft.evaluation.summary import metric_rows, summarize


def random_case(rows: int = 40, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities; the last class never occurs and is never predicted."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes - 1, rows)
    logits = generator.normal(size=(rows, classes)) + np.eye(classes)[labels]
    logits[:, -1] -= 20
    return labels, softmax(logits, axis=1)


def resampled(labels: np.ndarray, probabilities: np.ndarray, seed: int = 0) -> dict[str, intervals.Interval]:
    return bootstrap_intervals(WEIGHTED_METRICS, labels, probabilities, seed, resamples=200, weighted=WEIGHTED_METRICS)


@pytest.mark.parametrize("classes", [4, 6])
def test_every_metric_has_an_interval_or_says_why_not(classes: int):
    metrics = single_label_metrics(classes)
    ways = [metrics.weighted, metrics.influences, metrics.without_interval]
    assert set(METRICS) == {name for way in ways for name in way}
    assert set(metrics.functions) == set(METRICS) - ({"top_5_accuracy"} if classes < 6 else set())


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
        monkeypatch.setattr(intervals, "_CHUNK", chunk)
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
    groups, told = intervals._left_out_groups(strata, np.random.default_rng(0))
    weights = np.concatenate(list(intervals._without_groups(strata, groups, told)))
    np.testing.assert_allclose(weights.sum(axis=1), len(values))
    return intervals._acceleration(weights @ values / len(values), told)


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
    weights = next(intervals._resampled(strata, 50, np.random.default_rng(0)))
    assert (weights[:, 0] == 1).all()
    assert (weights.sum(axis=1) == 4).all()
    assert weights[:, 1:].std() > 0


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


def test_more_rows_give_a_narrower_interval():
    labels, probabilities = random_case(30)
    metrics = single_label_metrics(4)
    narrow = metrics.intervals(np.tile(labels, 16), np.tile(probabilities, (16, 1)), 0)
    wide = metrics.intervals(labels, probabilities, 0)
    assert set(narrow) == set(wide) == set(metrics.functions) - {"expected_calibration_error"}
    for name in narrow:
        assert np.ptp(narrow[name]) / np.ptp(wide[name]) == pytest.approx(1 / 4, abs=0.1)


def test_one_row_has_no_bootstrap_interval():
    found = single_label_metrics(2).intervals(np.array([0]), np.array([[0.6, 0.4]]), 0)
    assert set(found) <= {"accuracy", "balanced_accuracy", "macro_f1"}
    assert found["accuracy"][0] < 0.5


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
