"""finetune(): the story of a run on one page: data, model, training, evaluation, artefacts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from transformers import EvalPrediction, PrinterCallback, ProgressCallback, set_seed

from hfft import output
from hfft.arguments import ModelArguments
from hfft.base_model import BaseModel
from hfft.caching import Cache, cache_folder
from hfft.callbacks.interruption import StopOnSignal
from hfft.callbacks.live_report import LiveReport
from hfft.callbacks.progress import TrainingProgress
from hfft.checkpoints import newest_whole
from hfft.data import LabelledData, read_labelled
from hfft.data.inspecting import Track
from hfft.data.split_names import REFERENCE
from hfft.errors import RunInterrupted, UserError, listed
from hfft.evaluation import interval_notes, summarize
from hfft.failures import computing, writing
from hfft.features.start import AUTO, MODEL, Start, start_from
from hfft.findings import reference_text
from hfft.gathering import distances, report_progress, show_examples
from hfft.hub import require_login
from hfft.launching import is_sharded, is_zero3
from hfft.layers import LayerStack
from hfft.loading import load_config
from hfft.optim import layerwise_param_groups
from hfft.optim.factory import require_optimizer
from hfft.parsing import split_settings, training_arguments
from hfft.processes import from_first_process, of_all_processes
from hfft.record import Predictions, RunRecord
from hfft.report import write_card, write_report
from hfft.settling import Measure, measure_function, require_schedule, rerunnable, settle, task_defaults
from hfft.strategies import load_strategy
from hfft.targets import Regression
from hfft.targets.temperature import calibrate, logit_layers
from hfft.task import Task
from hfft.terminal import is_first_process, make_console, print_metrics, print_per_class, progress_bar
from hfft.trainer import FineTuningTrainer, group_arguments
from hfft.training_arguments import FineTuningArguments, uses_layerwise_rates

_SMALLER_BATCHES = "Lower --per_device_eval_batch_size: no result depends on it."


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
    if is_first_process():  # the others may look only after it has begun to write
        inputs = (model_arguments.model, data_arguments.data)
        output.require_free(Path(str(args.output_dir)), resume=args.resume, overwrite=args.overwrite, inputs=inputs)
        if args.push_to_hub:
            require_login(args.hub_token)
    # where nothing is chosen on it every example may help to solve the head
    return settings if args.chooses else {"validation_size": 0.0, **settings}


def fine_tune(task: Task, labelled: LabelledData, settings: dict[str, Any], console: Console) -> FineTuneResult:
    """Fine-tune on data that has been read; see :func:`finetune`."""
    model_arguments, data_arguments, chosen = split_settings(settings)
    chosen = {**task_defaults(task, chosen), **chosen}
    args = training_arguments(chosen)
    if args.world_size > 1:
        _require_like_machines(labelled, args)
    if is_sharded(args):
        _keep_architecture(model_arguments)
    if is_zero3() and labelled.target.problem_type == Regression.problem_type:
        raise UserError(
            "Numbers cannot be trained with ZeRO stage 3: their unit is folded into the last layer, of which no "
            "process has the whole. Take stage 2 or FSDP2."
        )
    folder = Path(str(args.output_dir))
    measure = measure_function(labelled.target, args)
    settle(args, task, labelled, measure, chosen)

    set_seed(args.seed)  # the head is drawn here
    loaded, processor = _load(task, model_arguments, labelled, console)
    for finding in task.check_model(model_arguments, labelled.splits, processor):
        labelled.findings.items.append(finding)
        console.print(f"  {finding.message}")
    parameters = sum(parameter.numel() for parameter in loaded.parameters())
    console.print(f"Model: {model_arguments.model}, {parameters / 1e6:.2f} million parameters")

    base = BaseModel.of(model_arguments)
    if (restriction := base.restriction()) is not None:
        console.print(f"  {restriction}")

    again = rerunnable(settings, task, labelled, chosen, args)
    usage = labelled.target.usage(task.usage)
    record = RunRecord(again, task.name, labelled.target, labelled.counts(), labelled.notes, usage, base=base)
    record.data_report = labelled.report(task.name)
    checkpoint = _checkpoint(record, folder, args, console)
    cache = Cache(cache_folder(data_arguments.cache_dir), round(data_arguments.cache_budget * 1e9))
    start = _start(task, loaded, processor, labelled, args, model_arguments.pooling, cache, console)
    for note in start.notes:
        record.notes.append(note)
        console.print(f"  {note[0].upper()}{note[1:]}")
    trainer = _make_trainer(task, loaded, processor, labelled, args, measure, cache, console)
    if args.calibration != "none":
        logit_layers(loaded, _few_inputs(trainer))  # a head that cannot hold a temperature is refused before training
    if is_first_process():
        if args.overwrite:
            output.set_aside(folder)
        with writing(folder, "the run"):
            record.write_run_file(folder)
            record.write_data_report(folder)
    if load_strategy(args.strategy).trains:
        trainer.add_callback(LiveReport(partial(report_progress, record, trainer, folder)))
        _train(trainer, checkpoint)
        record.distances = distances(trainer, task, model_arguments, labelled)
        for told in trainer.guard_notes():
            _note(record.notes, told, console)
    with computing(_SMALLER_BATCHES):
        _finish(trainer, task, labelled, record, console)
    with writing(folder, "the model"):
        # the push is at the end
        trainer.save_model(str(folder), _internal_call=True)  # before anything that could fail: nothing trained is lost
    if is_first_process():
        output.discard(folder)

    with computing(_SMALLER_BATCHES):
        _evaluate(trainer, task, processor, labelled, record)
    if trainer.is_world_process_zero():
        show_examples(record, task, labelled, start.head)
    if trainer.is_world_process_zero():
        with writing(folder, "metrics and report"):
            record.write_metrics(folder)
            record.write_predictions(folder)
            write_card(record, folder)
            write_report(record, folder)
    trainer.accelerator.wait_for_everyone()
    title = f"Test split, {len(labelled.splits['test'])} examples"
    print_metrics(console, record.headline_rows(), title, record.target.baseline_name)
    print_per_class(console, record.details)
    console.print(f"Model, report and predictions: {folder}")
    if args.push_to_hub and trainer.is_world_process_zero():  # the last step: whatever fails, the run is complete
        console.print(f"Pushed: {trainer.push_folder(folder)}")
    return FineTuneResult(record.metrics, str(folder), trainer, record)


def _keep_architecture(arguments: ModelArguments) -> None:
    """Let the head read the trunk as it does, where the model is in parts: nothing can be folded into it in the end."""
    if arguments.pooling not in (AUTO, MODEL):
        raise UserError(
            f"pooling {arguments.pooling} is folded into the model in the end, which FSDP and ZeRO stage 3 leave in "
            "parts: set pooling to model."
        )
    arguments.pooling = MODEL


def read_data(settings: dict[str, Any], console: Console, draw: bool = True) -> tuple[Task, LabelledData]:
    """Read and check the data that settings name, and tell of it; missing splits are drawn unless they are not to."""
    _, arguments, chosen = split_settings(settings)
    if not draw:
        arguments.validation_size = arguments.test_size = 0.0
    if arguments.data is None:
        raise UserError("--data is needed: an image folder, a CSV or Parquet file, or a folder of such files.")
    args = training_arguments(chosen)
    # one process of a machine reads, checks and converts; the others find what it has kept
    with args.main_process_first(local=True), progress_bar(console) as bar:
        task, source, labelled = read_labelled(
            arguments, args.seed, lambda items, n, what: bar.track(items, n, description=what)
        )
    sizes = ", ".join(f"{len(split)} {name}" for name, split in labelled.splits.items())
    console.print(f"Data: {labelled.origin}: {sizes}; {labelled.target.describe()} ({task.name})")
    if labelled.columns:
        read = ", ".join(f"{role} from '{column}'" for role, column in labelled.columns.items())
        unused = [column for column in source.column_names if column not in labelled.columns.values()]
        console.print(f"  {read}" + (f"; not used: {listed(unused)}" if unused else ""))
    for note in labelled.notes:
        console.print(f"  {note}")
    return task, labelled


def _require_like_machines(data: LabelledData, args: FineTuningArguments) -> None:
    """Raise :class:`UserError` where processes compute in other formats, or have read or left out other examples."""
    sizes = ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())
    told = of_all_processes((str(args.precision), sizes, data.digest()))
    rank = next((rank for rank, found in enumerate(told) if found != told[0]), None)
    if rank is None:
        return
    (precision, sizes, _), (other_precision, other_sizes, _) = told[0], told[rank]
    if precision != other_precision:
        raise UserError(f"--precision: process 0 trains in {precision}, process {rank} in {other_precision}. Name one.")
    raise UserError(
        f"--data: process {rank} of {len(told)} has read other examples than process 0: {other_sizes} in place of "
        f"{sizes}. All machines need the same files."
    )


def _load(task: Task, arguments: ModelArguments, data: LabelledData, console: Console) -> tuple[Any, Any]:
    """Load model and processor, both ready for training on the data's target."""
    config = load_config(arguments)
    if not task.supports(config):
        raise UserError(
            f"--model: '{arguments.model}' is a {config.model_type} model, which cannot do {task.name}. The data asks "
            "for that task; name another model, or other data."
        )
    model, processor = task.load(arguments, config, data.target)
    data.target, told = data.target.start(model, data.labels("train"), config)
    _note(data.notes, told, console)
    return model, processor


