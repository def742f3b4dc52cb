"""ULMFiT's recipe: gradual unfreezing, discriminative rates, slanted triangular schedule.

    python examples/ulmfit.py

Howard and Ruder (2018, arXiv:1801.06146) train the head first and thaw one layer more after each epoch, give each layer
1/2.6 of the rate of the one above, and let the rates rise for a tenth of the run and then fall. Expect the layers to
thaw one by one on the way, and a test accuracy around 0.8, where the most frequent class has 0.2.
"""

from __future__ import annotations

import hfft
from hfft.demonstrations import ASSETS


def main() -> None:
    """Fine-tune, and show when each layer thawed and how far it has moved."""
    result = hfft.finetune(
        model=str(ASSETS / "tiny-bert-docs"),  # google-bert/bert-base-uncased
        data=str(ASSETS / "scipy-topics"),
        output_dir="example-ulmfit",
        strategy="gradual",
        epochs_per_group=1,
        layer_decay=1 / 2.6,
        lr_scheduler_type="slanted_triangular",
        lr_scheduler_kwargs={"cut_frac": 0.1, "ratio": 32},
        head_start="random",  # hfft would else start from a solved head, which the paper does not
        learning_rate=4e-3,
        num_train_epochs=6,
        max_length=48,  # tokens; what is longer is cut
        overwrite=True,
    )
    moved = {group["name"]: group["distance"] for group in result.record.distances}
    for group, epoch in result.record.thaws.items():
        distance = f"moved by {moved[group]:.1%} of its weights' norm" if group in moved else "new"
        print(f"{group}: thawed at epoch {epoch:g}, {distance}")


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
