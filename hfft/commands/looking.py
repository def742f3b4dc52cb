"""Commands that look at data, models and runs, and the demo."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from hfft.commands.frame import DONE, REFUSED, Parser, count, parse, positive_number, take_output, write_json
from hfft.commands.tables import print_comparison, print_findings, print_layers, print_runs
from hfft.terminal import make_console


def check_parser() -> Parser:
    """Return the parser of ``hfft check``."""
    from hfft.arguments import DataArguments

    parser = Parser(prog="hfft check", description=check_command.__doc__, argument_default=argparse.SUPPRESS)
    for argument in dataclasses.fields(DataArguments):
        number = float if argument.type in (float, "float") else str  # transformers resolves the names
        required = argument.name == "data"
        parser.add_argument(f"--{argument.name}", type=number, required=required, help=argument.metadata["help"])
    parser.add_argument("--seed", type=count, help="Of the splits that are drawn (default: that of a run).")
    parser.add_argument("--model", help="Also compare the inputs with what this model reads; weights are not needed.")
    parser.add_argument("--revision", help="Branch, tag or commit of a model on the Hub.")
    for name in ("max_length", "image_size"):
        parser.add_argument(f"--{name}", type=positive_number, help="As for `hfft train`.")
    parser.add_argument("--output", metavar="F.json", help="Also write the findings to this file.")
    return parser


def check_command(argv: Sequence[str]) -> int:
    """Find what is wrong with data before anything is trained."""
    given = parse(check_parser(), argv)
    output = take_output(given, ".json", inputs=given["data"])
    from hfft.checking import check

    result = check(**given)
    write_json(output, result.report)
    print_findings(make_console(), result)
    return REFUSED if result.findings.refused else DONE


def compare_parser() -> Parser:
    """Return the parser of ``hfft compare``."""
    parser = Parser(prog="hfft compare", description=compare_command.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("first", metavar="OUT1", help="Folder that `hfft train` wrote.")
    parser.add_argument("second", metavar="OUT2", help="Another one; differences are OUT2 - OUT1.")
    parser.add_argument("--seed", type=count, help="Of the bootstrap (default: 42).")
    parser.add_argument("--output", metavar="F.json", help="Also write the comparison to this file.")
    return parser


def compare_command(argv: Sequence[str]) -> int:
    """Compare two runs on the same test examples."""
    given = parse(compare_parser(), argv)
    output = take_output(given, ".json")
    from hfft.results.comparing import compare

    result = compare(**given)
    print_comparison(make_console(), result)
    write_json(output, result.report())
    return DONE


def runs_parser() -> Parser:
    """Return the parser of ``hfft runs``."""
    parser = Parser(prog="hfft runs", description=runs_command.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("folder", metavar="FOLDER", help="Holds the output folders of `hfft train`, at any depth.")
    parser.add_argument(
        "--sort", metavar="COLUMN",
        help="Column of the table, or a metric such as test_accuracy, the best first (default: where).",
    )  # fmt: skip
    parser.add_argument("--output", metavar="F.csv", help="Also write them, with all metrics (.csv, .json, .parquet).")
    return parser


def runs_command(argv: Sequence[str]) -> int:
    """List the runs below a folder with what came of them."""
    given = parse(runs_parser(), argv)
    output = take_output(given, ".csv", ".json", ".parquet")
    from hfft.results.listing import runs, write_runs

    rows = runs(**given)
    print_runs(make_console(), rows)
    if output is not None:
        write_runs(rows, output)
    return DONE


def layers_parser() -> Parser:
    """Return the parser of ``hfft layers``."""
    parser = Parser(prog="hfft layers", description=layers_command.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", required=True, help="Hub id or local folder; its weights are not read.")
    parser.add_argument("--revision", help="Branch, tag or commit of a model on the Hub.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run the code that a repository brings along.")
    parser.add_argument("--task", help="Registered task (default: what the model can do).")
    parser.add_argument("--strategy", help="As for `hfft train`.")
    for name in ("learning_rate", "head_learning_rate", "layer_decay", "epochs_per_group"):
        parser.add_argument(f"--{name}", type=float, help="As for `hfft train`.")
    parser.add_argument("--image_size", type=positive_number, help="As for `hfft train`.")
    for name in ("lora_rank", "adapter_config", "adapter_layers", "lr_multipliers"):
        parser.add_argument(f"--{name}", type=count if name == "lora_rank" else str, help="As for `hfft train`.")
    for name in ("freeze", "layer_patterns", "adapter_targets"):
        parser.add_argument(f"--{name}", nargs="+", metavar="REGEX", help="As for `hfft train`.")
    parser.add_argument("--output", metavar="F.png", help="Also draw the layers (.png, .svg or .pdf).")
    return parser


def layers_command(argv: Sequence[str]) -> int:
    """Show the layers of a model, and the rate and time at which each would train."""
    given = parse(layers_parser(), argv)
    output = take_output(given, ".png", ".svg", ".pdf")
    from hfft.planning import plan_layers

    plan = plan_layers(**given)
    console = make_console()
    print_layers(console, plan)
    if output is not None:
        from hfft.failures import writing_output
        from hfft.report.figures import draw_layers

        with writing_output(output):
            draw_layers(plan.title, [layer.drawn() for layer in plan.layers], output)
        console.print(f"Drawn: {output}")
    return DONE


def tasks_parser() -> Parser:
    """Return the parser of ``hfft tasks``."""
    return Parser(prog="hfft tasks", description=tasks_command.__doc__)


def tasks_command(argv: Sequence[str]) -> int:
    """List the installed tasks."""
    tasks_parser().parse_args(argv)
    from rich.table import Table

    from hfft.registry import installed_tasks

    table = Table("task", "what it does", "from")
    for task in installed_tasks():
        table.add_row(task.name, task.summary, type(task).__module__.split(".")[0])
    make_console().print(table)
    return DONE


def demo_parser() -> Parser:
    """Return the parser of ``hfft demo``."""
    parser = Parser(prog="hfft demo", description=demo_command.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--task", help="image-classification (the default) or text-classification.")
    parser.add_argument("--output_dir", help="Folder to write to (default: hfft-demo, and the task in it).")
    parser.add_argument("--overwrite", action="store_true", help="Replace the demo that output_dir holds.")
    parser.add_argument("--seed", type=count, help="Another seed draws other examples (default: 0).")
    parser.add_argument("--draws", type=count, help="Draws of the training examples (default: 5).")
    parser.add_argument("--model", metavar="FOLDER", help="Another backbone to compare with random weights.")
    return parser


def demo_command(argv: Sequence[str]) -> int:
    """Show, offline, what a pretrained backbone is worth on a few examples."""
    given = parse(demo_parser(), argv)
    from hfft.demo import demo

    demo(**given)
    return DONE
