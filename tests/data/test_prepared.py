from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hfft.tasks import ImageClassification, TextClassification
from PIL import Image
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, ViTImageProcessor

from hfft.data.prepared import PreparedDataset, encoded
from hfft.storage.caching import Cache
from hfft.task import StagedEncoder
from hfft.training.sampling import GlobalBatchSampler

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})


class Lengths(StagedEncoder):
    """Counts what it prepares."""

    key = "lengths"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def content(self, example: Any) -> bytes:
        return str(example["number"]).encode()

    def prepare(self, batch: dict[str, list[Any]]) -> list[dict[str, np.ndarray]]:
        self.calls += batch["number"]
        return [{"values": np.arange(number, dtype=np.int64)} for number in batch["number"]]

    def finish(self, prepared: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
        return {"length": len(prepared["values"])}


def numbers(values: list[int], **columns: Any) -> Dataset:
    return Dataset.from_dict({"number": values, **columns})


def test_examples_are_prepared_once_over_epochs_and_runs(tmp_path):
    encoder = Lengths()
    for _ in range(2):
        data = PreparedDataset(numbers([5, 2, 7, 2]), encoder, Cache(tmp_path, 10**6), 0)
        for _ in range(3):
            assert [example["length"] for example in data] == [5, 2, 7, 2]
        assert data.kept == 4
    assert encoder.calls == [5, 2, 7]  # a copy is kept once


def test_another_split_of_the_same_examples_prepares_the_new_ones_alone(tmp_path):
    encoder = Lengths()
    encoded(numbers([1, 2, 3, 4]), encoder, Cache(tmp_path, 10**6), 0)
    data = encoded(numbers([9, 4, 2]), encoder, Cache(tmp_path, 10**6), 0)
    assert [example["length"] for example in data] == [9, 4, 2]
    assert encoder.calls == [1, 2, 3, 4, 9]


def test_another_key_prepares_anew(tmp_path):
    encoder = Lengths()
    encoded(numbers([1]), encoder, Cache(tmp_path, 10**6), 0)
    encoder.key = "other"
    encoded(numbers([1]), encoder, Cache(tmp_path, 10**6), 0)
    assert encoder.calls == [1, 1]


@pytest.mark.parametrize("labels", [[0, 1], [0.5, -1.5], [[0.0, 1.0], [1.0, 1.0]]])
def test_labels_of_any_kind_go_along(tmp_path, labels):
    data = encoded(numbers([1, 2], label=labels), Lengths(), Cache(tmp_path, 10**6), 0)
    assert [example["labels"] for example in data] == labels


def test_what_does_not_fit_into_the_budget_is_prepared_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr("hfft.data.prepared._CHUNK", 1)
    encoder, cache = Lengths(), Cache(tmp_path, 6000)
    data = encoded(numbers([300, 301, 302, 303]), encoder, cache, 0)
    assert 0 < data.kept < 4
    assert "budget" in str(cache.note)
    encoder.calls.clear()
    assert [example["length"] for example in data] == [300, 301, 302, 303]
    assert len(encoder.calls) == 4 - data.kept


def test_many_small_entries_are_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("hfft.data.prepared._CHUNK", 2)
    monkeypatch.setattr("hfft.data.prepared._SHARD", 1)
    values = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    for _ in range(2):
        cache = Cache(tmp_path, 10**6)
        assert [e["length"] for e in encoded(numbers(values), Lengths(), cache, 0)] == values
    assert len(cache.entries()) == 4


def test_nothing_is_written_where_the_budget_is_nothing(tmp_path):
    cache = Cache(tmp_path / "cache", 0)
    data = encoded(numbers([1, 2]), Lengths(), cache, 0)
    assert [example["length"] for example in data] == [1, 2]
    assert cache.note is None
    assert not (tmp_path / "cache").exists()


def _prepare(root: str, barrier: Any, queue: Any) -> None:
    barrier.wait()
    encoder = Lengths()
    data = encoded(numbers(list(range(1000))), encoder, Cache(root, 10**8), 0)
    queue.put((len(encoder.calls), [example["length"] for example in data] == list(range(1000))))


def test_two_processes_at_once_prepare_everything_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_prepare, args=(str(tmp_path), barrier, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    results = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert results == [(0, True), (1000, True)]


# pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    """JPEGs larger than the crops can use, and a small PNG."""
    generator, files = np.random.default_rng(0), []
    for index, (size, suffix) in enumerate([((300, 420), "jpg"), ((500, 220), "jpg"), ((24, 30), "png")] * 2):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        files.append(str(tmp_path / f"{index}.{suffix}"))
        coarse.resize(size, Image.Resampling.BICUBIC).save(files[-1])
    return Dataset.from_dict({"image": files, "label": list(range(6))})


def pixels(data: Any, workers: int = 0, epoch: int = 0) -> torch.Tensor:
    sampler = GlobalBatchSampler(len(data), 4, shuffle=False, further_views=data.further_views)
    sampler.set_epoch(epoch)
    collate = ImageClassification().collator(PROCESSOR)
    return torch.cat(
        [b["pixel_values"] for b in DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers)]
    )


@pytest.mark.parametrize("level", ["light", "medium", "strong"])
def test_views_depend_on_the_seed_alone_and_not_on_workers_threads_or_the_cache(pictures, tmp_path, level):
    encoder = ImageClassification().encoder(PROCESSOR, training=True, augment=level)
    cache = Cache(tmp_path / "cache", 10**8)
    kept, unkept, other = (encoded(pictures, encoder, c, seed) for c, seed in ((cache, 1), (None, 1), (cache, 2)))
    assert (kept.kept, unkept.kept) == (6, 0)
    first = pixels(kept)
    torch.manual_seed(5)
    assert torch.equal(pixels(kept), first)
    assert torch.equal(pixels(kept, workers=2), first)
    assert torch.equal(pixels(unkept), first)
    assert torch.equal(torch.stack([kept[row]["pixel_values"] for row in range(6)]), first)
    for changed in (pixels(kept, epoch=1), pixels(other)):
        assert all(not torch.equal(a, b) for a, b in zip(changed, first, strict=True))


def test_drawing_a_view_leaves_torchs_random_numbers_as_they_were(pictures):
    data = encoded(pictures, ImageClassification().encoder(PROCESSOR, training=True, augment="strong"), None, 1)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    data[0], data[7]
    assert torch.equal(torch.rand(3), expected)


def test_pictures_are_kept_as_large_as_the_smallest_crop_needs_them_and_never_enlarged(pictures, tmp_path):
    cache = Cache(tmp_path / "cache", 10**8)
    encoded(pictures, ImageClassification().encoder(PROCESSOR, training=True, augment="light"), cache, 1)
    arrays = cache.open(cache.entries()[0])
    assert arrays is not None
    shorter = arrays["pixels_shapes"][:, :2].min(axis=1)
    assert sorted(shorter.tolist()) == [24, 24, 55, 55, 55, 55]  # 32 / sqrt(0.35)
    assert arrays["pixels"].dtype == np.uint8


def test_a_changed_file_of_the_same_name_size_and_time_is_decoded_anew(pictures, tmp_path):
    encoder = ImageClassification().encoder(PROCESSOR, training=False)
    before = pixels(encoded(pictures, encoder, Cache(tmp_path / "cache", 10**8), 1))
    path = Path(pictures[2]["image"])
    status = path.stat()
    Image.new("RGB", (24, 30)).save(path)
    with path.open("ab") as file:
        file.write(b"\0" * (status.st_size - path.stat().st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = pixels(encoded(pictures, encoder, Cache(tmp_path / "cache", 10**8), 1))
    assert [torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [True, True, False, True, True, True]


@pytest.mark.parametrize("budget", [0, 10**8])
def test_evaluation_is_the_processors_own_bit_for_bit(pictures, tmp_path, budget):
    data = encoded(pictures, ImageClassification().encoder(PROCESSOR, training=False), Cache(tmp_path, budget), 1)
    assert data.kept == (6 if budget else 0)
    for row, example in enumerate(pictures):
        expected = PROCESSOR(images=Image.open(example["image"]).convert("RGB"), return_tensors="pt")["pixel_values"][0]
        assert torch.equal(data[row]["pixel_values"], expected)


def test_a_folder_that_cannot_be_written_changes_nothing_but_the_time(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache", 10**8)
    encoder = ImageClassification().encoder(PROCESSOR, training=True, augment="light")
    data = encoded(pictures, encoder, cache, 1)
    assert torch.equal(pixels(data), pixels(encoded(pictures, encoder, Cache(tmp_path / "cache", 10**8), 1)))
    assert cache.note is not None


# texts


def texts(tiny_bert: Path, cache: Cache | None) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    split = Dataset.from_dict({"text": ["this is cat", "dog", "one two three four", "dog"], "label": [0, 1, 2, 1]})
    return encoded(split, TextClassification().encoder(tokenizer, training=True), cache, 0), tokenizer


@pytest.mark.parametrize("budget", [None, 0, 10**6])
def test_texts_are_tokenized_up_front_also_where_nothing_is_kept_on_disk(tiny_bert, tmp_path, budget):
    data, tokenizer = texts(tiny_bert, None if budget is None else Cache(tmp_path, budget))
    assert data.lengths.tolist() == [5, 3, 6, 3]
    assert data.kept == 4
    for row, text in enumerate(["this is cat", "dog", "one two three four", "dog"]):
        assert data[row] == {**dict(tokenizer(text, truncation=True)), "labels": [0, 1, 2, 1][row]}


def test_a_tokenizer_that_was_used_before_finds_what_was_kept_and_another_length_does_not(tiny_bert, tmp_path):
    split = Dataset.from_dict({"text": ["this is cat"]})
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    keys = []
    for longest in (48, 48, 4):
        tokenizer.model_max_length = longest
        keys.append(TextClassification().encoder(tokenizer, training=True).key)
        encoded(split, TextClassification().encoder(tokenizer, training=True), Cache(tmp_path, 10**6), 0)
        tokenizer(["this is", "this"], padding=True, truncation=True, max_length=5)
    assert keys[0] == keys[1] != keys[2]
    assert len(Cache(tmp_path, 0).entries()) == 2


def test_a_data_loading_process_that_is_not_forked_opens_the_files_itself(tiny_bert, tmp_path):
    data, _ = texts(tiny_bert, Cache(tmp_path / "cache", 10**6))
    again = pickle.loads(pickle.dumps(data._shards[0]))
    assert again[0]["input_ids"].tolist() == data._shards[0][0]["input_ids"].tolist()
    stored = pickle.dumps(data._shards[0])
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(AssertionError):
        pickle.loads(stored)
