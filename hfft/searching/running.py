"""search(): settings are tried on the validation split, or by cross-validation; the best make an ordinary run."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from hfft.command_arguments import SearchArguments
from hfft.errors import RunInterrupted, UserError
from hfft.failures import writing
from hfft.finetuning import fine_tune
from hfft.hardware.apart import Ranks, apart
from hfft.run_folder import METRICS_FILE, RUN_FILE, RUN_HEADER, SEARCH_SETTINGS, TRIALS_FILE
from hfft.running import output
from hfft.running.collecting import libraries_out_of_the_collector
from hfft.running.loading_models import keep_needed_architecture
from hfft.running.opening import open_run
from hfft.running.reading import read_data
from hfft.running.recipes import from_anywhere, is_of_once, plain, recipe
from hfft.running.resuming import binds_result, differences
from hfft.searching.attempt import FAILED, Outcome, attempt
from hfft.searching.cases import Case, make_case
from hfft.searching.results import print_trials, told, write_trials
from hfft.searching.space import described, settings_of
from hfft.settings import given_settings, with_implied
from hfft.strategies import DEFAULT_STRATEGY
from hfft.task import Task
from hfft.terminal import figure, make_console

if TYPE_CHECKING:
    from hfft.searching.study import SharedStudy

# More trials of the same search may be asked for, and they may be divided otherwise.
_OF_THIS_START = ("trials", "workers")


@dataclass
class SearchResult:
    """What a search gives back.

    Attributes:
        best: the arguments that were best, by name.
        value: of the objective, by the validation split or the folds.
        trials: a row for each: number, state, value, duration (seconds), reason and parameters.
        importances: share of each argument in how the values differ; empty where too few trials tell.
        metrics: of the run with the best arguments, as in ``metrics.json``; its test metrics among them.
        output_dir: the folder of that run, with ``trials.csv``.
    """

    best: dict[str, Any]
    value: float
    trials: list[dict[str, Any]]
    importances: dict[str, float]
    metrics: dict[str, float]
    output_dir: str


class SearchInterrupted(RunInterrupted):
    """A search was interrupted; the trials that are done stay."""

    def __init__(self) -> None:
        KeyboardInterrupt.__init__(
            self, "interrupted; the trials that are done stay, and the same command with --resume goes on."
        )


def search(
    task: str | Task | None = None,
    model: str | None = None,
    data: Any = None,
    output_dir: str = "out",
    *,
    trials: int = 20,
    folds: int | None = None,
    space: str | Path | Mapping[str, Any] | None = None,
    backend: str = "optuna",
    sampler: str = "tpe",
    pruner: str = "median",
    workers: int | None = None,
    **settings: Any,
) -> SearchResult:
    """Try arguments of a run, and make the run with those that are best; it alone is tested, once.

    Trials are judged by the task's first metric, or ``metric_for_best_model``, on the validation split or on the folds
    of a cross-validation. They have no test split, leave no model behind, and one that fails is written down with its
    reason. Any number of processes, on machines that share ``output_dir``, may work on one search: each is started with
    the same arguments and ``resume``. Where a launcher has started several, each runs trials of its own.

    Args:
        task, model, data, output_dir: as for :func:`hfft.finetune`.
        trials: how many, those that fail included, by all processes together.
        folds: judge by cross-validation with so many folds.
        space: a YAML file, or the same as a mapping or JSON: argument -> ``{low, high}``, ``{low, high, step}``,
            ``{low, high, log: true}`` or a list of values. Left out, what suits the strategy.
        backend: ``optuna``, or ``ray`` for Ray Tune.
        sampler: ``tpe``, ``random`` or ``grid``.
        pruner: ``median``, ``hyperband`` or ``none``.
        workers: with ``ray``: trials at the same time.
        **settings: as for :func:`hfft.finetune`. ``resume`` goes on with a search; trials whose process was killed
            count as failed.

    Raises:
        UserError: as :func:`hfft.finetune`; for a space that cannot be meant, a package that is missing, and where no
            trial has come to a value.
    """
    arguments = SearchArguments(trials, folds, space, backend, sampler, pruner, workers)  # type: ignore[arg-type]
    settings = given_settings(task=task, model=model, data=data, output_dir=output_dir, **settings)
    require_packages(arguments.backend)
    with apart() as ranks:
        return _search(settings, arguments, ranks)


def require_packages(backend: str) -> None:
    """Raise :class:`UserError` where a package is missing; Ray Tune draws its settings with Optuna as well."""
    try:
        import optuna  # noqa: F401

        if backend == "ray":
            import ray.tune  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'A search with {backend} needs the extra "search": pip install "hfft[search]" ({error}).'
        ) from error


def _search(settings: dict[str, Any], arguments: SearchArguments, ranks: Ranks) -> SearchResult:
    model_arguments, _, args = open_run(settings, speaks=ranks.rank == 0, settings_file=SEARCH_SETTINGS)
    keep_needed_architecture(model_arguments, args)
    if arguments.backend == "ray" and ranks.size > 1:
        raise UserError("--backend ray has no place under a launcher: Ray starts its processes itself.")
    folder = Path(str(args.output_dir))
    console = make_console() if ranks.rank == 0 else Console(quiet=True)
    # what belongs to this start is none of a trial's business
    once = {name: value for name, value in settings.items() if is_of_once(name)}
    settings = from_anywhere({name: value for name, value in settings.items() if name not in once})
    case = make_case(settings, arguments, console)
    for note in case.notes:
        console.print(f"  {note}")
    if ranks.rank == 0:
        if args.overwrite:
            output.set_aside(folder)
        _begin(folder, case, arguments)
        ranks.tell("begun")
    ranks.wait_for("begun")

    from hfft.searching.study import SharedStudy

    study = SharedStudy(folder, case.space, arguments, args.seed, case.objective.lower)
    try:
        study.recover()
        _try_out(study, case, arguments, console)
    finally:
        study.leave()
    if ranks.rank > 0:
        ranks.wait_for("made")  # the run by the one that speaks
    with study.alone():
        study.recover(wait=True)
        result = _finish(study, case, folder, once, console)
        ranks.tell("made")
    return result


def _begin(folder: Path, case: Case, arguments: SearchArguments) -> None:
    """Write the settings; raises :class:`UserError` where another search is gone on with."""
    again = recipe(case.settings)
    if "strategy" not in case.space:
        again = {"strategy": DEFAULT_STRATEGY, **again}  # another version may have another default
    again = {name: value for name, value in again.items() if name != "output_dir"}
    of_search = {**dataclasses.asdict(arguments), "space": plain(described(case.space))}
    of_search = {name: value for name, value in of_search.items() if value is not None}
    text = yaml.safe_dump({**again, "task": case.task.name, **of_search}, sort_keys=False, allow_unicode=True)
    file = folder / SEARCH_SETTINGS
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder.absolute().parent / f".{folder.name}.{SEARCH_SETTINGS}"
        with writing(folder, "the settings"):
            told = f"Again: hfft search --config {SEARCH_SETTINGS} --output_dir ANOTHER_FOLDER"
            beside.write_text(f"{RUN_HEADER} {told}\n{text}", "utf-8")
            beside.replace(file)  # at once: another process may ask whether this folder holds a search
    old, new = yaml.safe_load(file.read_text("utf-8")), yaml.safe_load(text)
    if changed := differences(old, new, lambda name: binds_result(name) and name not in _OF_THIS_START):
        raise UserError(f"--resume: '{folder}' holds another search: {'; '.join(changed)}.")


def _try_out(study: SharedStudy, case: Case, arguments: SearchArguments, console: Console) -> None:
    """Run trials until as many are begun as there are to be."""
    if arguments.backend == "ray":
        from hfft.searching.with_ray import run_trials

        run_trials(study, case, arguments, console)
        return
    gc.collect()  # what earlier runs have left would stay as long as the search
    with libraries_out_of_the_collector():
        _run_trials(study, case, console)


def _run_trials(study: SharedStudy, case: Case, console: Console) -> None:
    while (trial := study.claim()) is not None:

        def report(value: float, step: int, trial: Any = trial) -> bool:
            trial.report(value, step)
            return bool(trial.should_prune())

        own = settings_of(case.space, trial.params)
        try:
            outcome = attempt(case.task, case.parts, {**case.settings, **own}, case.objective, report)
        except KeyboardInterrupt:
            study.record(trial, Outcome(FAILED, reason="interrupted."))
            raise SearchInterrupted from None
        study.record(trial, outcome)
        result = outcome.state if outcome.value is None else figure(outcome.value, 4)
        reason = f" ({outcome.reason})" if outcome.reason else ""
        words = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
        console.print(f"  Trial {trial.number + 1} of {study.total}: {result}{reason}; {words}")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _finish(study: SharedStudy, case: Case, folder: Path, once: dict[str, Any], console: Console) -> SearchResult:
    """Write the trials, and make the run with the best settings unless it is there."""
    rows = study.rows()
    with writing(folder, "the trials"):
        write_trials(rows, folder)
    best = study.best
    if best is None or best.value is None:
        reasons = "; ".join(dict.fromkeys(f"{row['state']}: {row['reason']}" for row in rows))
        raise UserError(f"None of the {len(rows)} trials has come to a value. {reasons}")
    importances = study.importances()
    own = settings_of(case.space, best.params)
    if study.retrained != best.number:
        settings = with_implied({**case.settings, **own})
        task, labelled = case.task, case.labelled
        if settings.get("validation_size") != case.validation_size:
            task, labelled = read_data(settings, Console(quiet=True))  # folds, and another strategy, divide otherwise
        resumes = (folder / RUN_FILE).is_file() and study.retraining == best.number
        if not resumes:
            output.set_aside(folder, output.RUN_PRODUCTS)
            study.mark_retraining(best.number)
        console.print(f"Best: trial {best.number + 1}, {case.objective.name.replace('_', ' ')} {figure(best.value, 4)}")
        once = {name: value for name, value in once.items() if name not in ("overwrite", "resume")}
        search_told = told(rows, best.number + 1, importances, case)
        fine_tune(task, labelled, {**settings, **once, "resume": resumes}, console, search=search_told)
        study.mark_retrained(best.number)
    print_trials(console, rows, case.objective)
    metrics = json.loads((folder / METRICS_FILE).read_text("utf-8"))
    headline = case.labelled.target.metrics.headline
    tested = f"test {headline.replace('_', ' ')} {figure(metrics[f'test_{headline}'])}"
    console.print(f"The best is trial {best.number + 1}, {tested}. All of them: {folder / TRIALS_FILE}")
    return SearchResult(own, best.value, rows, importances, metrics, str(folder))
