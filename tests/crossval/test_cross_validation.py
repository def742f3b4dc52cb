"""Cross-validation: each training example is predicted once, by a model that has not seen it."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy.stats import t

import hfft
from hfft import UserError, cli
from hfft.crossval import running as cross_validation
from hfft.evaluation.intervals import nadeau_bengio_interval
from hfft.features import start
from hfft.trainer import FineTuningTrainer
from tests.conftest import counted_features, garbage_collected_as_before, make_sentences, write_csv

ROWS = 30


@pytest.fixture(scope="module")
def settings(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("texts")
    write_csv(folder / "train.csv", make_sentences(ROWS, 1))
    write_csv(folder / "test.csv", make_sentences(9, 2))
    return {
        "model": str(tiny_bert), "data": str(folder), "strategy": "linear-probe", "disable_tqdm": True, "seed": 3,
        "cache_dir": str(folder / "cache"), "pooling": "mean", "precision": "fp32",
    }  # fmt: skip


@pytest.fixture(scope="module")
def computed() -> Iterator[list[int]]:
    """How many examples features were computed of, each time."""
    with counted_features() as counts:
        yield counts


@pytest.fixture(scope="module")
def result(settings, computed, tmp_path_factory: pytest.TempPathFactory) -> hfft.CrossValidationResult:
    out = tmp_path_factory.mktemp("crossval") / "out"
    return hfft.cross_validate(**settings, output_dir=str(out), folds=3)


def predictions(folder: Path | str) -> pandas.DataFrame:
    return pandas.read_parquet(Path(folder) / "predictions.parquet")


def test_each_training_example_is_predicted_once_and_no_test_example(result, settings):
    table, train = predictions(result.output_dir), pandas.read_csv(Path(settings["data"]) / "train.csv")
    assert table["input"].tolist() == train["text"].tolist()
    assert table["label"].tolist() == train["label"].tolist()
    counts = table.groupby(["fold", "label"]).size().unstack()
    assert counts.shape == (3, 3)
    assert counts.max(axis=None) - counts.min(axis=None) <= 1
    assert [fold["test_examples"] for fold in result.folds] == [10, 10, 10]


def test_a_fold_is_the_run_that_one_would_make_by_hand(result, settings, tmp_path):
    table = predictions(result.output_dir)
    for name, rows in (("train", table[table.fold != "fold-2"]), ("test", table[table.fold == "fold-2"])):
        write_csv(tmp_path / "data" / f"{name}.csv", list(zip(rows["input"], rows["label"], strict=True)))
    own = {**settings, "data": str(tmp_path / "data")}
    by_hand = hfft.finetune(**own, output_dir=str(tmp_path / "out"))
    probabilities = [name for name in table.columns if name.startswith("probability_")]
    ours = table[table.fold == "fold-2"][probabilities].to_numpy()
    # the fold's answers come from features, those by hand from the model into which the means are folded
    np.testing.assert_allclose(ours, predictions(tmp_path / "out")[probabilities].to_numpy(), atol=1e-3)
    assert result.folds[1]["test_log_loss"] == pytest.approx(by_hand.metrics["test_log_loss"], abs=1e-3)


def test_features_are_computed_once_for_all_folds(result, computed):
    assert computed[0] == ROWS  # what came later is of other runs
    assert computed.count(ROWS) == 1


@pytest.fixture
def predicted(monkeypatch) -> list[int]:
    """How many examples a Trainer has predicted, each time."""
    predict, counts = FineTuningTrainer.predict, []

    def counted(self: FineTuningTrainer, examples: Any, *args: Any, **kwargs: Any) -> Any:
        counts.append(len(examples))
        return predict(self, examples, *args, **kwargs)

    monkeypatch.setattr(FineTuningTrainer, "predict", counted)
    return counts


def test_no_example_goes_twice_through_a_trunk_that_does_not_change(settings, predicted, tmp_path):
    own = settings | {"cache_dir": str(tmp_path / "new"), "pooling": "model"}
    with counted_features() as counts:
        hfft.cross_validate(**own, output_dir=str(tmp_path / "a"), folds=3)
        assert (counts, predicted) == ([ROWS, 3], [])  # 3 names of classes
        unkept = own | {"cache_dir": str(tmp_path / "none"), "cache_budget": 0}
        counts.clear()
        hfft.cross_validate(**unkept, output_dir=str(tmp_path / "b"), folds=3)
        assert (counts, predicted) == ([ROWS, 3, 10] * 3, [])  # what is held out, alone
    for kept, unkept in zip(sorted(tmp_path.glob("a/folds/*")), sorted(tmp_path.glob("b/folds/*")), strict=True):
        kept, unkept = (predictions(folder).filter(like="probability_").to_numpy() for folder in (kept, unkept))
        np.testing.assert_allclose(kept, unkept, atol=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_what_a_program_has_set_aside_stays_aside(settings, tmp_path, own, monkeypatch):
    counts, run = [], cross_validation._run_fold
    monkeypatch.setattr(cross_validation, "_run_fold", lambda *args: [run(*args), counts.append(gc.get_freeze_count())])
    with garbage_collected_as_before(own):
        hfft.cross_validate(**settings, output_dir=str(tmp_path / "out"), folds=2)
    assert min(counts) > 10_000


def test_a_number_is_answered_in_its_unit_from_kept_features(settings, predicted, tmp_path):
    rows = [(text, 100.0 + 3.5 * row) for row, (text, _) in enumerate(make_sentences(18, 1))]
    write_csv(tmp_path / "train.csv", rows)
    own = {**settings, "data": str(tmp_path / "train.csv"), "problem_type": "regression"}
    own |= {"cache_dir": str(tmp_path / "cache")}
    with counted_features() as counts:
        hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, keep_models=True)
        assert (counts, predicted) == ([18], [])
    table = predictions(tmp_path / "out")
    found = hfft.predict(str(tmp_path / "out" / "folds" / "fold-1"), str(tmp_path / "train.csv")).to_pandas()
    held_out = table["fold"] == "fold-1"
    assert 100 < table["predicted"].mean() < 170
    np.testing.assert_allclose(table["predicted"][held_out], found["predicted"][held_out], rtol=1e-3)


def test_folds_compare_poolings_on_one_part_of_all_examples(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "_COMPARED", 18)
    own = settings | {"cache_dir": str(tmp_path / "cache"), "pooling": "auto"}
    with counted_features() as counts:
        hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=3)
    assert counts[:2] == [18, 18]  # one for each pooling; of the better one all, and the names of the classes
    assert sorted(counts[2:]) in ([3, 30], [3, 3, 30, 30])  # another fold may find the other one better


def test_the_mean_over_the_folds_has_the_interval_of_nadeau_and_bengio(result):
    values = [fold["test_log_loss"] for fold in result.folds]
    assert len(set(values)) == 3
    assert result.metrics["crossval_log_loss"] == pytest.approx(np.mean(values))
    half = t.ppf(0.975, 2) * np.sqrt((1 / 3 + 10 / 20) * np.var(values, ddof=1))
    low, high = (result.metrics[f"crossval_log_loss_ci_{end}"] for end in ("low", "high"))
    assert (low, high) == pytest.approx((max(0.0, np.mean(values) - half), np.mean(values) + half))
    baselines = [fold["baseline_test_log_loss"] for fold in result.folds]
    assert result.metrics["baseline_crossval_log_loss"] == pytest.approx(np.mean(baselines))
    told = json.loads((Path(result.output_dir) / "crossval.json").read_text())
    assert told["metrics"] == result.metrics
    assert [fold["name"] for fold in told["folds"]] == ["fold-1", "fold-2", "fold-3"]


def test_the_interval_is_wider_than_that_of_independent_values():
    generator = np.random.default_rng(0)
    values = generator.normal(0.8, 0.05, size=5).tolist()
    low, high = nadeau_bengio_interval(values, 0.25)
    independent = t.interval(0.95, 4, loc=np.mean(values), scale=np.std(values, ddof=1) / 5**0.5)
    assert high - low == pytest.approx(np.sqrt((1 / 5 + 0.25) / (1 / 5)) * (independent[1] - independent[0]))


def test_an_interval_ends_where_the_metric_does():
    values = [1.0, 1.0, 0.9]
    low, high = nadeau_bengio_interval(values, 0.5)
    assert high > 1
    assert nadeau_bengio_interval(values, 0.5, (0.0, 1.0)) == (low, 1.0)
    low, high = nadeau_bengio_interval([0.0, 0.0, 0.4], 0.5)
    assert low < 0
    assert nadeau_bengio_interval([0.0, 0.0, 0.4], 0.5, (0.0, np.inf)) == (0.0, high)
    assert nadeau_bengio_interval([1.0, 1.0, 1.0], 0.5, (0.0, 1.0)) is None  # it would claim certainty


def test_no_interval_leaves_the_range_of_its_metric(settings, tmp_path):
    rows = make_sentences(18, 1)
    rows[0] = (rows[0][0], rows[1][1])  # one label is wrong: most folds are all right, and one cannot be
    write_csv(tmp_path / "train.csv", rows)
    own = {**settings, "data": str(tmp_path / "train.csv"), "output_dir": str(tmp_path / "out")}
    found = {row["name"]: row for row in hfft.cross_validate(**own, folds=6).rows()}
    shares = [row for name, row in found.items() if name not in ("log_loss", "brier_score")]
    ends = [(row["low"], row["high"]) for row in shares if row["low"] is not None]
    assert all(0 <= low <= high <= 1 for low, high in ends)
    assert any(high == 1 for _, high in ends)
    assert found["log_loss"]["low"] >= 0


def test_models_of_folds_are_left_out_unless_they_are_wanted(result, settings, tmp_path):
    fold = Path(result.output_dir) / "folds" / "fold-1"
    assert {path.name for path in fold.iterdir()} == {
        "metrics.json", "predictions.parquet", "report.html", "run.yaml", "data_report.json",
    }  # fmt: skip
    kept = hfft.cross_validate(**settings, output_dir=str(tmp_path / "out"), folds=2, keep_models=True)
    again = hfft.evaluate(f"{kept.output_dir}/folds/fold-1", settings["data"])
    assert again.examples == 9


def test_a_model_of_a_fold_is_not_tested_on_what_it_was_trained_on(settings, tmp_path):
    write_csv(tmp_path / "train.csv", make_sentences(18, 1))
    own = {**settings, "data": str(tmp_path / "train.csv"), "hub_token": "hf_secret"}
    kept = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, keep_models=True)
    with pytest.raises(UserError, match="part of a cross-validation"):
        hfft.evaluate(f"{kept.output_dir}/folds/fold-1", own["data"])
    assert not [path for path in Path(kept.output_dir).rglob("*.yaml") if "hf_secret" in path.read_text()]


def test_what_is_done_is_not_done_again(result, settings, computed):
    first = predictions(result.output_dir)
    lost = Path(result.output_dir) / "folds" / "fold-2"
    stays = (lost.parent / "fold-1" / "metrics.json").stat().st_mtime_ns
    (lost / "metrics.json").unlink()
    again = hfft.cross_validate(**settings, output_dir=result.output_dir, folds=3, resume=True)
    assert again.metrics == result.metrics
    pandas.testing.assert_frame_equal(predictions(result.output_dir), first)
    assert (lost.parent / "fold-1" / "metrics.json").stat().st_mtime_ns == stays
    (lost / "predictions.parquet").unlink()  # as where the disk was full: the fold is made again
    others = {"auto_batch_size": True, "per_device_eval_batch_size": 5, "dataloader_num_workers": 1}
    again = hfft.cross_validate(**settings, output_dir=result.output_dir, folds=3, resume=True, **others)
    assert again.metrics == pytest.approx(result.metrics, abs=1e-5)
    with pytest.raises(UserError, match="another cross-validation: folds was 3, now 4"):
        hfft.cross_validate(**settings, output_dir=result.output_dir, folds=4, resume=True)
    with pytest.raises(UserError, match="holds a run"):
        hfft.cross_validate(**settings, output_dir=result.output_dir, folds=3)


def test_copies_and_groups_are_held_out_together(settings, tmp_path):
    rows = make_sentences(24, 1)
    rows += [(f"{text.upper()}!", label) for text, label in rows[:6]]  # copies but for case
    lines = [(text, label, f"group {row % 12}") for row, (text, label) in enumerate(rows)]
    write_csv(tmp_path / "train.csv", lines, ("text", "label", "patient"))
    own = {**settings, "data": str(tmp_path / "train.csv"), "group_column": "patient"}
    found = predictions(hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=3).output_dir)
    found["patient"] = [group for _, _, group in lines]
    assert (found.groupby("patient")["fold"].nunique() == 1).all()
    copies = {text.upper() + "!": text for text, _ in rows[:6]}
    fold_of = dict(zip(found["input"], found["fold"], strict=True))
    assert all(fold_of[copy] == fold_of[text] for copy, text in copies.items())


def test_a_strategy_that_trains_chooses_on_examples_of_its_own(settings, tmp_path):
    own = {**settings, "strategy": "full", "num_train_epochs": 1, "validation_size": 0.2}
    result = hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, repeats=2)
    assert [fold["name"] for fold in result.folds] == [f"repeat-{r}-fold-{f}" for r in (1, 2) for f in (1, 2)]
    assert all(
        (fold["train_examples"], fold["validation_examples"], fold["test_examples"]) == (12, 3, 15)
        for fold in result.folds
    )
    table = predictions(result.output_dir)
    assert len(table) == 2 * ROWS
    assert (table.groupby("input").size() == 2).all()


def test_the_default_strategy_is_written_down_too(settings, tmp_path):
    own = {name: value for name, value in settings.items() if name != "strategy"}
    hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, max_steps=1)
    config = tmp_path / "out" / "crossval.yaml"
    assert "\nstrategy: auto\n" in config.read_text()
    config.write_text(config.read_text().replace("strategy: auto\n", ""))  # as an older version had it
    with pytest.raises(UserError, match="strategy was None, now auto"):
        hfft.cross_validate(**own, output_dir=str(tmp_path / "out"), folds=2, max_steps=1, resume=True)


def test_the_settings_that_are_written_make_it_again(result, tmp_path, capsys):
    config = Path(result.output_dir) / "crossval.yaml"
    assert cli.main(["crossval", "--config", str(config), "--output_dir", str(tmp_path / "again")]) == 0
    assert "Cross-validation, 3 folds, 30 examples" in capsys.readouterr().out
    pandas.testing.assert_frame_equal(predictions(tmp_path / "again"), predictions(result.output_dir))


def test_a_fold_that_fails_is_named(settings, tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise UserError("The training diverged.")

    monkeypatch.setattr(cross_validation, "fine_tune", fail)
    with pytest.raises(UserError, match=r"^fold-1: The training diverged\."):
        hfft.cross_validate(**settings, output_dir=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be at least 2"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"strategy": "linear-prob"}, "no strategy 'linear-prob'"),
        ({"data": "nowhere"}, "no file or folder 'nowhere'"),
        ({"push_to_hub": True}, "push_to_hub has no place"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_folder_is_made(options, message, settings, tmp_path):
    with pytest.raises(UserError, match=message):
        hfft.cross_validate(**{**settings, **options}, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_one_example_of_a_class_cannot_be_held_out(settings, tmp_path):
    write_csv(tmp_path / "train.csv", [("a text", "a"), ("another", "b")])
    with pytest.raises(UserError, match="every class needs two examples"):
        hfft.cross_validate(**{**settings, "data": str(tmp_path / "train.csv")}, output_dir=str(tmp_path / "out"))
