"""What the demo compares for each task: a shipped backbone, and draws of a few real examples."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hfft.targets.stratification import draw_stratified

ASSETS = Path(__file__).with_name("assets")


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
