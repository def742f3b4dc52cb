"""Tiny models and data sets, made here: the tests need no network and nothing outside the project."""

from __future__ import annotations

import gc
import os

# Before any library reads them: the tests prove on the way that nothing asks for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run in several processes, which would wait for each other

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.without_hfft import Pipelines

WORDS = {
    "animal": ["cat", "dog", "horse", "bird", "fish"],
    "colour": ["red", "green", "blue", "yellow", "black"],
    "number": ["one", "two", "three", "four", "five"],
}
COLOURS = {"blue": (30, 40, 200), "green": (20, 180, 60), "red": (220, 30, 40)}


@pytest.fixture(autouse=True, scope="module")
def _libraries_out_of_the_collector() -> None:
    """Set aside what imports have made: each training collects garbage, and else looks through all of it (0.4 s)."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Give back what was set aside: extensions complain of what is still there at the end."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep converted tables out of the home folder."""
    import datasets.config

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    os.environ["HF_DATASETS_CACHE"] = str(datasets.config.HF_DATASETS_CACHE)


@pytest.fixture(scope="session")
def pipelines() -> Iterator[Pipelines]:
    """The pipelines of transformers in a process where hfft is not importable."""
    asked = Pipelines()
    yield asked
    asked.close()


def write_picture(path: Path, colour: tuple[int, int, int], generator: np.random.Generator, size: int = 24) -> None:
    """Write a noisy picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = generator.integers(-25, 26, size=(size, size, 3))
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders under train (8 of each of 3 colours) and test (4 each)."""
    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name, colour in COLOURS.items():
            for index in range(count):
                write_picture(root / split / name / f"{index}.png", colour, generator)
    return root


def make_sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Return (text, class) rows: each text names two words of its class."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        name = sorted(WORDS)[index % len(WORDS)]
        first, second = generator.choice(WORDS[name], 2)
        rows.append((f"this is {first} and {second} number {index} of {seed}", name))
    return rows


def write_csv(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    """Write a CSV file."""
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.csv (36 rows, 3 classes) and test.csv (15 rows)."""
    root = tmp_path_factory.mktemp("texts")
    write_csv(root / "train.csv", make_sentences(36, 1))
    write_csv(root / "test.csv", make_sentences(15, 2))
    return root


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights, saved as a base model, and a word-level tokenizer."""
    return save_tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


def save_tiny_bert(root: Path, **options: Any) -> Path:
    """Save a BERT of two layers with random weights and a word-level tokenizer; ``options`` of its configuration."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({"this", "is", "and", "of", "number", *(word for words in WORDS.values() for word in words)})
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(special + words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=48,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(root)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(special + words), max_position_embeddings=48, **{**sizes, **options})
    BertModel(config).save_pretrained(root)
    return root


def save_timm_model(root: Path, architecture: str, size: int = 32) -> Path:
    """Save a timm model with random weights and without a classifier, as timm's own checkpoints are."""
    import json

    import timm
    import torch
    from safetensors.torch import save_file

    root.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=0)
    save_file(model.state_dict(), root / "model.safetensors", metadata={"format": "pt"})
    preprocessing = {"input_size": [3, size, size], "crop_pct": 0.875, "interpolation": "bicubic"}
    preprocessing |= {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "classifier": "fc"}
    config = {"architecture": architecture, "num_classes": 0, "num_features": model.num_features}
    (root / "config.json").write_text(json.dumps({**config, "pretrained_cfg": preprocessing}))
    return root


@pytest.fixture(scope="session")
def tiny_timm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's smallest residual network (with BatchNorm), random weights."""
    return save_timm_model(tmp_path_factory.mktemp("models") / "tiny-resnet", "test_resnet")


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers ViT of two layers with random weights and its image processor."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    root = tmp_path_factory.mktemp("models") / "tiny-vit"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config).save_pretrained(root)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root)
    return root


@contextmanager
def garbage_collected_as_before(own: bool) -> Iterator[None]:
    """Check that what a program has taken out of the garbage collector, if it has, stays so, and nothing else does."""
    gc.unfreeze()
    try:
        if own:
            gc.freeze()
        yield
        assert (gc.get_freeze_count() > 10_000) == own
    finally:
        gc.freeze()  # as the tests found it


@contextmanager
def counted_features() -> Iterator[list[int]]:
    """Note of how many examples features are computed, each time."""
    from hfft.features import of_split

    compute, counts = of_split.compute_features, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        rows, features = compute(*args, **kwargs)
        counts.append(len(rows))
        return rows, features

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_split, "compute_features", counted)
        yield counts
