"""Caltech-101 end to end: what features of ImageNet reach on 101 other classes with 5 to 30 pictures of each.

The classic case study of transfer learning (Donahue et al. 2014, arXiv:1310.1531; Zeiler and Fergus 2014,
arXiv:1311.2901; Chatfield et al. 2014, arXiv:1405.3531). caltech101.md tells how to get the data, and what comes out::

    python examples/case_studies/caltech101.py --data 101_ObjectCategories/

Draws the training pictures of each class and up to 50 others to test on, runs every strategy on all of them and the
linear probe on fewer, and writes results.json and learning_curve.png beside the runs. Started again it goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas
from matplotlib.figure import Figure

import hfft

METRIC = "test_balanced_accuracy"  # the mean over classes of the accuracy in each: the data set's own metric
NO_CLASS = "BACKGROUND_Google"
MOST_TESTED = 50  # of a class, as in the papers


def main() -> None:
    """Draw the pictures, run everything, and write the table and the curve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder of pictures for each class")
    parser.add_argument("--model", default="timm/mobilenetv3_small_100.lamb_in1k", help="Hub id or folder")
    parser.add_argument("--output_dir", type=Path, default=Path("caltech101"))
    parser.add_argument("--per_class", type=int, nargs="+", default=[5, 10, 15, 30], help="training pictures")
    parser.add_argument("--strategies", nargs="+", default=["linear-probe", "lp-ft", "gradual"])
    parser.add_argument("--num_train_epochs", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    most, results = max(options.per_class), []
    asked = [(count, "linear-probe") for count in options.per_class] + [(most, name) for name in options.strategies]
    for count, strategy in dict.fromkeys(asked):
        train, test = draw(options.data, most, options.seed)
        folder = options.output_dir / f"{strategy}-{count}"
        if not (folder / "README.md").is_file():  # the last file of a run
            epochs = {} if strategy == "linear-probe" else {"num_train_epochs": options.num_train_epochs}
            hfft.finetune(
                task="image-classification",
                model=options.model,
                data={"train": train[train["place"] < count], "test": test},
                output_dir=str(folder),
                strategy=strategy,
                resume=True,
                seed=options.seed,
                **epochs,
            )
        metrics = json.loads((folder / "metrics.json").read_text())
        figures = {
            "accuracy": metrics[METRIC],
            "low": metrics[f"{METRIC}_ci_low"],
            "high": metrics[f"{METRIC}_ci_high"],
        }
        results.append({"strategy": strategy, "per_class": count, **figures})

    (options.output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw_curve(results, options.output_dir / "learning_curve.png")
    print("\n| strategy | training pictures a class | mean accuracy over classes | 95 % interval |")
    print("|---|---:|---:|---:|")
    for row in results:
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        print(f"| {row['strategy']} | {row['per_class']} | {row['accuracy']:.3f} | {interval} |")


def draw(folder: Path, per_class: int, seed: int) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Return pictures to train and to test on; the first ``count`` places of a class are its smaller training set."""
    generator, rows = np.random.default_rng(seed), []
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != NO_CLASS):
        pictures = sorted(map(str, (folder / name).glob("*.jpg")))
        if len(pictures) <= per_class:
            raise hfft.UserError(f"{folder / name} has {len(pictures)} pictures: none is left to test on.")
        shuffled = generator.permutation(pictures)[: per_class + MOST_TESTED]
        rows += [{"image": picture, "label": name, "place": place} for place, picture in enumerate(shuffled)]
    table = pandas.DataFrame(rows)
    return table[table["place"] < per_class], table[table["place"] >= per_class]


def draw_curve(results: list[dict[str, float]], path: Path) -> None:
    """Draw accuracy over training pictures, the probe as a line and the other strategies as points."""
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    for strategy in dict.fromkeys(row["strategy"] for row in results):
        table = pandas.DataFrame([row for row in results if row["strategy"] == strategy]).sort_values("per_class")
        bars = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
        axes.errorbar(table["per_class"], table["accuracy"], bars, marker="o", capsize=3, label=strategy)
    axes.set(xlabel="training pictures of each class", ylabel="mean accuracy over classes", title="Caltech-101")
    axes.legend(loc="lower right")
    axes.figure.savefig(path, dpi=150)


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
