"""Recipes: the settings that make a run again, from any folder, as YAML knows them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hfft.arguments import column_settings
from hfft.data import LabelledData
from hfft.task import Task
from hfft.training_arguments import FineTuningArguments

# What another version of hfft might choose otherwise stands in run.yaml, also where nobody asked for it.
_RECORDED_DEFAULTS = (
    *("strategy", "layer_decay", "learning_rate", "head_learning_rate", "num_train_epochs", "weight_decay"),
    *("warmup_steps", "seed", "per_device_train_batch_size", "augment", "freeze_batch_norm", "lr_scheduler_type"),
    *("train_sampling_strategy", "precision", "learn_class_names"),
    *("lora_rank", "lora_alpha", "lora_dropout", "adapter_config"),
)


def rerunnable(
    settings: dict[str, Any], task: Task, data: LabelledData, chosen: dict[str, Any], args: FineTuningArguments
) -> dict[str, Any]:
    """Return the settings that make this run again, from any folder, also where the defaults will have changed."""
    resolved = {name: getattr(args, name) for name in _RECORDED_DEFAULTS}
    named = {"task": task.name, "problem_type": data.target.problem_type}
    return recipe({**settings, **named, **column_settings(data.columns), **chosen, **resolved})


def recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without what belongs to one start, and without data in memory, which have no name to be read by.

    Paths of what is there are such that they are found from any folder; a task is called by its name.
    """
    kept = {name: value for name, value in from_anywhere(settings).items() if value is not None}
    if not isinstance(kept.get("data"), str | Path):
        kept.pop("data", None)
    return {name: plain(value) for name, value in kept.items() if not is_of_once(name)}


def from_anywhere(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the paths of what is there such that they are found from any folder."""
    there = {
        name: str(Path(value).absolute())
        for name in ("data", "model", "cache_dir", "adapter_config")
        if isinstance(value := settings.get(name), str | Path) and os.path.exists(value)  # noqa: PTH110  (of a text too long for a name Path raises)
    }
    return {**settings, **there}


def is_of_once(name: str) -> bool:
    """Say whether a setting belongs to this one start of a run: a run made again is not to be pushed over the first."""
    return name in ("resume", "overwrite", "push_to_hub") or name.startswith("hub_")  # a token among them


def plain(value: Any) -> Any:
    """Return a value as YAML knows it: NumPy scalars, enumerations, paths and tasks are of other libraries."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Task) or (isinstance(value, type) and issubclass(value, Task)):
        return value.name
    value = getattr(value, "value", value)
    value = value.item() if isinstance(value, np.generic) else value
    return str(value) if isinstance(value, Path) else value
