"""Several classes for each text, with a threshold of its own for each class.

    python examples/multi_label.py

Joins docstrings of two topics to one text that has both, written "statistics;optimization". What is trained is binary
cross-entropy; the threshold of each class is tuned on the validation split and stands in the model's configuration.
Expect a micro F1 around 0.6; the baseline, which gives every text the same classes, has 0.47.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas

import hfft
from hfft.demonstrations import ASSETS


def main() -> None:
    """Join texts, fine-tune, and show the thresholds."""
    texts = pandas.read_csv(ASSETS / "scipy-topics" / "train.csv")
    others = texts.sample(frac=1, random_state=0).reset_index(drop=True)
    both = pandas.DataFrame({"text": texts["text"] + " " + others["text"], "label": texts["label"]})
    both["label"] += (";" + others["label"]).where(others["label"] != texts["label"], "")
    both.to_csv("pairs-of-topics.csv", index=False)

    result = hfft.finetune(
        model=str(ASSETS / "tiny-bert-docs"),  # google-bert/bert-base-uncased
        data="pairs-of-topics.csv",
        label_delimiter=";",  # not needed where the label column holds lists (JSONL, Parquet)
        output_dir="example-multi-label",
        learning_rate=1e-3,
        num_train_epochs=5,
        max_length=64,  # tokens; what is longer is cut
        overwrite=True,
    )

    config = json.loads(Path(result.output_dir, "config.json").read_text())
    print(dict(zip(config["label2id"], config["label_thresholds"], strict=True)))


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
