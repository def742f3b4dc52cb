"""Linear probing, then fine-tuning: whether training the layers is worth it.

    python examples/lp_ft.py

Kumar et al. (2022, arXiv:2202.10054) solve the head on the frozen features first, so that the first steps do not spoil
them. hfft computes the features once for both runs, and ships the solved head where training brings nothing on the
validation split. Expect both accuracies, their paired difference with its interval, and McNemar's test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import hfft
from hfft.demonstrations import ASSETS, write_digits


def main() -> None:
    """Run both strategies on the same pictures, and compare them on the same test examples."""
    write_digits(Path("digits"), np.random.default_rng(0))
    for strategy, settings in {"linear-probe": {}, "lp-ft": {"num_train_epochs": 10, "augment": "none"}}.items():
        hfft.finetune(
            model=str(ASSETS / "tiny-vit-glyphs"),  # timm/resnet18.a1_in1k
            data="digits",
            output_dir=f"example-{strategy}",
            strategy=strategy,
            overwrite=True,
            **settings,
        )

    comparison = hfft.compare("example-linear-probe", "example-lp-ft")
    accuracy = comparison.metrics["accuracy"]
    print(f"linear-probe {accuracy['first']:.3f}, lp-ft {accuracy['second']:.3f}: {accuracy['difference']:+.3f}")
    print(f"McNemar: {comparison.mcnemar}")


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
