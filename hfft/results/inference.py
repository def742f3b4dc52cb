"""A fine-tuned model that answers, with the preprocessing that it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from hfft.arguments import DataArguments, ModelArguments, names_columns
from hfft.data import Source
from hfft.data.inspecting import Track
from hfft.data.prepared import encoded
from hfft.data.split_names import LABEL
from hfft.errors import UserError, listed
from hfft.failures import computing
from hfft.hardware.memory_format import channels_last
from hfft.loading import load_config
from hfft.registry import load_task, task_for_config
from hfft.run_folder import RUN_FILE, is_run
from hfft.settings import split_settings
from hfft.targets import Target, target_of_config
from hfft.task import Task
from hfft.yaml_settings import read_yaml


@dataclass
class Classifier:
    """A fine-tuned model, ready to answer."""

    task: Task
    model: Any
    processor: Any
    target: Target

    @classmethod
    def load(cls, arguments: ModelArguments, task: str | Task | None = None) -> Classifier:
        """Load a folder that ``hfft train`` wrote, or any checkpoint of that kind."""
        config = load_config(arguments)
        chosen = load_task(task) if task is not None else task_for_config(config)
        if not chosen.supports(config):
            raise UserError(
                f"--model: '{arguments.model}' is a {config.model_type} model, which cannot do {chosen.name}."
            )
        chosen.require_known(arguments)
        model, processor = chosen.load(arguments, config, None)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return cls(chosen, model.to(device or "cpu").eval(), processor, target_of_config(model.config))

    def outputs(self, examples: Any, batch_size: int, track: Track | None = None) -> np.ndarray:
        """Return probabilities, or numbers, a row for each of a data set with the task's input columns.

        Inputs are made as the run made those that it tested on. Examples of like length share a batch.
        """
        inputs_alone = examples.select_columns([name for name in examples.column_names if name != LABEL])
        encoded_examples = encoded(inputs_alone, self.task.encoder(self.processor, training=False), None, seed=0)
        lengths = getattr(encoded_examples, "lengths", None)
        order = np.arange(len(examples)) if lengths is None else np.argsort(lengths, kind="stable")
        batches = [rows.tolist() for rows in np.split(order, range(batch_size, len(order), batch_size))]
        collate = self.task.collator(self.processor)
        loader: Any = DataLoader(encoded_examples, batch_sampler=batches, collate_fn=collate)
        logits = []
        with (
            channels_last(self.model),
            torch.inference_mode(),
            computing("Lower --batch_size: no result depends on it."),
        ):
            for batch in loader if track is None else track(loader, len(batches), "Predicting"):
                inputs = {name: value.to(self.model.device) for name, value in batch.items() if name != "labels"}
                logits.append(self.model(**inputs).logits.float().cpu().numpy())
        found = np.concatenate(logits)
        return self.target.outputs(found[np.argsort(order, kind="stable")])


def sort_settings(settings: Mapping[str, Any], **given: Any) -> tuple[ModelArguments, DataArguments]:
    """Return what settings say of model and data; raises :class:`UserError` for what belongs to training."""
    model_arguments, data_arguments, others = split_settings({**settings, **given})
    if of_training := [*others, *model_arguments.rates()]:
        raise UserError(f"{listed(of_training)} belongs to training, and has no place here.")
    return model_arguments, data_arguments


def columns_of_run(run: dict[str, Any] | None, source: Source) -> dict[str, str]:
    """Return role -> column as the model's run read them, as far as this table has such columns."""
    columns = DataArguments(**{n: v for n, v in (run or {}).items() if names_columns(n)}).named_columns()
    return {role: column for role, column in columns.items() if column in source.column_names}


def settings_of_run(model: str) -> dict[str, Any] | None:
    """Return the settings of the run that made the model, or ``None`` where it lies alone."""
    folder = Path(model)
    return read_yaml(folder / RUN_FILE) if is_run(folder) else None
