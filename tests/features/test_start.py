from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hfft.tasks import ImageClassification, TextClassification
from transformers import AutoConfig, DistilBertConfig, DistilBertForSequenceClassification

from hfft import ModelArguments, UserError
from hfft.data import LabelledData
from hfft.data.split_names import GROUP
from hfft.features.heads import solve_head
from hfft.features.of_split import Features
from hfft.features.readout import Readout
from hfft.features.start import Start, start_from
from hfft.storage.caching import Cache
from hfft.targets import MultiLabel, Regression, SingleLabel, Target
from hfft.task import Task
from tests.conftest import COLOURS, WORDS, make_sentences

CLASSES = sorted(WORDS)
TEXTS = [*make_sentences(30, 1), ("cat", "animal"), ("red and green and blue of one " * 3, "colour")]


@pytest.fixture
def text_data() -> LabelledData:
    rows = {"text": [text for text, _ in TEXTS], "label": [CLASSES.index(name) for _, name in TEXTS]}
    return LabelledData({"train": Dataset.from_dict(rows)}, SingleLabel(CLASSES), "texts")


@pytest.fixture
def picture_data(image_folder: Path) -> LabelledData:
    files = sorted((image_folder / "train").glob("*/*.png"))
    names = sorted(COLOURS)
    rows = {"image": [str(file) for file in files], "label": [names.index(file.parent.name) for file in files]}
    return LabelledData({"train": Dataset.from_dict(rows)}, SingleLabel(names), "pictures")


