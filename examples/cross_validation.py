"""Cross-validation: how good a recipe is, when there are too few examples for a test split; then the model of them all.

    python examples/cross_validation.py

Predicts each of 333 docstrings once, by a model that has not seen it. Features are computed once for all folds. With
``refit`` a last model is trained on every example; its card shows the figures of the folds. Expect an accuracy around
0.74, with an interval that counts that folds share training examples.
"""

from __future__ import annotations

import hfft
from hfft.demonstrations import ASSETS


def main() -> None:
    """Cross-validate a linear probe, and refit it."""
    result = hfft.cross_validate(
        model=str(ASSETS / "tiny-bert-docs"),  # google-bert/bert-base-uncased
        data=str(ASSETS / "scipy-topics" / "train.csv"),
        output_dir="example-cross-validation",
        strategy="linear-probe",
        folds=5,
        refit=True,
        max_length=48,  # tokens; what is longer is cut
        overwrite=True,
    )
    print([round(fold["test_accuracy"], 3) for fold in result.folds], result.refit_dir)


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
