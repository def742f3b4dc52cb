"""Steps that outlive a batch too large for the memory, and that stop at a gradient that is no number."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer
from transformers.trainer_pt_utils import nested_concat

from hfft.errors import UserError, listed
from hfft.layers import LayerStack
from hfft.training.rows import ROWS

logger = logging.getLogger(__name__)

MOST_SKIPPED = 10
"""Steps in a row that ``on_nan skip`` leaves out before it gives up."""


_MOST_OVERFLOWS = 40  # in a row: more often than the scale of fp16 can be halved


class GuardedSteps(Trainer):
    """A Trainer that reads ``auto_batch_size`` and ``on_nan`` of :class:`hfft.FineTuningArguments`.

    Where a micro-batch does not fit into the memory (``auto_batch_size``) it is computed in 2, 4, ... parts from then
    on, and the accumulation window begins anew: the examples of an optimizer step, and so the global batch, stay the
    same. Several ranks divide theirs together, and reduce gradients after the last part.

    Attributes:
        describe_rows: indices of training examples -> what they are called in messages.
    """

    args: Any
    describe_rows: Callable[[list[int]], list[str]]
    loss_needs_rows: bool  # else batches come to it without their numbers, as to a stock Trainer's

    def begin_guard(self) -> None:
        """Forget the training before.

        Raises :class:`UserError` for what cannot be guarded: several devices that hold one model between them, and
        losses of which it is not known how those of the parts add up.
        """
        sharing = "DeepSpeed" if self.is_deepspeed_enabled else "FSDP" if self.is_fsdp_enabled else None
        if self.args.auto_batch_size and sharing is not None:
            raise UserError(f"auto_batch_size has no place under {sharing}, where no process can repeat a step alone.")
        if self.args.auto_batch_size and self.compute_loss_func is None:
            raise UserError("auto_batch_size needs the loss of hfft, and this model computes one of its own.")
        trained = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        if self.args.auto_batch_size and trained and not self.args.freeze_batch_norm:
            raise UserError(
                "auto_batch_size has no place with freeze_batch_norm false: the parts of a batch would have means and "
                "variances of their own."
            )
        if self.args.on_nan == "skip" and sharing == "DeepSpeed":
            raise UserError("on_nan skip has no place under DeepSpeed, which makes the step by itself.")
        self._parts = 1  # of a micro-batch
        self._window: list[Any] = []  # the micro-batches of this optimizer step
        self._losses: list[tuple[list[int], torch.Tensor]] = []  # and the loss of each, beside its rows
        self._skipped: list[int] = []
        self._overflows: list[int] = []  # the newest steps whose gradients fp16 could not hold

    def guard_notes(self) -> list[str]:
        """Return what to tell of the training when it is over."""
        notes = []
        if self._parts > 1:
            notes.append(f"Batches were computed in {self._parts} parts each: the memory did not hold them whole.")
        if self._skipped:
            notes.append(
                f"{len(self._skipped)} of {self.state.global_step} steps were left out (on_nan skip), because their "
                f"gradients were no numbers: {listed(self._skipped)}."
            )
        return notes

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Compute the gradients of a micro-batch as the Trainer does, in parts where the memory asks for it.

        Raises :class:`UserError` for gradients that are no numbers, and where not even one example fits.
        """
        rows = list(inputs.get(ROWS, ())) if isinstance(inputs, MutableMapping) else []
        if rows and not self.loss_needs_rows:
            del inputs[ROWS]
        if self.args.auto_batch_size:
            self._window.append(inputs)
            loss = self._in_parts(model, num_items_in_batch)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses.append((rows, loss))
        if self.accelerator.sync_gradients:
            if self.accelerator.distributed_type != DistributedType.DEEPSPEED:  # whose gradients are not here
                self._require_numbers(model)
            self._window.clear()
            self._losses.clear()
        return loss

    def _in_parts(self, model: nn.Module, num_items: torch.Tensor | int | None) -> torch.Tensor:
        """Compute the newest micro-batch of the window, and where it does not fit the whole window in smaller parts."""
        several = self.args.world_size > 1
        if several and isinstance(model, DistributedDataParallel):
            # it sends buffers before a forward pass, but for one without reduction behind another: a process that ran
            # out of memory in the first would wait for the others here, and they for it elsewhere
            model.require_forward_param_sync = False
        todo = self._window[-1:]
        while True:
            fits = False
            try:
                with self.accelerator.no_sync(model) if several else contextlib.nullcontext():
                    for inputs in todo:
                        loss = self._sum_of_parts(model, inputs, num_items)
                fits = True
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
            # here and not above: the exception held on to the activations
            if self._on_all_ranks(fits):
                break
            self._halve(model)
            todo = self._window
        if several and self.accelerator.sync_gradients:
            self._average_gradients(model)
        return loss

    def _sum_of_parts(self, model: nn.Module, inputs: Any, num_items: torch.Tensor | int | None) -> torch.Tensor:
        # each is a sum over its examples, divided by the number of those of the whole optimizer step
        losses = [Trainer.training_step(self, model, part, num_items) for part in _divided(inputs, self._parts)]
        return torch.stack(losses).sum()

    def _on_all_ranks(self, fits: bool) -> bool:
        if self.args.world_size == 1:
            return fits
        failures = torch.tensor(0.0 if fits else 1.0, device=self.args.device)
        return float(self.accelerator.reduce(failures)) == 0

    def _halve(self, model: nn.Module) -> None:
        largest = max(_size(inputs) for inputs in self._window)
        model.zero_grad()
        clear_device_cache(garbage_collection=True)
        if self._parts >= self.args.per_device_train_batch_size:
            raise UserError(
                f"Step {self.state.global_step + 1}: the memory does not hold one example. Take a smaller model, "
                "shorter texts (--max_length), or --activation_checkpointing true."
            )
        self._parts *= 2
        if self.is_world_process_zero():
            logger.warning(
                "Step %d: out of memory. Batches of %d are computed in %d parts from here on, one after the other; a "
                "step sees the same examples.",
                *(self.state.global_step + 1, largest, self._parts),
            )

    def _average_gradients(self, model: nn.Module) -> None:
        """Do what DistributedDataParallel would have done in the last backward pass."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        used = torch.tensor([float(p.grad is not None) for p in trainable], device=self.args.device)
        for parameter, anywhere in zip(trainable, self.accelerator.reduce(used).tolist(), strict=True):
            if anywhere:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(gradient, reduction="mean")

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Predict a batch as the Trainer does, in halves where the memory asks for it."""
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        except RuntimeError as error:
            size = _size(inputs)
            if not (self.args.auto_batch_size and should_reduce_batch_size(error) and size > 1):
                raise
        clear_device_cache(garbage_collection=True)
        halves = list(_divided(inputs, 2))
        losses, logits, labels = zip(
            *(self.prediction_step(model, half, prediction_loss_only, ignore_keys) for half in halves), strict=True
        )
        shares = [_size(half) / size for half in halves]
        loss = None if losses[0] is None else sum(loss * share for loss, share in zip(losses, shares, strict=True))
        joined = [None if some[0] is None else nested_concat(some[0], some[1]) for some in (logits, labels)]
        return loss, joined[0], joined[1]

    def _require_numbers(self, model: nn.Module) -> None:
        """Stop, or leave the step out, where its gradient is no number.

        Reduced gradients are the same on all ranks, so all of them decide alike.
        """
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if not gradients or math.isfinite(_number(nn.utils.get_total_norm(gradients))):
            return
        batches = [(rows, _number(loss)) for rows, loss in self._losses]
        batches = gather_object(batches) if self.args.world_size > 1 else batches
        lost = [batch for batch in batches if not math.isfinite(batch[1])]
        step = self.state.global_step + 1
        if self.accelerator.scaler is not None and not lost:
            self._overflows = [*self._overflows[-_MOST_OVERFLOWS:], step]
            if len(self._overflows) <= _MOST_OVERFLOWS or self._overflows[0] != step - _MOST_OVERFLOWS:
                return  # the scaler of fp16 has asked for too much; it leaves the step out, and asks for half
        self._skipped.append(step)
        in_a_row = self._skipped[-MOST_SKIPPED:] == list(range(step - MOST_SKIPPED + 1, step + 1))
        if self.args.on_nan == "skip" and not in_a_row:
            if self.accelerator.scaler is None:
                model.zero_grad()  # the optimizer leaves alone what has no gradient
            return
        rows = sorted({row for rows, _ in lost or batches for row in rows})
        examples = f" Its examples: {listed(self.describe_rows(rows), 32)}." if rows else ""
        what = f"the loss is no number ({lost[0][1]})" if lost else "the gradient is no number"
        steps = f"Steps {step - MOST_SKIPPED + 1} to {step}" if in_a_row else f"Step {step}"
        raise UserError(
            f"{steps}: {what}. {self._largest_gradient()}{examples} Lower --learning_rate, or look at these examples"
            + ("." if in_a_row else "; --on_nan skip leaves such steps out.")
        )

    def _largest_gradient(self) -> str:
        """Name the layer group of the largest gradient: of those that are no numbers the one nearest to the output."""
        model = self.accelerator.unwrap_model(self.model)
        parameters = dict(model.named_parameters())
        try:
            stack = LayerStack.from_model(model, self.args.layer_patterns)
        except UserError:  # without an order of its layers a model is trunk and head
            stack = LayerStack.trunk_and_head(model)
        norms = {}
        for group in stack:
            gradients = [g for name in group.parameter_names if (g := parameters[name].grad) is not None]
            norms[group.name] = _number(nn.utils.get_total_norm(gradients)) if gradients else 0.0
        lost = [name for name, norm in norms.items() if not math.isfinite(norm)]
        if len(lost) == len(norms):
            return "The gradients of all layer groups are no numbers."
        largest = lost[-1] if lost else max(norms, key=lambda name: norms[name])
        return f"The largest gradient is in the layer group {largest} ({norms[largest]})."


def _number(tensor: torch.Tensor) -> float:
    """Return the number that a tensor, whole or divided over ranks, holds."""
    return float(getattr(tensor, "full_tensor", lambda: tensor)())


def _size(inputs: Any) -> int:
    """Return the number of examples in a batch."""
    return next((len(value) for value in inputs.values() if isinstance(value, torch.Tensor) and value.dim()), 0)


def _divided(inputs: Any, parts: int) -> Iterator[dict[str, Any]]:
    """Yield at most so many parts of a batch, of equal size but for the last."""
    size = _size(inputs)
    length = max(1, math.ceil(size / parts))
    of_examples = {
        name
        for name, value in inputs.items()
        if (isinstance(value, list) or (isinstance(value, torch.Tensor) and value.dim())) and len(value) == size
    }
    for start in range(0, max(1, size), length):
        yield {name: value[start : start + length] if name in of_examples else value for name, value in inputs.items()}
