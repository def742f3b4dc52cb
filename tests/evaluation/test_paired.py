"""The error of a difference between two models on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from hfft.evaluation.paired import Judged, paired_error
from hfft.evaluation.regression import REGRESSION_METRICS
from hfft.targets import SingleLabel


def two_models(rows: int, seed: int = 0) -> tuple[Judged, Judged]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, rows)
    clear = np.eye(2)[labels] + generator.normal(0, 1, (rows, 2))
    metrics = SingleLabel(["a", "b"]).metrics
    blurred = clear + generator.normal(0, 0.7, (rows, 2))
    return Judged(metrics, labels, softmax(clear, axis=1)), Judged(metrics, labels, softmax(blurred, axis=1))


def test_the_error_of_a_mean_is_that_of_the_differences_of_the_rows():
    first, second = two_models(60)
    rows = np.arange(60)
    losses = [-np.log(judged.outputs[rows, judged.labels]) for judged in (first, second)]
    expected = (losses[1] - losses[0]).std(ddof=1) / 60**0.5
    assert paired_error(first, second, "log_loss") == pytest.approx(expected)


@pytest.mark.parametrize("name", ["macro_auroc", "macro_f1", "log_loss"])
def test_the_error_is_how_far_the_difference_scatters_over_other_rows(name):
    errors, differences = [], []
    for seed in range(200):
        first, second = two_models(80, seed)
        errors.append(paired_error(first, second, name))
        differences.append(second.metrics.compute(second.labels, second.outputs)[name])
        differences[-1] -= first.metrics.compute(first.labels, first.outputs)[name]
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.2)


@pytest.mark.parametrize("name", ["macro_auroc", "macro_f1", "log_loss"])
def test_rows_that_depend_on_each_other_count_as_one(name):
    """Each row four times tells no more than once, but for the share of a group's rows in one more."""
    first, second = two_models(60)
    groups = np.tile(np.arange(60), 4)
    repeated = [Judged(j.metrics, np.tile(j.labels, 4), np.tile(j.outputs, (4, 1))) for j in (first, second)]
    assert paired_error(*repeated, name, groups) == pytest.approx(paired_error(first, second, name), rel=1e-3)
    assert paired_error(*repeated, name) < 0.6 * paired_error(first, second, name)


def test_what_jumps_from_row_to_row_has_no_such_error():
    judged = Judged(REGRESSION_METRICS, np.arange(9.0), np.arange(9.0) ** 1.1)
    assert paired_error(judged, judged, "median_absolute_error") is None
    assert paired_error(judged, judged, "mae") == 0
    assert paired_error(judged, judged, "of_mine") is None
