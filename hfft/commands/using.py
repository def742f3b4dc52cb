"""Commands that use a fine-tuned model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hfft.commands.frame import DONE, Parser, model_parser, parse, take_output, write_json
from hfft.terminal import make_console, print_metrics, print_per_class


def evaluate_parser() -> Parser:
    """Return the parser of ``hfft evaluate``."""
    parser = model_parser("evaluate", evaluate_command.__doc__)
    parser.add_argument("--data", required=True, help="As for `hfft train`.")
    parser.add_argument("--split", default="test", help="train, validation, test or all (default: test).")
    parser.add_argument("--output", metavar="F.json", help="Also write the metrics to this file.")
    parser.add_argument("--label_column", help="Column of the class, of the list of classes, or of the number.")
    parser.add_argument("--label_delimiter", help="What divides the classes in a label column of texts.")
    return parser


def evaluate_command(argv: Sequence[str]) -> int:
    """Test a fine-tuned model on labelled data."""
    given = parse(evaluate_parser(), argv)
    output = take_output(given, ".json", inputs=given["data"])
    from hfft.results.evaluating import evaluate

    result = evaluate(**given)
    console, title = make_console(), f"{given['split']}, {result.examples} examples"
    print_metrics(console, result.headline_rows, title, result.baseline_name)
    print_per_class(console, result.details)
    write_json(output, result.metrics)
    return DONE


def predict_parser() -> Parser:
    """Return the parser of ``hfft predict``."""
    parser = model_parser("predict", predict_command.__doc__)
    parser.add_argument(
        "--input", required=True, dest="inputs", metavar="FILE|FOLDER|-",
        help="A file, a folder of files, a table, or - for standard input: a text or path in each line, or JSON lines.",
    )  # fmt: skip
    parser.add_argument("--output", required=True, metavar="F.csv|-", help="CSV or Parquet file to write, or - (CSV).")
    return parser


def predict_command(argv: Sequence[str]) -> int:
    """Predict the classes, or the number, of files or of the rows of a table."""
    piped = "-" in (argv[place + 1] for place, word in enumerate(argv[:-1]) if word == "--output")
    # what a program reads is on standard output then, and what a person reads beside it
    given = parse(predict_parser(), argv, sys.stderr if piped else sys.stdout)
    from hfft.results.prediction import predict_to

    console = make_console(stderr=piped)
    done = predict_to(**given, console=console)
    console.print(f"{done.count - done.unreadable} predictions: {given['output']}")
    if done.unreadable:
        console.print(f"{done.unreadable} inputs could not be read (column error): {'; '.join(done.errors)}")
    return DONE


def push_parser() -> Parser:
    """Return the parser of ``hfft push``."""
    parser = Parser(prog="hfft push", description=push_command.__doc__, argument_default=argparse.SUPPRESS)
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
    return parser


def push_command(argv: Sequence[str]) -> int:
    """Upload a fine-tuned model to the Hub."""
    given = parse(push_parser(), argv)
    from hfft.hub import push

    make_console().print(f"Pushed: {push(**given)}")
    return DONE


def export_parser() -> Parser:
    """Return the parser of ``hfft export``."""
    parser = Parser(prog="hfft export", description=export_command.__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", required=True, help="Folder that `hfft train` wrote, or a Hub id.")
    parser.add_argument("--format", required=True, help="timm (of timm's architectures alone) or onnx.")
    parser.add_argument("--output", required=True, metavar="FOLDER|F.onnx", help="What is written.")
    parser.add_argument("--revision", help="Branch, tag or commit of a model on the Hub.")
    parser.add_argument("--trust_remote_code", action="store_true", help="Run the code that a repository brings along.")
    return parser


def export_command(argv: Sequence[str]) -> int:
    """Write a fine-tuned model for timm, or as ONNX."""
    given = parse(export_parser(), argv)
    from hfft.results.exporting import export

    difference = export(**given)
    make_console().print(f"Exported: {given['output']}; its logits differ from the model's by {difference:.1e} at most")
    return DONE
