"""What may be otherwise where something is gone on with (``resume``), and what differs in what may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# The weights of a checkpoint depend on these: with another value it would belong to another run.
_CHECKPOINT_DEPENDS_ON = frozenset(
    {
        *("task", "model", "revision", "data", "strategy", "layer_decay", "learning_rate", "head_learning_rate"),
        *("seed", "validation_size", "test_size", "text_column", "text_pair_column", "image_column", "label_column"),
        *(
            "columns",
            "group_column",
            "pooling",
            "head_start",
            "head_solver",
            "head_penalty",
            "learn_class_names",
            "freeze",
            "epochs_per_group",
            "layer_patterns",
        ),
        *("lr_multipliers", "lr_scheduler_type", "max_length", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "optim", "weight_decay", "image_size", "crop_pct", "crop_mode"),
        *("dropout", "drop_path_rate", "patch_drop_rate"),
        *("lora_rank", "lora_alpha", "lora_dropout", "lora_plus_ratio"),
        *("adapter_config", "adapter_targets", "adapter_layers", "load_in_4bit"),
    }
)
# No result depends on these.
_NO_RESULT_DEPENDS_ON = frozenset(
    {
        *("output_dir", "auto_batch_size", "per_device_eval_batch_size", "cache_dir", "cache_budget", "disable_tqdm"),
        *("report_to", "run_name", "keep_models", "refit", "save_seconds", "save_total_limit", "on_nan"),
    }
)
_OF_NO_RESULT = ("dataloader_", "logging_", "ddp_")


def binds_checkpoint(name: str) -> bool:
    """Say whether a run can go on from a checkpoint only with the same value of a setting."""
    return name in _CHECKPOINT_DEPENDS_ON


def binds_result(name: str) -> bool:
    """Say whether a result that is done stands beside others only with the same value of a setting."""
    return name not in _NO_RESULT_DEPENDS_ON and not name.startswith(_OF_NO_RESULT)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], binds: Callable[[str], bool]) -> list[str]:
    """Return what differs between two sets of settings in what binds, a clause each, by name."""
    names = sorted(name for name in old.keys() | new.keys() if binds(name) and old.get(name) != new.get(name))
    return [f"{name} was {old.get(name)}, now {new.get(name)}" for name in names]
