"""The parts alone, in a stock Trainer: layer-wise rates and gradual unfreezing, and nothing else of hfft.

    python examples/stock_trainer.py

Trains the small ViT that comes with hfft on 200 handwritten digits, the head first and then layer by layer from
the top, each layer at 0.75 of the rate above. Expect an accuracy around 0.85 on 500 others.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

import hfft
from hfft.demonstrations import ASSETS


def main() -> None:
    """Give the Trainer our optimizer and our callback."""
    digits = load_digits()
    pixels = torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:700, None].repeat(1, 3, 1, 1)
    pixels = torch.nn.functional.interpolate(pixels, size=(32, 32), mode="bilinear")
    rows = [{"pixel_values": pixels[row], "labels": int(digits.target[row])} for row in range(700)]

    trainer = Trainer(
        AutoModelForImageClassification.from_pretrained(ASSETS / "tiny-vit-glyphs", num_labels=10),
        TrainingArguments("example-stock-trainer", num_train_epochs=9, save_strategy="no", report_to="none"),
        train_dataset=rows[:200],
        eval_dataset=rows[200:],
        compute_metrics=lambda seen: {"accuracy": float((seen.predictions.argmax(-1) == seen.label_ids).mean())},
        optimizer_cls_and_kwargs=hfft.layerwise_optimizer("adamw", lr=1e-3, layer_decay=0.75, weight_decay=0.05),
        callbacks=[hfft.GradualUnfreezing(epochs_per_group=1.0)],
    )
    trainer.train()
    for group in trainer.optimizer.param_groups:
        print(f"{group['layer']}: {len(group['params'])} parameters, rate {group['initial_lr']:.2e}")
    print(f"accuracy: {trainer.evaluate()['eval_accuracy']:.3f}")
    trainer.save_model()


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
