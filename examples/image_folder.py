"""A folder of pictures: a folder for each class, split or not.

    python examples/image_folder.py

Writes 50 handwritten digits to train on and 500 to test on as class folders, fine-tunes the small ViT that comes with
hfft, and asks the result through transformers alone. Expect a test accuracy around 0.88, and 0.1 from guessing.
For pictures of your own, change ``model`` and ``data``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import pipeline

import hfft
from hfft.demonstrations import ASSETS, write_digits


def main() -> None:
    """Write the folder, fine-tune, and classify a picture."""
    write_digits(Path("digits"), np.random.default_rng(0))  # digits/train/0/0010.png, ..., digits/test/9/1797.png

    result = hfft.finetune(
        model=str(ASSETS / "tiny-vit-glyphs"),  # timm/resnet18.a1_in1k
        data="digits",  # photos/
        output_dir="example-image-folder",
        strategy="full",  # all layers; left out, a solved head may be what ships
        num_train_epochs=20,
        learning_rate=5e-4,
        augment="none",  # a mirrored 2 is no 2; the default mirrors and crops
        overwrite=True,
    )

    picture = next(Path("digits/test/7").iterdir())
    classify = pipeline("image-classification", model=result.output_dir)
    print(f"{picture}: {classify(str(picture), top_k=1)}")


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
