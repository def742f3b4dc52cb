"""FineTuningTrainer: transformers' Trainer with layer-wise learning rates and hfft's metrics."""

from __future__ import annotations

import ast
import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers.trainer_utils import has_length, seed_worker

from hfft.adapters.models import is_adapted, lora_plus_multipliers
from hfft.callbacks.early_stopping import EarlyStopping
from hfft.callbacks.gradual_unfreezing import GradualUnfreezing
from hfft.errors import UserError
from hfft.features.in_training import PrefixInTraining
from hfft.features.rows import ROWS, NumberedCollator, NumberedRows, Views
from hfft.features.stages import Run
from hfft.freezing import put_frozen_in_eval_mode, select_parameters
from hfft.hardware.launching import shard_blocks
from hfft.hardware.precision import suited_attention
from hfft.hardware.processes import from_first_process, reduce_what_trains
from hfft.layers import LayerStack
from hfft.objectives import OBJECTIVES, Objective, mean_squared_error
from hfft.optim import layerwise_optimizer, schedule_factor
from hfft.optim.factory import IN_TRANSFORMERS, optimizer_of_arguments
from hfft.optim.schedules import SCHEDULES
from hfft.results.pushing import ModelPushes
from hfft.storage.caching import Cache
from hfft.storage.checkpoints import WholeCheckpoints
from hfft.strategies import load_strategy
from hfft.training.sampling import EpochOfSampler, GlobalBatchSampler
from hfft.training.soft_start import SoftStart
from hfft.training.steps import GuardedSteps
from hfft.training_arguments import FineTuningArguments, schedule_name, uses_layerwise_rates

