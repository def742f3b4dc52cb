"""The case study runs end to end on a small folder of the same layout."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

import hfft
from hfft.demonstrations import ASSETS, write_digits

SCRIPT = str(Path(__file__).parents[2] / "examples" / "case_studies" / "caltech101.py")
COUNTS = (2, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JPEG files for each of five digits, and one of what is no class."""
    root = tmp_path_factory.mktemp("caltech")
    write_digits(root / "digits", np.random.default_rng(0))
    for digit in range(5):
        name = root / "101_ObjectCategories" / ("BACKGROUND_Google" if digit == 4 else f"class-{digit}")
        name.mkdir(parents=True)
        for path in sorted((root / "digits" / "test" / str(digit)).iterdir())[:14]:
            Image.open(path).resize((32, 32)).save(name / f"{path.stem}.jpg", quality=95)
    return root / "101_ObjectCategories"


@pytest.fixture(scope="module")
def study(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The study of two training sizes and two strategies, started twice; its folder and what it printed."""
    output = tmp_path_factory.mktemp("study") / "out"
    argv = ["--data", str(folder), "--model", str(ASSETS / "tiny-vit-glyphs"), "--output_dir", str(output)]
    argv += ["--per_class", *map(str, COUNTS), "--strategies", "linear-probe", "lp-ft", "--num_train_epochs", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["caltech101.py", *argv])
        runpy.run_path(SCRIPT, run_name="__main__")
        written = (output / "lp-ft-6" / "model.safetensors").stat().st_mtime_ns
        runpy.run_path(SCRIPT, run_name="__main__")
    assert (output / "lp-ft-6" / "model.safetensors").stat().st_mtime_ns == written  # what is done is not done again
    return output


@pytest.mark.document
def test_the_table_holds_every_run(study: Path):
    rows = json.loads((study / "results.json").read_text())
    assert [(row["strategy"], row["per_class"]) for row in rows] == [
        ("linear-probe", 2),
        ("linear-probe", 6),
        ("lp-ft", 6),
    ]
    for row in rows:
        metrics = json.loads((study / f"{row['strategy']}-{row['per_class']}" / "metrics.json").read_text())
        assert row["low"] <= row["accuracy"] == metrics["test_balanced_accuracy"] <= row["high"]
        assert row["accuracy"] > 0.5  # of four classes
        assert metrics["test_examples"] == 4 * 8
    assert Image.open(study / "learning_curve.png").size == (900, 600)


def test_smaller_training_sets_are_parts_of_larger_ones_and_never_of_the_test(folder: Path):
    draw = runpy.run_path(SCRIPT)["draw"]
    train, test = draw(folder, 6, 0)
    again, _ = draw(folder, 6, 0)
    other, _ = draw(folder, 6, 1)
    assert set(train["label"]) == {f"class-{digit}" for digit in range(4)}
    assert train["label"].value_counts().tolist() == [6] * 4
    assert not set(train["image"]) & set(test["image"])
    pandas.testing.assert_frame_equal(train, again)
    assert set(train["image"]) != set(other["image"])


def test_a_class_with_too_few_pictures_is_named(folder: Path):
    with pytest.raises(hfft.UserError, match=r"class-0 has 14 pictures: none is left to test on"):
        runpy.run_path(SCRIPT)["draw"](folder, 14, 0)
