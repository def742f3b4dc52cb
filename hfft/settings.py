"""From the settings of a run, name -> value, to its arguments."""

from __future__ import annotations

import dataclasses
from typing import Any

from hfft.arguments import DataArguments, ModelArguments
from hfft.errors import UserError, nearest
from hfft.training_arguments import REPLACED, FineTuningArguments


def given_settings(**settings: Any) -> dict[str, Any]:
    """Return what was given: an argument that is ``None`` is left at its default."""
    return {name: value for name, value in settings.items() if value is not None}


def split_settings(settings: dict[str, Any]) -> tuple[ModelArguments, DataArguments, dict[str, Any]]:
    """Sort settings into model, data and training arguments; the latter stay a dict, for task defaults to go below.

    Raises :class:`UserError` for a name that is no argument, and for bad values of model and data.
    """
    names = {
        kind: {f.name for f in dataclasses.fields(kind) if f.init}
        for kind in (ModelArguments, DataArguments, FineTuningArguments)
    }
    known = set().union(*names.values())
    for name in settings:
        if name not in known:
            raise UserError(f"There is no argument '{name}'.{nearest(name, known)}")
        if name in REPLACED:
            raise UserError(f"{name} has no place in a run of hfft: {REPLACED[name]}.")
    own = {kind: {n: v for n, v in settings.items() if n in names[kind]} for kind in names}
    return (
        ModelArguments(**own[ModelArguments]),
        DataArguments(**own[DataArguments]),
        own[FineTuningArguments],
    )


def training_arguments(settings: dict[str, Any]) -> FineTuningArguments:
    """Build the training arguments; what transformers refuses is a :class:`UserError` as well.

    Checkpoints are saved as often as is evaluated where only that was given, and without evaluations none is the best.
    """
    evaluates = settings.get("eval_strategy")
    if evaluates == "no":
        settings = {"load_best_model_at_end": False, **settings}
    elif evaluates is not None and "save_strategy" not in settings:
        steps = {"save_steps": settings["eval_steps"]} if "eval_steps" in settings else {}
        settings = {"save_strategy": evaluates, **steps, **settings}
    try:
        return FineTuningArguments(**settings)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"The training arguments do not fit: {' '.join(str(error).split())}") from error


def with_implied(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with what they imply: where nothing is chosen by validation, every example is trained on."""
    chooses = training_arguments(split_settings(settings)[2]).chooses
    return settings if chooses else {"validation_size": 0.0, **settings}
