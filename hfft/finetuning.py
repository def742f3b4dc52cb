"""finetune(): the story of a run on one page: data, model, training, evaluation, artefacts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from transformers import set_seed

from hfft.adapters.models import Adapter, is_adapted, merge
from hfft.adapters.quantizing import beside_whole_weights
from hfft.callbacks.interruption import StopOnSignal
from hfft.callbacks.live_report import LiveReport
from hfft.callbacks.progress import TrainingProgress
from hfft.callbacks.tracking import Trackers, closing_trackers
from hfft.data import LabelledData
from hfft.errors import RunInterrupted, UserError, listed
from hfft.evidence import Evidence, PartOfCrossValidation
from hfft.failures import computing, writing
from hfft.features.start import MODEL
from hfft.hardware.launching import is_zero3
from hfft.hardware.processes import from_first_process
from hfft.parsing import split_settings, training_arguments
from hfft.record import ADAPTER_FOLDER, TRAIN_RUNTIME, RunRecord
from hfft.report import write_card, write_report
from hfft.results.hub import require_login
from hfft.running import output
from hfft.running.base_model import BaseModel
from hfft.running.baselines import probe_test
from hfft.running.gathering import distances, evaluate_run, report_progress, show_examples
from hfft.running.preparing import (
    SMALLER_BATCHES,
    adapted,
    keep_needed_architecture,
    load_model,
    make_trainer,
    note_down,
    quantized,
    read_data,
    require_like_machines,
    start_training,
)
from hfft.running.settling import measure_function, require_use, rerunnable, settle, task_defaults
from hfft.storage.caching import Cache, cache_folder
from hfft.storage.checkpoints import newest_whole
from hfft.strategies import load_strategy
from hfft.targets import Regression
from hfft.targets.temperature import calibrate, logit_layers
from hfft.task import Task
from hfft.terminal import is_first_process, make_console, print_metrics, print_per_class
from hfft.trainer import FineTuningTrainer
from hfft.training_arguments import FineTuningArguments


@dataclass
class FineTuneResult:
    """What a run gives back.

    Attributes:
        metrics: flat name -> value, as in ``metrics.json``: ``test_accuracy``, ``test_accuracy_ci_low``, ...
        output_dir: the folder with model, report and the rest.
        trainer: the Trainer, with the finished model in ``trainer.model``.
        record: everything that happened.
    """

    metrics: dict[str, float]
    output_dir: str
    trainer: FineTuningTrainer
    record: RunRecord


def finetune(
    task: str | Task | None = None,
    model: str | None = None,
    data: Any = None,
    output_dir: str = "out",
    **settings: Any,
) -> FineTuneResult:
    """Fine-tune a pretrained model on labelled data, test it, and write a folder that ``pipeline()`` loads.

    Args:
        task: a registered name or a :class:`Task`; left out, the data decides.
        model: Hub id or local folder of a pretrained model.
        data: class folders of files, a table, a folder of tables, or a ``DatasetDict``.
        output_dir: where the run is written; a folder that holds one is refused.
        **settings: any other field of ModelArguments, DataArguments and FineTuningArguments.

    Raises:
        UserError: for anything that the caller can mend; before training no folder has been made then.
    """
    settings = {"task": task, "model": model, "data": data, "output_dir": output_dir, **settings}
    settings = require_settings({name: value for name, value in settings.items() if value is not None})
    console = make_console()
    task, labelled = read_data(settings, console)
    return fine_tune(task, labelled, settings, console)


def require_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Check settings, and that the run's folder is free, before anything slow; return them with what they imply.

    Raises :class:`UserError` for the first that cannot be meant.
    """
    model_arguments, data_arguments, chosen = split_settings(settings)
    args = training_arguments(chosen)
    require_use(model_arguments, args)
    if is_first_process():  # the others may look only after it has begun to write
        inputs = (model_arguments.model, data_arguments.data)
        output.require_free(Path(str(args.output_dir)), resume=args.resume, overwrite=args.overwrite, inputs=inputs)
        if args.push_to_hub:
            require_login(args.hub_token)
    # where nothing is chosen on it every example may help to solve the head
    return settings if args.chooses else {"validation_size": 0.0, **settings}


