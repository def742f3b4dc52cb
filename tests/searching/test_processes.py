"""Searches of several real processes, some of which are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pandas
import pytest

import hfft
from hfft.searching import running
from tests.conftest import make_sentences, write_csv

optuna = pytest.importorskip("optuna")

fork = multiprocessing.get_context("fork")  # the libraries are imported already


@pytest.fixture(scope="module")
def settings(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("texts")
    write_csv(folder / "data" / "train.csv", make_sentences(45, 1))
    write_csv(folder / "data" / "test.csv", make_sentences(9, 2))
    own = {
        "model": str(tiny_bert), "data": str(folder / "data"), "strategy": "linear-probe", "disable_tqdm": True,
        "cache_dir": str(folder / "cache"), "metric_for_best_model": "log_loss", "resume": True,
    }  # fmt: skip
    hfft.search(**own, output_dir=str(folder / "first"), trials=1)  # what is imported on the way is so in the children
    return own


def stop_in_trial(number: int, pipe: Any, settings: dict[str, Any]) -> None:
    """Run a search, and wait in one of its trials for ever."""
    real, calls = running.attempt, []

    def attempt(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            pipe.send(os.getpid())
            signal.pause()
        return real(*args)

    running.attempt = attempt
    hfft.search(**settings)


def workers(folder: Path) -> list[str]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "search" / "trials.journal"))
    study = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))
    return [trial.user_attrs["worker"] for trial in study.trials]


def test_a_search_that_is_killed_goes_on(settings, tmp_path):
    own = {**settings, "output_dir": str(tmp_path / "out"), "trials": 4}
    here, there = fork.Pipe()
    child = fork.Process(target=stop_in_trial, args=(3, there, own))
    child.start()
    assert here.poll(60)  # it may have failed before
    os.kill(here.recv(), signal.SIGKILL)
    child.join()
    found = hfft.search(**own)
    assert [row["state"] for row in found.trials] == ["complete", "complete", "failed", "complete"]
    assert found.trials[2]["reason"] == "its process ended before it was done."
    assert len(set(workers(tmp_path / "out"))) == 2
    assert found.metrics["test_examples"] == 9


def join(barrier: Any, made: Any, settings: dict[str, Any]) -> None:
    """Run trials beside another process: both are in a trial at the same time."""
    real, tune, calls = running.attempt, running.fine_tune, []

    def attempt(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            barrier.wait(timeout=120)
        return real(*args)

    def fine_tune(*args: Any, **kwargs: Any) -> Any:
        with made.get_lock():
            made.value += 1
        return tune(*args, **kwargs)

    running.attempt, running.fine_tune = attempt, fine_tune
    hfft.search(**settings)


def test_two_processes_share_the_trials_and_one_makes_the_run(settings, tmp_path):
    own = {**settings, "output_dir": str(tmp_path / "out"), "trials": 7}
    barrier, made = fork.Barrier(2), fork.Value("i", 0)
    children = [fork.Process(target=join, args=(barrier, made, own)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert made.value == 1
    table = pandas.read_csv(tmp_path / "out" / "trials.csv")
    assert table["number"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert set(table["state"]) == {"complete"}
    assert table["head_penalty"].nunique() == 7
    assert len(set(workers(tmp_path / "out"))) == 2
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_who_makes_the_run_is_followed_by_another_where_it_is_killed(settings, tmp_path):
    own = {**settings, "output_dir": str(tmp_path / "out"), "trials": 2}
    here, there = fork.Pipe()

    def stop() -> None:
        def wait(*args: Any, **kwargs: Any) -> None:
            there.send(os.getpid())
            signal.pause()

        running.fine_tune = wait
        hfft.search(**own)

    child = fork.Process(target=stop)
    child.start()
    assert here.poll(60)  # it may have failed before
    os.kill(here.recv(), signal.SIGKILL)
    child.join()
    found = hfft.search(**own)
    assert [row["state"] for row in found.trials] == ["complete", "complete"]
    assert found.metrics["test_examples"] == 9
