"""The commands of ``hfft``; each returns its exit code. What is heavy they import only after their first line."""

from __future__ import annotations

from hfft.commands import looking, training, using
from hfft.commands.frame import Command

COMMANDS: dict[str, Command] = {
    "train": Command(training.train_parser, training.train_command),
    "crossval": Command(training.crossval_parser, training.crossval_command),
    "search": Command(training.search_parser, training.search_command),
    "lr-find": Command(training.lr_find_parser, training.lr_find_command),
    "evaluate": Command(using.evaluate_parser, using.evaluate_command),
    "predict": Command(using.predict_parser, using.predict_command),
    "compare": Command(looking.compare_parser, looking.compare_command),
    "runs": Command(looking.runs_parser, looking.runs_command),
    "export": Command(using.export_parser, using.export_command),
    "push": Command(using.push_parser, using.push_command),
    "check": Command(looking.check_parser, looking.check_command),
    "layers": Command(looking.layers_parser, looking.layers_command),
    "tasks": Command(looking.tasks_parser, looking.tasks_command),
    "demo": Command(looking.demo_parser, looking.demo_command),
}