def load(task: Task, folder: Path, target: Target, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    arguments = ModelArguments(model=str(folder), **options)
    return task.load(arguments, AutoConfig.from_pretrained(folder), target)


@pytest.fixture
def bert(tiny_bert: Path) -> tuple[Any, Any]:
    return load(TextClassification(), tiny_bert, SingleLabel(CLASSES))


class Calls:
    """Counts the examples that a model is given."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.examples = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        self.examples += len(next(iter(kwargs.values())))


def plain_features(model: Any, tokenizer: Any, texts: list[str]) -> Iterator[np.ndarray]:
    """What the classifier is given, an example at a time: nothing is padded."""
    for text in texts:
        with torch.no_grad():
            inputs = tokenizer([text], return_tensors="pt")
            yield model.bert(**inputs).pooler_output[0].numpy()


def test_features_are_what_the_last_layer_is_given(bert, text_data: LabelledData):
    model, tokenizer = bert
    source = Features(TextClassification(), model, tokenizer, text_data.splits["train"], None, batch_size=5)
    found = source.read(source.readout())
    expected = np.stack(list(plain_features(model.eval(), tokenizer, text_data.splits["train"]["text"])))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    rows = [4, 31, 2]
    np.testing.assert_allclose(source.read(source.readout(), rows), expected[rows], atol=1e-6)


def test_features_are_computed_once(bert, text_data: LabelledData, tmp_path: Path):
    model, tokenizer = bert
    train = text_data.splits["train"]

    def read(split: Dataset, with_model: Any = model) -> tuple[np.ndarray, int]:
        source = Features(TextClassification(), with_model, tokenizer, split, Cache(tmp_path, 10**8))
        readout, calls = source.readout(), Calls(with_model)
        return source.read(readout), calls.examples

    first, computed = read(train)
    assert computed == len(set(train["text"]))
    again, computed = read(train)
    assert computed == 0
    assert np.array_equal(first, again)
    backwards, computed = read(train.select(range(len(train))[::-1]))  # the same examples in another order
    assert computed == 0
    assert np.array_equal(backwards, first[::-1])
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert read(train)[1] == 0  # the head does not matter
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias[0] += 1e-3
    changed, computed = read(train)
    assert computed == len(set(train["text"]))
    assert not np.array_equal(changed, first)


def test_an_encoder_that_cannot_say_what_it_depends_on_has_features_that_are_not_kept(
    bert, text_data: LabelledData, tmp_path: Path
):
    class Plain(TextClassification):
        def encoder(self, processor: Any, training: bool) -> Any:
            return lambda batch: dict(processor(batch["text"]))

    model, tokenizer = bert
    train, cache = text_data.splits["train"], Cache(tmp_path, 10**8)
    plain, usual = (Features(task, model, tokenizer, train, cache) for task in (Plain(), TextClassification()))
    found = plain.read(plain.readout())
    assert not cache.entries()
    np.testing.assert_allclose(found, usual.read(usual.readout()), atol=1e-5)
    assert cache.entries()


def test_another_pooling_is_no_cached_feature(text_data: LabelledData, tiny_bert: Path, tmp_path: Path):
    task, found = TextClassification(), []
    for pooling in ("model", "mean"):
        model, tokenizer = load(task, tiny_bert, text_data.target)
        start_from(task, model, tokenizer, text_data, solved_head=False, pooling=pooling)
        source = Features(task, model, tokenizer, text_data.splits["train"], Cache(tmp_path, 10**8))
        found.append(source.read(source.readout()))
    assert not np.allclose(*found, atol=1e-2)


def begin(task: Task, pair: tuple[Any, Any], data: LabelledData, solved_head: bool = True, **options: Any) -> Start:
    return start_from(task, *pair, data, solved_head=solved_head, **options)


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_solved_head_fits_and_the_trunk_stays_bit_for_bit(bert, text_data: LabelledData):
    model, tokenizer = bert
    before = state(model)
    start = begin(TextClassification(), bert, text_data, pooling="model")
    assert start.head is not None
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    features = np.stack(list(plain_features(model.eval(), tokenizer, text_data.splits["train"]["text"])))
    logits = model.classifier(torch.from_numpy(features))
    assert torch.equal(model.classifier.weight, start.head.weight)
    assert torch.equal(model.classifier.bias, start.head.bias)
    accuracy = (logits.argmax(dim=1).numpy() == np.asarray(text_data.splits["train"]["label"])).mean()
    assert accuracy > 0.6  # the trunk is random


def test_a_group_is_held_out_as_a_whole(bert, text_data: LabelledData):
    groups = [f"author {row // 4}" for row in range(len(TEXTS))]
    train = text_data.splits["train"].add_column(GROUP, groups)
    grouped = LabelledData({"train": train}, text_data.target, "texts")
    model, tokenizer = bert
    source = Features(TextClassification(), model, tokenizer, train, None)
    values, labels = source.read(source.readout()), np.asarray(train["label"])
    expected = solve_head(values, labels, groups=np.unique(groups, return_inverse=True)[1])
    head = begin(TextClassification(), bert, grouped, pooling="model", learn_class_names=False).head
    assert head is not None
    losses = [point.loss for point in head.path]
    assert losses == pytest.approx([point.loss for point in expected.path], rel=1e-4)
    alone = [point.loss for point in solve_head(values, labels).path]
    assert losses[-1] != pytest.approx(alone[-1], rel=1e-2)


def test_other_strategies_leave_the_model_as_it_was_drawn(bert, text_data: LabelledData):
    before = state(bert[0])
    start = begin(TextClassification(), bert, text_data, False)
    assert (start.head, start.pooling, start.notes) == (None, "model", [])
    assert all(torch.equal(value, before[name]) for name, value in bert[0].state_dict().items())


def test_auto_takes_the_pooling_whose_head_fits_best(bert, text_data: LabelledData):
    start = begin(TextClassification(), bert, text_data)
    told = dict(pair.split(" ") for pair in start.notes[0].rpartition("examples: ")[2].rstrip(".").split(", "))
    assert set(told) == {"model", "mean"}
    assert start.pooling == min(told, key=lambda name: float(told[name]))


def test_a_pooling_that_the_model_has_not_is_refused(bert, text_data: LabelledData):
    with pytest.raises(UserError, match=r"--pooling: .* reads its trunk as model, mean, not as 'men'. Did you mean"):
        begin(TextClassification(), bert, text_data, False, pooling="men")


@pytest.mark.parametrize("backbone", ["tiny_timm", "tiny_vit"])
def test_heads_of_vision_models_are_solved(backbone: str, request, picture_data: LabelledData):
    task = ImageClassification()
    pair = load(task, request.getfixturevalue(backbone), picture_data.target)
    before = state(pair[0])
    begin(task, pair, picture_data)
    changed = {name for name, value in pair[0].state_dict().items() if not torch.equal(value, before[name])}
    assert len(changed) == 2
    encode = task.encoder(pair[1], training=False)
    files = picture_data.splits["train"]["image"]
    pixels = torch.stack([encode({"image": [file]})["pixel_values"][0] for file in files])
    predicted = pair[0].eval()(pixel_values=pixels).logits.argmax(dim=1).numpy()
    assert (predicted == np.asarray(picture_data.splits["train"]["label"])).mean() > 0.9  # the classes are colours


def test_several_classes_and_numbers_have_heads_too(tiny_bert: Path, text_data: LabelledData):
    task, texts = TextClassification(), text_data.splits["train"]["text"]
    several = Dataset.from_dict({"text": texts, "label": [[0] if "cat" in text else [1, 2] for text in texts]})
    target = MultiLabel(CLASSES)
    pair = load(task, tiny_bert, target)
    head = begin(task, pair, LabelledData({"train": several}, target, "texts")).head
    assert head is not None
    assert head.weight.shape == (3, 32)
    numbers = Dataset.from_dict({"text": texts, "label": [float(len(text)) for text in texts]})
    number = Regression(["length"], mean=30.0, scale=10.0)
    pair = load(task, tiny_bert, number)
    assert begin(task, pair, LabelledData({"train": numbers}, number, "texts")).head is not None
    found = pair[0].eval()(**pair[1](texts[-1:], return_tensors="pt")).logits.item()
    assert found > 1  # the longest text by far, in standardised units


def test_an_unknown_solver_is_refused(bert, text_data: LabelledData):
    with pytest.raises(UserError, match=r"no head solver 'logistik'. Did you mean 'logistic'"):
        begin(TextClassification(), bert, text_data, solver="logistik")


def test_the_logits_of_a_model_follow_from_its_features(picture_data, text_data, bert, tiny_timm: Path):
    vision = load(ImageClassification(), tiny_timm, SingleLabel(sorted(COLOURS)))
    for task, (model, processor), data in (
        (TextClassification(), bert, text_data),
        (ImageClassification(), vision, picture_data),
    ):
        source = Features(task, model, processor, data.splits["train"], None)
        readout = source.readout()
        found = readout.logits(torch.from_numpy(source.read(readout)))
        examples = data.encoded("train", task.encoder(processor, training=False))
        batch = task.collator(processor)([examples[row] for row in range(len(examples))])
        with torch.no_grad():
            expected = model.eval()(**{name: value for name, value in batch.items() if name != "labels"}).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_logits_of_a_head_with_a_hidden_layer_follow_from_its_features():
    config = DistilBertConfig(vocab_size=30, dim=16, n_layers=1, n_heads=2, hidden_dim=20, num_labels=3)
    model = DistilBertForSequenceClassification(config).eval()
    inputs = {"input_ids": torch.randint(30, (5, 7)), "attention_mask": torch.ones(5, 7, dtype=torch.long)}
    readout = Readout.of(model, inputs)
    assert readout.hidden is not None
    with readout.reading(model) as features_of, torch.no_grad():
        features = features_of(model(**inputs))
    with torch.no_grad():
        torch.testing.assert_close(readout.logits(features), model(**inputs).logits)


def test_a_penalty_that_is_given_is_the_one_of_the_head(bert, text_data: LabelledData):
    model, tokenizer = bert
    found = begin(TextClassification(), bert, text_data, penalty=0.7, pooling="model", learn_class_names=False)
    assert found.head is not None
    assert (found.head.strength, found.head.path) == (0.7, ())
    source = Features(TextClassification(), model, tokenizer, text_data.splits["train"], None)
    features = torch.from_numpy(source.read(source.readout()))
    expected = solve_head(features, torch.tensor(text_data.splits["train"]["label"]), strength=0.7)
    torch.testing.assert_close(model.classifier.weight.detach(), expected.weight, atol=1e-5, rtol=1e-4)


FEW = [("this is cat and dog", "animal"), ("horse is bird", "animal"), ("red and green", "colour"), ("blue", "colour")]
FEW += [("one and two", "number"), ("this is three", "number"), ("fish", "animal"), ("black", "colour")]
HELPFUL = {"animal": "this is fish and cat", "colour": "black and red is blue", "number": "three and one"}


class Named(TextClassification):
    """Reads other names for the classes, so that they say what the tiny model can tell apart."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def class_inputs(self, names: Sequence[str]) -> list[Mapping[str, Any]]:
        return [{"text": self.texts[name]} for name in names]


def few_texts(times: int = 1) -> LabelledData:
    texts = [(text + " number" * copy, name) for copy in range(times) for text, name in FEW]
    rows = {"text": [text for text, _ in texts], "label": [CLASSES.index(name) for _, name in texts]}
    return LabelledData({"train": Dataset.from_dict(rows)}, SingleLabel(CLASSES), "few texts")


@pytest.mark.parametrize("penalty", [None, 0.05])
@pytest.mark.parametrize("helpful", [True, False], ids=["which help", "which mislead"])
def test_names_of_classes_are_learned_from_where_they_help(bert, helpful: bool, penalty: float | None):
    model, tokenizer = bert
    data = few_texts(3)
    names = HELPFUL if helpful else {**HELPFUL, "animal": HELPFUL["colour"], "colour": HELPFUL["animal"]}
    train = data.splits["train"]
    labels = np.asarray(train["label"])
    features = np.stack(list(plain_features(model.eval(), tokenizer, train["text"])))
    read = np.stack(list(plain_features(model, tokenizer, [names[name] for name in CLASSES])))
    pseudo = np.concatenate([read, read]), np.tile(np.arange(3), 2)
    with_names, without = (
        solve_head(features, labels, strength=penalty, cross_validate=True, pseudo_examples=each)
        for each in (pseudo, None)
    )
    assert (with_names.held_out_loss < without.held_out_loss) == helpful  # else the test is none
    start = begin(Named(names), bert, data, pooling="model", penalty=penalty)
    assert start.head is not None
    strength = start.head.strength
    assert strength == penalty or penalty is None
    ways = [pseudo, None] if helpful else [None, pseudo]
    heads = [solve_head(features, labels, strength=strength, pseudo_examples=each) for each in ways]
    inputs = torch.from_numpy(features)  # which were computed in other batches there
    as_it_is, other = ((model.classifier(inputs) - head(inputs)).abs().max() for head in heads)
    assert as_it_is < 0.1 * other
    how = "read as two examples each" if helpful else "left out"
    told = re.fullmatch(rf"names of the classes {how}: .* loss ([.0-9]+) with them, ([.0-9]+) without.", start.notes[0])
    assert told is not None, start.notes
    losses = [with_names.held_out_loss, without.held_out_loss]
    assert [float(each) for each in told.groups()] == pytest.approx(losses, abs=0.02)


def test_names_of_classes_are_taken_where_nothing_can_be_held_out(bert):
    data = few_texts()
    alone = LabelledData({"train": data.splits["train"].select([0, 2, 4])}, data.target, "one text of each class")
    start = begin(Named(HELPFUL), bert, alone, pooling="model")
    assert start.notes[0].endswith("two examples each: nothing can be held out to tell.")
    weight = bert[0].classifier.weight.clone()
    begin(TextClassification(), bert, alone, pooling="model", learn_class_names=False)
    assert not torch.allclose(weight, bert[0].classifier.weight)


def test_names_of_classes_are_not_tried_where_they_cannot_be_or_need_not(bert, picture_data, tiny_timm: Path):
    task, few = Named(HELPFUL), few_texts(2)
    train = few.splits["train"]

    def notes(data: LabelledData, task: Task = task, pair: tuple[Any, Any] = bert, **options: Any) -> str:
        return " ".join(begin(task, pair, data, **options).notes)

    assert "names" in notes(few)
    assert "names" not in notes(few, learn_class_names=False)
    pairs = LabelledData({"train": train.add_column("text_pair", train["text"])}, few.target, "pairs")
    assert "names" not in notes(pairs)
    assert "names" not in notes(few_texts(25))  # 67 a class
    vision = load(ImageClassification(), tiny_timm, picture_data.target)
    assert "names" not in notes(picture_data, ImageClassification(), vision)
