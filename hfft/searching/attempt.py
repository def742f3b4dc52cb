"""One trial: a fresh model with some settings, judged on examples that it was not trained on; nothing of it stays."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hfft.data import LabelledData
from hfft.errors import UserError
from hfft.evaluation.metrics import LOWER_IS_BETTER
from hfft.failures import computing
from hfft.features.start import Start
from hfft.findings import Findings
from hfft.running.assembling import make_trainer
from hfft.running.baselines import head_logits
from hfft.running.deciding import decide, solved_model
from hfft.running.loading_models import load_model
from hfft.running.preparing import SMALLER_BATCHES, Preparation, prepare
from hfft.searching.tidying import free_memory, quiet_libraries
from hfft.settings import split_settings
from hfft.strategies import load_strategy
from hfft.task import Task
from hfft.trainer import FineTuningTrainer, objective_of

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"

Report = Callable[[float, int], bool]
"""Takes a value on the way and how many there have been; says whether the trial is to end."""


class HopelessError(Exception):
    """The pruner has ended a trial."""


@dataclass(frozen=True)
class Objective:
    """What trials are compared by.

    Attributes:
        name: of a metric, or ``loss``.
        lower: whether less is better.
    """

    name: str
    lower: bool

    @classmethod
    def of(cls, name: str, greater_is_better: bool | None) -> Objective:
        """Return the metric of that name, with the direction that it is known to have, or else the user gave."""
        return cls(name, name == "loss" or name in LOWER_IS_BETTER or greater_is_better is False)


@dataclass(frozen=True)
class Part:
    """Examples to train on and others to judge by. The test split of the data is in none of them.

    Attributes:
        data: ``train``, and what a checkpoint is chosen on.
        judged: the split that the trial is judged on: ``validation``, or of a fold what it holds out.
        in_pool: whether its examples were drawn from ``data.pool``, as those of ``train`` were.
    """

    data: LabelledData
    judged: str
    in_pool: bool


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        state: ``complete``, ``pruned`` or ``failed``.
        value: of the objective, of a trial that is complete.
        reason: why it is not.
    """

    state: str
    value: float | None = None
    reason: str = ""


def attempt(
    task: Task, parts: Sequence[Part], settings: Mapping[str, Any], objective: Objective, report: Report
) -> Outcome:
    """Try settings; what goes wrong is an outcome like another.

    Args:
        task: of the data.
        parts: the validation split, or each fold; the value is the mean over them.
        settings: arguments of a run.
        objective: what is measured.
        report: is told of every evaluation of a single part, or else of the mean after each.
    """
    try:
        with quiet_libraries():
            value = _mean(task, parts, settings, objective, report)
        return Outcome(COMPLETE, value) if math.isfinite(value) else Outcome(FAILED, reason=f"the value is {value}.")
    except HopelessError as end:
        return Outcome(PRUNED, reason=str(end))
    except UserError as error:
        return Outcome(FAILED, reason=str(error))
    except Exception as error:  # of any library: one combination must not end the search
        return Outcome(FAILED, reason=f"{type(error).__name__}: {' '.join(str(error).split())}")
    finally:
        free_memory()


def _mean(
    task: Task, parts: Sequence[Part], settings: Mapping[str, Any], objective: Objective, report: Report
) -> float:
    if len(parts) == 1:
        return _measure(task, parts[0], settings, objective, report)
    values: list[float] = []
    for part in parts:
        values.append(_measure(task, part, settings, objective, None))
        free_memory()
        if report(float(np.mean(values)), len(values)) and len(values) < len(parts):
            raise HopelessError(f"after fold {len(values)} of {len(parts)}.")
    return float(np.mean(values))


