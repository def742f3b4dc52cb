"""What a run trains with, before its first step: data, model, the start of its head, and the trainer."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.progress import Progress
from transformers import EvalPrediction, PrinterCallback, ProgressCallback

from hfft.adapters.models import add_adapters
from hfft.adapters.quantizing import quantize
from hfft.arguments import ModelArguments
from hfft.callbacks.progress import TrainingProgress
from hfft.data import LabelledData, read_labelled
from hfft.data.inspecting import Track
from hfft.data.prepared import encoded
from hfft.data.split_names import REFERENCE
from hfft.errors import UserError, listed
from hfft.failures import computing
from hfft.features.extraction import model_inputs
from hfft.features.start import AUTO, MODEL, Start, start_from
from hfft.findings import NOTE, reference_text
from hfft.hardware.launching import is_sharded
from hfft.hardware.processes import of_all_processes
from hfft.layers import LayerStack
from hfft.loading import load_config
from hfft.optim import layerwise_param_groups
from hfft.optim.factory import require_optimizer
from hfft.parsing import split_settings, training_arguments
from hfft.running.settling import Measure, require_schedule
from hfft.storage.caching import Cache
from hfft.strategies import load_strategy
from hfft.task import Task
from hfft.terminal import progress_bar
from hfft.trainer import FineTuningTrainer, group_arguments
from hfft.training_arguments import FineTuningArguments, uses_layerwise_rates

SMALLER_BATCHES = "Lower --per_device_eval_batch_size: no result depends on it."


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


def require_like_machines(data: LabelledData, args: FineTuningArguments) -> None:
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


def keep_needed_architecture(arguments: ModelArguments, args: FineTuningArguments) -> str | None:
    """Let the head read the trunk as it does, where nothing can be folded into the model in the end.

    Returns:
        what to tell of it, of a model that has several poolings to choose from.

    Raises:
        UserError: where another architecture or another size of pictures was asked for.
    """
    asked, told = arguments.pooling, None
    if is_sharded(args):
        told = _keep_architecture(arguments, "which FSDP and ZeRO stage 3 leave in parts")
    if args.keep_adapter:
        told = _keep_architecture(arguments, "and adapters by themselves are for the base model as it is")
        if arguments.image_size is not None:
            raise UserError(
                "image_size changes what the model reads, and adapters by themselves are for the base model as it is: "
                "leave out keep_adapter."
            )
    return told if asked == AUTO and args.starts_solved else None


def _keep_architecture(arguments: ModelArguments, because: str) -> str:
    if arguments.pooling not in (AUTO, MODEL):
        raise UserError(
            f"pooling {arguments.pooling} is folded into the model in the end, {because}: set pooling to model."
        )
    arguments.pooling = MODEL
    return f"pooling model, which may not be the best: another one is folded into the model in the end, {because}."


def load_model(task: Task, arguments: ModelArguments, data: LabelledData, console: Console) -> tuple[Any, Any]:
    """Load model and processor, both ready for training on the data's target."""
    config = load_config(arguments)
    if not task.supports(config):
        raise UserError(
            f"--model: '{arguments.model}' is a {config.model_type} model, which cannot do {task.name}. The data asks "
            "for that task; name another model, or other data."
        )
    quantized = getattr(config, "quantization_config", None)
    if quantized is not None:
        settings = quantized if isinstance(quantized, dict) else quantized.to_dict()
        raise UserError(
            f"--model: the weights of '{arguments.model}' are quantized ({settings.get('quant_method', 'somehow')}): "
            "adapters are merged into weights in full precision. Name the checkpoint that it was made from; "
            "load_in_4bit true quantizes that while adapters train."
        )
    model, processor = task.load(arguments, config, data.target)
    data.target, told = data.target.start(model, data.labels("train"), config)
    if told is not None:
        data.findings.add(NOTE, "target", told)
        console.print(f"  {told}")
    return model, processor


def start_training(
    task: Task,
    model: Any,
    processor: Any,
    data: LabelledData,
    args: FineTuningArguments,
    pooling: str,
    cache: Cache,
    console: Console,
    solved_head: bool = False,
) -> Start:
    """Prepare the model for training as the strategy says, or with a solved head where ``solved_head`` asks for one."""
    with progress_bar(console) as bar, computing(SMALLER_BATCHES):
        return start_from(
            task,
            model,
            processor,
            data,
            solved_head=solved_head or args.starts_solved,
            pooling=pooling,
            solver=args.head_solver,
            penalty=args.head_penalty,
            seed=args.seed,
            device=args.device,
            **how_to_compute(args, cache, bar),
        )


def quantized(
    task: Task, model: Any, processor: Any, data: LabelledData, args: FineTuningArguments
) -> tuple[Any, list[str]]:
    """Return the model with layers in 4 bits where the run asks for it, and what to tell; or the model as it is."""
    if not args.load_in_4bit:
        return model, []
    small, told = quantize(model, args, _few_inputs(task, model, processor, data))
    return small, [told]


def adapted(
    task: Task, model: Any, processor: Any, data: LabelledData, args: FineTuningArguments
) -> tuple[Any, list[str]]:
    """Return the model with the adapters that the strategy trains, and what to tell of them; or the model as it is."""
    if load_strategy(args.strategy).adapter is None:
        return model, []
    return add_adapters(model, args, _few_inputs(task, model, processor, data))


def _few_inputs(task: Task, model: Any, processor: Any, data: LabelledData) -> dict[str, Any]:
    """Return a batch of two training examples, or of the only one, on the model's device."""
    split = data.splits["train"]
    examples = encoded(split.select(range(min(2, len(split)))), task.encoder(processor, training=False), None, seed=0)
    batch = task.collator(processor)([examples[row] for row in range(len(examples))])
    return model_inputs(batch, next(model.parameters()).device)


def how_to_compute(args: FineTuningArguments, cache: Cache, bar: Progress) -> dict[str, Any]:
    """Return how features are computed, and kept."""
    return {
        "cache": cache,
        "batch_size": args.per_device_eval_batch_size,
        "precision": str(args.precision),
        "track": lambda items, n, what: bar.track(items, n, description=what),
        "share": (args.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
    }


def make_trainer(
    task: Task,
    model: Any,
    processor: Any,
    data: LabelledData,
    args: FineTuningArguments,
    measure: Measure,
    cache: Cache,
    console: Console,
    start: Start,
) -> FineTuningTrainer:
    """Return the trainer of a run from its start; what does not fit is a :class:`UserError` before a folder is made."""
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
    if start.readout is not None and "log_loss" in data.target.metrics.functions:  # a number is no logit
        trainer.soften(start.readout.classifier.layer, strategy.head_scale)
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


def note_down(notes: list[str], told: str | None, console: Console) -> None:
    """Add a sentence to the notes, and say it, if there is one."""
    if told is not None:
        notes.append(told)
        console.print(f"  {told}")
