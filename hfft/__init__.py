"""hfft: fine-tune pretrained Hugging Face models on small data, and know how good they are.

Everything public is imported on first use, so that ``import hfft`` (and with it every command's first line)
does not wait for torch and transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfft.arguments import DataArguments, ModelArguments
    from hfft.callbacks import GradualUnfreezing
    from hfft.checking import check
    from hfft.crossval.result import CrossValidationResult
    from hfft.crossval.running import cross_validate
    from hfft.errors import UserError
    from hfft.finetuning import FineTuneResult, finetune
    from hfft.freezing import UnfreezeSchedule
    from hfft.hub import push
    from hfft.layers import LayerGroup, LayerStack
    from hfft.optim import layerwise_optimizer, layerwise_param_groups
    from hfft.range_test import LearningRateTest, lr_find
    from hfft.record import RunRecord
    from hfft.registry import list_tasks, load_task
    from hfft.results.comparing import Comparison, compare
    from hfft.results.evaluating import EvaluationResult, evaluate
    from hfft.results.exporting import export
    from hfft.results.listing import runs
    from hfft.results.prediction import predict
    from hfft.searching import SearchResult, search
    from hfft.strategies import Strategy, list_strategies, load_strategy
    from hfft.task import InputColumn, Task
    from hfft.trainer import FineTuningTrainer
    from hfft.training_arguments import FineTuningArguments

__version__ = "0.1.0"

_MODULE_OF = {
    "Comparison": "results.comparing",
    "CrossValidationResult": "crossval.result",
    "DataArguments": "arguments",
    "EvaluationResult": "results.evaluating",
    "FineTuneResult": "finetuning",
    "FineTuningArguments": "training_arguments",
    "FineTuningTrainer": "trainer",
    "GradualUnfreezing": "callbacks",
    "InputColumn": "task",
    "LayerGroup": "layers",
    "LayerStack": "layers",
    "LearningRateTest": "range_test",
    "ModelArguments": "arguments",
    "RunRecord": "record",
    "SearchResult": "searching",
    "Strategy": "strategies",
    "Task": "task",
    "UnfreezeSchedule": "freezing",
    "UserError": "errors",
    "check": "checking",
    "compare": "results.comparing",
    "cross_validate": "crossval.running",
    "evaluate": "results.evaluating",
    "export": "results.exporting",
    "finetune": "finetuning",
    "layerwise_optimizer": "optim",
    "layerwise_param_groups": "optim",
    "list_strategies": "strategies",
    "list_tasks": "registry",
    "load_strategy": "strategies",
    "load_task": "registry",
    "lr_find": "range_test",
    "predict": "results.prediction",
    "push": "hub",
    "runs": "results.listing",
    "search": "searching",
}

__all__ = [  # noqa: RUF022 (the version stands last)
    "Comparison",
    "CrossValidationResult",
    "DataArguments",
    "EvaluationResult",
    "FineTuneResult",
    "FineTuningArguments",
    "FineTuningTrainer",
    "GradualUnfreezing",
    "InputColumn",
    "LayerGroup",
    "LayerStack",
    "LearningRateTest",
    "ModelArguments",
    "RunRecord",
    "SearchResult",
    "Strategy",
    "Task",
    "UnfreezeSchedule",
    "UserError",
    "check",
    "compare",
    "cross_validate",
    "evaluate",
    "export",
    "finetune",
    "layerwise_optimizer",
    "layerwise_param_groups",
    "list_strategies",
    "list_tasks",
    "load_strategy",
    "load_task",
    "lr_find",
    "predict",
    "push",
    "runs",
    "search",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
