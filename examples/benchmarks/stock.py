"""The stock Trainer's side: what `run_glue.py` and `run_image_classification.py` of transformers do, in short."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from torchvision.transforms import v2
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hfft import LayerStack

Parts = tuple[Any, Dataset, Dataset, Callable[[list[dict[str, Any]]], Any]]
"""Model, training split, test split, collator."""


def stock_trainer(
    options: Namespace,
    seed: int,
    folder: Path,
    *,
    learning_rate: float,
    padded: bool = False,
    frozen: bool = False,
    **settings: Any,
) -> Trainer:
    """Return a Trainer in float32 with the Trainer's own defaults; its evaluation data is the test split.

    Args:
        options: model, data, epochs, batch_size and max_length.
        seed: of the head and the order of the examples.
        folder: for what the Trainer writes.
        learning_rate: of everything that trains.
        padded: pad every text to the greatest length, and not to the longest of its batch.
        frozen: train the head alone.
        settings: more of TrainingArguments.
    """
    set_seed(seed)
    model, train, test, collate = _images(options) if holds_images(options.data) else _texts(options, padded)
    head = set(LayerStack.from_model(model)[-1].parameter_names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen or name in head)
    args = TrainingArguments(
        output_dir=str(folder / "stock"), num_train_epochs=options.epochs, learning_rate=learning_rate, seed=seed,
        per_device_train_batch_size=options.batch_size, per_device_eval_batch_size=64, eval_strategy="no",
        save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        use_cpu=not torch.accelerator.is_available(), **settings,
    )  # fmt: skip
    return Trainer(model, args, train_dataset=train, eval_dataset=test, data_collator=collate)


def test_accuracy(trainer: Trainer) -> float:
    """Return the share of right answers on the evaluation data."""
    predicted = trainer.predict(trainer.eval_dataset)
    return float((np.asarray(predicted.predictions).argmax(axis=1) == predicted.label_ids).mean())


def holds_images(data: str) -> bool:
    """Say whether the data is class folders of pictures, and not tables."""
    return (Path(data) / "train").is_dir()


def _texts(options: Namespace, padded: bool) -> Parts:
    suffix = next(Path(options.data).glob("train.*")).suffix.removeprefix(".")
    files = {split: str(Path(options.data) / f"{split}.{suffix}") for split in ("train", "test")}
    data = load_dataset(suffix, data_files=files)
    classes = sorted(set(data["train"]["label"]))
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    length = min(options.max_length, tokenizer.model_max_length)

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        labels = [classes.index(label) for label in batch["label"]]
        padding = "max_length" if padded else False
        return {**tokenizer(batch["text"], truncation=True, max_length=length, padding=padding), "labels": labels}

    data = data.map(encode, batched=True, remove_columns=data["train"].column_names)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(classes))
    return model, data["train"], data["test"], DataCollatorWithPadding(tokenizer)


def _images(options: Namespace) -> Parts:
    data = load_dataset("imagefolder", data_dir=options.data)
    transforms = _transforms(AutoImageProcessor.from_pretrained(options.model))

    def encoded(split: str) -> Dataset:
        def encode(batch: dict[str, Any]) -> dict[str, Any]:
            pixels = [transforms[split](image.convert("RGB")) for image in batch["image"]]
            return {"pixel_values": pixels, "labels": batch["label"]}

        return data[split].with_transform(encode)

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([example["pixel_values"] for example in examples])
        return {"pixel_values": pixels, "labels": torch.tensor([example["labels"] for example in examples])}

    classes = data["train"].features["label"].num_classes
    model = AutoModelForImageClassification.from_pretrained(options.model, num_labels=classes)
    return model, encoded("train"), encoded("test"), collate


def _transforms(processor: Any) -> dict[str, Callable[[Any], torch.Tensor]]:
    """Return random crops and mirror images for training, and the middle of the picture for the test."""
    timm = getattr(processor, "data_config", None)
    if timm is None:
        size, mean, std = (processor.size["height"], processor.size["width"]), processor.image_mean, processor.image_std
    else:
        size, mean, std = tuple(timm["input_size"][1:]), timm["mean"], timm["std"]
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    return {
        "train": v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *tensor]),
        "test": v2.Compose([v2.Resize(min(size)), v2.CenterCrop(size), *tensor]),
    }