@closing_trackers()
def fine_tune(
    task: Task,
    labelled: LabelledData,
    settings: dict[str, Any],
    console: Console,
    part: PartOfCrossValidation | None = None,
    search: dict[str, Any] | None = None,
) -> FineTuneResult:
    """Fine-tune on data that has been read; see :func:`finetune`.

    Args:
        task, labelled, settings, console: of the run.
        part: what the run is to a cross-validation, which alone can make data without a test split.
        search: the trials that the settings were found by, for the report.
    """
    model_arguments, data_arguments, chosen = split_settings(settings)
    chosen = {**task_defaults(task, chosen), **chosen}
    args = training_arguments(chosen)
    if args.world_size > 1:
        require_like_machines(labelled, args)
    of_pooling = keep_needed_architecture(model_arguments, args)
    if is_zero3() and labelled.target.problem_type == Regression.problem_type:
        raise UserError(
            "Numbers cannot be trained with ZeRO stage 3: their unit is folded into the last layer, of which no "
            "process has the whole. Take stage 2 or FSDP2."
        )
    folder = Path(str(args.output_dir))
    measure = measure_function(labelled.target, args)
    settle(args, task, labelled, measure, chosen)

    set_seed(args.seed)  # the head is drawn here
    loaded, processor = load_model(task, model_arguments, labelled, console)
    of_pooling = of_pooling if len(task.poolings(loaded)) > 1 else None
    for finding in task.check_model(model_arguments, labelled.splits, processor):
        labelled.findings.items.append(finding)
        console.print(f"  {finding.message}")
    parameters = sum(parameter.numel() for parameter in loaded.parameters())
    console.print(f"Model: {model_arguments.model}, {parameters / 1e6:.2f} million parameters")

    base = BaseModel.of(model_arguments)
    if (restriction := base.restriction()) is not None:
        console.print(f"  {restriction}")

    record = _record(rerunnable(settings, task, labelled, chosen, args), task, labelled, base, part)
    record.search = search or {}
    checkpoint = _checkpoint(record, folder, args, console)
    cache = Cache(cache_folder(data_arguments.cache_dir), round(data_arguments.cache_budget * 1e9))
    begun = time.perf_counter()
    whole = loaded
    loaded, of_quantizing = quantized(task, loaded, processor, labelled, args)
    start = start_training(task, loaded, processor, labelled, args, model_arguments.pooling, cache, console)
    seconds = time.perf_counter() - begun
    trains, probed = load_strategy(args.strategy).trains, None
    if trains:
        probed = probe_test(task, loaded, processor, labelled, args, start, model_arguments.pooling, cache, console)
    if args.load_in_4bit and start.pooling != MODEL:
        task.pool(whole, start.pooling)
    loaded, of_adapters = adapted(task, loaded, processor, labelled, args)
    for note in filter(None, (*of_quantizing, of_pooling, *start.notes, *of_adapters)):
        record.notes.append(note)
        console.print(f"  {note[0].upper()}{note[1:]}")
    trainer = make_trainer(task, loaded, processor, labelled, args, measure, cache, console, start)
    if args.calibration != "none":
        logit_layers(loaded, _few_inputs(trainer))  # a head that cannot hold a temperature is refused before training
    trackers = Trackers(trainer, record.settings)
    trackers.begin()
    if is_first_process():
        if args.overwrite:
            output.set_aside(folder)
        with writing(folder, "the run"):
            record.write_run_file(folder)
            record.write_data_report(folder)
    begun = time.perf_counter()
    adapter: Adapter | None = None
    if trains:
        trainer.add_callback(LiveReport(partial(report_progress, record, trainer, folder)))
        _train(trainer, checkpoint)
        adapter = _merge(trainer, whole)
    seconds = from_first_process(seconds + time.perf_counter() - begun)
    if trains:
        record.distances = distances(trainer, task, model_arguments, labelled)
        for told in trainer.guard_notes():
            note_down(record.notes, told, console)
    with computing(SMALLER_BATCHES):
        settled = _finish(trainer, task, labelled, record, console, part)
    with writing(folder, "the model"):
        # the push is at the end
        trainer.save_model(str(folder), _internal_call=True)  # before anything that could fail: nothing trained is lost
        if adapter is not None and args.keep_adapter and is_first_process():
            model = trainer.accelerator.unwrap_model(trainer.model)
            adapter.save(folder / ADAPTER_FOLDER, model, str(model_arguments.model), model_arguments.revision)
    if is_first_process():
        output.discard(folder)

    with computing(SMALLER_BATCHES):
        evaluate_run(trainer, task, processor, labelled, record, settled, probed)
    record.metrics[TRAIN_RUNTIME] = seconds
    if trainer.is_world_process_zero():
        with writing(folder, "metrics and report"):
            record.write_predictions(folder)
            record.write_metrics(folder)
            show_examples(record, task, labelled, start.head)
            write_report(record, folder)
            write_card(record, folder)  # the last file: where it is, the run is complete
    trainer.accelerator.wait_for_everyone()
    print_metrics(console, record.headline_rows(), record.evidence.title, record.target.baseline_name)
    print_per_class(console, record.details)
    console.print(f"Model, report and predictions: {folder}")
    trackers.finish(record, folder)
    if args.push_to_hub and trainer.is_world_process_zero():  # the last step: whatever fails, the run is complete
        console.print(f"Pushed: {trainer.push_folder(folder)}")
    return FineTuneResult(record.metrics, str(folder), trainer, record)


