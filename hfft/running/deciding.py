"""Whether what was trained ships, or the solved head that it was trained from: what the strategy ``auto`` decides."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from hfft.data.split_names import GROUP
from hfft.evaluation.metrics import LOWER_IS_BETTER
from hfft.evaluation.paired import Judged, paired_error
from hfft.features.start import MODEL, Start
from hfft.hardware.launching import is_sharded
from hfft.hardware.processes import from_first_process
from hfft.running.baselines import head_logits
from hfft.running.preparing import Preparation, start_head
from hfft.running.settling import measure_function
from hfft.storage.arrays import encode_column
from hfft.strategies import load_strategy
from hfft.terminal import figure
from hfft.trainer import FineTuningTrainer


@dataclasses.dataclass(frozen=True)
class SolvedModel:
    """What ships where training is not better: the pretrained model with a solved head.

    Attributes:
        logits: (examples, outputs) what it answers on the validation split, before it has learned from that.
        weights: name -> tensor on the CPU, of a head that has learned from the validation split too, if that was drawn
            from the training split.
        learned_from: on which examples, for people.
    """

    logits: np.ndarray
    weights: dict[str, torch.Tensor]
    learned_from: str


def solved_model(prepared: Preparation, start: Start) -> SolvedModel | None:
    """Set the solved head aside before the training, where it may ship after all.

    It is made by now, so that nothing that could fail stands between the training and what ships.

    Args:
        prepared: a run that has not begun to train; its model stays as it is.
        start: what its training starts from.

    Returns:
        ``None`` where what is trained ships in any case, which is noted of a strategy that would decide.
    """
    args, model, data = prepared.args, prepared.model, prepared.data
    if not load_strategy(args.strategy).cautious:
        return None
    missing = "no head was solved" if start.head is None else None
    missing = missing or ("no process has the whole model" if is_sharded(args) else None)
    missing = missing or (None if args.load_best_model_at_end else "nothing is chosen on a validation split")
    if missing is not None or start.head is None or start.readout is None:
        prepared.notes.append(f"what is trained ships in any case: {missing}.")
        return None
    whole = data.put_back() if "validation" in data.drawn else None
    logits = head_logits(prepared, data.splits["validation"], None if whole is None else whole.pool, start.readout)
    before = {name: model.get_parameter(name).detach().clone() for name in start.readout.behind}
    told = "the training split"
    if whole is not None:
        told = f"all {len(whole.splits['train'])} examples that were given to learn from"
        own = dataclasses.replace(prepared, data=whole, notes=[])
        with torch.random.fork_rng(devices=[]):
            # another pooling is in the model already
            start_head(own, MODEL, solved=True, penalty=start.head.strength)
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for name, value in before.items():
            model.get_parameter(name).copy_(value)
    return SolvedModel(logits, weights, told)


def decide(trainer: FineTuningTrainer, prepared: Preparation, solved: SolvedModel | None) -> tuple[bool, str | None]:
    """Put the solved head in the place of what was trained from it, where training has bettered nothing.

    What was trained ships where its loss on the validation split is lower, or the first metric of the task better by at
    least the standard error of the difference; ``metric_for_best_model``, if that was given, is in the place of the
    latter. Of the two mistakes the one that costs little is risked: where training fits the data it gains far more than
    the solved head would where it does not, and a dozen examples often hold the same right answers of both.

    Args:
        trainer: that has trained, with the best checkpoint in its model.
        prepared: the run.
        solved: what :func:`solved_model` has set aside before the training.

    Returns:
        whether the solved head ships, and what to tell, as a sentence.
    """
    if solved is None:
        return False, None
    trained, told = False, "nothing that was trained was evaluated"
    if any("eval_loss" in entry and entry["step"] > 0 for entry in trainer.state.log_history):
        logits = np.asarray(trainer.predict(trainer.eval_dataset).predictions)
        trained, told = from_first_process(_compare(trainer, prepared, solved.logits, logits))
    if trained:
        return False, f"What was trained ships: {told}."
    trainer.accelerator.unwrap_model(trainer.model).load_state_dict(solved.weights)
    trainer.state.best_global_step = 0  # whose evaluation is that of the head without the validation examples
    return True, f"The solved head ships, solved on {solved.learned_from}: {told}."


def _compare(
    trainer: FineTuningTrainer, prepared: Preparation, solved: np.ndarray, trained: np.ndarray
) -> tuple[bool, str]:
    """Say whether what was trained is better, and by which figures, as a clause."""
    data, loss = prepared.data, prepared.data.target.metrics.loss
    labels, split = data.labels("validation"), data.splits["validation"]
    name = str(prepared.chosen.get("metric_for_best_model", data.target.metrics.headline)).removeprefix("eval_")
    metric = loss if name == "loss" else name
    judged, values = [], []
    for logits in (solved, trained):
        outputs = data.target.outputs(logits)
        target = data.target.tuned(lambda outputs=outputs: (labels, outputs))  # type: ignore[misc]
        judged.append(Judged(target.metrics, labels, outputs))
        values.append(measure_function(target, trainer.args)(labels, outputs))

    def gain(of: str) -> float:
        lower = of in LOWER_IS_BETTER or (of == metric and prepared.chosen.get("greater_is_better") is False)
        return (values[1].get(of, math.nan) - values[0].get(of, math.nan)) * (-1 if lower else 1)

    def figures(of: str) -> str:
        return f"{figure(values[1].get(of, math.nan))} with training, {figure(values[0].get(of, math.nan))} without"

    groups = encode_column(split, GROUP)[0] if GROUP in split.column_names else None
    error = paired_error(judged[0], judged[1], metric, groups)
    told = f"validation {metric.replace('_', ' ')} {figures(metric)}"
    told += "" if error is None else f", standard error of the difference {figure(error)}"
    if metric == loss:
        return gain(loss) > 0, told
    # one example that one alone gets right is a difference of just its error, whatever rounding says
    better = gain(metric) > 0 and gain(metric) >= (error or 0.0) * (1 - 1e-9)
    return better or gain(loss) > 0, f"{told}; {loss.replace('_', ' ')} {figures(loss)}"
