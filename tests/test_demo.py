from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hfft import UserError, demonstrations
from hfft import demo as demonstration
from hfft.cli import main
from hfft.demo import compare, demo
from hfft.demonstrations import ASSETS, DEMONSTRATIONS
from hfft.evaluation.metrics import accuracy

ABOUT = ("task", "backbone", "seed")
VIT, BERT, TOPICS = ASSETS / "tiny-vit-glyphs", ASSETS / "tiny-bert-docs", ASSETS / "scipy-topics"


@pytest.fixture(scope="module")
def shorter():
    """The demos with an eighth of their epochs: what is pretrained shows even then."""
    with pytest.MonkeyPatch.context() as patch:
        for task, shown in DEMONSTRATIONS.items():
            epochs = shown.settings["num_train_epochs"] // 8
            settings = {**shown.settings, "num_train_epochs": epochs}
            patch.setitem(demonstration.DEMONSTRATIONS, task, dataclasses.replace(shown, settings=settings))
        yield


@pytest.fixture(scope="module", params=list(DEMONSTRATIONS))
def printed(request, shorter, tmp_path_factory) -> tuple[str, Path, str]:
    """A demo of two draws in an empty folder, as typed: task, folder, what was printed."""
    work, out = tmp_path_factory.mktemp("demo"), io.StringIO()
    with contextlib.chdir(work), contextlib.redirect_stdout(out):
        assert main(["demo", "--task", request.param, "--draws", "2"]) == 0
    return request.param, work / "hfft-demo" / request.param, out.getvalue()


@pytest.fixture(scope="module")
def shown(printed) -> tuple[str, Path, dict]:
    """Task, folder and figures of the demo."""
    task, folder, _ = printed
    return task, folder, json.loads((folder / "comparison.json").read_text())


def test_pretraining_is_worth_something(shown):
    _, _, comparison = shown
    pretrained, random = (comparison["test_accuracy"][arm] for arm in ("pretrained", "random"))
    assert min(pretrained) > max(random)
    assert comparison["difference"] > 0.08


def test_the_figures_are_those_of_the_runs(shown):
    _, folder, comparison = shown
    for arm, values in comparison["test_accuracy"].items():
        for index, value in enumerate(values, start=1):
            metrics = json.loads((folder / arm / f"draw-{index}" / "metrics.json").read_text())
            assert metrics["test_accuracy"] == value
    assert comparison == {**compare(comparison["test_accuracy"]), **{name: comparison[name] for name in ABOUT}}


def test_the_arms_differ_in_the_weights_they_start_from_and_their_rates(shown):
    _, folder, _ = shown
    for draw in ("draw-1", "draw-2"):
        first, second = (yaml.safe_load((folder / arm / draw / "run.yaml").read_text()) for arm in demonstration.ARMS)
        differing = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
        assert differing <= {"model", "output_dir", "learning_rate", "head_learning_rate", "layer_decay"}
        assert {"model", "output_dir"} <= differing


def test_random_weights_share_nothing_with_the_pretrained_ones_but_the_architecture(shown):
    task, folder, _ = shown
    pretrained = load_file(ASSETS / DEMONSTRATIONS[task].backbone / "model.safetensors")
    draws = [load_file(folder / "random-weights" / f"draw-{index}" / "model.safetensors") for index in (1, 2)]
    matrices = [name for name, tensor in pretrained.items() if tensor.ndim > 1]
    assert matrices
    for random in draws:
        assert {name: random[name].shape for name in pretrained} == {
            name: tensor.shape for name, tensor in pretrained.items()
        }
        for name in matrices:
            both = np.stack([pretrained[name].float().flatten(), random[name].flatten()])
            if both.std(axis=1).all():  # a class token may start from zeros
                assert abs(np.corrcoef(both)[0, 1]) < 0.4, name
    assert any(not np.array_equal(draws[0][name], draws[1][name]) for name in matrices)