def _record(
    settings: dict[str, Any], task: Task, data: LabelledData, base: BaseModel, part: PartOfCrossValidation | None
) -> RunRecord:
    """Return the record of a run that begins."""
    folds = None if part is None else part.folds
    evidence = Evidence.of_test(len(data.splits["test"])) if "test" in data.splits else folds
    assert evidence is not None  # a run by itself has a test split, drawn or given
    usage = data.target.usage(task.usage)
    record = RunRecord(settings, task.name, data.target, data.counts(), evidence, data.notes, usage, base=base)
    record.data_report = data.report(task.name)
    record.metric_names, record.interval_notes = [*evidence.names], [*evidence.interval_notes]
    if part is not None:
        record.command = part.command
        record.notes += part.notes
    if folds is not None:
        record.metrics = dict(folds.figures)
    return record


def _checkpoint(record: RunRecord, folder: Path, args: FineTuningArguments, console: Console) -> str | None:
    """Return the checkpoint to go on from, if there is one and it belongs to this run."""
    if not args.resume:
        return None
    checkpoint, skipped = from_first_process(newest_whole(folder))
    if skipped:
        console.print(f"Passed over: {listed(skipped)}.")
    if checkpoint is not None and is_first_process():
        output.require_same_run(folder, checkpoint, record.settings, record.target)
    console.print(f"Resuming from {checkpoint}" if checkpoint else "Nothing to resume: starting from the beginning.")
    return checkpoint


def _train(trainer: FineTuningTrainer, checkpoint: str | None) -> None:
    stop = StopOnSignal()
    trainer.add_callback(stop)
    try:
        with computing(
            "--auto_batch_size true computes batches in parts, with the same result; or lower "
            "--per_device_train_batch_size and raise --gradient_accumulation_steps as much."
        ):
            trainer.train(resume_from_checkpoint=checkpoint)
        if stop.caught:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        newest, _ = newest_whole(Path(str(trainer.args.output_dir)))
        if newest is None:
            raise
        raise RunInterrupted(newest) from None
    finally:  # signals and terminal are given back also after an error
        stop.release()
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrainingProgress):
                callback.close()


def _merge(trainer: FineTuningTrainer, whole: Any) -> Adapter | None:
    """Put the ordinary model in the place of one with adapters; return them by themselves, if there are any.

    ``whole`` is the model whose layers were held in 4 bits, if they were.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_adapted(model):
        return None
    if trainer.args.load_in_4bit:
        model = beside_whole_weights(whole, model)
    trainer.model, adapter = merge(model)
    trainer.model_wrapped = trainer.model
    return adapter


def _finish(
    trainer: FineTuningTrainer,
    task: Task,
    data: LabelledData,
    record: RunRecord,
    console: Console,
    part: PartOfCrossValidation | None,
) -> bool:
    """Make the model that ships: the stock architecture, units of numbers, thresholds of classes.

    Returns:
        whether something was settled by which the model answers otherwise than in training.
    """
    args = trainer.args
    chose = load_strategy(args.strategy).trains and args.load_best_model_at_end and args.eval_on_start
    if args.starts_solved and chose and not trainer.state.best_global_step:
        better = f"no better validation {str(args.metric_for_best_model).removeprefix('eval_')}"
        note_down(record.notes, f"Training has brought {better}: the solved head ships as it was.", console)
    finished = task.finished(trainer.accelerator.unwrap_model(trainer.model))
    if finished is not trainer.accelerator.unwrap_model(trainer.model):
        trainer.model = trainer.model_wrapped = finished

    model = trainer.accelerator.unwrap_model(trainer.model)
    if args.calibration != "none":
        logits = np.asarray(trainer.predict(trainer.eval_dataset).predictions)
        layers = logit_layers(model, _few_inputs(trainer))
        record.temperature, fitted = calibrate(data.target, model, layers, data.labels("validation"), logits)
        note_down(record.notes, fitted, console)

    def predict() -> tuple[np.ndarray, np.ndarray]:
        logits = trainer.predict(trainer.eval_dataset).predictions
        return data.labels("validation"), data.target.outputs(np.asarray(logits))

    held_out = predict if "validation" in data.splits else None
    if held_out is None and part is not None and part.held_out is not None:
        found = part.held_out
        held_out = lambda: found  # noqa: E731
    record.target, told = from_first_process(data.target.finish(model, held_out))
    note_down(record.notes, told, console)
    return told is not None or record.temperature is not None or args.load_in_4bit


def _few_inputs(trainer: FineTuningTrainer) -> dict[str, Any]:
    """Return a batch of two validation examples, or of the only one."""
    dataset: Any = trainer.eval_dataset
    return trainer.data_collator([dataset[row] for row in range(min(2, len(dataset)))])
