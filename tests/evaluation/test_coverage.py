"""The intervals hold the truth about as often as they say; the whole page is examples/benchmarks/intervals.py's."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from hfft.evaluation.metrics import METRICS
from hfft.evaluation.single_label import single_label_metrics

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
HELD = ("accuracy", "balanced_accuracy", "macro_f1")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script of the page, with the metrics alone that are looked at here."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = importlib.import_module("intervals")
    monkeypatch.setattr(
        found,
        "single_label_metrics",
        lambda classes: replace(single_label_metrics(classes), functions={name: METRICS[name] for name in HELD}),
    )
    return found


@pytest.mark.parametrize("classes", [2, 6, 20])
def test_intervals_hold_the_truth(script: ModuleType, classes: int):
    """Of 100 draws 88 to 99: four standard errors below 95 % would still be below."""
    found = script.Simulation(classes, 0.7, 100).coverage(draws=100)
    for name in HELD:
        share, missing = found[name]
        assert 0.88 <= share <= 0.99
        assert not missing


@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize("accuracy", [0.95, 0.7])
def test_the_interval_of_the_accuracy_of_random_rows(script: ModuleType, rows: int, accuracy: float):
    assert 0.93 <= script.wilson_coverage(accuracy, rows) <= 0.97


def test_a_simulated_model_is_as_accurate_as_it_was_asked_to_be(script: ModuleType):
    simulation = script.Simulation(6, 0.8, 100)
    assert simulation.counts.tolist() == sorted(simulation.counts, reverse=True)
    assert simulation.counts.sum() == 100
    labels, probabilities = simulation.draw(script.np.random.default_rng(0), simulation.margin(1), 300)
    assert (probabilities.argmax(axis=1) == labels).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.sweep
@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize("classes", [2, 6, 20])
@pytest.mark.parametrize("accuracy", [0.95, 0.7])
def test_the_page(script: ModuleType, rows: int, classes: int, accuracy: float):
    """Between 93 and 97 %, with two standard errors of 600 draws; the accuracy may hold it more often."""
    found = script.Simulation(classes, accuracy, rows).coverage(draws=600)
    assert 0.912 <= found["macro_f1"][0] <= 0.988
    assert found["accuracy"][0] >= 0.912