def _examples(folder: Path) -> set[object]:
    if folder.suffix == ".csv":
        with folder.open(encoding="utf-8", newline="") as file:
            return {row["text"] for row in csv.DictReader(file)}
    return {np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png")}


def test_each_draw_trains_on_other_examples_and_tests_on_the_same(shown):
    task, folder, _ = shown
    suffix = "" if task == "image-classification" else ".csv"
    train = [_examples(folder / "data" / f"draw-{index}" / f"train{suffix}") for index in (1, 2)]
    test = [_examples(folder / "data" / f"draw-{index}" / f"test{suffix}") for index in (1, 2)]
    assert train[0] != train[1]
    assert test[0] == test[1]
    assert len(test[0]) == (500 if task == "image-classification" else 269)
    assert not (train[0] | train[1]) & test[0]


def test_it_says_what_was_measured_and_what_to_type_next(printed, shown, capsys, monkeypatch):
    task, folder, out = printed
    _, _, comparison = shown
    assert f"{comparison['difference']:.3f}" in out
    assert f"{comparison['difference_ci_low']:.3f} to {comparison['difference_ci_high']:.3f}" in out
    assert "hfft train --model" in out
    report = Path("hfft-demo", task, "pretrained", "draw-1", "report.html")
    assert str(report) in out
    monkeypatch.chdir(folder.parents[1])
    assert report.is_file()
    # once more: refused with what to do
    assert main(["demo", "--task", task]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_the_interval_is_student_s_over_the_paired_differences():
    result = compare({"pretrained": [0.9, 0.8, 0.7], "random": [0.5, 0.5, 0.5]})
    assert result["mean"] == pytest.approx({"pretrained": 0.8, "random": 0.5})
    assert result["difference"] == pytest.approx(0.3)
    half = 4.302653 * 0.1 / np.sqrt(3)  # 97.5 % point of t with 2 degrees of freedom
    assert result["difference_ci_low"] == pytest.approx(0.3 - half, abs=1e-6)
    assert result["difference_ci_high"] == pytest.approx(0.3 + half, abs=1e-6)


def test_overwrite_replaces_a_demo_and_nothing_else(tmp_path: Path):
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    (folder / "thesis.txt").write_text("three years")
    with pytest.raises(UserError, match="not empty"):
        demo(output_dir=str(folder), overwrite=True)
    assert (folder / "thesis.txt").read_text() == "three years"
    assert (folder / "data").is_dir()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task", "text-clasification"], "Did you mean 'text-classification'?"),
        (["--draws", "1"], "--draws of 2 or more"),
        (["--draws", "-3"], "no whole number"),
        (["--model", "nowhere"], "no config.json"),
        (["--outptu_dir", "x"], "Did you mean '--output_dir'?"),
    ],
)
def test_misuse_is_exit_code_2_and_writes_nothing(argv, message, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *argv]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "auto", "low", "high"),
    [
        (VIT, AutoModelForImageClassification, 0.5e6, 1e6),
        (BERT, AutoModelForSequenceClassification, 0.5e6, 1.5e6),
    ],
)
def test_the_shipped_models_are_ordinary_hub_folders(folder: Path, auto, low, high):
    model, loading = auto.from_pretrained(folder, num_labels=3, output_loading_info=True)
    assert set(loading["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not loading["unexpected_keys"]
    assert low <= sum(parameter.numel() for parameter in model.parameters()) <= high
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}
    assert ModelCard.load(folder / "README.md").data.license == "apache-2.0"


def test_the_shipped_models_are_small():
    size = {folder: sum(path.stat().st_size for path in folder.rglob("*")) for folder in (VIT, BERT)}
    assert size[BERT] <= 3e6
    assert sum(size.values()) <= 4e6


def test_the_extract_has_no_row_twice_and_none_in_both_splits():
    rows = {}
    for split in ("train", "test"):
        with (TOPICS / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows[split] = [(" ".join(row["text"].lower().split()), row["label"]) for row in csv.DictReader(file)]
    texts = [text for split in rows.values() for text, _ in split]
    assert len(texts) == len(set(texts))
    assert {label for _, label in rows["train"]} == {label for _, label in rows["test"]}
    assert len({label for _, label in rows["train"]}) == 6


def test_a_probe_on_the_shipped_vit_knows_digits_better_than_pixels_do():
    """Real pretrained weights, seen from the side: no training but a linear classifier's."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoImageProcessor, AutoModel

    digits = load_digits()
    pictures = [Image.fromarray((image / 16 * 255).astype(np.uint8)).convert("RGB") for image in digits.images]
    processor, model = AutoImageProcessor.from_pretrained(VIT), AutoModel.from_pretrained(VIT).eval()
    with torch.no_grad():
        features = model(**processor(pictures, return_tensors="pt")).last_hidden_state.mean(dim=1).numpy()
    train = demonstrations._few_per_class(digits.target, 5, np.random.default_rng(0))
    test = np.setdiff1d(np.arange(len(digits.target)), train)
    scores = []
    for inputs in (features, digits.data / 16):
        probe = LogisticRegression(max_iter=1000).fit(inputs[train], digits.target[train])
        scores.append(accuracy(digits.target[test], probe.predict_proba(inputs[test])))
    assert scores[0] > scores[1]
