"""The ``hfft`` command. Nothing heavy is imported before a command has printed its first line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hfft import __version__
from hfft.errors import ProcessError, RunInterrupted, UserError, listed, nearest
from hfft.terminal import is_first_process, make_console, print_layers

DONE, REFUSED, USER_ERROR, INTERRUPTED, STOPPED = 0, 1, 2, 75, 130  # an internal error is a traceback and 1


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        flags = [option for action in self._actions for option in action.option_strings]
        unknown = next((word for word in message.split() if word.startswith("--")), "")
        hint = nearest(unknown.split("=")[0], flags) if "unrecognized" in message else ""
        raise UserError(f"{message[0].upper()}{message[1:]}.{hint}")


def _train(argv: Sequence[str]) -> int:
    """Fine-tune a model and test it."""
    settings = _run_settings("train", _train.__doc__, argv)
    if settings is not None:
        from hfft.finetuning import finetune

        finetune(**settings)
    return DONE


def _crossval(argv: Sequence[str]) -> int:
    """Fine-tune a model for each fold of the training examples, and test it on the others."""
    from hfft.arguments import CrossValidationArguments

    settings = _run_settings("crossval", _crossval.__doc__, argv, CrossValidationArguments)
    if settings is not None:
        from hfft.cross_validation import cross_validate

        cross_validate(**settings)
    return DONE


def _run_settings(command: str, description: str | None, argv: Sequence[str], *more: type) -> dict[str, Any] | None:
    """Return what flags and YAML say of a run, or ``None`` where only help was asked for."""
    if not {"-h", "--help", "--help_all"} & set(argv):
        _announce(command)
    _quiet_libraries()
    from hfft.parsing import read_yaml, train_parser

    parser = train_parser(command, description, *more)
    parser.add_argument("--config", metavar="RUN.YAML", help="Read arguments from YAML; flags go before it.")
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return None
    if "--help_all" in argv:
        print(parser.format_help_all())
        return None
    given = parser.parse_settings(argv)
    settings = {**(read_yaml(given["config"], parser) if "config" in given else {}), **given}
    settings.pop("config", None)
    return settings


def _evaluate(argv: Sequence[str]) -> int:
    """Test a fine-tuned model on labelled data."""
    parser = _model_parser("evaluate", _evaluate.__doc__)
    parser.add_argument("--data", required=True, help="As for `hfft train`.")
    parser.add_argument("--split", default="test", help="train, validation, test or all (default: test).")
    parser.add_argument("--output", metavar="F.json", help="Also write the metrics to this file.")
    parser.add_argument("--label_column", help="Column of the class, of the list of classes, or of the number.")
    parser.add_argument("--label_delimiter", help="What divides the classes in a label column of texts.")
    given = _parse(parser, argv)
    output = given.pop("output", None)
    from hfft.inference import evaluate
    from hfft.paths import require_writable

    if output is not None:
        require_writable(Path(output), (".json",), Path(given["data"]))

    result = evaluate(**given)
    from hfft.terminal import print_metrics, print_per_class

    console, title = make_console(), f"{given['split']}, {result.examples} examples"
    print_metrics(console, result.headline_rows, title, result.baseline_name)
    print_per_class(console, result.details)
    if output is not None:
        _write_json(output, result.metrics)
    return DONE


def _predict(argv: Sequence[str]) -> int:
    """Predict the classes, or the number, of files or of the rows of a table."""
    parser = _model_parser("predict", _predict.__doc__)
    parser.add_argument(
        "--input", required=True, dest="inputs", metavar="FILE|FOLDER|-",
        help="A file, a folder of files, a table, or - for standard input: a text or path in each line, or JSON lines.",
    )  # fmt: skip
    parser.add_argument("--output", required=True, metavar="F.csv|-", help="CSV or Parquet file to write, or - (CSV).")
    piped = "-" in (argv[place + 1] for place, word in enumerate(argv[:-1]) if word == "--output")
    # what a program reads is on standard output then, and what a person reads beside it
    given = _parse(parser, argv, sys.stderr if piped else sys.stdout)
    from hfft.prediction import predict_to

    console = make_console(stderr=piped)
    done = predict_to(**given, console=console)
    console.print(f"{done.count - done.unreadable} predictions: {given['output']}")
    if done.unreadable:
        console.print(f"{done.unreadable} inputs could not be read (column error): {'; '.join(done.errors)}")
    return DONE


def _compare(argv: Sequence[str]) -> int:
    """Compare two runs on the same test examples."""
    parser = _Parser(prog="hfft compare", description=_compare.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("first", metavar="OUT1", help="Folder that `hfft train` wrote.")
    parser.add_argument("second", metavar="OUT2", help="Another one; differences are OUT2 - OUT1.")
    parser.add_argument("--seed", type=_count, help="Of the bootstrap (default: 42).")
    parser.add_argument("--output", metavar="F.json", help="Also write the comparison to this file.")
    given = _parse(parser, argv)
    output = given.pop("output", None)
    from hfft.comparing import compare
    from hfft.paths import require_writable
    from hfft.terminal import print_comparison

    if output is not None:
        require_writable(Path(output), (".json",))
    result = compare(**given)
    print_comparison(make_console(), result)
    if output is not None:
        _write_json(output, result.report())
    return DONE


def _check(argv: Sequence[str]) -> int:
    """Find what is wrong with data before anything is trained."""
    from hfft.arguments import DataArguments

    parser = _Parser(prog="hfft check", description=_check.__doc__, argument_default=argparse.SUPPRESS)
    for argument in dataclasses.fields(DataArguments):
        number = float if argument.type in (float, "float") else str  # transformers resolves the names
        required = argument.name == "data"
        parser.add_argument(f"--{argument.name}", type=number, required=required, help=argument.metadata["help"])
    parser.add_argument("--seed", type=_count, help="Of the splits that are drawn (default: that of a run).")
    parser.add_argument("--model", help="Also compare the inputs with what this model reads; weights are not needed.")
    parser.add_argument("--revision", help="Branch, tag or commit of a model on the Hub.")
    for name in ("max_length", "image_size"):
        parser.add_argument(f"--{name}", type=_positive_number, help="As for `hfft train`.")
    parser.add_argument("--output", metavar="F.json", help="Also write the findings to this file.")
    given = _parse(parser, argv)
    output = given.pop("output", None)
    from hfft.checking import check, write_report
    from hfft.paths import require_writable
    from hfft.terminal import print_findings

    if output is not None:
        require_writable(Path(output), (".json",), Path(given["data"]))
    result = check(**given)
    if output is not None:
        write_report(result, Path(output))
    print_findings(make_console(), result)
    return REFUSED if result.findings.refused else DONE


def _push(argv: Sequence[str]) -> int:
    """Upload a fine-tuned model to the Hub."""
    parser = _Parser(prog="hfft push", description=_push.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", required=True, metavar="FOLDER", help="Folder that `hfft train` wrote.")
    parser.add_argument("--repo_id", required=True, help="owner/name on the Hub; made where there is none.")
    parser.add_argument("--private", action="store_true", help="Make a private repository where there is none.")
    parser.add_argument("--token", help="That may write (default: that of `hf auth login`, or HF_TOKEN).")
    parser.add_argument("--revision", help="Branch to push to, made where there is none (default: main).")
    parser.add_argument("--commit_message", help="First line of the commit.")
    parser.add_argument(
        "--include_report", action="store_true", help="Also report.html, which names files of your data, and metrics."
    )
    parser.add_argument(
        "--include_predictions", action="store_true", help="Also predictions.parquet, which holds your test inputs."
    )
    given = _parse(parser, argv)
    from hfft.hub import push

    make_console().print(f"Pushed: {push(**given)}")
    return DONE


def _export(argv: Sequence[str]) -> int:
    """Write a fine-tuned model for timm, or as ONNX."""
    parser = _Parser(prog="hfft export", description=_export.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", required=True, help="Folder that `hfft train` wrote, or a Hub id.")
    parser.add_argument("--format", required=True, help="timm (of timm's architectures alone) or onnx.")
    parser.add_argument("--output", required=True, metavar="FOLDER|F.onnx", help="What is written.")
    parser.add_argument("--revision", help="Branch, tag or commit of a model on the Hub.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run the code that a repository brings along.")
    given = _parse(parser, argv)
    from hfft.exporting import export

    difference = export(**given)
    make_console().print(f"Exported: {given['output']}; its logits differ from the model's by {difference:.1e} at most")
    return DONE


def _layers(argv: Sequence[str]) -> int:
    """Show the layers of a model, and the rate and time at which each would train."""
    parser = _Parser(prog="hfft layers", description=_layers.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", required=True, help="Hub id or local folder; its weights are not read.")
    parser.add_argument("--revision", help="Branch, tag or commit of a model on the Hub.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run the code that a repository brings along.")
    parser.add_argument("--task", help="Registered task (default: what the model can do).")
    parser.add_argument("--strategy", help="As for `hfft train`.")
    for name in ("learning_rate", "head_learning_rate", "layer_decay", "epochs_per_group"):
        parser.add_argument(f"--{name}", type=float, help="As for `hfft train`.")
    parser.add_argument("--image_size", type=_positive_number, help="As for `hfft train`.")
    for name in ("freeze", "layer_patterns"):
        parser.add_argument(f"--{name}", nargs="+", metavar="REGEX", help="As for `hfft train`.")
    parser.add_argument("--output", metavar="F.png", help="Also draw the layers (.png, .svg or .pdf).")
    given = _parse(parser, argv)
    output = given.pop("output", None)
    from hfft.paths import require_writable
    from hfft.planning import plan_layers

    if output is not None:
        require_writable(Path(output), (".png", ".svg", ".pdf"))
    plan = plan_layers(**given)
    console = make_console()
    print_layers(console, plan)
    if output is not None:
        from hfft.report.figures import draw_layers

        draw_layers(plan, Path(output))
        console.print(f"Drawn: {output}")
    return DONE


def _tasks(argv: Sequence[str]) -> int:
    """List the installed tasks."""
    _Parser(prog="hfft tasks", description=_tasks.__doc__).parse_args(argv)
    from rich.table import Table

    from hfft.task import installed_tasks

    table = Table("task", "what it does", "from")
    for task in installed_tasks():
        table.add_row(task.name, task.summary, type(task).__module__.split(".")[0])
    make_console().print(table)
    return DONE


def _demo(argv: Sequence[str]) -> int:
    """Show, offline, what a pretrained backbone is worth on a few examples."""
    parser = _Parser(prog="hfft demo", description=_demo.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--task", help="image-classification (the default) or text-classification.")
    parser.add_argument("--output_dir", help="Folder to write to (default: hfft-demo, and the task in it).")
    parser.add_argument("--overwrite", action="store_true", help="Replace the demo that output_dir holds.")
    parser.add_argument("--seed", type=_count, help="Another seed draws other examples (default: 0).")
    parser.add_argument("--draws", type=_count, help="Draws of the training examples (default: 5).")
    parser.add_argument("--model", metavar="FOLDER", help="Another backbone to compare with random weights.")
    given = _parse(parser, argv)
    from hfft.demo import demo

    demo(**given)
    return DONE


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "crossval": _crossval,
    "evaluate": _evaluate,
    "predict": _predict,
    "compare": _compare,
    "export": _export,
    "push": _push,
    "check": _check,
    "layers": _layers,
    "tasks": _tasks,
    "demo": _demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 `hfft check` found what a run would refuse, 2 the user can mend it, 75 interrupted with a checkpoint to go
    on from, 130 interrupted without one; an internal error leaves with its traceback, which is 1 as well.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _dispatch(arguments)
    except UserError as error:
        if debug:
            traceback.print_exc()
        if is_first_process():
            print(f"hfft: {error}", file=sys.stderr)
        elif isinstance(error, ProcessError):
            print(f"hfft: process {os.environ.get('RANK')}: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        if is_first_process():
            print(f"hfft: {interrupt or 'interrupted.'}", file=sys.stderr)
        return INTERRUPTED if isinstance(interrupt, RunInterrupted) else STOPPED


def _dispatch(arguments: list[str]) -> int:
    parser = _Parser(
        prog="hfft",
        description="Fine-tune pretrained Hugging Face models on small data, and know how good they are.",
        epilog="`hfft COMMAND --help` tells more. --debug shows the traceback of an error.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hfft {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, run in COMMANDS.items():
        commands.add_parser(name, help=run.__doc__, add_help=False)
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments)
        parser.print_help()
        return DONE if arguments else USER_ERROR
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"There is no command '{name}'.{nearest(name, COMMANDS)} Commands: {listed(COMMANDS)}.")
    return COMMANDS[name](rest)


def _write_json(output: str, content: dict[str, Any]) -> None:
    from hfft.failures import writing_output

    with writing_output(Path(output)):
        Path(output).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _announce(command: str, stream: TextIO | None = None) -> None:
    if is_first_process():
        print(f"hfft {__version__} {command}", file=stream, flush=True)


def _quiet_libraries() -> None:
    """Leave the terminal to hfft: the libraries' own bars and notices off, unless the user asked for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def _model_parser(command: str, description: str | None) -> _Parser:
    parser = _Parser(prog=f"hfft {command}", description=description, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", required=True, help="Folder that `hfft train` wrote, or a Hub id.")
    parser.add_argument("--revision", help="Branch, tag or commit of a model on the Hub.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run the code that a repository brings along.")
    parser.add_argument("--task", help="Registered task (default: what the model was trained for).")
    for role in ("text", "text_pair", "image"):
        parser.add_argument(f"--{role}_column", help=f"Column of the {role.replace('_', ' ')}.")
    parser.add_argument("--batch_size", type=_positive_number, help="Examples at a time (default: 64).")
    parser.add_argument("--cache_dir", help="Folder for converted data.")
    return parser


def _positive_number(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number")
    return int(text)


def _parse(parser: _Parser, argv: Sequence[str], stream: TextIO | None = None) -> dict[str, Any]:
    given = vars(parser.parse_args(argv))
    _announce(parser.prog.removeprefix("hfft "), stream)
    _quiet_libraries()
    return given


if __name__ == "__main__":
    sys.exit(main())