def _note(notes: list[str], told: str | None, console: Console) -> None:
    if told is not None:
        notes.append(told)
        console.print(f"  {told}")


def _make_trainer(
    task: Task,
    model: Any,
    processor: Any,
    data: LabelledData,
    args: FineTuningArguments,
    measure: Measure,
    cache: Cache,
    console: Console,
) -> FineTuningTrainer:
    strategy = load_strategy(args.strategy)
    rates = f"{args.learning_rate:g} for all layers"
    if uses_layerwise_rates(args):
        layerwise_param_groups(model, **group_arguments(args))  # what does not fit is refused before a folder is made
    else:
        require_optimizer(args)
    if uses_layerwise_rates(args) and args.layer_decay != 1:
        groups = len(LayerStack.from_model(model, args.layer_patterns))
        rates = f"{args.head_learning_rate or args.learning_rate:g} for the head, decay {args.layer_decay:g} from "
        rates += f"{args.learning_rate:g} down {groups} layer groups"
    told = f"; learning rate {rates}" if strategy.trains else ""
    console.print(f"Strategy: {strategy.name} ({strategy.summary}){told}; {args.precision}")
    train, validation = _encoded(task, processor, data, args, cache, console)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(prediction.predictions)
        if not np.isfinite(logits).all():
            raise UserError(
                f"The training diverged: by step {trainer.state.global_step} the model's outputs are no numbers. Lower "
                "--learning_rate."
            )
        return measure(data.target.from_model(np.asarray(prediction.label_ids)), data.target.outputs(logits))

    require_schedule(args)
    repeated = args.cached_views is not None and getattr(train, "further_views", False)
    try:
        trainer = FineTuningTrainer(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=task.collator(processor),
            processing_class=processor,
            compute_metrics=compute,
            preprocess_logits_for_metrics=_only_logits,
            cache=cache if args.augment == "none" or repeated else None,
            describe_rows=partial(_references, data.splits["train"]),
        )
    except UserError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(f"The training arguments do not fit: {' '.join(str(error).split())}") from error
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not args.disable_tqdm:
        trainer.add_callback(TrainingProgress(console, data.target.metrics.headline, trainer.unfreezing))
    return trainer


