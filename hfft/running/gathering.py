"""What comes of a run, for its record: test metrics, the report of one that goes on, layers that moved, examples."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import TrainerState

from hfft.base_model import BaseModel
from hfft.data import LabelledData
from hfft.errors import UserError
from hfft.evaluation import interval_notes, summarize
from hfft.evidence import Evidence, PartOfCrossValidation
from hfft.features.heads import LinearHead
from hfft.hardware.launching import is_sharded
from hfft.layers import LayerStack
from hfft.layers.distances import relative_distances
from hfft.loading import load_config
from hfft.record import Predictions, RunRecord
from hfft.report import write_report
from hfft.report.examples import SHOWN, shown_examples
from hfft.run_folder import LEARNED_FROM
from hfft.running.preparing import Preparation
from hfft.running.recipes import rerunnable
from hfft.running.settling import measure_function
from hfft.strategies import load_strategy
from hfft.task import Task
from hfft.trainer import FineTuningTrainer
from hfft.training_arguments import FineTuningArguments


def new_record(
    prepared: Preparation, settings: dict[str, Any], base: BaseModel, part: PartOfCrossValidation | None
) -> RunRecord:
    """Return the record of a run that begins.

    Args:
        prepared: its model and data.
        settings: as they were given.
        base: what is known of the pretrained model.
        part: what the run is to a cross-validation, if it is part of one.
    """
    task, data = prepared.task, prepared.data
    folds = None if part is None else part.folds
    evidence = Evidence.of_test(len(data.splits["test"])) if "test" in data.splits else folds
    assert evidence is not None  # a run by itself has a test split, drawn or given
    usage = data.target.usage(task.usage)
    again = rerunnable(settings, task, data, prepared.chosen, prepared.args)
    record = RunRecord(again, task.name, data.target, data.counts(), evidence, data.notes, usage, base=base)
    record.data_report = data.report(task.name)
    record.metric_names, record.interval_notes = [*evidence.names], [*evidence.interval_notes]
    if part is not None:
        record.command = part.command
        record.notes += part.notes
    if folds is not None:
        record.metrics = dict(folds.figures)
    return record


def note_down(notes: list[str], told: str | None, console: Console) -> None:
    """Add a sentence to the notes, and say it, if there is one."""
    if told is not None:
        notes.append(told)
        console.print(f"  {told}")


def report_progress(
    record: RunRecord, trainer: FineTuningTrainer, folder: Path, args: FineTuningArguments, state: TrainerState
) -> None:
    """Write the report of a run that goes on."""
    record.history, record.layers, record.thaws = state.log_history, trainer.layer_rates(), trainer.thaws()
    record.progress = f"epoch {state.epoch or 0:.3g} of {args.num_train_epochs:g}"
    try:
        write_report(record, folder)
    finally:
        record.progress = None


def distances(trainer: FineTuningTrainer, prepared: Preparation) -> list[dict[str, Any]]:
    """Return how far the layers have moved, where this process has all of them and knows their order."""
    if is_sharded(trainer.args) or not trainer.is_world_process_zero():
        return []
    model = trainer.accelerator.unwrap_model(trainer.model)
    try:
        stack = LayerStack.from_model(model, trainer.args.layer_patterns)
    except UserError:
        return []
    try:
        with torch.random.fork_rng(devices=[]):  # a head is drawn
            arguments = prepared.model_arguments
            before, _ = prepared.task.load(arguments, load_config(arguments), prepared.data.target)
    except Exception:  # of several libraries; nothing that is only looked at may come in the way of the model
        return []
    return relative_distances(model, before, stack)


def show_examples(record: RunRecord, task: Task, data: LabelledData, head: LinearHead | None) -> None:
    """Choose mistakes to look at, and labels that are likely wrong."""
    target, seen, told = record.target, record.predictions, []
    shown = partial(shown_examples, task, target=target)
    if seen is not None:
        mistakes = target.mistakes(seen.labels, seen.outputs)[:SHOWN]
        record.mistakes = shown(data.splits["test"], mistakes, seen.labels, seen.outputs)
        suspects = target.suspects(seen.labels, seen.outputs)
        told += [f"{len(suspects)} of {len(seen.labels)} test examples"] if len(suspects) else []
        record.suspects = shown(data.splits["test"], suspects[:SHOWN], seen.labels, seen.outputs)
    if head is not None and head.out_of_fold is not None:
        labels, outputs = data.labels("train"), target.outputs(head.out_of_fold.cpu().numpy())
        predicted = np.flatnonzero(np.isfinite(outputs).all(axis=1) if outputs.ndim == 2 else np.isfinite(outputs))
        rows = predicted[target.suspects(labels[predicted], outputs[predicted])]
        told += [f"{len(rows)} of {len(labels)} training examples"] if len(rows) else []
        record.suspects += shown(data.splits["train"], rows[:SHOWN], labels, outputs)
    if told:
        which = " and ".join(told)
        record.suspects_told = (
            f"Confident learning (Northcutt et al. 2021) suspects the labels of {which}, the likeliest first."
        )


def evaluate_run(
    trainer: FineTuningTrainer,
    prepared: Preparation,
    record: RunRecord,
    settled: bool,
    probed: dict[str, float] | None,
    held_out: np.ndarray | None = None,
    solved: np.ndarray | None = None,
) -> None:
    """Fill in history, layers, predictions and metrics.

    Args:
        trainer, prepared, record: of the run.
        settled: whether thresholds have been tuned since training, a temperature fitted, or rounded weights replaced.
        probed: test metrics of a solved head before the training.
        held_out: (examples, outputs) logits of the test split before anything was settled, where they are known.
        solved: those of the validation split, where the head that ships may have learned from it since.
    """
    target, data = record.target, prepared.data
    record.history = trainer.state.log_history
    record.layers, record.thaws = trainer.layer_rates(), trainer.thaws()
    if "test" in data.splits:
        _test(trainer, prepared, record, None if settled else held_out)
        if probed is not None:
            record.metrics |= {f"baseline_probe_test_{name}": value for name, value in probed.items()}
    validation = trainer.validation_metrics()
    if validation and settled:
        if solved is None:
            predicted = trainer.predict(trainer.eval_dataset, metric_key_prefix="validation")
            logits = np.asarray(predicted.predictions)
            validation["loss"] = (predicted.metrics or {}).get("validation_loss", validation["loss"])
        else:
            logits = solved / (record.temperature or 1.0)  # which is folded into the model, not into these
        validation |= measure_function(target, trainer.args)(data.labels("validation"), target.outputs(logits))
        if solved is not None and record.temperature is not None:
            validation["loss"] = validation[target.metrics.loss]
    record.metrics |= {f"validation_{name}": value for name, value in validation.items()}
    record.metrics |= {f"{name}_examples": len(split) for name, split in data.splits.items()}
    if solved is not None and "validation" in data.drawn:
        record.metrics[LEARNED_FROM] = len(data.splits["train"]) + len(data.splits["validation"])
    if load_strategy(trainer.args.strategy).trains:
        record.metrics["shipped_epoch"] = trainer.shipped_epoch()


def _test(trainer: FineTuningTrainer, prepared: Preparation, record: RunRecord, known: np.ndarray | None) -> None:
    """Predict the test split, which is looked at here for the first time, unless its logits are known; measure."""
    target, task, data = record.target, prepared.task, prepared.data
    labels = data.labels("test")
    if known is None:
        inputs = data.encoded("test", task.encoder(prepared.processor, training=False), seed=trainer.args.seed)
        outputs = target.outputs(np.asarray(trainer.predict(inputs).predictions))
    else:
        outputs = data.target.outputs(known)  # of the model before units were folded into it
    record.predictions = Predictions([task.describe(row) for row in data.splits["test"]], labels, outputs)
    values = measure_function(target, trainer.args)(labels, outputs)
    record.metric_names = sorted(values, key=lambda name: name not in target.metrics.functions)
    record.metrics |= {f"test_{name}": values[name] for name in record.metric_names}
    baseline = target.baseline(data.labels("train"), labels)
    record.metrics |= summarize(target.metrics, labels, outputs, baseline, seed=trainer.args.seed)
    record.interval_notes = interval_notes(target.metrics, labels, record.rows())
    record.details = target.details(labels, outputs)
