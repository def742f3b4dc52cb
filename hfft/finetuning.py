"""finetune(): the story of a run on one page: data, model, training, evaluation, artefacts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hfft.adapters.models import Adapter
from hfft.base_model import BaseModel
from hfft.callbacks.tracking import Trackers, closing_trackers
from hfft.data import LabelledData
from hfft.evidence import PartOfCrossValidation
from hfft.failures import computing, writing
from hfft.features.start import Start
from hfft.hardware.processes import from_first_process
from hfft.record import RunRecord
from hfft.report import write_card, write_report
from hfft.run_folder import ADAPTER_FOLDER, TRAIN_RUNTIME
from hfft.running import output
from hfft.running.assembling import make_trainer
from hfft.running.baselines import held_out_logits, probe_test
from hfft.running.deciding import decide, solved_model
from hfft.running.finishing import finish_model
from hfft.running.gathering import (
    distances,
    evaluate_run,
    new_record,
    note_down,
    show_examples,
)
from hfft.running.learning import train
from hfft.running.opening import open_run
from hfft.running.preparing import SMALLER_BATCHES, Preparation, prepare
from hfft.running.reading import read_data
from hfft.settings import given_settings, with_implied
from hfft.strategies import load_strategy
from hfft.targets.temperature import logit_layers
from hfft.task import Task
from hfft.terminal import is_first_process, make_console, print_metrics, print_per_class
from hfft.trainer import FineTuningTrainer


@dataclass
class FineTuneResult:
    """What a run gives back.

    Attributes:
        metrics: flat name -> value, as in ``metrics.json``: ``test_accuracy``, ``test_accuracy_ci_low``, ...
        output_dir: the folder with model, report and the rest.
        trainer: the Trainer, with the finished model in ``trainer.model``, and no training data where nothing trains.
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
    settings = given_settings(task=task, model=model, data=data, output_dir=output_dir, **settings)
    open_run(settings, speaks=is_first_process())
    settings = with_implied(settings)
    console = make_console()
    task, labelled = read_data(settings, console)
    return fine_tune(task, labelled, settings, console)


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
    prepared = prepare(task, labelled, settings, console)
    args, folder = prepared.args, Path(str(prepared.args.output_dir))
    trains = load_strategy(args.strategy).trains
    record = _begin_record(prepared, settings, part)
    record.search = search or {}
    checkpoint = None
    if args.resume:
        checkpoint = output.checkpoint_to_resume(folder, record.settings, record.target, console)

    begun = time.perf_counter()
    start = prepared.start()
    solved = solved_model(prepared, start)
    seconds = time.perf_counter() - begun
    probed = probe_test(prepared, start) if trains else None
    held_out = held_out_logits(prepared, start, part)
    prepared.adapt()
    for note in prepared.notes:
        record.notes.append(note)
        console.print(f"  {note[0].upper()}{note[1:]}")
    trainer = make_trainer(prepared, start)
    trainer.start_may_be_best = solved is None  # else that is set aside, and compared in the end
    if args.calibration != "none":
        # a head that cannot hold a temperature is refused before training
        logit_layers(prepared.model, prepared.few_inputs())
    trackers = Trackers(trainer, record.settings)
    trackers.begin()
    if is_first_process():
        _begin_folder(folder, record, args.overwrite)

    begun = time.perf_counter()
    adapter = train(trainer, record, checkpoint, prepared.whole) if trains else None
    seconds = from_first_process(seconds + time.perf_counter() - begun)
    with computing(SMALLER_BATCHES):
        goes_back, told = decide(trainer, prepared, solved)
    note_down(record.notes, told, console)
    unseen = solved.logits if solved is not None and goes_back else None
    if trains:
        record.distances = distances(trainer, prepared)
        for told in trainer.guard_notes():
            note_down(record.notes, told, console)
    with computing(SMALLER_BATCHES):
        settled = finish_model(trainer, prepared, record, part, unseen)
    _save(trainer, prepared, adapter, folder)

    with computing(SMALLER_BATCHES):
        # a head that ships is no baseline of itself
        evaluate_run(trainer, prepared, record, settled, None if goes_back else probed, held_out, unseen)
    record.metrics[TRAIN_RUNTIME] = seconds
    if trainer.is_world_process_zero():
        _write_results(folder, record, prepared, start)
    trainer.accelerator.wait_for_everyone()
    print_metrics(console, record.headline_rows(), record.evidence.title, record.target.baseline_name)
    print_per_class(console, record.details)
    console.print(f"Model, report and predictions: {folder}")
    trackers.finish(record, folder)
    if args.push_to_hub and trainer.is_world_process_zero():  # the last step: whatever fails, the run is complete
        console.print(f"Pushed: {trainer.push_folder(folder)}")
    return FineTuneResult(record.metrics, str(folder), trainer, record)


def _begin_record(prepared: Preparation, settings: dict[str, Any], part: PartOfCrossValidation | None) -> RunRecord:
    """Tell of the model, and return the record of the run that begins."""
    console, data, arguments = prepared.console, prepared.data, prepared.model_arguments
    if part is None or not part.is_fold:  # of a fold's examples the cross-validation tells, once
        for finding in prepared.task.check_model(arguments, data.splits, prepared.processor):
            data.findings.items.append(finding)
            console.print(f"  {finding.message}")
    parameters = sum(parameter.numel() for parameter in prepared.model.parameters())
    console.print(f"Model: {arguments.model}, {parameters / 1e6:.2f} million parameters")
    base = BaseModel.of(arguments)
    if (restriction := base.restriction()) is not None:
        console.print(f"  {restriction}")
    return new_record(prepared, settings, base, part)


def _begin_folder(folder: Path, record: RunRecord, overwrite: bool) -> None:
    """Write what is known before the first step; an earlier run is set aside until the new model is saved."""
    if overwrite:
        output.set_aside(folder)
    with writing(folder, "the run"):
        record.write_run_file(folder)
        record.write_data_report(folder)


def _save(trainer: FineTuningTrainer, prepared: Preparation, adapter: Adapter | None, folder: Path) -> None:
    """Save the model before anything that could fail, so that nothing trained is lost."""
    with writing(folder, "the model"):
        trainer.save_model(str(folder), _internal_call=True)  # the push is at the end
        if adapter is not None and trainer.args.keep_adapter and is_first_process():
            model, base = trainer.accelerator.unwrap_model(trainer.model), prepared.model_arguments
            adapter.save(folder / ADAPTER_FOLDER, model, str(base.model), base.revision)
    if is_first_process():
        output.discard(folder)


def _write_results(folder: Path, record: RunRecord, prepared: Preparation, start: Start) -> None:
    with writing(folder, "metrics and report"):
        record.write_predictions(folder)
        record.write_metrics(folder)
        show_examples(record, prepared.task, prepared.data, start.head)
        write_report(record, folder)
        write_card(record, folder)  # the last file: where it is, the run is complete
