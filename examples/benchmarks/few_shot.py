"""A few labelled examples of each class: hfft's strategies against the stock Trainer, on the same draws.

Draws so many training examples of each class, trains each side on them, and tests on at most 1,000 others: of the test
split, the same for each draw, or with ``--tested train`` of the training split, by which a strategy may be chosen. The
stock Trainer has settings for little data, not its defaults: 20 epochs in batches of 16, 5e-5, warm-up over a tenth of
the steps, dynamic padding, float32. The other sides are strategies of hfft::

    python examples/benchmarks/few_shot.py --model all-MiniLM-L6-v2/ --data trec6/ --per_class 8 64
    python examples/benchmarks/few_shot.py --model mobilenetv2/ --data hymenoptera/ --per_class 20 \
        --stock_learning_rate 5e-4
    python examples/benchmarks/few_shot.py --model all-MiniLM-L6-v2/ --data trec6/ --per_class 16 64 --tested train \
        --sides full auto

Prints means over the draws with their 95 % intervals (Student's t), of accuracy and log loss and of their differences
from the first side on the same draws, and writes every run as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from comparison import comparison_parser
from rich.console import Console
from rich.table import Table
from scipy.stats import t
from stock import holds_images, stock_trainer, test_accuracy

STOCK = "stock"
TESTED = 1000
MEASURED = ("accuracy", "log_loss")


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = comparison_parser(__doc__ or "", epochs=20, output="few_shot.json")
    parser.add_argument("--per_class", type=int, nargs="+", default=[8, 64], help="training examples of each class")
    parser.add_argument("--tested", choices=["test", "train"], default="test", help="split of the tested rows")
    parser.add_argument("--stock_learning_rate", type=float, default=5e-5)
    parser.set_defaults(batch_size=16, repetitions=5, sides=[STOCK, "auto", "linear-probe", "lp-ft", "full", "lora"])
    options = parser.parse_args()
    if options.model is None:
        parser.error("give --model")
    torch.set_num_threads(options.threads)
    runs = [run for per_class in options.per_class for run in measure(options, per_class)]
    print_table(options, runs)
    Path(options.output).write_text(json.dumps({"settings": vars(options), "runs": runs}, indent=1) + "\n", "utf-8")


def measure(options: Namespace, per_class: int) -> list[dict[str, Any]]:
    """Train every side on every draw; returns side, examples per class, draw, test accuracy and log loss of each."""
    import hfft

    runs = []
    with tempfile.TemporaryDirectory() as work:
        for seed in range(options.repetitions):
            folder = Path(work) / f"draw-{seed}"
            data = str(draw(options.data, per_class, seed, folder / "data", options.tested))
            for side in options.sides:
                if side == STOCK:
                    drawn = Namespace(**{**vars(options), "data": data})
                    warm = {"warmup_steps": 0.1, "weight_decay": 0.01}
                    trainer = stock_trainer(drawn, seed, folder, learning_rate=options.stock_learning_rate, **warm)
                    trainer.train()
                    reached = {"accuracy": test_accuracy(trainer), "log_loss": trainer.evaluate()["eval_loss"]}
                else:
                    result = hfft.finetune(
                        model=options.model, data=data, output_dir=str(folder / side), strategy=side,
                        cache_dir=str(Path(work) / "cache"), seed=seed, disable_tqdm=True, on_problem="skip",
                    )  # fmt: skip
                    reached = {name: result.metrics[f"test_{name}"] for name in MEASURED}
                runs.append({"side": side, "per_class": per_class, "draw": seed, **reached})
                print(json.dumps(runs[-1]), file=sys.stderr)
    return runs


def draw(data: str, per_class: int, seed: int, folder: Path, tested: str = "test") -> Path:
    """Write a data set of so many training examples of each class, and the rows that are tested.

    Class folders become folders of links, a table with the columns ``text`` and ``label`` a smaller one.
    """
    shuffled = _rows(data, "train").sample(frac=1, random_state=seed)
    drawn = shuffled.groupby("label").head(per_class)
    others = shuffled.drop(drawn.index) if tested == "train" else _rows(data, "test").sample(frac=1, random_state=0)
    for split, rows in (("train", drawn), ("test", others.head(TESTED))):
        if not holds_images(data):
            folder.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(folder / f"{split}.parquet", index=False)
            continue
        for path, label in zip(rows["path"], rows["label"], strict=True):
            link = folder / split / label / Path(path).name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(path).resolve())
    return folder


def _rows(data: str, split: str) -> pd.DataFrame:
    if holds_images(data):
        paths = sorted(path for path in (Path(data) / split).glob("*/*") if path.is_file())
        return pd.DataFrame({"path": [str(path) for path in paths], "label": [path.parent.name for path in paths]})
    file = next(Path(data).glob(f"{split}.*"))
    table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
    return table[["text", "label"]]


def print_table(options: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    """Print the mean of each side and number of examples with its interval, and that of its differences."""
    first, *_ = options.sides
    table = Table(
        "side", "per class", *(name.replace("_", " ") for name in MEASURED), f"beside {first}: accuracy", "log loss"
    )
    for per_class in options.per_class:
        for side in options.sides:
            cells, others = [], []
            for name in MEASURED:
                values, reference = (
                    [run[name] for run in runs if (run["side"], run["per_class"]) == (each, per_class)]
                    for each in (side, first)
                )
                cells.append(mean_and_reach(values))
                others.append(mean_and_reach(np.subtract(values, reference).tolist(), "+") if side != first else "")
            table.add_row(side, str(per_class), *cells, *others)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"Means over {options.repetitions} draws with 95 % intervals.")


def mean_and_reach(values: list[float], sign: str = "") -> str:
    """Return the mean and half its 95 % interval, for people."""
    mean, half = statistics.mean(values), half_width(values)
    return f"{mean:{sign}.3f} ± {half:.3f}" if np.isfinite(half) else f"{mean:{sign}.3f}"


def half_width(values: list[float]) -> float:
    """Return half the 95 % interval of the mean of independent values; NaN for one."""
    if len(values) < 2:
        return float("nan")
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


if __name__ == "__main__":
    main()
