"""What ships answers in ``pipeline``, where hfft is not installed, as it does in hfft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import hfft
from hfft.cli import main
from tests.conftest import COLOURS, save_timm_model, write_csv
from tests.without_hfft import Pipelines

QUICK: dict[str, Any] = {
    **{"strategy": "full", "max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "seed": 3},
    **{"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False},
}
# name -> fixture of the model, arguments, side of what the model reads
RUNS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "timm CNN": ("tiny_timm", {}, 32),
    "timm CNN, larger": ("tiny_timm", {"image_size": 48, "dropout": 0.2, "drop_path_rate": 0.1}, 48),
    "timm CNN, smaller, solved": ("tiny_timm", {"image_size": 24, "strategy": "linear-probe"}, 24),
    "timm ViT, smaller": ("tiny_timm_vit", {"image_size": 64, "dropout": 0.1, "drop_path_rate": 0.2}, 64),
    "timm CNN, whole pictures, solved": (
        "tiny_timm",
        {"crop_pct": 1.0, "crop_mode": "squash", "strategy": "linear-probe"},
        32,
    ),
    "ViT": ("tiny_vit", {}, 32),
    "ViT, cropped": ("tiny_vit", {"crop_pct": 0.7, "crop_mode": "center"}, 32),
    "ViT, larger": ("tiny_vit", {"image_size": 48, "dropout": 0.2, "calibration": "temperature"}, 48),
    "BERT": ("tiny_bert", {}, None),
    "BERT, mean, dropout": ("tiny_bert", {"pooling": "mean", "dropout": 0.3}, None),
}


@pytest.fixture(scope="module")
def tiny_timm_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer of timm's, for pictures of 160 pixels and no others."""
    return save_timm_model(tmp_path_factory.mktemp("models") / "tiny-timm-vit", "test_vit3", size=160)


