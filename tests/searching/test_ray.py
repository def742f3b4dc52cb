"""Ray Tune beside Optuna: one space, the same trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hfft
from tests.conftest import make_sentences, write_csv

pytest.importorskip("ray.tune")

GRID = {"head_penalty": [1e-3, 10.0], "head_solver": ["ridge", "prototypes"], "pooling": ["mean", "sum"]}


def by_parameters(result: hfft.SearchResult) -> dict[Any, Any]:
    return {tuple(row["parameters"].values()): (row["state"], row["value"]) for row in result.trials}


def test_two_workers_find_what_optuna_finds_on_the_same_grid(tiny_bert: Path, tmp_path: Path):
    write_csv(tmp_path / "data" / "train.csv", make_sentences(45, 1))
    write_csv(tmp_path / "data" / "test.csv", make_sentences(9, 2))
    settings = {
        "model": str(tiny_bert), "data": str(tmp_path / "data"), "strategy": "linear-probe", "disable_tqdm": True,
        "cache_dir": str(tmp_path / "cache"), "metric_for_best_model": "log_loss", "space": GRID, "sampler": "grid",
    }  # fmt: skip
    optuna = hfft.search(**settings, output_dir=str(tmp_path / "optuna"))
    ray = hfft.search(**settings, output_dir=str(tmp_path / "ray"), backend="ray", workers=2)
    assert by_parameters(ray) == by_parameters(optuna)
    assert sum(row["state"] == "failed" for row in ray.trials) == 4
    assert all("not as 'sum'" in row["reason"] for row in ray.trials if row["state"] == "failed")
    assert (ray.best, ray.value) == (optuna.best, optuna.value)
    assert ray.metrics["test_log_loss"] == optuna.metrics["test_log_loss"]
    assert not list((tmp_path / "ray").rglob("*.pkl"))
    again = hfft.search(**settings, output_dir=str(tmp_path / "ray"), backend="ray", workers=2, resume=True)
    assert again.trials == ray.trials
