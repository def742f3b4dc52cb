from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hfft.tasks import TextClassification
from hfft.tasks.text_classification.lengths import find_cut_texts, readable_tokens
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
)

from hfft import ModelArguments, UserError
from hfft.findings import NOTE
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


def save_tiny_gpt2(folder: Path, **special: str) -> None:
    """Save a GPT-2 of one layer, which has no token to pad with."""
    words = ["<unknown>", "<end>", "this", "is", "cat"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unknown>", **special).save_pretrained(folder)
    torch.manual_seed(0)
    GPT2Model(GPT2Config(vocab_size=len(words), n_positions=32, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)


def test_a_model_without_a_token_to_pad_with_pads_with_the_end(tmp_path: Path):
    save_tiny_gpt2(tmp_path, eos_token="<end>")
    model, tokenizer = load(tmp_path)
    assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<end>")
    task, texts = TextClassification(), ["this", "this is cat"]
    encoded = task.encoder(tokenizer, training=False)({"text": texts})
    rows = [{name: values[index] for name, values in encoded.items()} for index in range(2)]
    collate, model = task.collator(tokenizer), model.eval()
    together = model(**collate(rows)).logits
    alone = torch.cat([model(**collate([row])).logits for row in rows])
    torch.testing.assert_close(together, alone)
    assert (together[0] != together[1]).all()


def test_a_model_without_a_token_to_pad_or_end_with_is_refused(tmp_path: Path):
    save_tiny_gpt2(tmp_path)
    with pytest.raises(UserError, match="no token to pad batches with"):
        load(tmp_path)


def test_without_a_tokenizer_at_hand_the_lengths_are_left_to_the_run(tmp_path: Path):
    (found,) = find_cut_texts(ModelArguments(model=str(tmp_path)), {}, None)
    assert found.severity == NOTE
    assert "no tokenizer.json here" in found.message


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (["card_arrival", "lost-card", "topUp"], ["card arrival", "lost card", "top Up"]),
        (["Sci/Tech", "ABC news"], ["Sci Tech", "ABC news"]),
        (["négatif", "ne\u0301gatif\u00e9"], ["négatif", "négatifé"]),
        (["राजनीति", "การเมือง", "否"], ["राजनीति", "การเมือง", "否"]),
        (["C++ code", "don't"], ["C++ code", "don't"]),
        (["top 5", "2nd"], ["top 5", "2nd"]),
        (["LABEL_0", "LABEL_1"], []),
        (["good", "class 2"], []),
        (["0", "1"], []),
        (["A", "B"], []),
        (["q12", "good"], []),
        (["topic_4", "topic_5"], []),
        (["True", "good"], []),
        (["...", "good"], []),
        (["card_arrival", "card-arrival"], []),
    ],
)
def test_names_of_classes_are_texts_where_each_says_something(names: list[str], texts: list[str]):
    assert TextClassification().class_inputs(names) == [{"text": text} for text in texts]