@pytest.fixture(scope="module")
def oblong_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of pictures with edges, so that size, crop and interpolation make a difference."""
    root, generator = tmp_path_factory.mktemp("oblong"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for place, (name, colour) in enumerate(COLOURS.items()):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (90 + 7 * index, 120 - 9 * place, 3)).astype(np.uint8)
                pixels[20:70, 10:60] = colour
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def runs(request, oblong_pictures: Path, text_folder: Path, tmp_path_factory) -> dict[str, hfft.FineTuneResult]:
    root, results = tmp_path_factory.mktemp("parity"), {}
    for name, (model, settings, side) in RUNS.items():
        results[name] = hfft.finetune(
            model=str(request.getfixturevalue(model)),
            data=str(text_folder if side is None else oblong_pictures),
            output_dir=str(root / name.replace(" ", "-")),
            cache_dir=str(root / "cache"),
            **{**QUICK, **settings},
        )
    return results


@pytest.fixture(scope="module")
def asked(runs, pipelines: Pipelines) -> dict[str, Any]:
    """The answers of all pipelines to the test inputs, and the size of what they make of a picture."""
    return {
        name: pipelines.ask(run.record.task, run.output_dir, run.record.predictions.inputs, top_k=None)
        for name, run in runs.items()
    }


@pytest.mark.parametrize("name", RUNS)
def test_pipeline_answers_without_hfft_as_the_run_and_predict_do(runs, asked, name: str, tmp_path: Path):
    run, answers = runs[name], asked[name]["answers"]
    if RUNS[name][2] is None:
        source = write_csv(tmp_path / "texts.csv", [(text,) for text in run.record.predictions.inputs], ("text",))
    else:
        source = Path(run.record.settings["data"]) / "test"
    again = {row["input"]: row for row in hfft.predict(run.output_dir, source)}
    assert len(answers) == len(run.record.predictions.inputs) == len(again)
    for text, answer, outputs in zip(
        run.record.predictions.inputs, answers, run.record.predictions.outputs, strict=True
    ):
        assert answer[0]["label"] == again[text]["predicted"]
        scores = {found["label"]: found["score"] for found in answer}
        assert [scores[c] for c in run.record.class_names] == pytest.approx(outputs.tolist(), abs=1e-5)
        assert {c: again[text][f"probability_{c}"] for c in scores} == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("name", [name for name, (*_, side) in RUNS.items() if side is not None])
def test_pipeline_reads_pictures_of_the_size_of_the_run(runs, asked, name: str):
    side = RUNS[name][2]
    assert asked[name]["size"] == [side, side]
    trained_on = runs[name].trainer.train_dataset  # nothing, by a probe: its answers are compared above
    assert trained_on is None or trained_on[0]["pixel_values"].shape == (3, side, side)
    assert (trained_on is None) == ("solved" in name)


def test_the_artefact_says_its_size(runs):
    def config(name: str, file: str = "config.json") -> dict[str, Any]:
        return json.loads((Path(runs[name].output_dir) / file).read_text())

    cnn = config("timm CNN, larger")
    assert cnn["pretrained_cfg"]["input_size"] == [3, 48, 48]
    assert cnn["pretrained_cfg"]["crop_pct"] == 0.875
    assert "img_size" not in cnn["model_args"]
    whole = config("timm CNN, whole pictures, solved")["pretrained_cfg"]
    assert (whole["crop_pct"], whole["crop_mode"]) == (1, "squash")
    cropped = config("ViT, cropped", "preprocessor_config.json")
    assert cropped["size"] == {"shortest_edge": 45}
    assert cropped["do_center_crop"]
    assert cropped["crop_size"] == {"height": 32, "width": 32}
    vit = config("timm ViT, smaller")
    assert vit["pretrained_cfg"]["input_size"] == [3, 64, 64]
    assert vit["model_args"]["img_size"] == 64
    assert config("ViT, larger")["image_size"] == 48
    assert config("ViT, larger", "preprocessor_config.json")["size"] == {"height": 48, "width": 48}
    weights = load_file(Path(runs["ViT, larger"].output_dir) / "model.safetensors")
    assert weights["vit.embeddings.position_embeddings"].shape == (1, 6 * 6 + 1, 32)


@pytest.mark.parametrize("name", ["timm CNN, larger", "timm ViT, smaller", "ViT, larger", "ViT, cropped"])
def test_run_yaml_makes_the_same_run_of_that_size_again(runs, name: str, tmp_path: Path):
    settings = yaml.safe_load((Path(runs[name].output_dir) / "run.yaml").read_text())
    assert {n: settings[n] for n in RUNS[name][1]} == RUNS[name][1]
    config = str(Path(runs[name].output_dir) / "run.yaml")
    assert main(["train", "--config", config, "--output_dir", str(tmp_path / "again")]) == 0
    first, second = (load_file(Path(f) / "model.safetensors") for f in (runs[name].output_dir, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["timm CNN, larger", "timm ViT, smaller", "ViT, larger"])
def test_evaluate_reads_the_size_from_the_artefact(runs, name: str, oblong_pictures: Path):
    again = hfft.evaluate(runs[name].output_dir, str(oblong_pictures), seed=QUICK["seed"])
    assert again.metrics["test_log_loss"] == pytest.approx(runs[name].metrics["test_log_loss"], abs=1e-5)
    other = hfft.evaluate(runs[name].output_dir, str(oblong_pictures), seed=QUICK["seed"], image_size=96)
    assert other.metrics["test_log_loss"] != pytest.approx(runs[name].metrics["test_log_loss"], abs=1e-4)


def test_timm_loads_the_export_of_a_resized_model(runs, tmp_path: Path):
    import timm

    assert hfft.export(runs["timm ViT, smaller"].output_dir, "timm", tmp_path / "native") <= 1e-6
    native = timm.create_model(f"local-dir:{tmp_path / 'native'}", pretrained=True)
    assert tuple(timm.data.resolve_model_data_config(native)["input_size"]) == (3, 64, 64)


def test_training_goes_on_at_the_size_of_the_artefact_or_at_another(runs, oblong_pictures: Path, tmp_path: Path):
    for name, size in (("timm ViT, smaller", None), ("timm ViT, smaller", 96), ("ViT, larger", 32)):
        run = hfft.finetune(
            model=runs[name].output_dir,
            data=str(oblong_pictures),
            output_dir=str(tmp_path / f"{name}-{size}"),
            **({**QUICK, "max_steps": 1} | ({} if size is None else {"image_size": size})),
        )
        assert run.trainer.train_dataset[0]["pixel_values"].shape[-1] == (size or RUNS[name][2])
