"""Texts in a CSV file: one table, whose validation and test splits are drawn.

    python examples/csv_text.py

Fine-tunes the small BERT that comes with hfft on 333 docstrings of six topics. ``validation_size`` and ``test_size``
of them are held back, stratified and by the seed. Expect a test accuracy around
0.8, where the most frequent class has 0.2.
"""

from __future__ import annotations

from transformers import pipeline

import hfft
from hfft.demonstrations import ASSETS


def main() -> None:
    """Fine-tune on the table, and classify a text."""
    result = hfft.finetune(
        model=str(ASSETS / "tiny-bert-docs"),  # google-bert/bert-base-uncased
        data=str(ASSETS / "scipy-topics" / "train.csv"),  # texts.csv
        text_column="text",  # both are found by themselves under such names
        label_column="label",
        test_size=0.2,
        validation_size=0.1,
        output_dir="example-csv-text",
        learning_rate=1e-3,  # the model is far smaller than those that the default is for
        num_train_epochs=5,
        max_length=48,  # tokens; what is longer is cut
        overwrite=True,
    )

    classify = pipeline("text-classification", model=result.output_dir)
    print(classify("Compute the eigenvalues of a symmetric matrix."))


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
