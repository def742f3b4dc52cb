"""One progress bar for the whole training, with the newest losses; a line for each evaluation where no one watches."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hfft.callbacks.gradual_unfreezing import GradualUnfreezing
from hfft.terminal import progress_bar


class TrainingProgress(TrainerCallback):
    """Shows steps, epoch and losses on a rich console; quiet on every process but the first."""

    def __init__(self, console: Console, headline_metric: str, unfreezing: GradualUnfreezing | None = None) -> None:
        self._console = console
        self._unfreezing = unfreezing
        self._metric = headline_metric
        self._bar: Progress | None = None
        self._row: TaskID | None = None
        self._train_loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        if state.is_world_process_zero:
            self._bar = progress_bar(self._console)
            self._row = self._bar.add_task("Training", total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say what trains, where that changes."""
        if self._bar is None or self._row is None or self._unfreezing is None:
            return
        trains = self._unfreezing.describe(state.global_step)
        self._bar.update(self._row, description=f"Training ({trains})")
        if self._unfreezing.thaws_at(state.global_step):
            self._console.print(f"  epoch {state.epoch or 0:.4g}/{args.num_train_epochs:g}  {trains} from here on")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move on."""
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the training loss, which is logged apart from the evaluation."""
        self._train_loss = (logs or {}).get("loss", self._train_loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the losses and the headline metric of the validation split."""
        if self._bar is None or not metrics:
            return
        parts = [f"epoch {state.epoch or 0:.4g}/{args.num_train_epochs:g}"]
        if self._train_loss is not None:
            parts.append(f"training loss {self._train_loss:.4f}")
        parts += [
            f"validation {name.replace('_', ' ')} {metrics[key]:.4f}"
            for name in ("loss", self._metric)
            if (key := f"eval_{name}") in metrics
        ]
        self._console.print("  " + "  ".join(parts))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
