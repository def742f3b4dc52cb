"""Where the snippets of a document run: small data under the names that they use, and a Hub cache of tiny models.

It has to be imported before huggingface_hub, datasets and transformers, which read their folders from the environment
once.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hfft-documents-")
os.environ["HF_HUB_CACHE"] = os.environ["HF_HOME"] + "/hub"
os.environ["HF_DATASETS_CACHE"] = os.environ["HF_HOME"] + "/datasets"
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["PYTHONPATH"] = f"{Path(__file__).parents[2]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

import numpy as np

from tests.conftest import COLOURS, make_sentences, save_timm_model, save_tiny_bert, write_csv, write_picture
from tests.hub_server import TOKEN, Hub, serve

ROOT = Path(__file__).parents[2]
SCRATCH = os.environ["HF_HOME"]
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
RUN = """\
model: timm/resnet18.a1_in1k
data: photos/
output_dir: out-of-yaml
num_train_epochs: 2
use_cpu: true
"""


def make_workplace() -> Path:
    """Return a new folder with everything that a snippet may name."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH))
    shutil.copytree(_template(), folder, dirs_exist_ok=True)
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@cache
def _template() -> Path:
    _fill_hub_cache()
    root = Path(tempfile.mkdtemp(dir=SCRATCH))
    _write_pictures(root)
    _write_texts(root)
    _write_sounds(root)
    (root / "run.yaml").write_text(RUN)
    return root


def _write_pictures(root: Path) -> None:
    """Class folders in photos/ and new-photos/, and pictures without a class in holiday/."""
    generator = np.random.default_rng(0)
    for folder, count in (("photos", 16), ("new-photos", 4)):
        for name, colour in COLOURS.items():
            for index in range(count):
                write_picture(root / folder / name / f"{index}.png", colour, generator)
    for index, colour in enumerate(COLOURS.values()):
        write_picture(root / "holiday" / f"{index}.png", colour, generator)


def _write_texts(root: Path) -> None:
    """Texts with classes in texts.csv and texts/, without in texts.txt, and the other kinds of labels and columns."""
    names = ("animal", "colour", "number")
    # one label in eight is another one, so that no figure is perfect
    rows = [
        (text, names[index % 2] if index % 8 == 3 else name) for index, (text, name) in enumerate(make_sentences(60, 1))
    ]
    write_csv(root / "texts.csv", rows)
    write_csv(root / "texts" / "train.csv", rows)
    write_csv(root / "texts" / "test.csv", make_sentences(15, 2))
    (root / "texts.txt").write_text("".join(f"{text}\n" for text, _ in make_sentences(5, 3)))
    others = [rows[(index + 2 + index % 2) % len(rows)] for index in range(len(rows))]
    pairs = [(first, second, str(one == other)) for (first, one), (second, other) in zip(rows, others, strict=True)]
    write_csv(root / "pairs.csv", pairs, ("premise", "hypothesis", "label"))
    groups = [(text, name, f"author-{index // 3}") for index, (text, name) in enumerate(rows)]
    write_csv(root / "by-author.csv", groups, ("text", "label", "author"))
    several = [(text, f"{name};{'long' if index % 2 else 'short'}") for index, (text, name) in enumerate(rows)]
    write_csv(root / "topics.csv", several, ("text", "label"))
    numbers = [(text, f"{index % 7 + 0.5}") for index, (text, _) in enumerate(rows)]
    write_csv(root / "ratings.csv", numbers, ("text", "label"))
    lines = [json.dumps({"text": text, "label": labels.split(";")}) for text, labels in several]
    (root / "topics.jsonl").write_text("\n".join(lines) + "\n")


def _write_sounds(root: Path) -> None:
    """Noisy tones of half a second, in clips/high and clips/low."""
    from scipy.io import wavfile

    generator, times = np.random.default_rng(0), np.arange(8000) / 16_000
    for name, pitch in (("high", 2000), ("low", 200)):
        (root / "clips" / name).mkdir(parents=True)
        for index in range(10):
            tone = np.sin(2 * np.pi * pitch * times) + generator.normal(0, 0.3, 8000)
            wavfile.write(root / "clips" / name / f"{index}.wav", 16_000, (tone * 8000).astype(np.int16))


def _fill_hub_cache() -> None:
    """Put tiny models with random weights where the Hub's cache keeps those of well-known names."""
    _save_tiny_wav2vec2(_snapshot("facebook/wav2vec2-base"))
    save_tiny_bert(
        _snapshot("google-bert/bert-base-uncased"), hidden_size=64, intermediate_size=64
    )  # whole 4-bit blocks
    save_timm_model(_snapshot("timm/resnet18.a1_in1k"), "test_resnet")


def _save_tiny_wav2vec2(root: Path) -> None:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16, 16),
        conv_kernel=(10, 8),
        conv_stride=(10, 8),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=32,
    )
    Wav2Vec2Model(config).save_pretrained(root)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(root)


def _snapshot(repository: str) -> Path:
    commit = "0" * 40
    folder = Path(os.environ["HF_HOME"], "hub", f"models--{repository.replace('/', '--')}")
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def tokenized_texts() -> tuple[Any, Any, Any]:
    """Return what a snippet about the stock Trainer begins with: a model, tokenized texts, and the tokenizer."""
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    name = "google-bert/bert-base-uncased"
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=3)
    rows = load_dataset("csv", data_files="texts.csv", split="train").class_encode_column("label")
    encoded = rows.map(lambda row: tokenizer(row["text"], padding="max_length", max_length=16))
    return model, encoded.rename_column("label", "labels").remove_columns("text"), tokenizer


@contextmanager
def hub() -> Iterator[Hub]:
    """Let the Hub be a server on this machine, for one who is logged in."""
    from huggingface_hub import constants

    found = Hub()
    server = serve(found)
    there = {"HF_HUB_OFFLINE": False, "ENDPOINT": found.url, "HF_HUB_DISABLE_XET": True}
    with mock.patch.multiple(constants, **there), mock.patch.dict(os.environ, HF_TOKEN=TOKEN):
        yield found
    server.shutdown()
    server.server_close()
