"""Pairs of sentences: whether the second is true of the first.

    python examples/sentence_pairs.py

Asks of each docstring, as natural language inference does, whether it "is about" statistics, and whether about
special functions. The pairs of one docstring stay in one split (``group_column``), or its text would be known
from training. Expect a test accuracy around 0.95, and 0.5 from guessing.
"""

from __future__ import annotations

import pandas
from transformers import pipeline

import hfft
from hfft.demonstrations import ASSETS


def main() -> None:
    """Make the pairs, fine-tune, and ask about a pair."""
    topics, folder = ("statistics", "special functions"), ASSETS / "scipy-topics"
    texts = pandas.concat(map(pandas.read_csv, sorted(folder.glob("*.csv"))), ignore_index=True)
    texts = texts[texts["label"].isin(topics)].reset_index(names="docstring")
    pairs = pandas.concat([texts.assign(topic=topic) for topic in topics])
    pairs["is_true"] = (pairs["label"] == pairs["topic"]).map({True: "yes", False: "no"})
    pairs["statement"] = "This is about " + pairs["topic"] + "."

    result = hfft.finetune(
        model=str(ASSETS / "tiny-bert-docs"),
        data=pairs,
        text_column="text",
        text_pair_column="statement",
        label_column="is_true",
        group_column="docstring",
        output_dir="example-sentence-pairs",
        learning_rate=2e-3,
        num_train_epochs=6,
        per_device_train_batch_size=16,
        max_length=64,  # tokens of both; the longer one is cut
        overwrite=True,
    )
    classify = pipeline("text-classification", model=result.output_dir)
    print(classify({"text": "Compute the median and the variance.", "text_pair": "This is about statistics."}))


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
