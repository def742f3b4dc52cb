from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    DataCollatorWithPadding,
    DebertaV2Config,
    DistilBertConfig,
    MPNetConfig,
    PrinterCallback,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    T5Config,
    T5ForSequenceClassification,
    ViTConfig,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hfft import FineTuningArguments, FineTuningTrainer
from hfft.caching import Cache
from tests.conftest import save_timm_model

ROWS, LAYERS = 24, 4
SIZES = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {"vocab_size": 40, "max_position_embeddings": 20, "num_labels": 3, "pad_token_id": 0, "eos_token_id": 1}
BERT = BertConfig(**SIZES, **TEXT)
CONFIGS = {
    "bert": BERT,
    "roberta": RobertaConfig(**SIZES, **TEXT),
    "distilbert": DistilBertConfig(dim=16, n_layers=LAYERS, n_heads=2, hidden_dim=24, **TEXT),
    "mpnet": MPNetConfig(**SIZES, **TEXT),
    "deberta-v2": DebertaV2Config(**SIZES, **TEXT, relative_attention=True, pos_att_type=["c2p", "p2c"]),
}


class Padding:
    """Pads to the longest text of the batch."""

    pad_to_multiple_of = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        ids = torch.tensor([example["input_ids"] + [0] * (longest - len(example["input_ids"])) for example in examples])
        labels = torch.tensor([example["labels"] for example in examples])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def texts(rows: int = ROWS) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 14, (rows,), generator=generator).tolist()
    ids = [torch.randint(4, 40, (length,), generator=generator).tolist() + [1] for length in lengths]
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": [n % 3 for n in lengths]}
    )


def pictures(rows: int = ROWS) -> Dataset:
    pixels = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = {"pixel_values": pixels.tolist(), "labels": [row % 3 for row in range(rows)]}
    return Dataset.from_dict(data).with_format("torch")


def text_model(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


def vit() -> Any:
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=3, hidden_dropout_prob=0.1)
    return AutoModelForImageClassification.from_config(config)


def timm(folder: Path) -> Any:
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_pretrained(folder, num_labels=3)


class Watched(FineTuningTrainer):
    """Notes the loss of every step, and which modules without children ran in it."""

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.losses: list[float] = []
        self.ran: list[set[str]] = []
        self._running: set[str] = set()
        for name, module in model.named_modules():
            if not list(module.children()):
                module.forward = self._noting(name, module.forward)

    def _noting(self, name: str, forward: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            self._running.add(name)
            return forward(*args, **kwargs)

        return noted

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        self.ran.append(self._running)
        self._running = set()
        return loss


def train(
    model: Any, data: Dataset, out: Path, cache: Cache | None, resume: str | None = None, **options: Any
) -> Watched:
    defaults: dict[str, Any] = {
        "num_train_epochs": 5, "per_device_train_batch_size": 5, "learning_rate": 1e-2, "logging_strategy": "steps",
        "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
        "disable_tqdm": True, "per_device_eval_batch_size": 7,
    }  # fmt: skip
    args = FineTuningArguments(output_dir=str(out), **{**defaults, **options})
    collator = Padding() if "input_ids" in data.column_names else None
    trainer = Watched(model, args, train_dataset=data, data_collator=collator, cache=cache)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def assert_equal(one: Watched, other: Watched) -> None:
    """After the first step: it is the one that records."""
    assert len(one.losses) == len(other.losses) > 0
    assert one.losses == pytest.approx(other.losses, abs=1e-5)
    assert len(set(other.losses)) > 1
    weights = other.model.state_dict()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=1e-4, rtol=1e-3, msg=name)


def steps_with(trainer: Watched, part: str) -> int:
    """Return in how many steps after the first, in which recording takes place, anything of a module ran."""
    return sum(any(part in name for name in ran) for ran in trainer.ran[1:])


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 10**9)


GRADUAL = {"strategy": "gradual", "epochs_per_group": 0.8}  # 4 of 25 steps
FREEZE = {"freeze": "3"}


@pytest.mark.parametrize("options", [FREEZE, GRADUAL], ids=["freeze", "gradual"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_texts_train_as_without_the_cache(kind, options, tmp_path: Path, cache: Cache):
    plain = train(text_model(CONFIGS[kind]), texts(), tmp_path / "plain", None, **options)
    cached = train(text_model(CONFIGS[kind]), texts(), tmp_path / "cached", cache, **options)
    assert_equal(cached, plain)
    assert steps_with(plain, "embeddings.word_embeddings") == steps_with(plain, "layer.1.") == 24
    # thaws: the head at step 0, then a group every 4 steps, and the stem at step 20
    frozen_for_good = options is FREEZE
    assert steps_with(cached, "embeddings.word_embeddings") == (0 if frozen_for_good else 25 - 20)
    assert steps_with(cached, "layer.1.") == (0 if frozen_for_good else 25 - 12)
    assert steps_with(cached, "layer.2.") == (24 if frozen_for_good else 25 - 8)


@pytest.mark.parametrize("options", [FREEZE, GRADUAL], ids=["freeze", "gradual"])
def test_pictures_train_as_without_the_cache(options, tmp_path: Path, cache: Cache):
    plain = train(vit(), pictures(), tmp_path / "plain", None, **options)
    cached = train(vit(), pictures(), tmp_path / "cached", cache, **options)
    assert_equal(cached, plain)
    assert steps_with(plain, "layers.1.") == 24
    assert steps_with(cached, "layers.1.") == (0 if options is FREEZE else 25 - 12)


@pytest.mark.parametrize("options", [FREEZE, {**GRADUAL, "epochs_per_group": 0.6}], ids=["freeze", "gradual"])
@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
def test_timm_models_train_as_without_the_cache(architecture, options, tmp_path: Path, cache: Cache):
    folder = save_timm_model(tmp_path / "model", architecture)
    plain = train(timm(folder), pictures(), tmp_path / "plain", None, **options)
    cached = train(timm(folder), pictures(), tmp_path / "cached", cache, **options)
    assert_equal(cached, plain)
    stem = next(name for name, module in plain.model.named_modules() if isinstance(module, nn.Conv2d))
    assert steps_with(plain, stem) == 24
    assert steps_with(cached, stem) < 15
