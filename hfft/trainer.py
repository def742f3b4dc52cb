"""FineTuningTrainer: transformers' Trainer with layer-wise learning rates and hfft's metrics."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from hfft.adapters.models import is_adapted
from hfft.callbacks.early_stopping import EarlyStopping
from hfft.callbacks.gradual_unfreezing import GradualUnfreezing
from hfft.errors import UserError
from hfft.features.in_training import PrefixInTraining
from hfft.features.stages import Run
from hfft.freezing import put_frozen_in_eval_mode, select_parameters
from hfft.hardware.launching import is_sharded, shard_blocks
from hfft.hardware.memory_format import channels_last
from hfft.hardware.precision import suited_attention
from hfft.hardware.processes import from_first_process, reduce_what_trains
from hfft.layers import LayerStack
from hfft.objectives import OBJECTIVES, Objective, mean_squared_error
from hfft.optim import schedule_factor
from hfft.optim.schedules import SCHEDULES
from hfft.storage.caching import Cache
from hfft.storage.checkpoints import WholeCheckpoints
from hfft.strategies import load_strategy
from hfft.training.loaders import GlobalBatches, require_lengths, require_own_division
from hfft.training.optimizers import layerwise_optimizer_from_arguments
from hfft.training.pushing import ModelPushes
from hfft.training.rates import LayerRates
from hfft.training.rows import ROWS
from hfft.training.sampling import EpochOfSampler
from hfft.training.soft_start import SoftStart
from hfft.training.steps import GuardedSteps
from hfft.training_arguments import FineTuningArguments

_PREPARED = "_is_accelerate_prepared"
_SPEED_METRICS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class FineTuningTrainer(SoftStart, GuardedSteps, GlobalBatches, LayerRates, WholeCheckpoints, ModelPushes):
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
        if given is None and args.uses_layerwise_rates:
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
        require_own_division(args)
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
        require_lengths(args, self.train_dataset)
        self.add_callback(EpochOfSampler())
        if self.unfreezing is None and load_strategy(args.strategy).gradual:
            self.add_callback(GradualUnfreezing(args.epochs_per_group, layer_patterns=args.layer_patterns))
        if args.early_stopping_patience is not None and self.eval_dataset is not None:
            self.add_callback(EarlyStopping(args.early_stopping_patience, unfreezing=self.unfreezing))
        self.describe_rows = describe_rows or (lambda rows: [f"example {row}" for row in rows])
        self.begin_guard()
        self._cache = cache if args.cache_activations else None
        self.loss_needs_rows, self.loss_ignores_stand_ins = self._cache is not None, self._objective is not None
        self._prefix: PrefixInTraining | None = None
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
        if rows is None or self._cache is None or self.encoded is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        if self._prefix is None:
            run = Run(self.state.max_steps, self.steps_per_epoch, self.encoded.views)
            self._prefix = PrefixInTraining(self, self._cache, self.encoded, run)
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

    def prediction_step(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        """Predict a batch as the Trainer does, where it can be with the channels last."""
        # not around the whole loop, in which optimizers and number formats change weights for good
        as_they_lie = is_sharded(self.args) or self.args.torch_compile
        with contextlib.nullcontext() if as_they_lie else channels_last(self.model):
            return super().prediction_step(*args, **kwargs)

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
        name = self.args.schedule_name
        if self.lr_scheduler is None and name in SCHEDULES:
            factor = schedule_factor(name, num_training_steps, options=self.args.lr_scheduler_kwargs)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True  # as the Trainer does: a second train() makes a new one
        return super().create_scheduler(num_training_steps, optimizer)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as the Trainer does; the first process says which checkpoint is the best.

        Each looks by itself whether its folder is there, and one that is late finds it renamed.
        """
        super()._save_checkpoint(model, trial)
        self.state.best_model_checkpoint = from_first_process(self.state.best_model_checkpoint)

    def _is_due(self, is_best: bool) -> bool:
        """Go by the clock of the first process."""
        return from_first_process(super()._is_due(is_best))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as the Trainer does; under FSDP with only that trainable which the saved optimizer has a state of."""
        resumes = checkpoint is not None and self.is_fsdp_enabled and self.unfreezing is not None
        with self.unfreezing.as_saved(self.model, self.state) if resumes else contextlib.nullcontext():  # type: ignore[union-attr]
            super()._load_optimizer_and_scheduler(checkpoint)

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


def freeze_for_good(model: nn.Module, args: FineTuningArguments) -> None:
    """Keep what ``args.freeze`` names from ever training."""
    stack = LayerStack.from_model(model, args.layer_patterns)
    for name in select_parameters(model, stack, args.freeze or []):
        model.get_parameter(name).requires_grad_(False)
