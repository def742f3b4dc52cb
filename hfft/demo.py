"""The demo: what a pretrained backbone is worth on a few examples, seen on real data, offline.

A small backbone that ships with hfft is fine-tuned beside the same network from random weights, on several draws of a
few training examples, each pair on the same draw and the same test examples. Every run is one of :func:`finetune`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from hfft.errors import UserError, listed, nearest
from hfft.finetuning import finetune
from hfft.targets.stratification import draw_stratified
from hfft.terminal import make_console

ASSETS = Path(__file__).with_name("assets")
ARMS = ("pretrained", "random")
_RESULT = "comparison.json"
_WRITTEN = {"data", "random-weights", *ARMS, _RESULT}


@dataclass(frozen=True)
class Demonstration:
    """What is compared for one task.

    Attributes:
        backbone: folder of the pretrained model, in the package's assets.
        examples: what a draw holds, for people.
        write_draw: (folder, generator) writes the training examples of one draw and the test examples, which are the
            same in every draw.
        settings: of both arms.
        pretrained: of the pretrained arm alone.
        random: of the arm that starts from random weights, alone.
        next_steps: what to type for data of one's own.
    """

    backbone: str
    examples: str
    write_draw: Callable[[Path, np.random.Generator], None]
    settings: Mapping[str, Any]
    pretrained: Mapping[str, Any]
    random: Mapping[str, Any]
    next_steps: tuple[str, ...]


DIGITS_PER_CLASS = 5
TEST_DIGITS = 500
TEXTS_PER_TOPIC = 10


def write_digits(folder: Path, generator: np.random.Generator) -> None:
    """Write five pictures of each of scikit-learn's digits to train on and 500 others to test on, as class folders."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    test = draw_stratified(digits.target, TEST_DIGITS / len(digits.target), seed=0)
    rest = np.setdiff1d(np.arange(len(digits.target)), test)
    train = rest[_few_per_class(digits.target[rest], DIGITS_PER_CLASS, generator)]
    for split, rows in {"train": train, "test": test}.items():
        for row in rows:
            path = folder / split / str(digits.target[row]) / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[row] / 16 * 255).astype(np.uint8)).save(path)


def write_topics(folder: Path, generator: np.random.Generator) -> None:
    """Write ten rows of each topic of the shipped extract to train on, and all its test rows, as CSV files."""
    topics = ASSETS / "scipy-topics"
    with (topics / "train.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    drawn = _few_per_class(np.array([label for _, label in rows]), TEXTS_PER_TOPIC, generator)
    folder.mkdir(parents=True)
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *(rows[index] for index in drawn)])
    shutil.copyfile(topics / "test.csv", folder / "test.csv")


