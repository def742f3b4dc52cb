"""A task of one's own: a class for each grid of readings, which no installed task knows.

    python examples/custom_task.py

The readings are scikit-learn's digits as it delivers them, 64 numbers a row; the model is the small ViT that comes with
hfft. Everything else is the core's: splits, checks, strategies, metrics, report. A package that registers the class
as an entry point of the group ``hfft.tasks`` has it in every command too. Expect a test accuracy above 0.9.
"""

from __future__ import annotations

import math
from typing import Any

import pandas
import torch
from sklearn.datasets import load_digits
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, default_data_collator

import hfft
from hfft.demonstrations import ASSETS
from hfft.loading import load_classifier

SIDE = 8  # readings
HIGHEST = 16.0  # reading


class GridClassification(hfft.Task):
    """One class for each grid of 8 x 8 readings from 0 to 16."""

    name = "grid-classification"
    summary = "one class for each grid of readings; ViT"
    inputs = (hfft.InputColumn("grid", ("grid", "readings")),)
    defaults = {"learning_rate": 5e-4}  # noqa: RUF012

    def accepts(self, value: Any) -> bool:
        """A list of numbers may be a grid."""
        return isinstance(value, list) and bool(value) and isinstance(value[0], int | float)

    def check(self, example: Any) -> str | None:
        """Tell, before anything is trained, of grids that cannot be used."""
        grid = example["grid"]
        if grid is None or len(grid) != SIDE**2:
            return f"is no grid of {SIDE**2} readings"
        return None if all(map(math.isfinite, grid)) else "has a reading that is no number"

    def supports(self, config: Any) -> bool:
        """Only models that read a square of pixels."""
        return isinstance(config, ViTConfig)

    def load(self, arguments: Any, config: Any, target: Any) -> tuple[Any, Any]:
        """Load the model with a new head for the target, and what knows its size."""
        model = load_classifier(AutoModelForImageClassification, arguments, config, target)
        return model, AutoImageProcessor.from_pretrained(arguments.model)

    def encoder(self, processor: Any, *, training: bool, augment: str = "none") -> Any:
        """Grids become ``pixel_values`` from -1 to 1, of the model's size."""
        size = (processor.size["height"], processor.size["width"])

        def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            grids = torch.tensor(batch["grid"], dtype=torch.float32).reshape(-1, 1, SIDE, SIDE) / HIGHEST * 2 - 1
            pixels = torch.nn.functional.interpolate(grids.repeat(1, 3, 1, 1), size, mode="bilinear")
            return {"pixel_values": list(pixels), **({"labels": batch["label"]} if "label" in batch else {})}

        return encode

    def collator(self, processor: Any) -> Any:
        """Stack to (batch, 3, height, width)."""
        return default_data_collator

    def describe(self, example: Any) -> str:
        """The first row of the grid."""
        return " ".join(f"{reading:g}" for reading in example["grid"][:SIDE]) + " ..."


def main() -> None:
    """Train on a table of grids."""
    digits = load_digits()
    table = pandas.DataFrame({"grid": digits.data.tolist(), "label": digits.target}).sample(400, random_state=0)
    hfft.finetune(
        task=GridClassification(),
        model=str(ASSETS / "tiny-vit-glyphs"),
        data=table,
        output_dir="example-custom-task",
        strategy="lp-ft",
        num_train_epochs=4,
        overwrite=True,
    )


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
