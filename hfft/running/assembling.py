"""The trainer of a run, assembled from what was prepared."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, PrinterCallback, ProgressCallback

from hfft.callbacks.progress import TrainingProgress
from hfft.data.inspecting import Track
from hfft.data.split_names import REFERENCE
from hfft.errors import UserError
from hfft.features.start import Start
from hfft.findings import reference_text
from hfft.layers import LayerStack
from hfft.optim import layerwise_param_groups
from hfft.optim.factory import require_optimizer
from hfft.running.preparing import Preparation
from hfft.running.settling import require_schedule
from hfft.strategies import load_strategy
from hfft.terminal import progress_bar
from hfft.trainer import FineTuningTrainer
from hfft.training.optimizers import group_arguments


def make_trainer(prepared: Preparation, start: Start) -> FineTuningTrainer:
    """Return the trainer of a run from its start; what does not fit is a :class:`UserError` before a folder is made."""
    task, data, args, measure = prepared.task, prepared.data, prepared.args, prepared.measure
    if args.uses_layerwise_rates:
        layerwise_param_groups(prepared.model, **group_arguments(args))
    else:
        require_optimizer(args)
    strategy = load_strategy(args.strategy)
    rates = f"; learning rate {_rates(prepared)}" if strategy.trains else ""
    summary = strategy.summary
    if strategy.cautious and (start.head is None or not args.load_best_model_at_end):  # then it decides nothing
        summary = load_strategy("full" if start.head is None else "lp-ft").summary
    prepared.console.print(f"Strategy: {strategy.name} ({summary}){rates}; {args.precision}")
    train, validation = _encoded(prepared)

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
            model=prepared.model,
            args=args,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=task.collator(prepared.processor),
            processing_class=prepared.processor,
            compute_metrics=compute,
            preprocess_logits_for_metrics=_only_logits,
            cache=prepared.cache if args.augment == "none" or repeated else None,
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
        trainer.add_callback(TrainingProgress(prepared.console, data.target.metrics.headline, trainer.unfreezing))
    return trainer


def _rates(prepared: Preparation) -> str:
    """Return the learning rates of the layers, for people."""
    args = prepared.args
    if not args.uses_layerwise_rates or args.layer_decay == 1:
        return f"{args.learning_rate:g} for all layers"
    groups = len(LayerStack.from_model(prepared.model, args.layer_patterns))
    return (
        f"{args.head_learning_rate or args.learning_rate:g} for the head, decay {args.layer_decay:g} from "
        f"{args.learning_rate:g} down {groups} layer groups"
    )


def _encoded(prepared: Preparation) -> tuple[Any, Any]:
    """Return the training and the validation split as model inputs; what does not change is computed here, once.

    What nothing trains on is not made into inputs: ``None``, as a validation split that is not there.
    """
    task, data, args, cache = prepared.task, prepared.data, prepared.args, prepared.cache
    trains = load_strategy(args.strategy).trains
    seed = args.data_seed if args.data_seed is not None else args.seed
    training = task.encoder(prepared.processor, training=True, augment=args.augment)
    evaluation = task.encoder(prepared.processor, training=False)
    with progress_bar(prepared.console) as bar:
        track: Track = lambda items, n, what: bar.track(items, n, description=what)  # noqa: E731
        train = data.encoded("train", training, cache, seed, track) if trains else None
        held = "validation" in data.splits
        validation = data.encoded("validation", evaluation, cache, seed, track) if held else None
    if cache.note is not None:
        prepared.console.print(cache.note)
    return train, validation


def _references(split: Dataset, rows: list[int]) -> list[str]:
    """Return where examples come from: files, or rows of the table; indices beyond the split are further views."""
    return [reference_text(reference) for reference in split.select([row % len(split) for row in rows])[REFERENCE]]


def _only_logits(logits: Any, labels: Any) -> Any:
    """Drop what some models return beside the logits (hidden states of encoder-decoders, for instance)."""
    return logits[0] if isinstance(logits, tuple | list) else logits