_PREPARED = "_is_accelerate_prepared"
_SPEED_METRICS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class FineTuningTrainer(SoftStart, GuardedSteps, WholeCheckpoints, ModelPushes):
    """A Trainer that reads :class:`FineTuningArguments`; everything else is the Trainer's own.

    Args:
        cache: where the outputs of frozen layers are kept, to be given only where the same index of the training data
            means the same inputs each time.
        describe_rows: what examples of the training data are called in messages, by their indices.
    """

    args: FineTuningArguments
    data_collator: Any
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None

    def __init__(
        self,
        model: Any = None,
        args: FineTuningArguments | None = None,
        *,
        cache: Cache | None = None,
        describe_rows: Callable[[list[int]], list[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else FineTuningArguments()
        given = (kwargs.get("optimizers") or (None, None))[0] or kwargs.get("optimizer_cls_and_kwargs")
        if given is None and uses_layerwise_rates(args):
            kwargs["optimizer_cls_and_kwargs"] = layerwise_optimizer_from_arguments(args)
        self._objective = objective_of(model)
        if kwargs.get("compute_loss_func") is None and self._objective is not None:
            if args.label_smoothing_factor and self._objective is mean_squared_error:
                raise UserError("label_smoothing_factor has no place in regression: a number is no class.")
            kwargs["compute_loss_func"] = self._loss
        if args.freeze and model is None:
            raise UserError("freeze needs the model itself, not a model_init that makes it later.")
        if load_strategy(args.strategy).adapter is not None and not is_adapted(model):
            raise UserError(f"strategy {args.strategy}: wrap the model with peft.get_peft_model first.")
        _require_own_division(args)
        if args.freeze:
            freeze_for_good(model, args)  # before the optimizer is made, which holds what can train
        if load_strategy(args.strategy).gradual:
            args.ddp_find_unused_parameters = True  # frozen layers give no gradients to reduce
        with warnings.catch_warnings():
            # the Trainer's own smoothing is off there; that of hfft's loss is on
            warnings.filterwarnings("ignore", "Label smoothing is not compatible with multi-label", UserWarning)
            super().__init__(model=model, args=args, **kwargs)
        if self.is_fsdp_enabled:
            shard_blocks(self.accelerator.state.fsdp_plugin, self.model)
        if str(args.train_sampling_strategy) in ("group_by_length", "batch_rebalance"):
            _require_lengths(args, self.train_dataset)
        self.add_callback(EpochOfSampler())
        if self.unfreezing is None and load_strategy(args.strategy).gradual:
            self.add_callback(GradualUnfreezing(args.epochs_per_group, layer_patterns=args.layer_patterns))
        if args.early_stopping_patience is not None and self.eval_dataset is not None:
            self.add_callback(EarlyStopping(args.early_stopping_patience, unfreezing=self.unfreezing))
        self.describe_rows = describe_rows or (lambda rows: [f"example {row}" for row in rows])
        self.begin_guard()
        self._rates: dict[str, float] = {}  # of each layer in the last step
        self._cache = cache if args.cache_activations else None
        self.loss_needs_rows = self._cache is not None
        self._prefix: PrefixInTraining | None = None
        self._encoded: Any = None  # the training data as they are loaded
        self._steps_per_epoch = 1
        self._reducing: nn.Module | None = None  # the wrapped model that does not send what is frozen

    @property
    def unfreezing(self) -> GradualUnfreezing | None:
        """The callback that unfreezes, if there is one."""
        return next((c for c in self.callback_handler.callbacks if isinstance(c, GradualUnfreezing)), None)

    def _loss(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        # the validation loss says how good the probabilities are: labels are smoothed in training only
        smoothing = self.args.label_smoothing_factor if self.model.training else 0.0
        assert self._objective is not None
        return self._objective(logits, labels, num_items_in_batch, smoothing)

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        """Put what is frozen into eval mode.

        The Trainer enters this context before each forward pass, after it has put the whole model into train mode;
        a callback would come too early.
        """
        self.set_modes(self.model.training)
        return super().compute_loss_context_manager()

    def set_modes(self, training: bool = True) -> None:
        """Put the model in the modes of a training step (or of evaluation): what is frozen is in eval mode."""
        self.model.train(training)
        if training:
            put_frozen_in_eval_mode(self.model)
        if self.args.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Make a step as the Trainer does; processes do not send each other the gradients of what is frozen."""
        if isinstance(model, DistributedDataParallel) and self.unfreezing is not None and model is not self._reducing:
            # torch refuses a hook whose annotations are not evaluated
            model.register_comm_hook(model.process_group, lambda group, bucket: reduce_what_trains(group, bucket))
            self._reducing = model
        return super().training_step(model, *args, **kwargs)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss as the Trainer does, from kept activations while the lower layers are frozen."""
        rows = inputs.pop(ROWS, None)
        if rows is None or self._cache is None or self._encoded is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        if self._prefix is None:
            run = Run(self.state.max_steps, self._steps_per_epoch, self._encoded.views)
            self._prefix = PrefixInTraining(self, self._cache, self._encoded, run)
        with self._prefix.starting_point(rows, inputs):
            return super().compute_loss(model, inputs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Evaluate as the Trainer does, with the loss of exactly these examples, and the same metrics on all processes.

        The Trainer's own loss counts the examples that fill up the last batches of several processes. Metrics decide
        when training stops and which checkpoint ships.
        """
        found = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        name = f"{metric_key_prefix}_loss"
        if self._objective is not None and name in found.metrics and found.predictions is not None:
            logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
            tensors = (torch.as_tensor(logits).float(), torch.as_tensor(found.label_ids))
            found.metrics[name] = float(self._objective(*tensors, None, 0.0))
        return found._replace(metrics=from_first_process(found.metrics))

    def get_train_dataloader(self) -> DataLoader:
        """Return micro-batches of this rank, such that the examples of a step depend on the global batch size alone."""
        data: Any = self.train_dataset
        strategy = str(self.args.train_sampling_strategy)
        if data is None or not has_length(data) or strategy == "batch_rebalance":
            return super().get_train_dataloader()
        sampler = GlobalBatchSampler(
            len(data),
            self._train_batch_size,
            ranks=self.args.world_size,
            accumulation=self.args.gradient_accumulation_steps,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            lengths=self._lengths(data) if strategy == "group_by_length" else None,
            shuffle=strategy != "sequential",
            drop_last=self.args.dataloader_drop_last,
            further_views=getattr(data, "further_views", False),
            views=self.args.cached_views if getattr(data, "further_views", False) else None,
        )
        if isinstance(data, datasets.Dataset):
            data = self._remove_unused_columns(data, description="training")
        if self._cache is not None:
            self._encoded, self._steps_per_epoch = Views(data, sampler.views or 1), sampler.steps_per_epoch
        loader = DataLoader(
            NumberedRows(data),
            batch_sampler=sampler,
            collate_fn=NumberedCollator(self.data_collator, ignores=self._objective is not None),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            in_order=self.args.dataloader_in_order,
            worker_init_fn=partial(
                seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
            ),
        )
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return the Trainer's, in training with the rows that each batch holds."""
        known = self._cache is not None and self.is_in_train and eval_dataset is self.eval_dataset
        if not known or self.args.remove_unused_columns or isinstance(eval_dataset, dict | str):
            return super().get_eval_dataloader(eval_dataset)
        collate, self.data_collator = self.data_collator, NumberedCollator(self.data_collator)
        try:
            return super().get_eval_dataloader(NumberedRows(eval_dataset))
        finally:
            self.data_collator = collate

    def _get_eval_sampler(self, eval_dataset: Dataset) -> torch.utils.data.Sampler | None:
        """Return the examples in their own order also where training groups them by length."""
        grouped, self.args.train_sampling_strategy = self.args.train_sampling_strategy, "random"
        try:
            return super()._get_eval_sampler(eval_dataset)
        finally:
            self.args.train_sampling_strategy = grouped

    def _lengths(self, data: Any) -> np.ndarray:
        """Return the length of every training example."""
        known = getattr(data, "lengths", None)
        column = self.args.length_column_name
        if known is None and column in (getattr(data, "column_names", None) or ()):
            known = data[column]
        if known is None:
            name = next(iter(getattr(self.processing_class, "model_input_names", ["input_ids"])))
            known = [len(example[name]) for example in data]
        return np.asarray(known)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does, and leave everything trainable also where training breaks off."""
        self._prefix = None
        self.begin_guard()
        try:
            with suited_attention(self.model, self.args.device, str(self.args.precision)):
                return super().train(*args, **kwargs)
        finally:
            self._prefix = None
            if self.unfreezing is not None:
                self.unfreezing.release()

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict as the Trainer does, but in float32 whatever the precision of training: as the saved model will."""
        with self._in_float32():
            return super().predict(*args, **kwargs)

    @contextlib.contextmanager
    def _in_float32(self) -> Iterator[None]:
        """Take off what accelerate puts around the model's forward for mixed precision, for the time."""
        accelerator = self.accelerator
        model: Any = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        before = {name: vars(model)[name] for name in ("forward", _PREPARED) if name in vars(model)}
        mixed, accelerator.native_amp = accelerator.native_amp, False
        if "_original_forward" in vars(model):
            model.forward = model._original_forward
        try:
            yield
        finally:
            accelerator.native_amp = mixed
            vars(model).pop(_PREPARED, None)  # for float32 alone: training prepares it anew
            vars(model).update(before)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the schedule, also those that transformers lacks."""
        name = schedule_name(self.args)
        if self.lr_scheduler is None and name in SCHEDULES:
            factor = schedule_factor(name, num_training_steps, options=self.args.lr_scheduler_kwargs)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True  # as the Trainer does: a second train() makes a new one
        return super().create_scheduler(num_training_steps, optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as the Trainer does; under FSDP with only that trainable which the saved optimizer has a state of."""
        resumes = checkpoint is not None and self.is_fsdp_enabled and self.unfreezing is not None
        with self.unfreezing.as_saved(self.model, self.state) if resumes else contextlib.nullcontext():  # type: ignore[union-attr]
            super()._load_optimizer_and_scheduler(checkpoint)

    def _get_learning_rate(self) -> float:
        """Return the head's rate in the step that was just made, and keep those of the other layers for the log.

        The Trainer reads the first group's, which with layer-wise rates is that of the stem.
        """
        rate = super()._get_learning_rate()
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        if self.lr_scheduler is None or not any("layer" in group for group in groups):
            return rate
        step = self.state.global_step
        factors = self.unfreezing.rate_factors(self.optimizer, step) if self.unfreezing else [1.0] * len(groups)
        self._rates = {}
        for group, factor in zip(groups, factors, strict=True):  # where multipliers split a layer, its highest rate
            layer = group["layer"]
            self._rates[layer] = max(group["lr"] * factor, self._rates.get(layer, 0.0))
        return list(self._rates.values())[-1]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, and beside ``learning_rate``, which is the head's, that of every layer group."""
        if "learning_rate" in logs:
            logs |= {f"lr/{layer}": rate for layer, rate in self._rates.items()}
        super().log(logs, start_time)

    def layer_rates(self) -> list[dict[str, Any]]:
        """Return name, number of parameters and peak learning rate of every layer group, input first.

        Empty before training, and where the optimizer has no layer-wise groups.
        """
        layers: dict[str, dict[str, Any]] = {}
        for group in self.optimizer.param_groups if self.optimizer is not None else []:
            if "layer" in group:
                rate = group.get("initial_lr", group["lr"])
                row = layers.setdefault(group["layer"], {"name": group["layer"], "parameters": 0, "lr": rate})
                row["parameters"] += sum(parameter.numel() for parameter in group["params"])
        return list(layers.values())

    def thaws(self) -> dict[str, float]:
        """Return layer group -> the epoch in which it thaws, input first; empty where nothing is frozen for a time."""
        unfreezing = self.unfreezing
        if unfreezing is None or unfreezing.stack is None or unfreezing.schedule is None or not self.state.max_steps:
            return {}
        steps_per_epoch = self.state.max_steps / max(1e-9, float(self.state.num_train_epochs or 1))
        starts = zip(unfreezing.stack, unfreezing.schedule.starts, strict=True)
        return {group.name: start / steps_per_epoch for group, start in starts if start is not None}

    def validation_metrics(self) -> dict[str, float]:
        """Return the validation loss and metrics of the checkpoint that ships: the best one, or the last."""
        return {
            name: value
            for key, value in (self._shipped() or {}).items()
            if key.startswith("eval_") and (name := key.removeprefix("eval_")) not in _SPEED_METRICS
        }

    def shipped_epoch(self) -> float:
        """Return the epoch after which the checkpoint was made that ships; 0 is the start itself."""
        best = self._shipped() if self.args.load_best_model_at_end else None
        return float(best["epoch"] if best is not None else self.state.epoch or 0.0)

    def _shipped(self) -> dict[str, float] | None:
        """Return the log's entry of the evaluation of the checkpoint that ships, if it was evaluated."""
        evaluations = [entry for entry in self.state.log_history if "eval_loss" in entry]
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        return next((entry for entry in evaluations if entry["step"] == best), (evaluations or [None])[-1])


def objective_of(model: Any) -> Objective | None:
    """Return the loss of the model's problem type; one that has none and a single output keeps its own loss."""
    config = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    if problem is None and getattr(config, "num_labels", 2) > 1:
        problem = "single_label_classification"
    return OBJECTIVES.get(problem or "")


def _require_own_division(args: FineTuningArguments) -> None:
    """Raise :class:`UserError` where accelerate is asked to divide the batches, which the sampler does."""
    for name in ("split_batches", "dispatch_batches"):
        if getattr(args.accelerator_config, name, None):
            raise UserError(f"accelerator_config: {name} has no place here, because hfft divides batches itself.")


def _require_lengths(args: FineTuningArguments, data: Any) -> None:
    """Raise :class:`UserError` where the examples are all of one size."""
    if getattr(data, "lengths", ()) is None:
        raise UserError(f"train_sampling_strategy: {args.train_sampling_strategy} is for examples that have a length.")


def freeze_for_good(model: nn.Module, args: FineTuningArguments) -> None:
    """Keep what ``args.freeze`` names from ever training."""
    stack = LayerStack.from_model(model, args.layer_patterns)
    for name in select_parameters(model, stack, args.freeze or []):
        model.get_parameter(name).requires_grad_(False)


def layerwise_optimizer_from_arguments(args: FineTuningArguments) -> tuple[type, dict[str, Any]]:
    """Return the layer-wise form of the optimizer that ``args.optim`` names.

    Raises :class:`UserError` for optimizers that insist on parameter groups of their own.
    """
    groups = group_arguments(args)
    if args.optim not in IN_TRANSFORMERS:
        return layerwise_optimizer(str(args.optim), **{**_options(args.optim_args), **groups})
    optimizer_class, options = optimizer_of_arguments(args)
    return layerwise_optimizer(optimizer_class, **{**options, **groups})


def _options(text: str | None) -> dict[str, Any]:
    """Read ``momentum=0.9,nesterov=True``, as transformers does for its own optimizers."""
    try:
        call = ast.parse(f"options({text or ''})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("a value without a name")
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise UserError(f"optim_args: '{text}' is not of the form name=value,name=value with plain values.") from error


def group_arguments(args: FineTuningArguments) -> dict[str, Any]:
    """Return the arguments of :func:`hfft.layerwise_param_groups`."""
    assert not isinstance(args.lr_multipliers, str)  # read when the arguments were made
    multipliers = {**(args.lr_multipliers or {}), **lora_plus_multipliers(args.lora_plus_ratio)}
    return {
        "lr": args.learning_rate,
        "layer_decay": args.layer_decay,
        "weight_decay": args.weight_decay,
        "head_lr": args.head_learning_rate,
        "layer_patterns": args.layer_patterns,
        "lr_multipliers": multipliers or None,
    }
