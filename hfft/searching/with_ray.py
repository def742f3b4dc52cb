"""The trials of a search as those of Ray Tune: on one machine, or on all of a cluster."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from hfft.command_arguments import SearchArguments
from hfft.errors import UserError
from hfft.running.collecting import libraries_out_of_the_collector
from hfft.searching.attempt import COMPLETE, FAILED, PRUNED, Outcome, attempt
from hfft.searching.cases import Case, make_case
from hfft.searching.space import described, grid_of, settings_of
from hfft.searching.study import LOST, SharedStudy, distributions
from hfft.terminal import figure

_VALUE, _STATE, _REASON = "value", "state", "reason"
_FOLDER = "ray"
_cases: dict[str, Case] = {}  # of this process: data are read once for all the trials that it runs


def run_trials(study: SharedStudy, case: Case, arguments: SearchArguments, console: Console) -> None:
    """Run the trials that are missing; other processes begin none meanwhile.

    Raises:
        UserError: where Ray cannot be started.
    """
    with study.claiming():
        begun = [trial.params for trial in study.trials()]
        points = None
        if arguments.sampler == "grid":
            points = [point for point in grid_of(case.space) if point not in begun]
        if (missing := study.total - len(begun)) > 0:
            _start(arguments)
            try:
                _tune(study, case, arguments, points, missing, console)
            finally:
                ray.shutdown()
                shutil.rmtree(study.folder / _FOLDER, ignore_errors=True)  # all that is gone on with is in the study


def _start(arguments: SearchArguments) -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # whose settings are shown whatever the verbosity
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": arguments.workers, "include_dashboard": False}
    try:
        ray.init(logging_level="ERROR", log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--backend ray: Ray cannot be started: {' '.join(str(error).split())}") from error


def _tune(
    study: SharedStudy,
    case: Case,
    arguments: SearchArguments,
    points: list[dict[str, Any]] | None,
    count: int,
    console: Console,
) -> None:
    mode = "min" if study.lower else "max"
    done = [row for row in study.rows() if row["value"] is not None] if points is None else []
    searcher = OptunaSearch(
        distributions(case.space),
        metric=_VALUE,
        mode=mode,
        sampler=study.sampler(),
        points_to_evaluate=points or [row["parameters"] for row in done] or None,
        evaluated_rewards=[row["value"] for row in done] or None,
    )
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    arguments = dataclasses.replace(arguments, space=described(case.space))  # type: ignore[arg-type]
    trainable = tune.with_parameters(_trial, settings=case.settings, arguments=arguments)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_scheduler(arguments.pruner, mode),
            num_samples=count,
            max_concurrent_trials=arguments.workers or None,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=_FOLDER,
            storage_path=str(study.folder.absolute()),
            verbose=0,
            callbacks=[_Recorder(study, console)],
        ),
    )
    tuner.fit()


def _scheduler(pruner: str, mode: str) -> Any:
    """Return what ends trials early: the forms that Ray Tune has of the same rules."""
    if pruner == "median":
        return MedianStoppingRule(metric=_VALUE, mode=mode, time_attr="training_iteration", grace_period=2)
    if pruner == "hyperband":
        return AsyncHyperBandScheduler(metric=_VALUE, mode=mode, time_attr="training_iteration")
    return FIFOScheduler()


def _trial(config: dict[str, Any], settings: dict[str, Any], arguments: SearchArguments) -> None:
    """Run one trial in a process of Ray, which tells the outcome as its last result."""
    key = repr((sorted(settings.items(), key=str), arguments))
    if key not in _cases:
        _cases.clear()
        _cases[key] = make_case(settings, arguments, Console(quiet=True))
    case = _cases[key]

    def report(value: float, step: int) -> bool:
        tune.report({_VALUE: value})
        return False  # Ray ends the trial itself

    own = settings_of(case.space, config)
    with libraries_out_of_the_collector():
        outcome = attempt(case.task, case.parts, {**case.settings, **own}, case.objective, report)
    value = math.nan if outcome.value is None else outcome.value
    tune.report({_VALUE: value, _STATE: outcome.state, _REASON: outcome.reason})


class _Recorder(tune.Callback):
    """Writes every trial down in the study when it ends, such that a search that is killed keeps it."""

    def __init__(self, study: SharedStudy, console: Console) -> None:
        self._study, self._console = study, console

    def __reduce__(self) -> Any:
        """Stay in this process: Ray keeps a copy of everything, to restore what is gone on with here by the study."""
        return (tune.Callback, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> _Recorder:
        return self

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result or {}
        state = result.get(_STATE, PRUNED)
        value = result[_VALUE] if state == COMPLETE else None
        self._write(trial, Outcome(state, value, result.get(_REASON, "by its results so far.")))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._write(trial, Outcome(FAILED, reason=LOST))  # what went wrong in the trial itself is told as its result

    def _write(self, trial: Any, outcome: Outcome) -> None:
        self._study.add(dict(trial.config), outcome, float((trial.last_result or {}).get("time_total_s", 0.0)))
        result = outcome.state if outcome.value is None else figure(outcome.value, 4)
        self._console.print(f"  Trial {len(self._study.trials())} of {self._study.total}: {result}")
