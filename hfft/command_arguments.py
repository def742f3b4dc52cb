"""What cross-validation, search and range test are told beside the arguments of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hfft.errors import UserError
from hfft.values import require_choice, require_range

BACKENDS = ("optuna", "ray")
SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "hyperband", "none")


@dataclass
class CrossValidationArguments:
    """How training examples are divided for cross-validation."""

    folds: int = field(
        default=5, metadata={"help": "Divisions of the training examples, each of which is predicted once."}
    )
    repeats: int = field(default=1, metadata={"help": "How often the examples are dealt into folds anew."})
    keep_models: bool = field(default=False, metadata={"help": "Keep the weights of every fold's model."})
    refit: bool = field(
        default=False,
        metadata={
            "help": "After the folds train one model on every training example, in the folder refit of output_dir; "
            "where no validation split was given, for as many epochs as were best in the median fold."
        },
    )

    def __post_init__(self) -> None:
        require_range(self, "folds", low=2)
        require_range(self, "repeats", low=1)


@dataclass
class SearchArguments:
    """What is searched for the best arguments of a run, and how."""

    trials: int = field(
        default=20, metadata={"help": "Settings that are tried, those that fail included, by all processes together."}
    )
    folds: int | None = field(
        default=None,
        metadata={
            "help": "Judge settings by cross-validation with so many folds of the training examples (default: on the "
            "validation split)."
        },
    )
    space: str | None = field(  # in Python also a mapping
        default=None,
        metadata={
            "help": "YAML file, or JSON, of the arguments that are searched, each with {low, high}, also with step or "
            "log, or with a list of values (default: what suits the strategy)."
        },
    )
    backend: str = field(
        default="optuna", metadata={"help": "What runs the trials: optuna, or ray (Ray Tune, for clusters)."}
    )
    sampler: str = field(
        default="tpe",
        metadata={
            "help": "How settings are chosen: tpe (learns from the trials before), random, or grid (all of them)."
        },
    )
    pruner: str = field(
        default="median",
        metadata={
            "help": "What ends a trial early that evaluates worse than others did: median (of them), hyperband (in ray "
            "its asynchronous form), or none."
        },
    )
    workers: int | None = field(
        default=None,
        metadata={
            "help": "With backend ray: trials at the same time (default: one for each GPU of the cluster, or for each "
            "CPU core)."
        },
    )

    def __post_init__(self) -> None:
        require_range(self, "trials", low=1)
        require_range(self, "folds", low=2)
        require_range(self, "workers", low=1)
        for name, known in (("backend", BACKENDS), ("sampler", SAMPLERS), ("pruner", PRUNERS)):
            require_choice(self, name, known)
        if self.workers is not None and self.backend != "ray":
            raise UserError(
                f"workers has no place with backend {self.backend}: start the command again with --resume, here or on "
                "another machine with the same folder, and both processes share the trials."
            )


@dataclass
class RangeTestArguments:
    """Between which learning rates the range test goes.

    Attributes:
        settled: name -> value of the arguments of a run that are the test's own: it looks at the loss of the training
            batches alone, and writes nothing.
    """

    settled: ClassVar[Mapping[str, Any]] = {
        **dict.fromkeys(("eval_strategy", "save_strategy"), "no"),
        **dict.fromkeys(("load_best_model_at_end", "eval_on_start", "push_to_hub", "resume", "overwrite"), False),
        **dict.fromkeys(("metric_for_best_model", "early_stopping_patience", "metrics", "lr_scheduler_kwargs")),
        **dict.fromkeys(("report_to", "calibration"), "none"),
        **{"logging_strategy": "steps", "logging_steps": 1, "logging_nan_inf_filter": False, "on_nan": "skip"},
        **{"lr_scheduler_type": "constant", "warmup_steps": 0, "disable_tqdm": True},
    }

    lowest_rate: float = field(default=1e-6, metadata={"help": "Learning rate of the head in the first step."})
    highest_rate: float = field(default=1.0, metadata={"help": "Learning rate of the head in the last step."})
    steps: int = field(default=100, metadata={"help": "Optimizer steps of the test."})
    output: str | None = field(default=None, metadata={"help": "Picture to draw (.png, .svg or .pdf)."})

    def __post_init__(self) -> None:
        require_range(self, "lowest_rate", low=0, low_included=False)
        require_range(self, "highest_rate", low=self.lowest_rate, low_included=False)
        require_range(self, "steps", low=10)
