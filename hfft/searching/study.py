"""The trials of a search, in one journal in the output folder that any number of processes and machines share.

What a process works on it holds by a lock that the system gives back when the process ends, however it ends. So a trial
that is running and whose process holds no lock is one that was lost.
"""

from __future__ import annotations

import contextlib
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from hfft.command_arguments import SearchArguments
from hfft.run_folder import SEARCH
from hfft.searching.attempt import COMPLETE, FAILED, PRUNED, Outcome
from hfft.searching.space import Range, Space, grid_of

LOST = "its process ended before it was done."
STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
_WORKER, _REASON, _SECONDS = "worker", "reason", "seconds"
_RETRAINING, _RETRAINED = "retraining", "retrained"
_FEWEST_TRIALS = 10  # that tell which parameter matters

optuna.logging.set_verbosity(optuna.logging.ERROR)


class SharedStudy:
    """The trials that all processes of a search have begun.

    Args:
        folder: of the output; it has to be there.
        space: what is searched.
        arguments: of the search.
        seed: of the sampler.
        lower: whether less is better.

    Attributes:
        folder: where it stands.
        total: how many trials there are to be.
    """

    def __init__(self, folder: Path, space: Space, arguments: SearchArguments, seed: int, lower: bool) -> None:
        self.folder, self._space, self._arguments, self._seed = folder / SEARCH, space, arguments, seed
        (self.folder / "processes").mkdir(parents=True, exist_ok=True)
        points = grid_of(space) if arguments.sampler == "grid" else None
        self.total = arguments.trials if points is None else len(points)
        self._worker = uuid.uuid4().hex
        self._alive = self._lock_of(self._worker)
        self._alive.acquire()
        self._claiming = FileLock(self.folder / "claim.lock")
        backend = optuna.storages.journal.JournalFileBackend(str(self.folder / "trials.journal"))
        with self._claiming:
            self._study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="search",
                direction="minimize" if lower else "maximize",
                pruner=make_pruner(arguments.pruner),
                load_if_exists=True,
            )
            if points is not None and arguments.backend == "optuna" and not self._all():
                for point in points:
                    self._study.enqueue_trial(point)

    def _lock_of(self, worker: str) -> FileLock:
        return FileLock(self.folder / "processes" / f"{worker}.lock")

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self._study.direction == optuna.study.StudyDirection.MINIMIZE

    def trials(self) -> list[FrozenTrial]:
        """Return the trials that were begun, in their order."""
        return [trial for trial in self._all() if trial.state != TrialState.WAITING]

    def _all(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def claim(self) -> optuna.Trial | None:
        """Begin a trial, or return ``None`` where as many were begun as there are to be."""
        with self._claiming:
            if len(self.trials()) >= self.total:
                return None
            # each trial has a sampler of its own: its settings depend on those before it, and on no process
            self._study.sampler = self.sampler()
            trial = self._study.ask(distributions(self._space))
            trial.set_user_attr(_WORKER, self._worker)
            return trial

    @contextlib.contextmanager
    def claiming(self) -> Iterator[None]:
        """Keep the other processes from beginning trials for the time."""
        with self._claiming:
            yield

    def sampler(self) -> optuna.samplers.BaseSampler:
        """Return what draws the settings of the next trial."""
        return make_sampler(self._arguments.sampler, self._seed + len(self.trials()))

    def record(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Write down what came of a trial."""
        if outcome.reason:
            trial.set_user_attr(_REASON, outcome.reason)
        self._study.tell(trial, outcome.value, state=STATES[outcome.state])

    def add(self, parameters: dict[str, Any], outcome: Outcome, seconds: float) -> None:
        """Write down a trial that was run elsewhere."""
        told = {_SECONDS: seconds} | ({_REASON: outcome.reason} if outcome.reason else {})
        self._study.add_trial(
            optuna.trial.create_trial(
                state=STATES[outcome.state],
                value=outcome.value,
                params=parameters,
                distributions=distributions(self._space),
                user_attrs=told,
            )
        )

    def recover(self, wait: bool = False) -> None:
        """Record trials whose process has ended as failed; ``wait`` until the others are done or lost as well."""
        for trial in self.trials():
            worker = trial.user_attrs.get(_WORKER)
            if trial.state != TrialState.RUNNING or worker == self._worker:
                continue
            try:
                with self._lock_of(worker).acquire(timeout=-1 if wait else 0) if worker else contextlib.nullcontext():
                    self._fail(trial.number)
            except Timeout:  # it goes on
                continue

    def _fail(self, number: int) -> None:
        with self._claiming:
            if self._all()[number].state == TrialState.RUNNING:
                self._study.tell(number, state=TrialState.FAIL)

    def leave(self) -> None:
        """Let the others know that this process begins no more trials."""
        self._alive.release()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process for the time that does what is to be done once."""
        with FileLock(self.folder / "finish.lock"):
            yield

    @property
    def best(self) -> FrozenTrial | None:
        """The best of those that are complete."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        sign = 1 if self.lower else -1
        return min(done, key=lambda trial: sign * float(trial.value or 0), default=None)

    @property
    def retraining(self) -> int | None:
        """The number of the trial whose settings the run in the output folder was begun with."""
        return self._study.user_attrs.get(_RETRAINING)

    def mark_retraining(self, number: int) -> None:
        """Say so."""
        self._study.set_user_attr(_RETRAINING, number)

    @property
    def retrained(self) -> int | None:
        """The number of the trial whose settings the output folder holds a finished run of."""
        return self._study.user_attrs.get(_RETRAINED)

    def mark_retrained(self, number: int) -> None:
        """Say so."""
        self._study.set_user_attr(_RETRAINED, number)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each trial: number, state, value, duration in seconds, reason and parameters."""
        names = {state: name for name, state in STATES.items()}
        rows = []
        for trial in self.trials():
            state = names.get(trial.state, "running")
            lost = LOST if state == FAILED else ""
            rows.append(
                {
                    "number": trial.number + 1,
                    "state": state,
                    "value": trial.value if state == COMPLETE else None,
                    "duration": trial.user_attrs.get(_SECONDS, trial.duration and trial.duration.total_seconds()),
                    "reason": trial.user_attrs.get(_REASON, lost),
                    "parameters": dict(trial.params),
                }
            )
        return rows

    def importances(self) -> dict[str, float]:
        """Return the share of each parameter in how the values differ; empty where too few trials tell."""
        values = {trial.value for trial in self.trials() if trial.state == TrialState.COMPLETE}
        if len(values) < 2 or len(self.trials()) < _FEWEST_TRIALS or len(self._space) < 2:
            return {}
        with warnings.catch_warnings(), contextlib.suppress(ValueError, RuntimeError):
            warnings.simplefilter("ignore")
            return dict(optuna.importance.get_param_importances(self._study))
        return {}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the space as Optuna has it."""
    return {name: _distribution(entry) for name, entry in space.items()}


def _distribution(entry: Any) -> BaseDistribution:
    if not isinstance(entry, Range):
        return CategoricalDistribution(entry.labels)
    if isinstance(entry.low, int):
        return IntDistribution(entry.low, int(entry.high), log=entry.log, step=int(entry.step or 1))
    return FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler; the points of a grid are waiting already, so that nothing is left to be drawn."""
    if name == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # processes keep off each other's points
    return optuna.samplers.RandomSampler(seed=seed)


def make_pruner(name: str) -> optuna.pruners.BasePruner:
    """Return the pruner."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)  # not at the first evaluation
    return optuna.pruners.HyperbandPruner() if name == "hyperband" else optuna.pruners.NopPruner()
