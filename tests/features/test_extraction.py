from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hfft.tasks import ImageClassification, TextClassification
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from hfft.errors import UserError
from hfft.features.extraction import compute_features, kept_features
from hfft.features.of_split import Features
from hfft.features.readout import Readout
from hfft.storage.caching import Cache


def test_convolutions_compute_with_channels_last_for_the_time(tiny_timm):
    model = AutoModelForImageClassification.from_pretrained(tiny_timm, num_labels=3)
    places = {name: (value.data_ptr(), value.stride()) for name, value in model.named_parameters()}
    pixels = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    examples = [{"pixel_values": row} for row in pixels]
    readout = Readout.of(model, {"pixel_values": pixels})
    seen: list[bool] = []
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    hook = first.register_forward_hook(
        lambda module, inputs, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    collate = torch.utils.data.default_collate
    rows, features = compute_features(model, readout, examples, collate, batch_size=4)
    assert rows.tolist() == list(range(6))
    hook.remove()
    assert seen == [True, True]
    # the same memory, too: sums of numbers that are aligned otherwise differ in their last digits
    assert {name: (value.data_ptr(), value.stride()) for name, value in model.named_parameters()} == places
    model.eval()
    with readout.reading(model) as features_of, torch.no_grad():
        plain = features_of(model(pixel_values=pixels)).numpy()
    np.testing.assert_allclose(features, plain, rtol=1e-4, atol=1e-5)


def test_features_of_another_precision_are_others_and_kept_apart(tiny_bert, tmp_path: Path):
    tokenizer, task = AutoTokenizer.from_pretrained(tiny_bert), TextClassification()
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    split = Dataset.from_dict({"text": ["this is red", "this is one and two", "green and blue"]})
    cache = Cache(tmp_path, 10**8)

    def read(precision: str) -> np.ndarray:
        source = Features(task, model, tokenizer, split, cache, precision=precision)
        return source.read(source.readout())

    exact, rounded, again = read("fp32"), read("bf16"), read("fp32")
    np.testing.assert_array_equal(exact, again)
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(exact, rounded, atol=0.05)


def test_pictures_have_the_same_features_from_the_cache_bit_for_bit(tiny_timm, image_folder, tmp_path: Path):
    from transformers import AutoImageProcessor

    model = AutoModelForImageClassification.from_pretrained(tiny_timm, num_labels=3)
    split = Dataset.from_dict({"image": sorted(str(path) for path in (image_folder / "test").rglob("*.png"))})
    task, processor = ImageClassification(), AutoImageProcessor.from_pretrained(tiny_timm)
    found = []
    for cache in (None, Cache(tmp_path, 10**8), Cache(tmp_path, 10**8)):
        source = Features(task, model, processor, split, cache, precision="bf16")
        found.append(source.read(source.readout()))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[1], found[2])


def test_a_head_that_reads_no_vector_is_refused(tiny_bert):
    class EveryToken:
        @contextlib.contextmanager
        def reading(self, model):
            yield lambda output: torch.zeros(len(output.logits), 5, 3)

    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    examples = [{"input_ids": torch.tensor([2, 5, 3])}] * 2
    with pytest.raises(UserError, match=r"no vector but of shape \(5, 3\)"):
        compute_features(model, EveryToken(), examples, torch.utils.data.default_collate)


def test_long_texts_stand_in_smaller_batches(tiny_bert):
    tokenizer, task = AutoTokenizer.from_pretrained(tiny_bert), TextClassification()
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    texts = ["this is red", "one and two " * 8, "green", *["blue is this"] * 5]
    shapes: list[tuple[int, ...]] = []
    hook = model.bert.embeddings.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape[:2])))
    source = Features(task, model, tokenizer, Dataset.from_dict({"text": texts}), None, batch_size=4)
    readout = source.readout()
    shapes.clear()
    features = source.read(readout)
    hook.remove()
    assert shapes == [(4, 5), (3, 5), (1, 26)]  # the shortest first, in room for four of the median length
    alone = Features(task, model, tokenizer, Dataset.from_dict({"text": texts[1:2]}), None).read(readout)
    np.testing.assert_allclose(features[1], alone[0], atol=1e-5)


def test_processes_that_share_a_cache_compute_a_share_each(tmp_path: Path):
    everyone_has_begun, calls = threading.Barrier(2), []

    def compute(rows, share):
        calls.append(share)
        if share[1] > 1:
            everyone_has_begun.wait(timeout=60)
        mine = np.array(rows[share[0] :: share[1]])
        return np.arange(len(mine)) * share[1] + share[0], mine[:, None] * np.float32(2)

    def read(rank: int) -> np.ndarray:
        return kept_features(compute, "model", list("abcdab"), Cache(tmp_path, 10**6), (rank, 2))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(read, range(2)))
    assert sorted(calls) == [(0, 2), (1, 2)]
    for features in found:
        assert features[:, 0].tolist() == [0, 2, 4, 6, 0, 2]
    assert np.array_equal(read(0), found[0])
    assert kept_features(compute, "model", list("abcdab"), Cache(tmp_path, 10**6))[:, 0].tolist() == [0, 2, 4, 6, 0, 2]
    assert len(calls) == 2


def test_where_nothing_can_be_kept_each_process_computes_all(tmp_path: Path):
    def compute(rows, share):
        mine = np.array(rows[share[0] :: share[1]], dtype=np.int64)
        features = mine[:, None] * np.float32(2) if len(mine) else np.empty((0, 0), dtype=np.float32)
        return np.arange(len(mine)) * share[1] + share[0], features

    for share in ((0, 1), (1, 2), (0, 9)):  # of nine some have nothing to do
        features = kept_features(compute, "model", list("abcd"), Cache(tmp_path, 0), share)
        assert features[:, 0].tolist() == [0, 2, 4, 6]
