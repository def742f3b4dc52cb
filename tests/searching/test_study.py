"""The study that processes share: how trials are begun, judged hopeless, and told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfft.command_arguments import SearchArguments
from hfft.searching.attempt import Outcome
from hfft.searching.space import read_space

pytest.importorskip("optuna")
from hfft.searching.study import SharedStudy

SPACE = read_space({"layer_decay": {"low": 0.5, "high": 1.0}, "weight_decay": {"low": 0.0, "high": 1.0}})


def shared(folder: Path, **given: object) -> SharedStudy:
    return SharedStudy(folder, SPACE, SearchArguments(**given), seed=0, lower=True)


@pytest.mark.parametrize(("pruner", "hopeless"), [("median", True), ("none", False)])
def test_a_trial_that_is_worse_than_most_is_hopeless_but_not_at_its_first_evaluation(pruner, hopeless, tmp_path):
    study = shared(tmp_path, pruner=pruner)
    for _ in range(5):
        trial = study.claim()
        for step in (1, 2, 3):
            trial.report(0.1, step)
            assert not trial.should_prune()
        study.record(trial, Outcome("complete", 0.1))
    trial = study.claim()
    trial.report(1.0, 1)
    assert not trial.should_prune()
    trial.report(1.0, 2)
    assert bool(trial.should_prune()) is hopeless
    study.record(trial, Outcome("pruned", reason="after evaluation 2."))
    row = study.rows()[-1]
    assert (row["number"], row["state"], row["value"], row["reason"]) == (6, "pruned", None, "after evaluation 2.")


def test_what_is_drawn_depends_on_the_trials_before_and_on_no_process(tmp_path):
    def run(study: SharedStudy, count: int) -> None:
        for _ in range(count):
            trial = study.claim()
            assert trial is not None
            study.record(trial, Outcome("complete", trial.params["layer_decay"]))

    whole = shared(tmp_path / "whole", trials=16)
    run(whole, 16)
    assert whole.claim() is None
    first = shared(tmp_path / "parts", trials=16)
    run(first, 9)
    second = shared(tmp_path / "parts", trials=16)
    run(second, 7)
    assert second.claim() is None
    assert [row["parameters"] for row in second.rows()] == [row["parameters"] for row in whole.rows()]
    assert len({row["parameters"]["layer_decay"] for row in whole.rows()}) == 16
    importances = whole.importances()
    assert importances["layer_decay"] > 0.6 > importances["weight_decay"]
    assert sum(importances.values()) == pytest.approx(1.0)


def test_few_trials_tell_of_no_importance(tmp_path):
    study = shared(tmp_path)
    for value in (0.1, 0.2):
        study.record(study.claim(), Outcome("complete", value))
    assert study.importances() == {}


def test_a_trial_of_a_process_that_is_there_is_not_taken_for_lost(tmp_path):
    first, second = shared(tmp_path), shared(tmp_path)
    first.claim()
    second.recover()
    assert second.rows()[0]["state"] == "running"
    first.leave()
    second.recover(wait=True)
    assert (second.rows()[0]["state"], second.best) == ("failed", None)
