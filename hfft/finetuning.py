"""finetune(): the story of a run on one page: data, model, training, evaluation, artefacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from transformers import EvalPrediction, PrinterCallback, ProgressCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from hfft import output
from hfft.arguments import DataArguments, ModelArguments
from hfft.caching import Cache, cache_folder
from hfft.callbacks.progress import TrainingProgress, progress_bar
from hfft.data import LabelledData, prepare, read_source
from hfft.data.columns import task_for_source
from hfft.errors import RunInterrupted, UserError, listed
from hfft.evaluation import class_frequencies, summarize
from hfft.evaluation.metrics import softmax
from hfft.layers import LayerStack
from hfft.loading import load_config
from hfft.optim import layerwise_param_groups
from hfft.optim.factory import require_optimizer
from hfft.parsing import split_settings, training_arguments
from hfft.record import Predictions, RunRecord
from hfft.report import write_card, write_report
from hfft.settling import Measure, measure_function, require_schedule, rerunnable, settle, task_defaults
from hfft.strategies import load_strategy
from hfft.task import Task, installed_tasks, load_task
from hfft.terminal import is_first_process, make_console, print_metrics
from hfft.trainer import FineTuningTrainer, group_arguments, uses_layerwise_rates
from hfft.training_arguments import FineTuningArguments

_CACHE_BUDGET = 4_000_000_000  # bytes


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
    settings = {name: value for name, value in settings.items() if value is not None}
    model_arguments, data_arguments, chosen = split_settings(settings)
    args = training_arguments(chosen)  # once for its checks: reading the data can take long
    folder = Path(str(args.output_dir))
    if is_first_process():  # the others may look only after it has begun to write
        inputs = (model_arguments.model, data_arguments.data)
        output.require_free(folder, resume=args.resume, overwrite=args.overwrite, inputs=inputs)
    console = make_console()

    task, labelled = _read(data_arguments, args.seed, console)
    chosen = {**task_defaults(task, chosen), **chosen}
    args = training_arguments(chosen)
    measure = measure_function(task, args, len(labelled.class_names))
    settle(args, task, labelled, measure, chosen)

    set_seed(args.seed)  # the head is drawn here
    loaded, processor = _load(task, model_arguments, labelled.class_names)
    parameters = sum(parameter.numel() for parameter in loaded.parameters())
    console.print(f"Model: {model_arguments.model}, {parameters / 1e6:.2f} million parameters")

    again = rerunnable(settings, task, labelled, chosen, args)
    record = RunRecord(again, task.name, labelled.class_names, labelled.counts(), labelled.notes, task.usage)
    checkpoint = _checkpoint(record, folder, args, console)
    cache = Cache(cache_folder(data_arguments.cache_dir), _CACHE_BUDGET)
    trainer = _make_trainer(task, loaded, processor, labelled, args, measure, cache, console)
    if is_first_process():
        if args.overwrite:
            output.set_aside(folder)
        record.write_run_file(folder)
    _train(trainer, checkpoint)
    trainer.save_model(str(folder))  # before anything that could fail: nothing trained is lost
    if is_first_process():
        output.discard(folder)

    _evaluate(trainer, task, processor, labelled, measure, record)
    if trainer.is_world_process_zero():
        record.write_metrics(folder)
        record.write_predictions(folder)
        write_card(record, folder)
        write_report(record, folder)
    trainer.accelerator.wait_for_everyone()
    print_metrics(console, record.rows(), f"Test split, {len(labelled.splits['test'])} examples")
    console.print(f"Model, report and predictions: {folder}")
    return FineTuneResult(record.metrics, str(folder), trainer, record)


def _read(arguments: DataArguments, seed: int, console: Console) -> tuple[Task, LabelledData]:
    if arguments.data is None:
        raise UserError("--data is needed: an image folder, a CSV or Parquet file, or a folder of such files.")
    given = arguments.task is not None
    tasks = [load_task(arguments.task)] if arguments.task is not None else installed_tasks()
    suffixes = {suffix for candidate in tasks for suffix in candidate.file_suffixes}
    source = read_source(arguments.data, suffixes, arguments.cache_dir)
    task = tasks[0] if given else task_for_source(source, tasks, arguments.named_columns())
    if source.from_files and not task.file_suffixes:
        raise UserError(f"--data: '{source.origin}' is a folder of files; {task.name} reads tables.")
    with progress_bar(console) as bar:
        labelled = prepare(source, task, arguments, seed, lambda items, n, what: bar.track(items, n, description=what))
    sizes = ", ".join(f"{len(split)} {name}" for name, split in labelled.splits.items())
    classes = len(labelled.class_names)
    console.print(f"Data: {labelled.origin}: {sizes}; {classes} classes ({task.name})")
    if labelled.columns:
        read = ", ".join(f"{role} from '{column}'" for role, column in labelled.columns.items())
        unused = [column for column in source.column_names if column not in labelled.columns.values()]
        console.print(f"  {read}" + (f"; not used: {listed(unused)}" if unused else ""))
    for note in labelled.notes:
        console.print(f"  {note}")
    return task, labelled


def _load(task: Task, arguments: ModelArguments, class_names: list[str]) -> tuple[Any, Any]:
    config = load_config(arguments)
    if not task.supports(config):
        raise UserError(
            f"--model: '{arguments.model}' is a {config.model_type} model, which cannot do {task.name}. The data asks "
            "for that task; name another model, or other data."
        )
    return task.load(arguments, config, class_names)


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
    console.print(f"Strategy: {strategy.name} ({strategy.summary}); learning rate {rates}")
    training = task.encoder(processor, training=True, augment=args.augment)
    evaluation = task.encoder(processor, training=False)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(prediction.predictions)
        if not np.isfinite(logits).all():
            raise UserError(
                f"The training diverged: by step {trainer.state.global_step} the model's outputs are no numbers. Lower "
                "--learning_rate."
            )
        return measure(np.asarray(prediction.label_ids), softmax(logits))

    require_schedule(args)
    try:
        trainer = FineTuningTrainer(
            model=model,
            args=args,
            train_dataset=data.splits["train"].with_transform(training),
            eval_dataset=data.splits["validation"].with_transform(evaluation) if "validation" in data.splits else None,
            data_collator=task.collator(processor),
            processing_class=processor,
            compute_metrics=compute,
            preprocess_logits_for_metrics=_only_logits,
            cache=cache if args.augment == "none" else None,
        )
    except UserError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(f"The training arguments do not fit: {' '.join(str(error).split())}") from error
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not args.disable_tqdm:
        trainer.add_callback(TrainingProgress(console, task.metrics[0], trainer.unfreezing))
    return trainer


def _only_logits(logits: Any, labels: Any) -> Any:
    """Drop what some models return beside the logits (hidden states of encoder-decoders, for instance)."""
    return logits[0] if isinstance(logits, tuple | list) else logits


def _checkpoint(record: RunRecord, folder: Path, args: FineTuningArguments, console: Console) -> str | None:
    """Return the checkpoint to go on from, if there is one and it belongs to this run."""
    if not args.resume:
        return None
    checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if checkpoint is not None and is_first_process():
        output.require_same_run(folder, checkpoint, record.settings, record.class_names)
    console.print(f"Resuming from {checkpoint}" if checkpoint else "Nothing to resume: starting from the beginning.")
    return checkpoint


def _train(trainer: FineTuningTrainer, checkpoint: str | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        newest = get_last_checkpoint(str(trainer.args.output_dir))
        if newest is None:
            raise
        raise RunInterrupted(newest) from None
    finally:  # the terminal is given back also after an error
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrainingProgress):
                callback.close()


def _evaluate(
    trainer: FineTuningTrainer,
    task: Task,
    processor: Any,
    data: LabelledData,
    measure: Measure,
    record: RunRecord,
) -> None:
    """Fill in history, layers, predictions and metrics; the test split is looked at here for the first time."""
    test = data.splits["test"]
    logits = trainer.predict(test.with_transform(task.encoder(processor, training=False))).predictions
    labels, probabilities = np.asarray(test["label"]), softmax(np.asarray(logits))
    baseline = class_frequencies(np.asarray(data.splits["train"]["label"]), len(data.class_names), len(labels))
    record.predictions = Predictions([task.describe(row) for row in test], labels, probabilities)
    record.history = trainer.state.log_history
    record.layers = trainer.layer_rates()
    values = measure(labels, probabilities)
    record.metric_names = [*task.metrics, *(name for name in values if name not in task.metrics)]
    record.metrics = {f"test_{name}": values[name] for name in record.metric_names}
    record.metrics |= summarize(task.metrics, labels, probabilities, baseline, seed=trainer.args.seed)
    record.metrics |= {f"validation_{name}": value for name, value in trainer.validation_metrics().items()}
    record.metrics |= {f"{name}_examples": len(split) for name, split in data.splits.items()}
