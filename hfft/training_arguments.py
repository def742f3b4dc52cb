"""FineTuningArguments: transformers' TrainingArguments with the defaults and options of fine-tuning on small data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments

from hfft.hardware.launching import is_sharded
from hfft.hardware.precision import BF16, FP16, resolve_precision
from hfft.optim.factory import IN_TRANSFORMERS, require_known_optimizer
from hfft.optim.schedules import SCHEDULES, require_known
from hfft.strategies import DEFAULT_STRATEGY, load_strategy
from hfft.training_checks import require_meant, require_possible

# Fields of TrainingArguments that a run of hfft has no use for, and what to use instead.
REPLACED = {
    "do_train": "`hfft train` trains",
    "do_eval": "the validation split is evaluated after every epoch unless eval_strategy says otherwise",
    "do_predict": "the test split is always predicted at the end",
    "resume_from_checkpoint": "use resume",
    "remove_unused_columns": "hfft's collators need the raw columns",
    "label_names": "the label column is chosen with label_column",
    "use_liger_kernel": "hfft does not patch models",
    "debug": "--debug shows tracebacks here",
    "prediction_loss_only": "hfft reports metrics",
    "batch_eval_metrics": "hfft's metrics need the whole split",
    "include_for_metrics": "hfft's metrics need nothing else",
    "eval_use_gather_object": "hfft gathers logits",
    "eval_do_concat_batches": "hfft's metrics need the whole split",
    "auto_find_batch_size": "use auto_batch_size, which keeps the examples of a step and does not begin the run anew",
}


@dataclass
class FineTuningArguments(TrainingArguments):
    """Training arguments of a fine-tuning run; every field of transformers' TrainingArguments keeps its name.

    Raises :class:`hfft.UserError` for values that cannot be meant (negative rates, NaN, an unknown strategy), and for a
    launcher, FSDP or DeepSpeed that would train something else than what was asked for.
    """

    output_dir: str | None = field(default="out", metadata={"help": "Folder that the run is written to."})
    strategy: str = field(
        default=DEFAULT_STRATEGY,
        metadata={
            "help": "What is trained when: linear-probe (the head alone, solved on the frozen trunk's features), lp-ft "
            "(the same, and then all layers), auto (the same, but the solved head ships where training has "
            "bettered nothing on the validation split), full (all layers from the first step), "
            "gradual (the head first, then layer by layer from the top), or from a solved head adapters beside frozen "
            "layers: lora, dora, ia3, or peft (what adapter_config says)."
        },
    )
    head_start: str = field(
        default="auto",
        metadata={
            "help": "How the new head starts: solved (on the frozen trunk's features), random, or auto: solved but for "
            "the strategy full, and for auto where the model knows the classes or is sharded. FineTuningTrainer alone "
            "starts from the head that the model has."
        },
    )
    head_solver: str = field(
        default="auto",
        metadata={
            "help": "How a head is solved: logistic (regression), svm, ridge or prototypes (default: logistic, and "
            "ridge for numbers)."
        },
    )
    head_penalty: float | None = field(
        default=None,
        metadata={
            "help": "Penalty on the squared weights of a solved head, on features scaled to a mean squared norm of 1 "
            "(default: chosen by cross-validation on the training split)."
        },
    )
    learn_class_names: bool = field(
        default=True,
        metadata={
            "help": "Let a solved head learn from the names of the classes as from two texts of each, where classes "
            "have 64 texts or fewer on average and that lowers the cross-validated loss."
        },
    )
    layer_decay: float = field(
        default=0.75,
        metadata={
            "help": "Factor between the learning rates of neighbouring layer groups, from the head down; "
            "1 gives every layer the same rate."
        },
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the new head (default: learning_rate)."}
    )
    epochs_per_group: float | None = field(
        default=None,
        metadata={
            "help": "With strategy gradual: epochs until the next layer group thaws, fractions allowed (default: all "
            "are thawed by half of the run)."
        },
    )
    freeze: list[str] | None = field(
        default=None,
        metadata={
            "help": "What never trains: a number of layer groups from the input, names of layer groups (see `hfft "
            "layers`), or regular expressions of parameter names."
        },
    )
    cache_activations: bool = field(
        default=True,
        metadata={
            "help": "Compute what frozen layers give for an example once, and start training steps from it; losses are "
            "the same up to rounding. Needs training inputs that do not change: augment none, or cached_views."
        },
    )
    cached_views: int | None = field(
        default=None,
        metadata={
            "help": "With random changes to training inputs: how many views of each example are drawn, which the "
            "epochs then see in turns, so that what frozen layers give for them is computed once (default: a new view "
            "in each epoch)."
        },
    )
    lr_multipliers: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Regular expressions of parameter names and what their learning rate is multiplied by, as JSON: "
            '{"embeddings": 0}.'
        },
    )
    lora_rank: int | None = field(default=None, metadata={"help": "Rank of LoRA and DoRA adapters (default: 8)."})
    lora_alpha: int | None = field(
        default=None,
        metadata={"help": "What LoRA adapters add is multiplied by lora_alpha / lora_rank (default: twice the rank)."},
    )
    lora_dropout: float | None = field(
        default=None,
        metadata={"help": "Share of the inputs of LoRA adapters that is dropped in training (default: 0)."},
    )
    lora_plus_ratio: float | None = field(
        default=None,
        metadata={
            "help": "LoRA+: learning rate of the matrices B as a multiple of that of A, such as 16 (default: 1)."
        },
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={
            "help": "QLoRA: hold the linear layers between stem and head in 4 bits (NF4) while LoRA, DoRA or (IA)3 "
            "adapters train; what ships is in full precision. Needs bitsandbytes (extra quantize)."
        },
    )
    adapter_config: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "A PEFT configuration: a YAML or JSON file, or JSON, with peft_type and fields of that type; with "
            "lora, dora and ia3 further fields alone."
        },
    )
    adapter_targets: list[str] | None = field(
        default=None,
        metadata={
            "help": "Regular expressions of the modules that get adapters (default: all linear layers, and "
            "convolutions that mix all channels, between stem and head)."
        },
    )
    adapter_layers: str | None = field(
        default=None,
        metadata={
            "help": "Which layer groups between stem and head get adapters: 4 for the last four, 6-11 for a range "
            "counted from 0 at the input (default: all)."
        },
    )
    keep_adapter: bool = field(
        default=False,
        metadata={
            "help": "Also write the adapters by themselves, to the folder adapter in output_dir, for "
            "PeftModel.from_pretrained on the base model."
        },
    )
    precision: str | None = field(
        default=None,
        metadata={
            "help": "Number format: fp32, bf16, fp16 (mixed with fp32), or auto: bf16 where the device has "
            "instructions for it (GPUs; CPUs with AMX or AVX512-BF16), else fp32 (default: what bf16 and fp16 say)."
        },
    )
    layer_patterns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Order of the layers, for a model whose order cannot be derived: regular expressions of parameter "
            "names, input first, head last; a (group) in one makes a layer of each text that it captures."
        },
    )
    augment: str = field(
        default="auto",
        metadata={"help": "Random changes to training inputs: auto, none, and for images light, medium, strong."},
    )
    auto_batch_size: bool = field(
        default=False,
        metadata={
            "help": "Where a batch does not fit into the memory, compute it in 2, 4, ... parts, one after the other: a "
            "step still sees the same examples. Several devices then reduce gradients after the backward pass."
        },
    )
    on_nan: str = field(
        default="error",
        metadata={
            "help": "What to do about a step whose gradient is no number: error, or skip, which leaves the step out "
            "(at most 9 in a row)."
        },
    )
    calibration: str = field(
        default="none",
        metadata={
            "help": "What makes probabilities honest after training: none, or temperature: the logits are divided by "
            "the number that gives the least log loss on the validation split, folded into the last layer."
        },
    )
    metrics: list[str] | None = field(
        default=None,
        metadata={
            "help": "More metrics of the `evaluate` library, by name or path of a local script, options behind "
            "a colon: f1:average=macro."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Evaluations without improvement on the validation split after which training stops."},
    )
    resume: bool = field(
        default=False,
        metadata={"help": "Go on from the newest checkpoint in output_dir (from the start where there is none)."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the run that output_dir holds."})

    freeze_batch_norm: bool = field(
        default=True,
        metadata={
            "help": "Keep the running mean and variance of BatchNorm layers as they were pretrained: few examples "
            "estimate them badly. Turn off to train from random weights."
        },
    )

    # The defaults below differ from transformers'.
    learning_rate: float = field(
        default=2e-4, metadata={"help": "Peak learning rate of the head (default: what suits the task)."}
    )
    lr_scheduler_type: str = field(
        default="linear",
        metadata={
            "help": "Learning-rate schedule: linear, cosine, cosine_with_restarts, constant, ... of transformers, or "
            "slanted_triangular, one_cycle, triangular, triangular2, exp_range; options in lr_scheduler_kwargs."
        },
    )
    optim: str = field(
        default=TrainingArguments.default_optim,
        metadata={
            "help": "Optimizer: a name of transformers (adamw_torch, adafactor, ...), of torch (sgd, nadam, ...) or of "
            "timm's registry (lamb, lion, ...); options in optim_args: momentum=0.9,nesterov=True."
        },
    )
    num_train_epochs: float = field(
        default=5.0,
        metadata={"help": "Passes over the training split (default: 5, or as many as make 400 steps, at most 40)."},
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Training batch size on each device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Evaluation batch size on each device."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay (not on biases and norms)."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of linear warm-up; below 1 the share of all steps."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps, epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, steps, epoch, best."})
    save_seconds: float = field(
        default=30.0,
        metadata={
            "help": "With save_strategy epoch: least seconds from one checkpoint to the next. The first, the best and "
            "the last are saved in any case; with 0 all are."
        },
    )
    save_total_limit: int | None = field(
        default=1, metadata={"help": "Newest checkpoints that are kept while training, beside the best one."}
    )
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, steps, epoch."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Ship the checkpoint that was best on the validation split."}
    )
    metric_for_best_model: str | None = field(
        default="loss", metadata={"help": "Validation metric that decides which checkpoint is best."}
    )
    push_to_hub: bool = field(
        default=False,
        metadata={
            "help": "Push the finished model with its card to the Hub, as `hfft push` does: to hub_model_id, with "
            "hub_token, hub_private_repo and hub_revision. Report and predictions stay here."
        },
    )
    hub_strategy: str = field(default="end", metadata={"help": "Always end: what is pushed is the finished model."})
    disable_tqdm: bool | None = field(default=False, metadata={"help": "Show no progress."})
    report_to: str | None = field(
        default="none",
        metadata={
            "help": "Trackers: none, tensorboard, wandb, mlflow, trackio, all that are installed, or another one of "
            "transformers. They get log, metrics, settings and report.html, which shows examples of the data."
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always false: see hfft's collators."})

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [
        *TrainingArguments._VALID_DICT_FIELDS,
        "lr_multipliers",
        "adapter_config",
    ]

    def __post_init__(self) -> None:
        for name in ("freeze", "layer_patterns"):
            value = getattr(self, name)
            if isinstance(value, str | int):
                setattr(self, name, [str(value)])
        require_meant(self)
        if not torch.accelerator.is_available():
            # Without this several ranks would each train a model of their own, and report no error.
            self.use_cpu = True
        if self.use_cpu:
            self.dataloader_pin_memory = False
        device_type = "cpu" if self.use_cpu else torch.accelerator.current_accelerator().type  # type: ignore[union-attr]
        self.precision = resolve_precision(self.precision, bf16=self.bf16, fp16=self.fp16, device_type=device_type)
        self.bf16: bool = self.precision == BF16
        self.fp16: bool = self.precision == FP16
        self._beside_own_names()
        require_possible(self)
        if self.n_gpu > 1:
            # One process that feeds several GPUs (DataParallel) is slower than one GPU more often than not.
            self._n_gpu = 1

    def _beside_own_names(self) -> None:
        """Let transformers check its own fields; it refuses the optimizers and schedules that hfft has beside its."""
        own: dict[str, str] = {}
        schedule, optimizer = self.schedule_name, str(getattr(self.optim, "value", self.optim))
        require_known(schedule)
        if schedule in SCHEDULES:
            own["lr_scheduler_type"], self.lr_scheduler_type = schedule, "linear"
        require_known_optimizer(optimizer)
        if optimizer not in IN_TRANSFORMERS:
            own["optim"], self.optim = optimizer, "adamw_torch"
        super().__post_init__()
        for name, value in own.items():
            setattr(self, name, value)

    @property
    def chooses(self) -> bool:
        """Whether anything is chosen on the validation split."""
        return load_strategy(self.strategy).trains or self.calibration != "none"

    @property
    def starts_solved(self) -> bool:
        """Whether the new head is solved before anything is trained."""
        if self.head_start != "auto":
            return self.head_start == "solved"
        strategy = load_strategy(self.strategy)
        return strategy.solved_head and not (strategy.cautious and is_sharded(self))  # no process could go back to it

    @property
    def uses_layerwise_rates(self) -> bool:
        """Whether the layers have learning rates of their own."""
        given = (self.head_learning_rate, self.layer_patterns, self.lr_multipliers)
        strategy = load_strategy(self.strategy)
        # gradual unfreezing needs groups of one layer each: a group's rate depends on when its layer thaws
        wanted = self.layer_decay != 1 or strategy.gradual or self.optim not in IN_TRANSFORMERS
        wanted = wanted or strategy.adapter is not None or any(value is not None for value in given)
        return wanted and strategy.layerwise

    @property
    def schedule_name(self) -> str:
        """The name of the learning-rate schedule, which transformers keeps as an enumeration."""
        return str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
