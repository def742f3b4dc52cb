from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hfft.tasks import TextClassification
from hfft.tasks.text_classification.lengths import readable_tokens
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hfft import ModelArguments, UserError
from hfft.targets import SingleLabel
from tests.coverage.zoo import tiny_config


def load(model: Path, **options) -> tuple:
    arguments = ModelArguments(model=str(model), **options)
    return TextClassification().load(arguments, AutoConfig.from_pretrained(model), SingleLabel(["a", "b"]))


def test_texts_are_cut_to_max_length_and_the_tokenizer_remembers(tiny_bert: Path, tmp_path: Path):
    _, tokenizer = load(tiny_bert, max_length=6)
    encode = TextClassification().encoder(tokenizer, training=True)
    assert len(encode({"text": ["this is " * 20]})["input_ids"][0]) == 6
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 6


def test_batches_are_padded_to_their_own_longest(tiny_bert: Path):
    _, tokenizer = load(tiny_bert)
    task = TextClassification()
    encoded = task.encoder(tokenizer, training=False)({"text": ["this", "this is cat"], "label": [0, 1]})
    rows = [{name: values[index] for name, values in encoded.items()} for index in range(2)]
    batch = task.collator(tokenizer)(rows)
    assert batch["input_ids"].shape == (2, 5)
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert batch["labels"].tolist() == [0, 1]


def test_more_tokens_than_the_model_reads_are_refused(tiny_bert: Path):
    with pytest.raises(UserError, match="reads at most 48 tokens, got 49"):
        load(tiny_bert, max_length=49)


@pytest.mark.parametrize("model_type", ["bert", "camembert", "data2vec-text", "longformer", "mpnet", "roberta"])
def test_the_most_tokens_that_are_kept_are_the_most_that_the_model_reads(model_type: str):
    config = tiny_config(model_type)
    config.pad_token_id = 1
    model = AutoModelForSequenceClassification.from_config(config).eval()
    longest = readable_tokens(model_type, config.max_position_embeddings, config.pad_token_id)
    assert model(torch.full((1, longest), 7)).logits.shape == (1, 3)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, longest + 1), 7))


def test_a_model_without_a_tokenizer_is_an_error(tiny_bert: Path, tmp_path: Path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_bert / name, tmp_path / name)
    with pytest.raises(UserError, match="no usable tokenizer"):
        load(tmp_path)
