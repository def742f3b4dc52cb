"""Models and preprocessing of another size, beside what the libraries make of that size themselves."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hfft.tasks import ImageClassification
from hfft.tasks.image_classification.resizing import resized_model, resized_processor
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    ViTImageProcessor,
)

import hfft
from hfft import ModelArguments, UserError
from hfft.cli import main
from hfft.planning import plan_layers
from hfft.targets import SingleLabel
from tests.conftest import save_timm_model, write_picture
from tests.coverage.zoo import image_cases

TARGET = SingleLabel(["a", "b", "c"])


@pytest.fixture(scope="module")
def tiny_timm_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer of timm's, for pictures of 160 pixels and no others."""
    return save_timm_model(tmp_path_factory.mktemp("models") / "tiny-timm-vit", "test_vit3", size=160)


def load(model: Path, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)  # the head is drawn
    arguments = ModelArguments(model=str(model), **options)
    loaded, processor = ImageClassification().load(arguments, AutoConfig.from_pretrained(model), TARGET)
    return loaded.eval(), processor


def logits(model: Any, pixels: torch.Tensor, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=pixels, **options).logits


def architecture(name: str) -> Any:
    """Return a tiny transformers model of the zoo."""
    return next(case for case in image_cases() if case.name == name).build()


def test_a_vit_answers_as_with_its_own_interpolation(tiny_vit: Path):
    (plain, _), (resized, _) = load(tiny_vit), load(tiny_vit, image_size=48)
    pixels = torch.randn(2, 3, 48, 48)
    assert torch.equal(logits(resized, pixels), logits(plain, pixels, interpolate_pos_encoding=True))
    assert resized.config.image_size == 48
    with pytest.raises(ValueError, match="32"):
        logits(plain, pixels)


def test_a_timm_vit_answers_as_one_that_timm_has_resized(tiny_timm_vit: Path):
    (plain, _), (resized, _) = load(tiny_timm_vit), load(tiny_timm_vit, image_size=96)
    pixels = torch.randn(2, 3, 96, 96)
    with pytest.raises(AssertionError, match="doesn't match model"):
        logits(plain, pixels)
    plain.timm_model.set_input_size(img_size=96)
    assert torch.equal(logits(resized, pixels), logits(plain, pixels))


@pytest.mark.parametrize("model", ["tiny_vit", "tiny_timm_vit"])
def test_what_is_no_position_embedding_is_left_bit_for_bit(model: str, request):
    folder = request.getfixturevalue(model)
    before, after = (load(folder, **options)[0].state_dict() for options in ({}, {"image_size": 64}))
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert changed == {next(name for name in before if "pos_embed" in name or "position_embeddings" in name)}
    assert all(torch.equal(before[name], after[name]) for name in before if name not in changed)


def test_convolutions_read_any_size_as_they_are(tiny_timm: Path):
    (plain, _), (resized, processor) = load(tiny_timm), load(tiny_timm, image_size=80)
    pixels = torch.randn(2, 3, 80, 80)
    assert torch.equal(logits(resized, pixels), logits(plain, pixels))
    assert resized.config.model_args == plain.config.model_args
    told = resized.config.pretrained_cfg
    assert {**told, "input_size": [3, 32, 32]} == {**plain.config.pretrained_cfg, "test_input_size": [3, 80, 80]}
    assert timm.data.resolve_data_config(pretrained_cfg=told, use_test_size=True)["input_size"] == [3, 80, 80]
    assert processor.data_config["input_size"] == (3, 80, 80)
    assert processor.data_config["crop_pct"] == 0.875


@pytest.mark.parametrize("model", ["tiny_vit", "tiny_timm", "tiny_timm_vit"])
def test_transformers_loads_what_was_saved(model: str, request, tmp_path: Path):
    resized, processor = load(request.getfixturevalue(model), image_size=64)
    resized.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))
    made = AutoImageProcessor.from_pretrained(tmp_path)(images=picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(made, processor(images=picture, return_tensors="pt")["pixel_values"])
    assert made.shape == (1, 3, 64, 64)
    torch.testing.assert_close(logits(again, made), logits(resized, made))


@pytest.mark.parametrize("name", ["clip", "deit", "siglip", "ijepa"])
def test_other_architectures_with_position_embeddings(name: str, tmp_path: Path):
    model = architecture(name)
    before = copy.deepcopy(model.state_dict())
    resized = resized_model(model, 48).eval()
    assert sum(before[n].shape != value.shape for n, value in resized.state_dict().items()) == 1
    resized.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 48, 48)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again, pixels), logits(resized, pixels))


