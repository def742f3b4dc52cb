"""The commands of ``hfft``; each returns its exit code. What is heavy they import only after their first line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hfft.commands.looking import (
    check_command,
    compare_command,
    demo_command,
    layers_command,
    runs_command,
    tasks_command,
)
from hfft.commands.training import crossval_command, lr_find_command, search_command, train_command
from hfft.commands.using import evaluate_command, export_command, predict_command, push_command

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "crossval": crossval_command,
    "search": search_command,
    "lr-find": lr_find_command,
    "evaluate": evaluate_command,
    "predict": predict_command,
    "compare": compare_command,
    "runs": runs_command,
    "export": export_command,
    "push": push_command,
    "check": check_command,
    "layers": layers_command,
    "tasks": tasks_command,
    "demo": demo_command,
}
