"""What preprocessing reads of a picture, beside torchvision's own resizing and cropping."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hfft.tasks import ImageClassification
from hfft.tasks.image_classification.cropping import cropped_processor
from hfft.tasks.image_classification.resizing import resized_processor
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    LevitImageProcessor,
    PerceiverImageProcessor,
    PoolFormerImageProcessor,
    Siglip2ImageProcessor,
    ViTImageProcessor,
)

import hfft
from hfft import ModelArguments, UserError
from hfft.targets import SingleLabel
from tests.conftest import write_picture

SIDE = 32
PLAIN = {"do_normalize": False, "resample": Image.Resampling.BILINEAR}
PROCESSORS = {
    "squashed whole": ViTImageProcessor(size={"height": SIDE, "width": SIDE}, **PLAIN),
    "cropped": CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": SIDE, "width": SIDE}, **PLAIN),
    "squashed and cropped": ViTImageProcessor(
        size={"height": 40, "width": 40}, do_center_crop=True, crop_size={"height": SIDE, "width": SIDE}, **PLAIN
    ),
    "ConvNeXt": ConvNextImageProcessor(size={"shortest_edge": SIDE}, **PLAIN),
}


@pytest.fixture
def picture() -> Image.Image:
    """Smooth in all directions, so that a pixel's place can be told from its colour."""
    rows, columns = np.mgrid[0:90, 0:150]
    pixels = np.stack([columns * 255 / 149, rows * 255 / 89, (rows + columns) * 255 / 238], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def read(processor: Any, picture: Image.Image) -> torch.Tensor:
    return processor(images=picture, return_tensors="pt")["pixel_values"][0]


def reference(picture: Image.Image, crop_pct: float, crop_mode: str) -> torch.Tensor:
    """What torchvision makes of it, (3, SIDE, SIDE), between 0 and 1."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    resized = int(SIDE / crop_pct)
    size = [resized, resized] if crop_mode == "squash" else [resized]
    return center_crop(resize(pixels, size, InterpolationMode.BILINEAR), [SIDE, SIDE]) / 255


@pytest.mark.parametrize("name", [name for name in PROCESSORS if name != "ConvNeXt"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("crop_pct", [1, 0.8])
def test_a_processor_reads_what_torchvision_cuts_out(name: str, crop_mode: str, crop_pct: float, picture):
    found = read(cropped_processor(PROCESSORS[name], crop_pct, crop_mode), picture)
    torch.testing.assert_close(found, reference(picture, crop_pct, crop_mode), atol=2 / 255, rtol=0)


@pytest.mark.parametrize("crop_pct", [1, 0.8])
def test_convnext_has_a_share_of_its_own(crop_pct: float, picture):
    found = cropped_processor(PROCESSORS["ConvNeXt"], crop_pct, None)
    assert found.crop_pct == crop_pct
    # it rounds the longer side down before it crops, which moves the middle by half a pixel
    torch.testing.assert_close(read(found, picture), reference(picture, crop_pct, "center"), atol=6 / 255, rtol=0)
    with pytest.raises(UserError, match="cannot be set to crop_pct 1 with crop_mode squash"):
        cropped_processor(PROCESSORS["ConvNeXt"], 1, "squash")


@pytest.mark.parametrize(("crop_pct", "crop_mode"), [(1, "squash"), (0.8, "center"), (0.8, "squash")])
def test_a_timm_model_tells_its_crop_to_those_who_load_it(crop_pct, crop_mode, tiny_timm: Path, tmp_path, picture):
    model, processor = load(tiny_timm, crop_pct=crop_pct, crop_mode=crop_mode)
    model.save_pretrained(tmp_path)
    assert model.config.pretrained_cfg["test_crop_pct"] == crop_pct
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(read(again, picture), read(processor, picture))
    mean, std = (torch.tensor(again.data_config[key])[:, None, None] for key in ("mean", "std"))
    found = read(again, picture) * std + mean
    torch.testing.assert_close(found, reference(picture, crop_pct, crop_mode), atol=4 / 255, rtol=0)


def load(model: Path, **options: Any) -> tuple[Any, Any]:
    arguments, target = ModelArguments(model=str(model), **options), SingleLabel(["a", "b", "c"])
    return ImageClassification().load(arguments, AutoConfig.from_pretrained(model), target)


def test_what_is_not_asked_for_stays_as_it_was(tiny_timm: Path, picture):
    own = load(tiny_timm)[1].data_config
    assert {**own, "crop_mode": "squash"} == load(tiny_timm, crop_mode="squash")[1].data_config
    assert {**own, "crop_pct": 0.5} == load(tiny_timm, crop_pct=0.5)[1].data_config
    cropped = PROCESSORS["cropped"]
    found = read(cropped_processor(cropped, None, "squash"), picture)
    torch.testing.assert_close(found, reference(picture, 0.8, "squash"), atol=2 / 255, rtol=0)
    assert torch.equal(read(cropped_processor(cropped, 0.8, None), picture), read(cropped, picture))


def test_another_size_keeps_the_crop(tiny_timm: Path, picture):
    _, processor = load(tiny_timm, crop_pct=1, crop_mode="squash", image_size=64)
    assert (processor.data_config["crop_pct"], processor.data_config["crop_mode"]) == (1, "squash")
    assert read(processor, picture).shape == (3, 64, 64)
    once = cropped_processor(PROCESSORS["cropped"], 0.5, "squash")
    larger = resized_processor(once, 64)
    assert dict(larger.size)["height"] == 128
    assert read(larger, picture).shape == (3, 64, 64)


def test_a_processor_that_crops_in_its_own_way_is_refused_unless_it_does_what_was_asked(picture):
    levit = LevitImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **PLAIN)
    with pytest.raises(UserError, match="A LevitImageProcessor cannot be set to crop_pct 1 with crop_mode center"):
        cropped_processor(levit, 1, "center")  # it resizes to 8/7 of what it is told
    found = read(cropped_processor(levit, 1, "squash"), picture)
    torch.testing.assert_close(found, reference(picture, 1, "squash"), atol=2 / 255, rtol=0)


@pytest.mark.parametrize(
    "processor",
    [
        LevitImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **PLAIN),
        PerceiverImageProcessor(size={"height": SIDE, "width": SIDE}, crop_size={"height": 36, "width": 36}, **PLAIN),
        ConvNextImageProcessor(size={"shortest_edge": 384}, **PLAIN),  # from 384 on it squashes
    ],
)
@pytest.mark.parametrize("given", [(1, None), (None, "squash")])
def test_what_a_processor_does_by_itself_is_not_guessed(processor: Any, given: tuple[Any, Any]):
    with pytest.raises(
        UserError, match="crops in a way of its own here: give both, crop_pct and crop_mode, or neither"
    ):
        cropped_processor(processor, *given)


def test_poolformer_has_a_share_of_its_own(picture):
    processor = PoolFormerImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **PLAIN
    )
    assert torch.equal(read(cropped_processor(processor, None, "center"), picture), read(processor, picture))


def test_borders_that_timm_fills_in_are_left_for_a_crop_that_is_named_whole(tiny_timm: Path):
    _, processor = load(tiny_timm)
    bordered = type(processor)({**processor.data_config, "crop_mode": "border"})
    with pytest.raises(UserError, match="give both"):
        cropped_processor(bordered, 1, None)
    assert cropped_processor(bordered, 1, "squash").data_config["crop_mode"] == "squash"


def test_timm_crops_oblong_inputs(tiny_timm: Path):
    _, processor = load(tiny_timm)
    oblong = type(processor)({**processor.data_config, "input_size": (3, 64, 48)})
    assert cropped_processor(oblong, 1, None).data_config["crop_pct"] == 1
    assert cropped_processor(oblong, None, "squash").data_config["crop_mode"] == "squash"


@pytest.mark.parametrize(
    "processor",
    [ViTImageProcessor(do_resize=False), ViTImageProcessor(size={"shortest_edge": SIDE}), Siglip2ImageProcessor()],
)
def test_a_processor_without_a_fixed_size_is_refused(processor: Any):
    with pytest.raises(UserError, match="makes no pictures of a fixed size"):
        cropped_processor(processor, 1, "squash")


def test_own_shares_are_not_rounded_away():
    crop = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    processor = ViTImageProcessor(size={"height": 400, "width": 400}, **crop, **PLAIN)
    assert dict(cropped_processor(processor, None, "center").size)["shortest_edge"] == 400


def test_kept_pixels_are_those_of_the_crop(tiny_timm: Path):
    task = ImageClassification()
    crops = [{}, {"crop_pct": 1.0}, {"crop_mode": "squash"}, {"crop_pct": 1.0, "crop_mode": "squash"}]
    keys = [task.encoder(load(tiny_timm, **crop)[1], training=False).key for crop in crops]
    assert None not in keys
    assert len(set(keys)) == len(crops)


def test_check_reads_no_crop_that_is_not_made(tiny_vit: Path, tmp_path: Path):
    model, data, generator = tmp_path / "model", tmp_path / "data", np.random.default_rng(0)
    shutil.copytree(tiny_vit, model)
    for index in range(12):
        write_picture(data / "ab"[index % 2] / f"{index}.png", (90, 9, 9), generator, 24)
    settings = json.loads((model / "preprocessor_config.json").read_text())
    told = []
    for crops in (True, False):
        changed = {**settings, "crop_size": {"height": 128, "width": 128}, "do_center_crop": crops}
        (model / "preprocessor_config.json").write_text(json.dumps(changed))
        findings = hfft.check(str(data), model=str(model)).findings.items
        told.append([found.check for found in findings if "pixels that the model reads" in found.message])
    assert set(told[0]) == {"image size"}
    assert told[1] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_pct": 0.0}, "crop_pct must be at least 0.1 and at most 1, got 0.0"),
        ({"crop_pct": 1.2}, "crop_pct must be at least 0.1 and at most 1, got 1.2"),
        ({"crop_pct": "whole"}, "crop_pct must be a finite number, got 'whole'"),
        ({"crop_mode": "sqash"}, "crop_mode must be one of .*, got 'sqash'.*squash"),
    ],
)
def test_crops_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        ModelArguments(**options)
