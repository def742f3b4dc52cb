"""Early stopping whose patience survives a resume and starts anew when layers thaw."""

from __future__ import annotations

from typing import Any

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from hfft.callbacks.gradual_unfreezing import GradualUnfreezing


class EarlyStopping(EarlyStoppingCallback):
    """Stops when ``early_stopping_patience`` evaluations in a row have brought no improvement.

    They are compared with each other, not with an evaluation of the start: a solved head may be hard to better, and a
    training that begins from its softened logits first has to come near.

    Args:
        early_stopping_patience: evaluations.
        early_stopping_threshold: what counts as an improvement.
        unfreezing: at each of its thaws the count starts anew, for the new layers warm up first.
    """

    def __init__(
        self,
        early_stopping_patience: int,
        early_stopping_threshold: float = 0.0,
        unfreezing: GradualUnfreezing | None = None,
    ) -> None:
        super().__init__(early_stopping_patience, early_stopping_threshold)
        self.unfreezing = unfreezing
        self.best: float | None = None

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        """Count evaluations without improvement."""
        if state.global_step == 0:
            return
        gain = 0.0 if self.best is None else (metric_value - self.best) * (1 if args.greater_is_better else -1)
        if self.best is None or gain > self.early_stopping_threshold:
            self.best, self.early_stopping_patience_counter = metric_value, 0
        else:
            self.early_stopping_patience_counter += 1

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        kept: dict[str, Any] = super().state()
        kept["attributes"]["best"] = self.best
        return kept

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on with the count of the checkpoint, which the Trainer restores only where it is asked to."""
        super().on_train_begin(args, state, control, **kwargs)
        checkpoint = state.stateful_callbacks = state.stateful_callbacks or {}
        # a checkpoint that was made without patience has no place for it, and the Trainer fails when it saves the next
        stored = checkpoint.setdefault(type(self).__name__, self.state())
        stored = stored[0] if isinstance(stored, list) else stored
        if state.global_step > 0:
            self.early_stopping_patience_counter = stored["attributes"]["early_stopping_patience_counter"]
            self.best = stored["attributes"].get("best", state.best_metric)
        else:
            self.best = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count from zero where a layer group thaws."""
        if self.unfreezing is not None and self.unfreezing.thaws_at(state.global_step):
            self.early_stopping_patience_counter = 0
