from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hfft.tasks import TextClassification
from transformers import AutoConfig, AutoTokenizer

from hfft import ModelArguments, UserError
from hfft.targets import SingleLabel


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


def test_a_model_without_a_tokenizer_is_an_error(tiny_bert: Path, tmp_path: Path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_bert / name, tmp_path / name)
    with pytest.raises(UserError, match="no usable tokenizer"):
        load(tmp_path)
