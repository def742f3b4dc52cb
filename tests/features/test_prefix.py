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


class Trained:
    """What a training came to: the loss of each step, the weights, and how often each module ran in its steps."""

    def __init__(
        self, model: Any, data: Dataset, out: Path, cache: Cache | None, resume: str | None = None, **options: Any
    ) -> None:
        defaults: dict[str, Any] = {
            "num_train_epochs": 5, "per_device_train_batch_size": 5, "learning_rate": 1e-2, "logging_strategy": "steps",
            "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
            "disable_tqdm": True, "per_device_eval_batch_size": 7,
        }  # fmt: skip
        args = FineTuningArguments(output_dir=str(out), **{**defaults, **options})
        collator = Padding() if "input_ids" in data.column_names else None
        self.calls: Counter[str] = Counter()
        self.trainer = FineTuningTrainer(model, args, train_dataset=data, data_collator=collator, cache=cache)
        for name, module in model.named_modules():
            if not list(module.children()):  # a leaf's own forward is never replaced where a module above it is
                forward = module.forward
                module.forward = self._counting(name, module, forward)
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.train(resume_from_checkpoint=resume)
        self.losses = [entry["loss"] for entry in self.trainer.state.log_history if "loss" in entry]
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    def _counting(self, name: str, module: nn.Module, forward: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return forward(*args, **kwargs)

        return counted

    def calls_in(self, path: str) -> int:
        """Return how often anything inside a module ran, at most."""
        return max((count for name, count in self.calls.items() if name.startswith(path)), default=0)


def assert_equal(one: Trained, other: Trained) -> None:
    assert len(one.losses) == len(other.losses) > 0
    assert one.losses == pytest.approx(other.losses, abs=1e-5)
    for name, value in other.weights.items():
        torch.testing.assert_close(one.weights[name], value, atol=2e-4, rtol=1e-3, msg=name)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 10**9)


GRADUAL = {"strategy": "gradual", "epochs_per_group": 0.8}


@pytest.mark.parametrize("options", [{"freeze": "3"}, GRADUAL], ids=["freeze", "gradual"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_texts_train_as_without_the_cache(kind, options, tmp_path: Path, cache: Cache):
    plain = Trained(text_model(CONFIGS[kind]), texts(), tmp_path / "plain", None, **options)
    cached = Trained(text_model(CONFIGS[kind]), texts(), tmp_path / "cached", cache, **options)
    assert_equal(cached, plain)
    stem = next(name for name in cached.calls if name.endswith("embeddings.word_embeddings"))
    assert cached.calls[stem] < plain.calls[stem]
    assert cache.entries("activations-")
