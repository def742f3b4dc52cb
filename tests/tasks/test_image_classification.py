from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hfft.tasks import ImageClassification
from hfft.tasks.image_classification.preprocessing import geometry_of
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessor, ViTImageProcessor

from hfft import UserError


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(60, 80, 3)).astype(np.uint8))


@pytest.mark.parametrize("model", ["tiny_timm", "tiny_vit"])
def test_evaluation_is_the_checkpoint_s_own_preprocessing(model, request, picture):
    processor = AutoImageProcessor.from_pretrained(request.getfixturevalue(model))
    encode = ImageClassification().encoder(processor, training=False)
    encoded = encode({"image": [picture], "label": [1]})
    assert torch.equal(encoded["pixel_values"][0], processor(images=picture, return_tensors="pt")["pixel_values"][0])
    assert encoded["labels"] == [1]


@pytest.mark.parametrize("model", ["tiny_timm", "tiny_vit"])
@pytest.mark.parametrize("level", ["light", "medium", "strong"])
def test_training_views_are_random_seeded_and_normalised_as_in_evaluation(model, level, request):
    processor = AutoImageProcessor.from_pretrained(request.getfixturevalue(model))
    task = ImageClassification()
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    expected = task.encoder(processor, training=False)({"image": [grey]})["pixel_values"][0]
    encode = task.encoder(processor, training=True, augment="light")
    torch.testing.assert_close(encode({"image": [grey]})["pixel_values"][0], expected)
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(64, 64, 3)).astype(np.uint8))
    encode = task.encoder(processor, training=True, augment=level)
    torch.manual_seed(0)
    first, second = (encode({"image": [noisy]})["pixel_values"][0] for _ in range(2))
    torch.manual_seed(0)
    again = encode({"image": [noisy]})["pixel_values"][0]
    assert first.shape == (3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_geometry_is_read_from_the_checkpoint(tiny_timm: Path):
    timm = geometry_of(AutoImageProcessor.from_pretrained(tiny_timm))
    assert (timm.height, timm.width, timm.interpolation.value) == (32, 32, "bicubic")
    clip = geometry_of(CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 30, "width": 36}))
    assert (clip.height, clip.width) == (30, 36)


def test_a_processor_without_a_size_is_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match="Set augment to none"):
        geometry_of(object())


@pytest.mark.parametrize("options", [{"do_rescale": False}, {"rescale_factor": 1 / 127.5, "do_normalize": False}])
def test_training_pixels_are_scaled_as_the_processor_scales_them(options):
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, **options)
    red, task = Image.new("RGB", (32, 32), (255, 0, 0)), ImageClassification()
    views = [
        task.encoder(processor, training=training, augment="light")({"image": [red]})["pixel_values"][0]
        for training in (True, False)
    ]
    torch.testing.assert_close(*views)


@pytest.mark.parametrize(("size", "shown"), [((8, 4), (96, 48)), ((60, 80), (60, 80)), ((400, 300), (200, 150))])
def test_a_report_shows_tiny_pictures_enlarged_and_large_ones_reduced(size, shown):
    stream = ImageClassification().thumbnail({"image": Image.new("RGB", size)})
    assert stream is not None
    assert Image.open(io.BytesIO(stream)).size == shown