def _few_per_class(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    rows = [generator.choice(np.flatnonzero(labels == label), count, replace=False) for label in np.unique(labels)]
    return np.concatenate(rows)


# Both arms take the same steps over the same batches. The rates of each arm were chosen by accuracy on examples that
# the demo never tests on, the random arm's among more values than the pretrained arm's.
DEMONSTRATIONS = {
    "image-classification": Demonstration(
        backbone="tiny-vit-glyphs",
        examples="pictures, 5 of each handwritten digit",
        write_draw=write_digits,
        settings={
            "num_train_epochs": 100,
            "per_device_train_batch_size": 50,
            "weight_decay": 0.05,
            "augment": "none",  # a mirrored 2 is no 2
        },
        pretrained={"learning_rate": 5e-4, "head_learning_rate": 5e-4, "layer_decay": 0.75},
        random={"learning_rate": 3e-4, "head_learning_rate": 3e-4, "layer_decay": 1.0},
        next_steps=(
            "Your own pictures, a folder for each class:",
            "  hfft train --model timm/resnet18.a1_in1k --data photos/ --output_dir out",
        ),
    ),
    "text-classification": Demonstration(
        backbone="tiny-bert-docs",
        examples="texts, 10 on each of 6 topics of scientific software",
        write_draw=write_topics,
        settings={"num_train_epochs": 40, "per_device_train_batch_size": 30, "max_length": 48},
        pretrained={"learning_rate": 1e-3, "head_learning_rate": 1e-3, "layer_decay": 0.9},
        random={"learning_rate": 4e-3, "head_learning_rate": 4e-3, "layer_decay": 1.0},
        next_steps=(
            "Your own texts, a table with the columns text and label:",
            "  hfft train --model google-bert/bert-base-uncased --data texts.csv --output_dir out",
        ),
    ),
}


def demo(
    task: str = "image-classification",
    output_dir: str | None = None,
    overwrite: bool = False,
    seed: int = 0,
    draws: int = 5,
    model: str | None = None,
) -> dict[str, Any]:
    """Compare a pretrained backbone with random weights on several draws of a few examples, and print the difference.

    Args:
        task: ``image-classification`` or ``text-classification``.
        output_dir: folder to write to (default: ``hfft-demo`` and the task in it).
        overwrite: replace the demo that output_dir holds.
        seed: another seed draws other examples and other weights.
        draws: how many, at least 2.
        model: folder of another backbone (default: the one that ships with hfft).

    Returns:
        What ``comparison.json`` holds: test accuracies of each draw, means, difference and its 95 % interval.

    Raises:
        UserError: for an unknown task, fewer than two draws, or a folder that holds something else.
    """
    if task not in DEMONSTRATIONS:
        raise UserError(
            f"--task: there is no demo of '{task}'.{nearest(task, DEMONSTRATIONS)} Demos: {listed(DEMONSTRATIONS)}."
        )
    if draws < 2 or seed < 0:
        raise UserError(f"The demo needs --draws of 2 or more and a --seed of 0 or more, got {draws} and {seed}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("The demo runs in one process. Start it as `hfft demo`.")
    shown = DEMONSTRATIONS[task]
    backbone = Path(model) if model is not None else ASSETS / shown.backbone
    if not (backbone / "config.json").is_file():
        raise UserError(f"--model: '{backbone}' is no folder of a model: there is no config.json in it.")
    folder = Path("hfft-demo", task) if output_dir is None else Path(output_dir)
    _make_room(folder, overwrite)

    console = make_console()
    console.print(f"{draws} draws of {shown.examples}. The first run in full:\n")
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for index in range(draws):
        draw, run_seed = f"draw-{index + 1}", 1000 * (seed + 1) + index
        shown.write_draw(folder / "data" / draw, np.random.default_rng(run_seed))
        write_random_weights(backbone, folder / "random-weights" / draw, run_seed)
        starts = {"pretrained": backbone, "random": folder / "random-weights" / draw}
        for arm, start in starts.items():
            in_full = index == 0 and arm == "pretrained"
            with contextlib.nullcontext() if in_full else contextlib.redirect_stdout(io.StringIO()):
                result = finetune(
                    task=task,
                    model=str(start),
                    data=str(folder / "data" / draw),
                    output_dir=str(folder / arm / draw),
                    seed=run_seed,
                    validation_size=0,  # nothing is chosen in these runs, and every example counts
                    save_strategy="no",
                    load_best_model_at_end=False,
                    logging_strategy="steps",
                    logging_steps=10,
                    **{**shown.settings, **getattr(shown, arm)},
                )
            accuracy[arm].append(result.metrics["test_accuracy"])
            if in_full:
                console.print("\nAll runs:")
            console.print(f"  draw {index + 1}, {arm:10}  test accuracy {accuracy[arm][-1]:.3f}")
    comparison = compare(accuracy) | {"task": task, "backbone": str(backbone), "seed": seed}
    (folder / _RESULT).write_text(json.dumps(comparison, indent=2) + "\n", encoding="utf-8")
    _print_comparison(console, comparison, shown, folder)
    return comparison


def compare(accuracy: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return the accuracies, their means, and the paired difference with its 95 % interval by Student's t."""
    from scipy.stats import ttest_rel

    pretrained, random = (np.array(accuracy[arm]) for arm in ARMS)
    interval = ttest_rel(pretrained, random).confidence_interval(0.95)
    return {
        "test_accuracy": dict(accuracy),
        "mean": {"pretrained": float(pretrained.mean()), "random": float(random.mean())},
        "difference": float((pretrained - random).mean()),
        "difference_ci_low": float(interval.low),
        "difference_ci_high": float(interval.high),
    }


def write_random_weights(backbone: Path, folder: Path, seed: int) -> None:
    """Write the same network with random weights, and everything else that the backbone's folder holds."""
    from transformers import AutoConfig, AutoModel, set_seed

    shutil.copytree(backbone, folder, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    set_seed(seed)
    AutoModel.from_config(AutoConfig.from_pretrained(backbone)).save_pretrained(folder)


def _make_room(folder: Path, overwrite: bool) -> None:
    """Raise :class:`UserError` unless the folder is free, or holds nothing but a demo that may be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--output_dir: '{folder}' is a file.")
    found = {path.name for path in folder.iterdir()}
    if found and not (overwrite and found <= _WRITTEN):
        raise UserError(
            f"--output_dir: the folder '{folder}' is not empty. Choose another one, or replace an older demo with "
            "--overwrite."
        )
    for name in found:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _print_comparison(console: Console, comparison: dict[str, Any], shown: Demonstration, folder: Path) -> None:
    pretrained, random = (comparison["test_accuracy"][arm] for arm in ARMS)
    table = Table(title="Test accuracy", title_justify="left")
    for header in ("draw", "pretrained", "random weights", "difference"):
        table.add_column(header, justify="right")
    for index, (first, second) in enumerate(zip(pretrained, random, strict=True), start=1):
        table.add_row(str(index), f"{first:.3f}", f"{second:.3f}", f"{first - second:+.3f}")
    means = comparison["mean"]
    table.add_section()
    table.add_row(
        "mean", f"{means['pretrained']:.3f}", f"{means['random']:.3f}", f"{comparison['difference']:+.3f}", style="bold"
    )
    console.print()
    console.print(table)
    low, high = comparison["difference_ci_low"], comparison["difference_ci_high"]
    console.print(
        f"Pretraining adds {comparison['difference']:.3f} to the accuracy, 95 % interval {low:.3f} to {high:.3f} "
        f"(Student's t, paired, over {len(pretrained)} draws)."
        + ("" if low > 0 else " The interval includes 0: more --draws tell whether there is a difference.")
    )
    first_run = folder / "pretrained" / "draw-1"
    console.print("\nThe artefacts:")
    console.print(f"  {first_run / 'report.html'}  the first run on one page")
    console.print(f"  {first_run}  its model: pipeline('{comparison['task']}', '{first_run}')")
    console.print(f"  {folder / 'data'}  the examples; the other runs stand beside the first")
    console.print(f"  {folder / _RESULT}  these figures\n")
    for line in shown.next_steps:
        console.print(line)
    console.print("More: hfft train --help")