def _encoded(
    task: Task, processor: Any, data: LabelledData, args: FineTuningArguments, cache: Cache, console: Console
) -> tuple[Any, Any]:
    """Return the training and the validation split as model inputs; what does not change is computed here, once."""
    seed = args.data_seed if args.data_seed is not None else args.seed
    training = task.encoder(processor, training=True, augment=args.augment)
    evaluation = task.encoder(processor, training=False)
    with progress_bar(console) as bar:
        track: Track = lambda items, n, what: bar.track(items, n, description=what)  # noqa: E731
        train = data.encoded("train", training, cache, seed, track)
        held = "validation" in data.splits
        validation = data.encoded("validation", evaluation, cache, seed, track) if held else None
    if cache.note is not None:
        console.print(cache.note)
    return train, validation


def _references(split: Dataset, rows: list[int]) -> list[str]:
    """Return where examples come from: files, or rows of the table; indices beyond the split are further views."""
    return [reference_text(reference) for reference in split.select([row % len(split) for row in rows])[REFERENCE]]


def _only_logits(logits: Any, labels: Any) -> Any:
    """Drop what some models return beside the logits (hidden states of encoder-decoders, for instance)."""
    return logits[0] if isinstance(logits, tuple | list) else logits


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


def _start(
    task: Task,
    model: Any,
    processor: Any,
    data: LabelledData,
    args: FineTuningArguments,
    pooling: str,
    cache: Cache,
    console: Console,
) -> Start:
    """Prepare the model for training as the strategy says."""
    with progress_bar(console) as bar, computing(_SMALLER_BATCHES):
        return start_from(
            task,
            model,
            processor,
            data,
            solved_head=args.starts_solved,
            pooling=pooling,
            solver=args.head_solver,
            seed=args.seed,
            cache=cache,
            batch_size=args.per_device_eval_batch_size,
            precision=str(args.precision),
            device=args.device,
            track=lambda items, n, what: bar.track(items, n, description=what),
            share=(args.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
        )


def _finish(trainer: FineTuningTrainer, task: Task, data: LabelledData, record: RunRecord, console: Console) -> None:
    """Make the model that ships: the stock architecture, units of numbers, thresholds of classes."""
    args = trainer.args
    if args.starts_solved and args.load_best_model_at_end and args.eval_on_start and not trainer.state.best_global_step:
        better = f"no better validation {str(args.metric_for_best_model).removeprefix('eval_')}"
        _note(record.notes, f"Training has brought {better}: the solved head ships as it was.", console)
    finished = task.finished(trainer.accelerator.unwrap_model(trainer.model))
    if finished is not trainer.accelerator.unwrap_model(trainer.model):
        trainer.model = trainer.model_wrapped = finished

    model = trainer.accelerator.unwrap_model(trainer.model)
    if args.calibration != "none":
        logits = np.asarray(trainer.predict(trainer.eval_dataset).predictions)
        layers = logit_layers(model, _few_inputs(trainer))
        record.temperature, fitted = calibrate(data.target, model, layers, data.labels("validation"), logits)
        _note(record.notes, fitted, console)

    def predict() -> tuple[np.ndarray, np.ndarray]:
        logits = trainer.predict(trainer.eval_dataset).predictions
        return data.labels("validation"), data.target.outputs(np.asarray(logits))

    has_validation = "validation" in data.splits
    record.target, told = from_first_process(data.target.finish(model, predict if has_validation else None))
    _note(record.notes, told, console)


def _few_inputs(trainer: FineTuningTrainer) -> dict[str, Any]:
    """Return a batch of two validation examples, or of the only one."""
    dataset: Any = trainer.eval_dataset
    return trainer.data_collator([dataset[row] for row in range(min(2, len(dataset)))])


def _evaluate(
    trainer: FineTuningTrainer,
    task: Task,
    processor: Any,
    data: LabelledData,
    record: RunRecord,
) -> None:
    """Fill in history, layers, predictions and metrics; the test split is looked at here for the first time."""
    target = record.target
    inputs = data.encoded("test", task.encoder(processor, training=False), seed=trainer.args.seed)
    labels, outputs = data.labels("test"), target.outputs(np.asarray(trainer.predict(inputs).predictions))
    record.predictions = Predictions([task.describe(row) for row in data.splits["test"]], labels, outputs)
    record.history = trainer.state.log_history
    record.layers, record.thaws = trainer.layer_rates(), trainer.thaws()
    values = measure_function(target, trainer.args)(labels, outputs)
    record.metric_names = sorted(values, key=lambda name: name not in target.metrics.functions)
    record.metrics = {f"test_{name}": values[name] for name in record.metric_names}
    baseline = target.baseline(data.labels("train"), labels)
    record.metrics |= summarize(target.metrics, labels, outputs, baseline, seed=trainer.args.seed)
    record.interval_notes = interval_notes(target.metrics, labels, record.rows())
    record.details = target.details(labels, outputs)
    validation = trainer.validation_metrics()
    if record.temperature is not None:  # those of training are of the logits as they were
        now = trainer.predict(trainer.eval_dataset, metric_key_prefix="validation").metrics
        validation = {name: now.get(f"validation_{name}", value) for name, value in validation.items()}
    record.metrics |= {f"validation_{name}": value for name, value in validation.items()}
    record.metrics |= {f"{name}_examples": len(split) for name, split in data.splits.items()}
