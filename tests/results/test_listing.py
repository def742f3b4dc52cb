"""The table of what stands below a folder."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

import hfft
from hfft.cli import main
from hfft.run_folder import RUN_HEADER

SETTINGS = {"task": "text-classification", "model": "me/[red]bert", "strategy": "full"}


def write_run(folder: Path, metrics: dict[str, Any] | None, header: str = RUN_HEADER, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(f"{header}\n{yaml.safe_dump({**SETTINGS, **settings})}")
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "model.safetensors").write_bytes(b"0" * 2_500_000)
    return folder


def accuracy(value: float) -> dict[str, float]:
    return {"test_accuracy": value, "test_macro_f1": 0.1, "test_accuracy_ci_low": value - 0.1,
            "test_accuracy_ci_high": value + 0.1, "validation_accuracy": 0.5, "train_runtime": 3723.0}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    write_run(root / "weak", accuracy(0.6))
    write_run(root / "deep" / "strong", accuracy(0.8), strategy="lp-ft")
    write_run(root / "prices", {"test_rmse": 2.0, "test_rmse_ci_low": 1.5, "test_rmse_ci_high": 2.5})
    return root


def wheres(rows: list[dict[str, Any]]) -> list[str]:
    return [row["where"] for row in rows]


def test_a_row_says_what_the_run_was_and_what_came_of_it(folder: Path):
    strong = hfft.runs(folder)[0]
    date = strong.pop("date")
    assert pandas.Timestamp(date).timestamp() == int((folder / "deep/strong/metrics.json").stat().st_mtime)
    assert strong == {
        "where": "deep/strong", "state": "finished", "task": "text-classification", "model": "me/[red]bert",
        "strategy": "lp-ft", "metric": "accuracy", "value": 0.8, "ci_low": pytest.approx(0.7), "ci_high": 0.9,
        "validation": 0.5, "weights_bytes": 2_500_000, **accuracy(0.8),
    }  # fmt: skip


def test_rows_are_sorted_with_the_best_first(folder: Path):
    write_run(folder / "cheap", {"test_rmse": 1.0})
    assert wheres(hfft.runs(folder)) == ["cheap", "deep/strong", "prices", "weak"]
    assert wheres(hfft.runs(folder, sort="test_accuracy")) == ["deep/strong", "weak", "cheap", "prices"]
    assert wheres(hfft.runs(folder, sort="test_rmse")) == ["cheap", "prices", "deep/strong", "weak"]
    os.utime(folder / "weak" / "metrics.json", (2e9, 2e9))
    assert wheres(hfft.runs(folder, sort="date"))[0] == "weak"
    with pytest.raises(hfft.UserError, match=r"no run has a column 'test_acuracy'. Did you mean 'test_accuracy'"):
        hfft.runs(folder, sort="test_acuracy")


def test_links_are_followed_but_never_in_circles(folder: Path, tmp_path: Path):
    elsewhere = write_run(tmp_path / "elsewhere" / "linked", accuracy(0.7))
    (folder / "above").symlink_to(folder.parent)
    (folder / "deep" / "itself").symlink_to(folder)
    (folder / "again").symlink_to(folder / "weak")
    (folder / "far").symlink_to(elsewhere.parent)
    (folder / "nowhere").symlink_to(folder / "missing")
    assert wheres(hfft.runs(folder)) == ["deep/strong", "far/linked", "prices", "weak"]
    assert wheres(hfft.runs(folder / "again")) == ["."]


def test_what_is_not_finished_or_damaged_is_told_in_its_row(folder: Path):
    stopped = write_run(folder / "stopped", None)
    for step in (9, 40):
        (stopped / f"checkpoint-{step}").mkdir()
    searching = folder / "searching"
    searching.mkdir()
    (searching / "search.yaml").write_text("# Written by hfft. Again: hfft search\nstrategy: lp-ft\ntrials: 20\n")
    write_run(folder / "torn", accuracy(0.9)).joinpath("metrics.json").write_text('{"test_accuracy": 0.')
    write_run(folder / "tagged", accuracy(0.9)).joinpath("run.yaml").write_text("a: !!python/object:os.system {}")
    write_run(folder / "deeper", accuracy(0.9)).joinpath("metrics.json").write_text("[" * 100_000)
    write_run(folder / "endless", {**accuracy(0.9), "test_accuracy": float("nan")})
    write_run(folder / "vast", accuracy(0.9)).joinpath("metrics.json").write_bytes(b"\xff" * 5_000_001)
    write_run(folder / "foreign", None, header="# Someone else's.")
    rows = {row["where"]: row for row in hfft.runs(folder)}
    assert rows["stopped"]["state"] == "unfinished, checkpoint-40"
    assert rows["stopped"]["value"] is None
    assert rows["searching"]["state"] == "unfinished, its arguments are searched"
    assert rows["searching"]["strategy"] == "lp-ft"
    assert rows["torn"]["state"].startswith("damaged: metrics.json cannot be read (")
    assert rows["torn"]["strategy"] == "full"
    assert rows["tagged"]["state"].startswith("damaged: run.yaml cannot be read (")
    assert rows["tagged"]["value"] == 0.9
    assert rows["deeper"]["state"].startswith("damaged: metrics.json")
    assert rows["endless"]["test_accuracy_ci_low"] == 0.8
    assert "test_accuracy" not in rows["endless"]
    assert "more than 5,000,000 bytes" in rows["vast"]["state"]
    assert "foreign" not in rows
    assert main(["runs", str(folder), "--sort", "value"]) == 0


def test_a_cross_validation_is_one_row(folder: Path, tiny_bert: Path, text_folder: Path, tmp_path: Path):
    settings = {"model": str(tiny_bert), "data": str(text_folder), "strategy": "linear-probe", "pooling": "mean"}
    out = folder / "crossval"
    done = hfft.cross_validate(**settings, output_dir=str(out), folds=2, cache_dir=str(tmp_path / "cache"))
    row = hfft.runs(folder)[0]
    assert row["where"] == "crossval"
    assert row["state"] == "cross-validation, 2 folds"
    assert (row["task"], row["strategy"], row["metric"]) == ("text-classification", "linear-probe", "accuracy")
    assert row["value"] == done.metrics["crossval_accuracy"]
    assert row["ci_low"] == done.metrics["crossval_accuracy_ci_low"]
    assert row["train_runtime"] == pytest.approx(sum(fold["train_runtime"] for fold in done.folds))
    (out / "crossval.json").unlink()
    assert hfft.runs(folder)[0]["state"] == "unfinished, 2 folds done"
    fold = hfft.runs(out / "folds")[0]
    assert (fold["where"], fold["weights_bytes"]) == ("fold-1", None)


def test_the_command_prints_names_as_they_are(folder: Path, capsys):
    write_run(folder / "\x1b[31mred", accuracy(0.7))
    assert main(["runs", str(folder)]) == 0
    out = capsys.readouterr().out
    assert r"\x1b[31mred" in out
    assert "\x1b[31m" not in out
    assert "me/[red]bert" in out
    assert "accuracy 0.800" in out
    assert "0.700 to 0.900" in out
    assert "1:02:03" in out
    assert "2.5 MB" in out


def test_rows_are_written_without_formulas(folder: Path, tmp_path: Path):
    write_run(folder / "=1+1", accuracy(0.7), model='=HYPERLINK("http://a")')
    outputs = [tmp_path / f"runs{suffix}" for suffix in (".csv", ".json", ".parquet")]
    for output in outputs:
        assert main(["runs", str(folder), "--sort", "test_accuracy", "--output", str(output)]) == 0
    with outputs[0].open(newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert [row["where"] for row in cells] == ["deep/strong", "'=1+1", "weak", "prices"]
    assert cells[1]["model"] == '\'=HYPERLINK("http://a")'
    assert float(cells[0]["test_accuracy"]) == 0.8
    assert cells[3]["test_accuracy"] == ""
    rows = hfft.runs(folder, sort="test_accuracy")
    assert json.loads(outputs[1].read_text()) == [{name: row.get(name) for name in cells[0]} for row in rows]
    assert pandas.read_parquet(outputs[2])["where"].tolist() == wheres(rows)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "there is no file or folder"),
        (["empty"], "holds no run"),
        (["runs", "--output", "r.xlsx"], "must end in .csv or .json or .parquet"),
        (["runs", "--output", "no/r.csv"], "there is no folder"),
    ],
)
def test_what_cannot_be_listed_is_refused(arguments, told, folder: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["runs", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_run_knows_the_seconds_that_it_trained(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    run = hfft.finetune(
        model=str(tiny_bert), data=str(text_folder), output_dir=str(tmp_path / "out"), max_steps=2, disable_tqdm=True
    )
    trained = next(entry["train_runtime"] for entry in run.record.history if "train_runtime" in entry)
    assert trained * 0.99 < run.metrics["train_runtime"]
    assert hfft.runs(tmp_path)[0]["train_runtime"] == run.metrics["train_runtime"]
