"""The comparisons with the stock Trainer run both sides, and say what they claim to say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from datasets import Dataset

from tests.conftest import counted_features

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Run every side in this process: a process for each takes its seconds to import the libraries."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("COMPARISON_STARTED", str(time.time()))
    module = importlib.import_module("comparison")

    def in_this_process(options: Any, side: str, seed: int, folder: str) -> dict[str, Any]:
        script = importlib.import_module(Path(sys.argv[0]).stem)
        with counted_features() as passes:
            measured = script.run(options, side, seed, Path(folder))
        told = {"process_seconds": 1.0, "megabytes": 1.0, "passes": len(passes)}
        return {"side": side, "seed": seed, **told, **measured}

    monkeypatch.setattr(module, "_in_process", in_this_process)
    return module


def told(script: str, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    output = tmp_path / "told.json"
    flags += ["--repetitions", "1", "--epochs", "2", "--batch_size", "8", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
    importlib.import_module(script).main()
    return json.loads(output.read_text())


@pytest.mark.parametrize(("model", "data"), [("tiny_bert", "text_folder"), ("tiny_timm", "image_folder")])
def test_a_probe_is_measured_beside_the_stock_trainer(comparison, model, data, request, tmp_path, monkeypatch, capsys):
    paths = [str(request.getfixturevalue(name)) for name in (model, data)]
    found = told("probe", ["--model", paths[0], "--data", paths[1]], tmp_path, monkeypatch)
    summary = found["summary"]
    assert list(summary) == ["stock", "hfft", "hfft, again", "hfft, five folds"]
    # the second run finds its features, the folds begin with none
    assert [run["passes"] > 0 for run in found["runs"]] == [False, True, False, True]
    assert all(row["training_seconds"] > 0 for row in summary.values())
    assert summary["hfft, again"]["accuracy"] == summary["hfft"]["accuracy"]
    assert summary["hfft"]["accuracy"] >= 0.9  # the classes are those of words and colours
    assert summary["hfft, five folds"]["cross_validated_accuracy"] > 0.8
    assert "training ratio" in capsys.readouterr().out


def test_a_full_run_on_texts_is_measured_beside_both_ways_of_padding(
    comparison, tiny_bert, text_folder, tmp_path, monkeypatch
):
    flags = ["--model", str(tiny_bert), "--data", str(text_folder), "--stock_learning_rate", "1e-2"]
    flags += ["--max_length", "48"]  # all that it reads
    summary = told("full", flags, tmp_path, monkeypatch)["summary"]
    assert list(summary) == ["stock, padded to 48", "stock, dynamic padding", "hfft", "hfft, fp32"]
    assert all(row["training_seconds"] > 0 and 0 <= row["accuracy"] <= 1 for row in summary.values())


def test_long_texts_are_joined_of_one_class(comparison, text_folder, tmp_path):
    full = importlib.import_module("full")
    tables = tmp_path / "tables"
    tables.mkdir()
    Dataset.from_csv(str(text_folder / "train.csv"), keep_in_memory=True).to_parquet(str(tables / "train.parquet"))
    before = Dataset.from_parquet(str(tables / "train.parquet"), keep_in_memory=True)
    after = Dataset.from_parquet(str(full.with_long_texts(str(tables), 5, tmp_path / "long") / "train.parquet"))
    assert after["label"][:] == before["label"][:]
    words: dict[str, set[str]] = {}
    for text, label in zip(before["text"], before["label"], strict=True):
        words.setdefault(label, set()).update(text.split())
    assert all(set(text.split()) <= words[label] for text, label in zip(after["text"], after["label"], strict=True))
    lengths = [len(text) for text in after["text"]]
    assert max(lengths) > 2 * max(map(len, before["text"]))
    assert min(lengths) <= max(map(len, before["text"]))


def test_a_full_run_on_pictures_may_start_from_random_weights(comparison, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("hfft.hardware.precision.has_fast_bf16", lambda device_type: False)  # on every processor
    flags = ["--architecture", "test_resnet", "--data", str(image_folder)]
    found = told("full", flags, tmp_path, monkeypatch)
    assert list(found["summary"]) == ["stock", "hfft", "hfft, fp32"]
    assert [run.get("precision") for run in found["runs"]] == [None, "fp32", "fp32"]


def test_some_sides_may_be_measured_alone(comparison, tiny_bert, text_folder, tmp_path, monkeypatch):
    flags = ["--model", str(tiny_bert), "--data", str(text_folder)]
    found = told("probe", [*flags, "--sides", "hfft", "hfft, again"], tmp_path, monkeypatch)
    assert list(found["summary"]) == ["hfft", "hfft, again"]
    with pytest.raises(SystemExit, match="no coal; there are stock; hfft"):
        told("probe", [*flags, "--sides", "coal"], tmp_path, monkeypatch)


def test_texts_are_padded_as_said(comparison, tiny_bert, text_folder, tmp_path):
    stock = importlib.import_module("stock")
    options = comparison.comparison_parser("", 1, "").parse_args(
        ["--model", str(tiny_bert), "--data", str(text_folder)]
    )
    lengths = {
        padded: {
            batch["input_ids"].shape[1]
            for batch in stock.stock_trainer(
                options, 0, tmp_path, learning_rate=1e-3, padded=padded
            ).get_eval_dataloader()
        }
        for padded in (True, False)
    }
    assert lengths[True] == {48}  # as many tokens as the model reads
    assert max(lengths[False]) < 20


def test_each_side_runs_in_a_process_of_its_own(tmp_path):
    (tmp_path / "script.py").write_text(
        f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
from comparison import compare, comparison_parser, since_start

def run(options, side, seed, folder):
    (folder / side).touch()
    about = {{"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}}
    return {{"startup_seconds": since_start(), "training_seconds": float(len(list(folder.iterdir()))), **about}}

compare(comparison_parser("", 1, "told.json").parse_args(), ("one", "other"), run)
"""
    )
    command = [sys.executable, "script.py", "--data", "none", "--repetitions", "2", "--threads", "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "told.json").read_text())
    assert len({run["pid"] for run in found["runs"]}) == 4
    assert {run["threads"] for run in found["runs"]} == {"3"}
    assert [run["training_seconds"] for run in found["runs"]] == [1, 2, 1, 2]  # a repetition's sides share a folder
    assert found["summary"]["other"]["training_seconds"] == 2
    assert all(run["megabytes"] > 1 and run["startup_seconds"] > 0 for run in found["runs"])
    assert "0.50x" in done.stdout


@pytest.mark.parametrize(("model", "data"), [("tiny_bert", "text_folder"), ("tiny_timm", "image_folder")])
def test_few_examples_are_drawn_for_every_side_alike(comparison, model, data, request, tmp_path, monkeypatch, capsys):
    paths = [str(request.getfixturevalue(name)) for name in (model, data)]
    few_shot = importlib.import_module("few_shot")
    rows = few_shot._rows(str(few_shot.draw(paths[1], 2, 0, tmp_path / "drawn")), "train")
    assert set(rows["label"].value_counts()) == {2}
    flags = ["--model", paths[0], "--data", paths[1], "--per_class", "4", "--sides", "stock", "linear-probe"]
    runs = told("few_shot", flags, tmp_path, monkeypatch)["runs"]
    assert [(run["side"], run["per_class"], run["draw"]) for run in runs] == [("stock", 4, 0), ("linear-probe", 4, 0)]
    assert all(0 <= run["accuracy"] <= 1 and run["log_loss"] > 0 for run in runs)
    printed = capsys.readouterr().out
    assert f"{runs[1]['accuracy'] - runs[0]['accuracy']:+.3f}" in printed
    # of the training split the others alone are tested, and the drawn ones are the same
    again = few_shot.draw(paths[1], 2, 0, tmp_path / "again", "train")
    drawn, tested = (few_shot._rows(str(again), split) for split in ("train", "test"))
    where = [
        part["path"].map(lambda path: Path(path).name) if "path" in part else part["text"] for part in (drawn, tested)
    ]
    names = [set(part["label"] + "/" + place) for part, place in zip((drawn, tested), where, strict=True)]
    assert not names[0] & names[1]
    assert len(drawn) + len(tested) == len(few_shot._rows(paths[1], "train"))
    assert list(drawn["label"]) == list(rows["label"])


def test_the_mean_of_draws_has_student_s_interval(comparison):
    few_shot = importlib.import_module("few_shot")
    assert few_shot.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5, rel=1e-3)
