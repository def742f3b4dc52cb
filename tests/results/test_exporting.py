from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import hfft
from hfft.cli import main
from tests.conftest import COLOURS

QUICK = {"max_steps": 2, "per_device_train_batch_size": 8, "save_strategy": "no", "load_best_model_at_end": False}


@pytest.fixture(scope="module")
def timm_run(tiny_timm: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "timm"
    hfft.finetune(model=str(tiny_timm), data=str(image_folder), output_dir=str(out), **QUICK)
    return out


@pytest.fixture(scope="module")
def text_run(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "text"
    hfft.finetune(model=str(tiny_bert), data=str(text_folder), output_dir=str(out), **QUICK)
    return out


def test_timm_loads_the_folder_and_answers_the_same(timm_run: Path, image_folder: Path, tmp_path: Path, capsys):
    folder = tmp_path / "native"
    argv = ["export", "--model", str(timm_run), "--format", "timm", "--output", str(folder)]
    assert main(argv) == 0
    assert float(capsys.readouterr().out.split()[-3]) <= 1e-6
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["native"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    settings = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**settings, is_training=False)
    picture = next((image_folder / "test").rglob("*.png"))
    with torch.inference_mode():
        probabilities = model(transform(Image.open(picture).convert("RGB"))[None]).softmax(-1)[0]
    names = json.loads((folder / "config.json").read_text())["label_names"]
    assert names == sorted(COLOURS)
    asked = {a["label"]: a["score"] for a in pipeline("image-classification", str(timm_run), top_k=None)(str(picture))}
    assert dict(zip(names, probabilities.tolist(), strict=True)) == pytest.approx(asked, abs=1e-6)
    assert main(argv) == 2
    assert f"--output: '{folder}' is there already" in capsys.readouterr().err


def test_hfft_reads_an_exported_folder_too(timm_run: Path, image_folder: Path, tmp_path: Path):
    (tmp_path / "native").mkdir()  # an empty folder is as good as none
    hfft.export(str(timm_run), "timm", tmp_path / "native")
    pictures = str(image_folder / "test" / "red")
    expected, answered = (hfft.predict(str(model), pictures) for model in (timm_run, tmp_path / "native"))
    assert answered["probability_red"] == pytest.approx(expected["probability_red"], abs=1e-6)


@pytest.mark.parametrize(
    ("format", "output", "message"),
    [
        ("timm", "x", "--format timm is for timm's architectures; the model is a bert. Use onnx."),
        ("onxx", "x.onnx", "--format must be one of timm, onnx, got 'onxx'. Did you mean 'onnx'?"),
        ("onnx", "x.bin", "x.bin' must end in .onnx"),
        ("onnx", "nowhere/x.onnx", "--output: there is no folder"),
        ("timm", "nowhere/x", "--output: there is no folder"),
    ],
)
def test_what_cannot_be_exported_is_one_message(text_run, tmp_path: Path, capsys, format, output, message):
    argv = ["export", "--model", str(text_run), "--format", format, "--output", str(tmp_path / output)]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_answers_otherwise_is_not_written(timm_run: Path, tmp_path: Path, monkeypatch):
    original = timm.create_model

    def other(*args, **kwargs):
        model = original(*args, **kwargs)
        model.get_classifier().bias.data += 2e-4
        return model

    monkeypatch.setattr(timm, "create_model", other)
    with pytest.raises(hfft.UserError, match=r"logits differ by up to 2.0e-04, more than 1e-04. Nothing was written"):
        hfft.export(str(timm_run), "timm", tmp_path / "native")
    assert list(tmp_path.iterdir()) == []


def test_packages_that_are_missing_are_named(text_run: Path, tmp_path: Path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "onnxr" in name else found(name, *a))
    with pytest.raises(hfft.UserError, match=r'--format onnx needs .*onnxruntime: pip install "hfft\[onnx\]"'):
        hfft.export(str(text_run), "onnx", tmp_path / "model.onnx")


@pytest.fixture
def runtime():
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    return pytest.importorskip("onnxruntime")


def test_onnx_answers_the_same_for_any_number_of_texts_of_any_length(runtime, text_run: Path, tmp_path: Path, capsys):
    file = tmp_path / "model.onnx"
    assert main(["export", "--model", str(text_run), "--format", "onnx", "--output", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed.startswith(f"Exported: {file}; its logits differ from the model's by ")
    assert float(printed.split()[-3]) <= 1e-6
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(file)
    shapes = {each.name: each.shape for each in session.get_inputs()}
    assert all(shape == ["batch", "tokens"] for shape in shapes.values())
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(text_run),
        AutoTokenizer.from_pretrained(text_run),
    )
    for texts in (["red"], ["this is red and blue", "cat"] * 4, ["this is number " * 12]):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**batch).logits.numpy()
        answered = session.run(None, {name: batch[name].numpy() for name in shapes})[0]
        np.testing.assert_allclose(answered, expected, atol=1e-6)
    labels = json.loads(session.get_modelmeta().custom_metadata_map["id2label"])
    assert {int(index): name for index, name in labels.items()} == model.config.id2label


def test_onnx_of_a_vision_model_takes_any_number_of_pictures(runtime, timm_run: Path, tmp_path: Path):
    assert hfft.export(str(timm_run), "onnx", tmp_path / "model.onnx") <= 1e-6
    shape = runtime.InferenceSession(tmp_path / "model.onnx").get_inputs()[0].shape
    assert shape == ["batch", 3, 32, 32]


def test_a_model_that_onnx_does_not_hold_is_one_message(runtime, text_run: Path, tmp_path: Path, monkeypatch):
    def export(*_, **__):
        raise RuntimeError("no\nsuch operator")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(hfft.UserError, match="--format onnx: the model cannot be exported: no such operator"):
        hfft.export(str(text_run), "onnx", tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
