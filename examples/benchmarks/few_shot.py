"""A few labelled examples of each class: hfft's strategies against the stock Trainer, on the same draws.

Draws so many training examples of each class, trains each side on them, and tests on the test split (its first 1,000
in a seeded order). The stock Trainer has settings for little data, not its defaults: 20 epochs in batches of 16,
5e-5, warm-up over a tenth of the steps, dynamic padding, float32::

    python examples/benchmarks/few_shot.py --model all-MiniLM-L6-v2/ --data trec6/ --per_class 8 64
    python examples/benchmarks/few_shot.py --model mobilenetv2/ --data hymenoptera/ --per_class 20 \
        --stock_learning_rate 5e-4

Prints the mean test accuracy over the draws with its 95 % interval (Student's t), and writes every run as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from comparison import comparison_parser
from rich.console import Console
from rich.table import Table
from scipy.stats import t
from stock import holds_images, stock_trainer, test_accuracy

STOCK = "stock Trainer"
TESTED = 1000


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = comparison_parser(__doc__ or "", epochs=20, output="few_shot.json")
    parser.add_argument("--per_class", type=int, nargs="+", default=[8, 64], help="training examples of each class")
    parser.add_argument("--strategies", nargs="+", default=["linear-probe", "lp-ft", "full", "lora"], help="of hfft")
    parser.add_argument("--stock_learning_rate", type=float, default=5e-5)
    parser.set_defaults(batch_size=16, repetitions=5)
    options = parser.parse_args()
    if options.model is None:
        parser.error("give --model")
    runs = [run for per_class in options.per_class for run in measure(options, per_class)]
    print_table(options, runs)
    Path(options.output).write_text(json.dumps({"settings": vars(options), "runs": runs}, indent=1) + "\n", "utf-8")


def measure(options: Namespace, per_class: int) -> list[dict[str, Any]]:
    """Train every side on every draw; returns side, examples per class, draw and test accuracy of each."""
    import hfft

    runs = []
    with tempfile.TemporaryDirectory() as work:
        for seed in range(options.repetitions):
            folder = Path(work) / f"draw-{seed}"
            drawn = Namespace(**{**vars(options), "data": str(draw(options.data, per_class, seed, folder / "data"))})
            warm = {"warmup_steps": 0.1, "weight_decay": 0.01}
            trainer = stock_trainer(drawn, seed, folder, learning_rate=options.stock_learning_rate, **warm)
            trainer.train()
            reached = {STOCK: test_accuracy(trainer)}
            for strategy in options.strategies:
                result = hfft.finetune(
                    model=options.model, data=drawn.data, output_dir=str(folder / strategy), strategy=strategy,
                    cache_dir=str(Path(work) / "cache"), seed=seed, disable_tqdm=True, on_problem="skip",
                )  # fmt: skip
                reached[f"hfft, {strategy}"] = result.metrics["test_accuracy"]
            runs += [
                {"side": side, "per_class": per_class, "draw": seed, "accuracy": value}
                for side, value in reached.items()
            ]
    return runs


def draw(data: str, per_class: int, seed: int, folder: Path) -> Path:
    """Write a data set of so many training examples of each class, and the tested part of the test split.

    Class folders become folders of links, a table with the columns ``text`` and ``label`` a smaller one.
    """
    for split in ("train", "test"):
        rows = _rows(data, split)
        # the tested part is the same in every draw
        shuffled = rows.sample(frac=1, random_state=seed if split == "train" else 0)
        rows = shuffled.groupby("label").head(per_class) if split == "train" else shuffled.head(TESTED)
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
    """Print the mean of each side and number of examples, in percent, with its interval."""
    table = Table("side", *(f"{per_class} per class" for per_class in options.per_class))
    for side in dict.fromkeys(run["side"] for run in runs):
        cells = []
        for per_class in options.per_class:
            values = [100 * run["accuracy"] for run in runs if (run["side"], run["per_class"]) == (side, per_class)]
            mean, half = statistics.mean(values), half_width(values)
            cells.append(f"{mean:.1f} ± {half:.1f}" if np.isfinite(half) else f"{mean:.1f}")
        table.add_row(side, *cells)
    Console(width=100).print(table)
    Console(width=100).print(f"Test accuracy in percent, means over {options.repetitions} draws with 95 % intervals.")


def half_width(values: list[float]) -> float:
    """Return half the 95 % interval of the mean of independent values; NaN for one."""
    if len(values) < 2:
        return float("nan")
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


if __name__ == "__main__":
    main()