@pytest.mark.parametrize("name", ["swin", "convnext", "dinov2"])
def test_architectures_that_read_any_size_are_left_alone(name: str):
    model = architecture(name)
    assert resized_model(model, 48) is model
    assert model.config.image_size == 32


def test_the_model_is_left_in_its_mode_and_random_numbers_as_they_were(tiny_vit: Path):
    model, _ = load(tiny_vit)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert resized_model(model.train(), 48).training
    assert torch.equal(torch.rand(3), expected)


def test_an_architecture_made_for_its_size_is_refused():
    with pytest.raises(UserError, match=r"image_size: a model of the architecture levit cannot read 48 pixels"):
        resized_model(architecture("levit"), 48)


def test_patches_must_fill_the_picture(tiny_vit: Path):
    with pytest.raises(UserError, match=r"no whole number of the model's patches of 8 pixels\. Take 48 or 56\."):
        load(tiny_vit, image_size=50)


@pytest.mark.parametrize("image_size", [4, 5000, 32.5, "32"])
def test_sizes_that_cannot_be_meant_are_refused(image_size: Any):
    with pytest.raises(UserError, match="image_size must be"):
        ModelArguments(image_size=image_size)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (ViTImageProcessor(size={"height": 32, "width": 32}), {"size": {"height": 64, "width": 64}}),
        (
            CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
            {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}},
        ),
        (
            CLIPImageProcessor(size={"height": 36, "width": 48}, crop_size={"height": 32, "width": 40}),
            {"size": {"height": 72, "width": 96}, "crop_size": {"height": 64, "width": 64}},
        ),
        (ConvNextImageProcessor(size={"shortest_edge": 32}), {"size": {"shortest_edge": 64}}),
    ],
)
def test_processors_crop_as_much_of_a_picture_as_before(processor: Any, expected: dict[str, Any]):
    resized = resized_processor(processor, 64)
    found = resized.to_dict()
    assert {name: dict(found[name]) for name in expected} == expected
    others = {name: value for name, value in processor.to_dict().items() if name not in expected}
    assert {name: found[name] for name in others} == others
    picture = Image.new("RGB", (300, 200))
    assert resized(images=picture, return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)


def test_a_processor_that_makes_no_squares_is_refused():
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False)
    with pytest.raises(UserError, match="a CLIPImageProcessor set to 64 pixels makes 71 x 64"):
        resized_processor(processor, 64)


@pytest.mark.parametrize("level", ["light", "strong"])
def test_training_views_have_the_size(tiny_vit: Path, level: str):
    _, processor = load(tiny_vit, image_size=48)
    encode = ImageClassification().encoder(processor, training=True, augment=level)
    views = encode({"image": [Image.new("RGB", (90, 60))]})["pixel_values"]
    assert views[0].shape == (3, 48, 48)
    assert encode.key != ImageClassification().encoder(load(tiny_vit)[1], training=True, augment=level).key


def test_layers_are_those_of_the_size(tiny_vit: Path, tmp_path: Path, capsys):
    shutil.copy(tiny_vit / "config.json", tmp_path)  # weights are not needed
    plain, resized = plan_layers(str(tmp_path)), plan_layers(str(tmp_path), image_size=48)
    assert resized.layers[0].parameters - plain.layers[0].parameters == (6 * 6 - 4 * 4) * 32
    assert [layer.parameters for layer in resized.layers[1:]] == [layer.parameters for layer in plain.layers[1:]]
    assert main(["layers", "--model", str(tmp_path), "--image_size", "50"]) == 2
    assert "Take 48 or 56" in capsys.readouterr().err


def test_check_compares_pictures_with_the_size_that_is_asked_for(tiny_vit: Path, tmp_path: Path, capsys):
    generator = np.random.default_rng(0)
    for index in range(12):
        write_picture(tmp_path / "data" / "ab"[index % 2] / f"{index}.png", (90, 9, 9), generator, 24)
    data = str(tmp_path / "data")
    told = {
        size: [found.message for found in result.findings.items if found.check == "image size"]
        for size in (32, 64)
        for result in [hfft.check(data, model=str(tiny_vit), image_size=size)]
    }
    assert told[32] == []
    assert told[64]
    assert all("the 64 pixels that the model reads" in message for message in told[64])
    main(["check", "--data", data, "--model", str(tiny_vit), "--image_size", "64"])
    assert "64 pixels" in " ".join(capsys.readouterr().out.split())
