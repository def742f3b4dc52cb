"""The demo: scikit-learn's handwritten digits through the whole pipeline, from random weights, offline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hfft.errors import UserError
from hfft.finetuning import FineTuneResult, finetune
from hfft.terminal import make_console

IMAGE_SIZE = 32
TEST_SHARE = 0.3


def demo(output_dir: str = "hfft-demo", overwrite: bool = False) -> FineTuneResult:
    """Write the digits as an image folder and a tiny model with random weights, train, test and save.

    Raises :class:`UserError` where ``output_dir`` holds something else, or a demo and ``overwrite`` is not set.
    """
    folder = Path(output_dir)
    run = folder / "run"
    if folder.exists() and any(folder.iterdir()) and not (overwrite and (folder / "digits").is_dir()):
        raise UserError(
            f"--output_dir: the folder '{folder}' is not empty. Choose another one, or replace an older demo with "
            "--overwrite."
        )
    write_digits(folder / "digits")
    write_untrained_model(folder / "untrained-model")
    result = finetune(
        model=str(folder / "untrained-model"),
        data=str(folder / "digits"),
        output_dir=str(run),
        num_train_epochs=8,
        learning_rate=5e-3,
        head_learning_rate=5e-3,
        layer_decay=1.0,
        freeze_batch_norm=False,  # there is nothing pretrained to keep
        augment="none",  # a mirrored 2 is no 2
        overwrite=run.exists(),
    )
    console = make_console()
    console.print("\nYour own pictures, a folder for each class:")
    console.print("  hfft train --model timm/resnet18.a1_in1k --data photos/ --output_dir out")
    console.print("Your own texts, a table with the columns text and label:")
    console.print(
        "  hfft train --model google-bert/bert-base-uncased --data texts.csv --output_dir out",
        highlight=False,
    )
    return result


def write_digits(folder: Path) -> None:
    """Write scikit-learn's 1,797 digits (8 x 8 pixels) as PNGs: ``train/3/0012.png``."""
    from sklearn.datasets import load_digits

    from hfft.data.splits import draw_stratified

    digits = load_digits()
    in_test = np.isin(np.arange(len(digits.target)), draw_stratified(digits.target, TEST_SHARE, seed=0))
    for index, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / ("test" if in_test[index] else "train") / str(digit) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels / 16 * 255).astype(np.uint8)).resize((IMAGE_SIZE, IMAGE_SIZE)).save(path)


def write_untrained_model(folder: Path) -> None:
    """Write a small residual network with random weights as a checkpoint that transformers and timm load."""
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, set_seed

    set_seed(0)
    preprocessing = {
        "input_size": [3, IMAGE_SIZE, IMAGE_SIZE],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    config = TimmWrapperConfig(architecture="test_resnet", num_labels=10, pretrained_cfg=preprocessing)
    TimmWrapperForImageClassification(config).save_pretrained(folder)
