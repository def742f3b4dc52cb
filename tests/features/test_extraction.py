from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from hfft.tasks import ImageClassification, TextClassification
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from hfft.caching import Cache
from hfft.features.extraction import compute_features
from hfft.features.readout import Readout
from hfft.features.start import Features


def test_convolutions_compute_with_channels_last_for_the_time(tiny_timm):
    model = AutoModelForImageClassification.from_pretrained(tiny_timm, num_labels=3)
    strides = {name: parameter.stride() for name, parameter in model.named_parameters()}
    pixels = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    examples = [{"pixel_values": row} for row in pixels]
    readout = Readout.of(model, {"pixel_values": pixels})
    seen: list[bool] = []
    last = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    hook = last.register_forward_hook(
        lambda module, inputs, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    collate = torch.utils.data.default_collate
    features = compute_features(model, readout, examples, collate, batch_size=4)
    hook.remove()
    assert seen == [True, True]
    assert {name: parameter.stride() for name, parameter in model.named_parameters()} == strides
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