def _measure(task: Task, part: Part, settings: Mapping[str, Any], objective: Objective, report: Report | None) -> float:
    """Return the value of the objective on one part."""
    with tempfile.TemporaryDirectory(prefix="hfft-trial-") as folder:
        own = {**settings, "output_dir": folder, "disable_tqdm": True, "report_to": "none"}
        # loading a model settles the target's units and adds findings; the next trial starts from what was read
        data = dataclasses.replace(part.data, findings=Findings())
        prepared = prepare(task, data, own, Console(quiet=True))
        args, start = prepared.args, prepared.start()
        if not load_strategy(args.strategy).trains:
            return _solved(prepared, part, start)[objective.name]
        solved = solved_model(prepared, start) if part.judged != "validation" else None
        prepared.adapt()
        chooses = args.load_best_model_at_end
        if part.judged == "validation":  # what would ship is known from the evaluations: no checkpoint is needed
            args.save_strategy, args.load_best_model_at_end = type(args.save_strategy)("no"), False
        else:
            args.save_only_model = True
        trainer = make_trainer(prepared, start)
        trainer.start_may_be_best = solved is None
        if report is not None:
            trainer.add_callback(_Watch(objective.name, report))
        with computing(SMALLER_BATCHES):
            trainer.train()
            if part.judged == "validation":
                return _shipped(trainer, chooses)[f"eval_{objective.name}"]
            decide(trainer, prepared, solved)
            return _held_out(trainer, prepared, part.judged)[objective.name]


def _solved(prepared: Preparation, part: Part, start: Start) -> dict[str, float]:
    """Return the metrics of a model of which only the head was solved: from features, most of them kept."""
    assert start.readout is not None
    split, pool = prepared.data.splits[part.judged], prepared.data.pool if part.in_pool else None
    logits = head_logits(prepared, split, pool, start.readout)
    return _metrics(prepared, prepared.model, torch.from_numpy(logits), part.judged)


def _held_out(trainer: FineTuningTrainer, prepared: Preparation, name: str) -> dict[str, float]:
    """Return the metrics of the checkpoint that would ship."""
    encoder = prepared.task.encoder(prepared.processor, training=False)
    inputs = prepared.data.encoded(name, encoder, seed=trainer.args.seed)
    logits = torch.as_tensor(np.asarray(trainer.predict(inputs).predictions))
    return _metrics(prepared, trainer.model, logits, name)


def _metrics(prepared: Preparation, model: Any, logits: torch.Tensor, name: str) -> dict[str, float]:
    """Return the metrics, and the loss, of a model's logits for a split."""
    data = prepared.data
    found = prepared.measure(data.labels(name), data.target.outputs(logits.float().numpy()))
    loss = objective_of(model)
    if loss is not None:
        wanted = torch.as_tensor(np.array(data.target.for_model(data.splits[name]["label"])))
        found["loss"] = float(loss(logits.float(), wanted, None, 0.0))
    return found


def _shipped(trainer: FineTuningTrainer, chooses: bool) -> dict[str, float]:
    """Return the evaluation of the checkpoint that a run would ship: the best one, or the last.

    The start is among them where it was evaluated: of ``auto`` the better of both by what chooses checkpoints.
    """
    name = f"eval_{str(trainer.args.metric_for_best_model).removeprefix('eval_')}"
    entries = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if not entries or (not chooses and entries[-1]["step"] != trainer.state.global_step):
        return trainer.evaluate()
    if not chooses:
        return entries[-1]
    sign = 1 if trainer.args.greater_is_better else -1
    return max(entries, key=lambda entry: sign * entry[name])


class _Watch(TrainerCallback):
    """Tells the pruner of every evaluation after the start."""

    def __init__(self, metric: str, report: Report) -> None:
        self._metric, self._report, self._count = f"eval_{metric}", report, 0

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        value = (metrics or {}).get(self._metric)
        if value is None or state.global_step == 0 or not math.isfinite(value):
            return
        self._count += 1
        if self._report(value, self._count) and state.global_step < state.max_steps:
            raise HopelessError(f"after evaluation {self._count}, in epoch {state.epoch:.3g}.")


def first_model(task: Task, settings: dict[str, Any], data: LabelledData, console: Console) -> Any:
    """Load the model of some settings, so that one that does not fit is refused before the first trial."""
    model_arguments, _, _ = split_settings(settings)
    return load_model(task, model_arguments, dataclasses.replace(data, findings=Findings()), console)[0]
