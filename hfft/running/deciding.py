"""Whether what was trained ships, or the solved head that it was trained from: what the strategy ``auto`` decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from datasets import concatenate_datasets
from rich.console import Console
from transformers import set_seed

from hfft.evaluation.metrics import LOWER_IS_BETTER
from hfft.evaluation.paired import Judged, paired_error
from hfft.features.start import Start
from hfft.findings import Findings
from hfft.hardware.processes import from_first_process
from hfft.running.baselines import head_logits
from hfft.running.loading_models import load_model
from hfft.running.preparing import Preparation, start_head
from hfft.strategies import load_strategy
from hfft.terminal import figure
from hfft.trainer import FineTuningTrainer


def solved_answers(prepared: Preparation, start: Start) -> np.ndarray | None:
    """Return what a solved head answers on the validation split before the training, where it may ship after all.

    Args:
        prepared: a run that has not begun to train.
        start: what its training starts from.

    Returns:
        (examples, outputs) logits; ``None`` where what is trained ships in any case, which is noted of a strategy that
        would decide.
    """
    args = prepared.args
    if not load_strategy(args.strategy).cautious:
        return None
    if start.readout is None or not args.load_best_model_at_end:
        missing = "no head was solved" if start.readout is None else "no validation split chooses"
        prepared.notes.append(f"what is trained ships in any case: {missing}.")
        return None
    return head_logits(prepared, prepared.data.splits["validation"], None, start.readout)


def decide(
    trainer: FineTuningTrainer, prepared: Preparation, start: Start, solved: np.ndarray | None
) -> tuple[bool, str | None]:
    """Put the solved head in the place of what was trained from it, unless that is shown to be better.

    It is where the metric that chooses checkpoints is better on the validation split by more than the standard error of
    the difference: the one-standard-error rule of Breiman et al. (1984), with what was trained as the larger model.
    A metric that has no such error decides by itself.

    The head that ships is solved on the validation examples, too, where these were drawn from the training split.

    Args:
        trainer: that has trained, with the best checkpoint in its model.
        prepared, start: of the run.
        solved: what :func:`solved_answers` has found before the training.

    Returns:
        whether the solved head ships, and what to tell, as a sentence.
    """
    if solved is None:
        return False, None
    trained = bool(trainer.state.best_global_step)
    told = "no epoch was better on the validation split"
    if trained:
        logits = np.asarray(trainer.predict(trainer.eval_dataset).predictions)
        trained, told = from_first_process(_compare(trainer, prepared, solved, logits))
    if trained:
        return False, f"What was trained ships: {told}."
    on = _go_back(trainer, prepared, start)
    return True, f"The solved head ships, solved on {on}: {told}."


def _compare(
    trainer: FineTuningTrainer, prepared: Preparation, solved: np.ndarray, trained: np.ndarray
) -> tuple[bool, str]:
    """Say whether what was trained is shown to be better, and by which figures, as a clause."""
    target, labels = prepared.data.target, prepared.data.labels("validation")
    name = str(trainer.args.metric_for_best_model).removeprefix("eval_")
    metric = target.metrics.loss if name == "loss" else name
    first, second = (Judged(target.metrics, labels, target.outputs(logits)) for logits in (solved, trained))
    values = [_measured(prepared, judged)[metric] for judged in (first, second)]
    lower = metric in LOWER_IS_BETTER or trainer.args.greater_is_better is False
    gain = (values[0] - values[1]) * (1 if lower else -1)
    error = paired_error(first, second, metric)
    called = f"validation {metric.replace('_', ' ')}"
    told = f"{called} {figure(values[1])} with training, {figure(values[0])} without"
    if error is None and metric not in target.metrics.weighted:
        return gain > 0, told
    if error is None:
        return False, f"{told}, and too few examples to tell"
    return gain > error, f"{told}, standard error of the difference {figure(error)}"


def _measured(prepared: Preparation, judged: Judged) -> Mapping[str, float]:
    return prepared.measure(judged.labels, judged.outputs)


def _go_back(trainer: FineTuningTrainer, prepared: Preparation, start: Start) -> str:
    """Load the pretrained model anew, in place, and solve its head; return on which examples, for people."""
    data, told = prepared.data, "the training split"
    splits = {"train": data.splits["train"]}
    if "validation" in data.drawn:
        splits = {"train": concatenate_datasets([data.splits["train"], data.splits["validation"]])}
        told = f"all {len(splits['train'])} examples that were given to learn from"
    with torch.random.fork_rng():
        set_seed(prepared.args.seed)  # what of a head is not solved is drawn as it was for the start
        settled = dataclasses.replace(data, findings=Findings())
        fresh, _ = load_model(prepared.task, prepared.model_arguments, settled, Console(quiet=True))
        # of several draws the features are kept by now
        learned = dataclasses.replace(data, splits=splits, pool=None)
        own = dataclasses.replace(prepared, model=fresh, whole=fresh, data=learned, notes=[])
        start_head(own, start.pooling, solved=True)
    trainer.accelerator.unwrap_model(trainer.model).load_state_dict(fresh.state_dict())
    trainer.state.best_global_step = 0  # whose evaluation is that of the head without the validation examples
    return told
