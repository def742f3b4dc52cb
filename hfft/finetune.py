"""finetune(): the story of a run on one page: data, model, training, evaluation, artefacts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from transformers import EvalPrediction, ProgressCallback, PrinterCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from hfft.arguments import DataArguments, ModelArguments
from hfft.callbacks.progress import TrainingProgress, progress_bar
from hfft.data import LabelledData, prepare, read_source
from hfft.data.columns import task_for_source
from hfft.errors import UserError, listed
from hfft.evaluation import bootstrap_intervals, class_frequencies, compute_metrics
from hfft.evaluation.metrics import softmax
from hfft.layers import LayerStack
from hfft.loading import load_config
from hfft.parsing import split_settings, training_arguments
from hfft.record import CARD_FILE, METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE, RUN_FILE, Predictions, RunRecord
from hfft.report import make_console, print_metrics, write_card, write_report
from hfft.report.terminal import is_first_process
from hfft.strategies import load_strategy
from hfft.task import Task, list_tasks, load_task
from hfft.trainer import FineTuningTrainer
from hfft.training_arguments import FineTuningArguments

# What a run writes to the top of its folder, and --overwrite replaces. Anything else there is left alone.
_RUN_PRODUCTS = (
    *(RUN_FILE, METRICS_FILE, PREDICTIONS_FILE, CARD_FILE, REPORT_FILE),
    *("checkpoint-*", "*.safetensors", "*.safetensors.index.json", "config.json", "*processor_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
)


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
    model_arguments, data_arguments, training = split_settings(settings)
    args = training_arguments(training)
    _require_free_folder(args)
    console = make_console()

    task, labelled = _read(data_arguments, args.seed, console)
    training = {**task.defaults, **training}
    args = training_arguments(training)
    _fit_to_data(args, task, labelled)

    set_seed(args.seed)  # the head is drawn here
    loaded, processor = _load(task, model_arguments, labelled.class_names)
    parameters = sum(parameter.numel() for parameter in loaded.parameters())
    console.print(f"Model: {model_arguments.model}, {parameters / 1e6:.2f} million parameters", highlight=False)

    record = RunRecord(
        settings=_rerunnable(settings, task, training, args),
        task=task.name,
        class_names=labelled.class_names,
        counts=labelled.counts(),
        notes=labelled.notes,
        metric_names=list(task.metrics),
    )
    trainer = _make_trainer(task, loaded, processor, labelled, args, console)
    folder = Path(str(args.output_dir))
    checkpoint = _start_folder(record, folder, args, console)
    _train(trainer, checkpoint, console)
    trainer.save_model(str(folder))  # before anything that could fail: nothing trained is lost

    _evaluate(trainer, task, processor, labelled, record)
    if trainer.is_world_process_zero():
        record.write_metrics(folder)
        record.write_predictions(folder)
        write_card(record, folder)
        write_report(record, folder)
    trainer.accelerator.wait_for_everyone()
    print_metrics(console, record.rows(), f"Test split, {len(labelled.splits['test'])} examples")
    console.print(f"Model, report and predictions: {folder}", highlight=False)
    return FineTuneResult(record.metrics, str(folder), trainer, record)


def _require_free_folder(args: FineTuningArguments) -> None:
    """Refuse a folder that holds a run or anything else. Only the first process looks: it will also make it."""
    folder = Path(str(args.output_dir))
    if not is_first_process() or not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--output_dir: '{folder}' is a file.")
    if not any(folder.iterdir()):
        return
    if not (folder / RUN_FILE).exists():
        raise UserError(f"--output_dir: the folder '{folder}' is not empty and holds no run. Choose another one.")
    if not (args.resume or args.overwrite):
        raise UserError(
            f"--output_dir: the folder '{folder}' holds a run. Go on with it (--resume), replace it (--overwrite), or "
            "choose another one."
        )


def _read(arguments: DataArguments, seed: int, console: Console) -> tuple[Task, LabelledData]:
    if arguments.data is None:
        raise UserError("--data is needed: an image folder, a CSV or Parquet file, or a folder of such files.")
    tasks = [load_task(arguments.task)] if arguments.task is not None else [load_task(name) for name in list_tasks()]
    suffixes = {suffix for candidate in tasks for suffix in candidate.file_suffixes}
    source = read_source(arguments.data, suffixes, arguments.cache_dir)
    task = tasks[0] if arguments.task is not None else task_for_source(source, tasks, arguments.named_columns())
    if source.from_files and not task.file_suffixes:
        raise UserError(f"--data: '{source.origin}' is a folder of files; {task.name} reads tables.")
    bar = progress_bar(console)
    with bar:
        labelled = prepare(source, task, arguments, seed, partial(_track, bar))
    sizes = ", ".join(f"{len(split)} {name}" for name, split in labelled.splits.items())
    console.print(f"Data: {labelled.origin}: {sizes}; {len(labelled.class_names)} classes ({task.name})", highlight=False)
    for note in labelled.notes:
        console.print(f"  {note}", highlight=False)
    return task, labelled


def _track(bar: Any, items: Any, total: int, description: str) -> Any:
    return bar.track(items, total=total, description=description)


def _fit_to_data(args: FineTuningArguments, task: Task, data: LabelledData) -> None:
    """Settle what depends on the task and on which splits there are."""
    if args.augment == "auto":
        args.augment = task.augmentations[min(1, len(task.augmentations) - 1)]
    if args.augment not in task.augmentations:
        raise UserError(f"--augment: {task.name} knows {listed(task.augmentations)}, got '{args.augment}'.")
    if "validation" not in data.splits:
        if args.early_stopping_patience is not None:
            raise UserError("--early_stopping_patience needs a validation split: set validation_size above 0.")
        args.eval_strategy = type(args.eval_strategy)("no")
        args.load_best_model_at_end = False
        args.metric_for_best_model = None


def _load(task: Task, arguments: ModelArguments, class_names: list[str]) -> tuple[Any, Any]:
    config = load_config(arguments)
    if not task.supports(config):
        raise UserError(
            f"--model: '{arguments.model}' is a {config.model_type} model, which cannot do {task.name}. The data asks "
            "for that task; name another model, or other data."
        )
    return task.load(arguments, config, class_names)


def _rerunnable(
    settings: dict[str, Any], task: Task, training: dict[str, Any], args: FineTuningArguments
) -> dict[str, Any]:
    """Return the settings that make this run again, also where the defaults will have changed."""
    resolved = ("strategy", "layer_decay", "learning_rate", "num_train_epochs", "weight_decay", "warmup_steps", "seed")
    chosen = {name: getattr(args, name) for name in (*resolved, "per_device_train_batch_size", "augment")}
    merged = {**settings, "task": task.name, **training, **chosen, "output_dir": str(args.output_dir)}
    for once in ("resume", "overwrite"):
        merged.pop(once, None)
    plain = str | int | float | bool | list | dict
    return {name: value if isinstance(value, plain) else str(value) for name, value in merged.items()}


def _make_trainer(
    task: Task, model: Any, processor: Any, data: LabelledData, args: FineTuningArguments, console: Console
) -> FineTuningTrainer:
    if load_strategy(args.strategy).layerwise and args.layer_decay != 1:
        stack = LayerStack.from_model(model)  # refuses a model that it cannot order before a folder is made
        console.print(f"Strategy: {args.strategy}, {len(stack)} layer groups, decay {args.layer_decay}", highlight=False)
    training = task.encoder(processor, training=True, augment=args.augment)
    evaluation = task.encoder(processor, training=False)
    trainer = FineTuningTrainer(
        model=model,
        args=args,
        train_dataset=data.splits["train"].with_transform(training),
        eval_dataset=data.splits["validation"].with_transform(evaluation) if "validation" in data.splits else None,
        data_collator=task.collator(processor),
        processing_class=processor,
        compute_metrics=_metric_function(task, args.metrics or []),
        preprocess_logits_for_metrics=_only_logits,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not args.disable_tqdm:
        trainer.add_callback(TrainingProgress(console, task.metrics[0]))
    return trainer


def _metric_function(task: Task, asked_for: list[str]) -> Any:
    more = []
    if asked_for:
        from hfft.evaluation.modules import EvaluateMetric

        more = [EvaluateMetric(specification) for specification in asked_for]

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        labels, probabilities = np.asarray(prediction.label_ids), softmax(np.asarray(prediction.predictions))
        values = compute_metrics(task.metrics, labels, probabilities)
        for metric in more:
            for name, value in metric.compute(labels, probabilities).items():
                values.setdefault(name, value)
        return values

    return compute


def _only_logits(logits: Any, labels: Any) -> Any:
    """Drop what some models return beside the logits (hidden states of encoder-decoders, for instance)."""
    return logits[0] if isinstance(logits, tuple | list) else logits


def _start_folder(record: RunRecord, folder: Path, args: FineTuningArguments, console: Console) -> str | None:
    """Clear or keep what the folder holds, write run.yaml, and return the checkpoint to go on from."""
    checkpoint = None
    if args.resume:
        checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        console.print(f"Resuming from {checkpoint}" if checkpoint else "Nothing to resume: starting from the beginning.")
    if is_first_process():
        if args.overwrite:
            for pattern in _RUN_PRODUCTS:
                for path in folder.glob(pattern):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        record.write_run_file(folder)
    return checkpoint


def _train(trainer: FineTuningTrainer, checkpoint: str | None, console: Console) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrainingProgress):
                callback.close()


def _evaluate(
    trainer: FineTuningTrainer, task: Task, processor: Any, data: LabelledData, record: RunRecord
) -> None:
    """Fill in history, layers, predictions and metrics; the test split is looked at here for the first time."""
    test = data.splits["test"]
    output = trainer.predict(test.with_transform(task.encoder(processor, training=False)))
    labels, probabilities = np.asarray(test["label"]), softmax(np.asarray(output.predictions))
    record.predictions = Predictions([task.describe(row) for row in test], labels, probabilities)
    record.history = trainer.state.log_history
    record.layers = _layers(trainer)
    values = {name.removeprefix("test_"): value for name, value in (output.metrics or {}).items()}
    asked_for = [name for name in values if name not in task.metrics and name not in _TRAINER_METRICS]
    record.metric_names = [*task.metrics, *asked_for]
    record.metrics = test_metrics(
        {name: values[name] for name in record.metric_names},
        labels,
        probabilities,
        class_frequencies(np.asarray(data.splits["train"]["label"]), len(data.class_names), len(labels)),
        list(task.metrics),
        trainer.args.seed,
    )
    record.metrics |= _validation_metrics(trainer)
    record.metrics |= {f"{name}_examples": len(split) for name, split in data.splits.items()}


_TRAINER_METRICS = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def test_metrics(
    values: dict[str, float],
    labels: np.ndarray,
    probabilities: np.ndarray,
    baseline: np.ndarray,
    with_intervals: list[str],
    seed: int,
) -> dict[str, float]:
    """Return the flat dict of test metrics with intervals and baselines.

    Args:
        values: metric name -> value of the model.
        labels: (rows,) class indices.
        probabilities: (rows, classes) of the model.
        baseline: (rows, classes) of the baseline.
        with_intervals: names of the metrics that get an interval and a baseline.
        seed: of the bootstrap.
    """
    intervals = bootstrap_intervals(with_intervals, labels, probabilities, seed)
    flat: dict[str, float] = {}
    for name, value in values.items():
        flat[f"test_{name}"] = float(value)
        if name in intervals:
            flat[f"test_{name}_ci_low"], flat[f"test_{name}_ci_high"] = intervals[name]
    for name, value in compute_metrics(with_intervals, labels, baseline).items():
        flat[f"baseline_test_{name}"] = value
    return flat


def _validation_metrics(trainer: FineTuningTrainer) -> dict[str, float]:
    """Return the validation metrics of the model that ships."""
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    shipped = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    chosen = [entry for entry in evaluations if entry["step"] == shipped] or evaluations[-1:]
    return {
        f"validation_{key.removeprefix('eval_')}": value
        for entry in chosen[:1]
        for key, value in entry.items()
        if key.startswith("eval_") and key.removeprefix("eval_") not in _TRAINER_METRICS[1:]
    }


def _layers(trainer: FineTuningTrainer) -> list[dict[str, Any]]:
    """Return name, parameter count and peak learning rate of every layer group, input first."""
    layers: dict[str, dict[str, Any]] = {}
    for group in trainer.optimizer.param_groups if trainer.optimizer is not None else []:
        if "layer" in group:
            row = layers.setdefault(group["layer"], {"name": group["layer"], "parameters": 0, "lr": group["initial_lr"]})
            row["parameters"] += sum(parameter.numel() for parameter in group["params"])
    return list(layers.values())
