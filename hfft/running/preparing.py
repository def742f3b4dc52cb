"""A pretrained model on its way to its first training step: the same for a run, a trial and a range test."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress
from transformers import set_seed

from hfft.adapters.models import add_adapters
from hfft.adapters.quantizing import quantize
from hfft.arguments import ModelArguments
from hfft.data import LabelledData
from hfft.data.prepared import encoded
from hfft.data.split_names import LABEL
from hfft.errors import UnsolvableHeadError, UserError
from hfft.failures import computing
from hfft.features.extraction import model_inputs
from hfft.features.start import MODEL, Start, start_from
from hfft.hardware.launching import is_zero3
from hfft.loading import load_config
from hfft.running.loading_models import keep_needed_architecture, load_model
from hfft.running.reading import require_like_machines
from hfft.running.settling import Measure, measure_function, require_use, settle, task_defaults
from hfft.settings import split_settings, training_arguments
from hfft.storage.caching import Cache, cache_folder
from hfft.strategies import load_strategy
from hfft.targets import Regression
from hfft.task import Task
from hfft.terminal import progress_bar
from hfft.training_arguments import FineTuningArguments

SMALLER_BATCHES = "Lower --per_device_eval_batch_size: no result depends on it."


@dataclass
class Preparation:
    """A pretrained model on its way to its first training step, and all that it is prepared by.

    :func:`prepare` makes it. Then come :meth:`start` and :meth:`adapt`, in this order.

    Attributes:
        task, data: of the run.
        model_arguments, args: of the run, settled by task, data and strategy.
        chosen: name -> value of the training arguments that were given, or are defaults of the task.
        measure: the metrics.
        cache: of what is computed once.
        console: tells of it.
        model, processor: as they stand by now.
        whole: the model in full precision, which waits where ``model`` holds layers in 4 bits.
        notes: what was decided on the way, a sentence each.
    """

    task: Task
    data: LabelledData
    model_arguments: ModelArguments
    args: FineTuningArguments
    chosen: dict[str, Any]
    measure: Measure
    cache: Cache
    console: Console
    model: Any
    processor: Any
    whole: Any
    notes: list[str]

    def start(self) -> Start:
        """Hold layers in 4 bits where the run asks for it, and give the head its start, as the strategy says."""
        with computing(SMALLER_BATCHES):
            if self.args.load_in_4bit:
                self.model, told = quantize(self.whole, self.args, self.few_inputs())
                self.notes.insert(0, told)
            start = self._start_head()
        if self.model is not self.whole and start.pooling != MODEL:
            self.task.pool(self.whole, start.pooling)
        self.notes += start.notes
        return start

    def _start_head(self) -> Start:
        """Give the head its start: the one that it has where the strategy may choose and there is none to be solved."""
        args, pooling = self.args, self.model_arguments.pooling
        if not (load_strategy(args.strategy).cautious and args.starts_solved):
            return start_head(self, pooling, args.starts_solved)
        asked = args.head_start == "solved" or args.head_penalty is not None or args.head_solver != "auto"
        why = None if asked else self._why_not_solved()
        if why is None:
            data = self.data
            if "validation" in data.drawn:  # whose features are needed, too
                data = dataclasses.replace(data, pool=data.put_back().pool)
            try:
                return start_head(dataclasses.replace(self, data=data), pooling, solved=True)
            except UnsolvableHeadError as error:
                if asked:
                    raise
                why = f"the head starts at random: {error.reason}"
        args.head_start, args.eval_on_start = "random", bool(self.chosen.get("eval_on_start", False))
        start = start_head(self, pooling, solved=False)
        return dataclasses.replace(start, notes=[*start.notes, why])

    def _why_not_solved(self) -> str | None:
        """Return why a strategy that may choose solves no head here, as a sentence, or ``None``."""
        config, args = load_config(self.model_arguments), self.args
        has_head = type(self.model).__name__ in (config.architectures or [type(self.model).__name__])
        if has_head and self.data.target.matches(config):
            return "the head stays as it is: it was trained on the same target."
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        examples = len(self.data.splits["train"])
        seen = args.max_steps * step if args.max_steps > 0 else args.num_train_epochs * examples
        if seen < examples:
            return "the head starts at random: to solve it takes longer than to train for less than an epoch."
        return None

    def adapt(self) -> None:
        """Put the adapters that the strategy trains into the model."""
        if load_strategy(self.args.strategy).adapter is not None:
            with computing(SMALLER_BATCHES):
                self.model, told = add_adapters(self.model, self.args, self.few_inputs())
            self.notes += told

    def few_inputs(self) -> dict[str, Any]:
        """Return a batch of two training examples without labels, or of the only one, on the model's device."""
        split = self.data.splits["train"].remove_columns([LABEL])
        encoder = self.task.encoder(self.processor, training=False)
        examples = encoded(split.select(range(min(2, len(split)))), encoder, None, seed=0)
        batch = self.task.collator(self.processor)([examples[row] for row in range(len(examples))])
        return model_inputs(batch, next(self.model.parameters()).device)

    def how_to_compute(self, bar: Progress) -> dict[str, Any]:
        """Return how features are computed, and kept, as :class:`hfft.features.start.Features` takes it."""
        return {
            "cache": self.cache,
            "batch_size": self.args.per_device_eval_batch_size,
            "precision": str(self.args.precision),
            "track": lambda items, n, what: bar.track(items, n, description=what),
            "share": (self.args.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
        }


def prepare(task: Task, data: LabelledData, settings: dict[str, Any], console: Console) -> Preparation:
    """Settle the arguments of a training, and load its model.

    Args:
        task, data: of the run; the target's unit is settled with the model.
        settings: any argument of a run.
        console: tells of it.

    Raises:
        UserError: for what does not fit the data, the model or the launcher.
    """
    model_arguments, data_arguments, chosen = split_settings(settings)
    chosen = {**task_defaults(task, chosen), **chosen}
    args = training_arguments(chosen)
    require_use(model_arguments, args)
    if args.world_size > 1:
        require_like_machines(data, args)
    kept = keep_needed_architecture(model_arguments, args)
    if is_zero3() and data.target.problem_type == Regression.problem_type:
        raise UserError(
            "Numbers cannot be trained with ZeRO stage 3: their unit is folded into the last layer, of which no "
            "process has the whole. Take stage 2 or FSDP2."
        )
    measure = measure_function(data.target, args)
    settle(args, task, data, measure, chosen)
    set_seed(args.seed)  # the head is drawn here
    model, processor = load_model(task, model_arguments, data, console, args)
    cache = Cache(cache_folder(data_arguments.cache_dir), round(data_arguments.cache_budget * 1e9))
    return Preparation(
        *(task, data, model_arguments, args, chosen, measure, cache, console, model, processor),
        whole=model,
        notes=[kept] if kept is not None and len(task.poolings(model)) > 1 else [],
    )


def start_head(prepared: Preparation, pooling: str, solved: bool, penalty: float | None = None) -> Start:
    """Let the head of the model read the trunk as asked, and solve it where ``solved`` says so, in place.

    ``penalty`` is that of the head, in the place of the one that the arguments name or cross-validation chooses.
    """
    args = prepared.args
    with progress_bar(prepared.console) as bar, computing(SMALLER_BATCHES):
        return start_from(
            prepared.task,
            prepared.model,
            prepared.processor,
            prepared.data,
            solved_head=solved,
            pooling=pooling,
            solver=args.head_solver,
            penalty=args.head_penalty if penalty is None else penalty,
            learn_class_names=args.learn_class_names,
            seed=args.seed,
            device=args.device,
            **prepared.how_to_compute(bar),
        )
