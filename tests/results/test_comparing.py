"""Two runs on the same test examples: what differs, and whether that is more than luck."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from datasets import Dataset
from scipy.special import softmax

import hfft
from hfft.cli import main
from hfft.errors import UserError
from hfft.evaluation.metrics import METRICS
from hfft.record import prediction_table
from hfft.targets import MultiLabel, Regression, SingleLabel, Target

ROWS = 120
INPUTS = [f"text {index % 100}" for index in range(ROWS)]  # some occur twice
GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 3, ROWS)
WEAK, STRONG = (softmax(GENERATOR.normal(size=(ROWS, 3)) + margin * np.eye(3)[LABELS], axis=1) for margin in (1.0, 2.5))


def write_run(folder: Path, target: Target, labels: np.ndarray, outputs: np.ndarray, inputs: list[str]) -> str:
    """Write what compare reads of a run."""
    folder.mkdir()
    config: dict[str, Any] = {"model_type": "bert", "problem_type": target.problem_type}
    config |= {key: value for key, value in target.config_options().items() if key != "num_labels"}
    if isinstance(target, MultiLabel):
        config["label_thresholds"] = target.thresholds
    (folder / "config.json").write_text(json.dumps(config))
    prediction_table(inputs, outputs, target, labels).to_parquet(folder / "predictions.parquet")
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    target = SingleLabel(list("abc"))
    first, second = (
        write_run(tmp_path / name, target, LABELS, outputs, INPUTS)
        for name, outputs in (("weak", WEAK), ("strong", STRONG))
    )
    return first, second


def test_the_difference_of_two_runs(runs):
    found = hfft.compare(*runs)
    assert found.examples == ROWS
    assert not found.identical
    for name, row in found.metrics.items():
        assert row["first"] == pytest.approx(METRICS[name](LABELS, WEAK))
        assert row["difference"] == pytest.approx(METRICS[name](LABELS, STRONG) - METRICS[name](LABELS, WEAK))
        if name == "expected_calibration_error":
            assert "difference_ci_low" not in row
        else:
            assert row["difference_ci_low"] < row["difference"] < row["difference_ci_high"]
    assert found.metrics["accuracy"]["difference_ci_low"] > 0
    assert found.metrics["log_loss"]["difference_ci_high"] < 0
    assert hfft.compare(*runs).report() == found.report()
    back = hfft.compare(*reversed(runs)).metrics["accuracy"]
    assert back["difference"] == -found.metrics["accuracy"]["difference"]


def test_the_interval_is_that_of_scipy_s_paired_bootstrap(runs):
    hits = [(outputs.argmax(axis=1) == LABELS).astype(float) for outputs in (WEAK, STRONG)]
    reference = scipy.stats.bootstrap(
        hits, lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis), paired=True, n_resamples=9999, rng=0
    )
    row = hfft.compare(*runs).metrics["accuracy"]
    expected = tuple(reference.confidence_interval)
    assert (row["difference_ci_low"], row["difference_ci_high"]) == pytest.approx(expected, abs=0.02)


def test_mcnemar_counts_what_one_run_alone_has_right(runs):
    weak, strong = ((outputs.argmax(axis=1) == LABELS) for outputs in (WEAK, STRONG))
    found = hfft.compare(*runs).mcnemar
    only = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    assert (found["only_first_right"], found["only_second_right"]) == only
    tail = scipy.stats.binom.cdf(min(only), sum(only), 0.5)
    assert found["p_value"] == pytest.approx(min(1, 2 * tail))
    assert found["p_value"] < 0.01


def test_rows_and_classes_in_another_order_change_nothing(runs, tmp_path: Path):
    order, classes = np.random.default_rng(1).permutation(ROWS), [2, 0, 1]
    renamed = np.argsort(classes)[LABELS]
    shuffled = write_run(
        tmp_path / "shuffled",
        SingleLabel([list("abc")[index] for index in classes]),
        renamed[order],
        STRONG[order][:, classes],
        [INPUTS[index] for index in order],
    )
    expected, found = hfft.compare(*runs), hfft.compare(runs[0], shuffled)
    # which is which of two equal texts is not known
    gains = [run.mcnemar["only_second_right"] - run.mcnemar["only_first_right"] for run in (expected, found)]
    assert gains[0] == gains[1]
    assert found.mcnemar["only_first_right"] == pytest.approx(expected.mcnemar["only_first_right"], abs=5)
    for name, row in expected.metrics.items():
        assert found.metrics[name]["difference"] == pytest.approx(row["difference"])


def test_identical_predictions_are_no_difference(runs, tmp_path: Path, capsys):
    again = write_run(tmp_path / "again", SingleLabel(list("abc")), LABELS, WEAK, INPUTS)
    assert main(["compare", runs[0], again, "--output", str(tmp_path / "compare.json")]) == 0
    assert "No difference: the predictions are identical." in capsys.readouterr().out
    report = json.loads((tmp_path / "compare.json").read_text())
    assert report["identical"] is True
    assert report["mcnemar"] == {"only_first_right": 0, "only_second_right": 0, "p_value": 1.0}
    assert all(row["difference"] == 0 and "difference_ci_low" not in row for row in report["metrics"].values())


def test_the_table_shows_values_difference_and_test(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["compare", *runs]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "accuracy" in line and "balanced" not in line)
    weak, strong = (METRICS["accuracy"](LABELS, outputs) for outputs in (WEAK, STRONG))
    assert all(shown in row for shown in (f"{weak:.3f}", f"{strong:.3f}", f"+{strong - weak:.3f}"))
    assert "McNemar's exact test gives p = " in out


def test_several_classes_are_judged_by_their_own_thresholds(tmp_path: Path):
    labels = np.random.default_rng(0).random((ROWS, 2)) < 0.5
    probabilities = np.clip(labels * 0.4 + 0.3, 0, 1)  # 0.3 and 0.7
    targets = MultiLabel(["a", "b"], [0.5, 0.5]), MultiLabel(["a", "b"], [0.5, 0.9])
    runs = [
        write_run(tmp_path / str(index), target, labels, probabilities, INPUTS) for index, target in enumerate(targets)
    ]
    found = hfft.compare(*runs)
    assert not found.identical
    assert found.metrics["subset_accuracy"]["first"] == 1
    assert found.metrics["subset_accuracy"]["difference"] == pytest.approx(-labels[:, 1].mean())
    assert found.right == "subset_accuracy"
    assert found.mcnemar["only_first_right"] == labels[:, 1].sum()


def test_numbers_have_no_mcnemar_test(tmp_path: Path):
    labels = np.arange(ROWS) / 7
    runs = [
        write_run(tmp_path / name, Regression([name]), labels, labels + 2 * noise, INPUTS)
        for name, noise in (("x", np.sin(labels * 5)), ("y", 0.1 * np.cos(labels * 9)))
    ]
    found = hfft.compare(*runs)
    assert (found.right, found.mcnemar) == (None, None)
    assert found.metrics["rmse"]["difference_ci_high"] < 0
    assert main(["compare", *runs]) == 0


def changed(tmp_path: Path, **change: Any) -> str:
    run = {"target": SingleLabel(list("abc")), "labels": LABELS, "outputs": STRONG, "inputs": INPUTS} | change
    return write_run(tmp_path / "changed", **run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["another", *INPUTS[1:]]}, "not tested on the same examples: 1 stand in '.*weak' alone, such as"),
        ({"labels": (LABELS + (np.arange(ROWS) < 2)) % 3}, "other labels for 2 test examples, such as 'text 0': "),
        ({"target": SingleLabel(["a", "b", "d"])}, "'.*weak' knows classes that '.*changed' does not: c"),
        (
            {"target": MultiLabel(list("abc")), "labels": np.eye(3, dtype=bool)[LABELS]},
            "does single_label_classification, '.*changed' multi_label_classification",
        ),
    ],
)
def test_runs_that_cannot_be_compared_say_what_differs(runs, tmp_path: Path, change: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        hfft.compare(runs[0], changed(tmp_path, **change))


def test_folders_that_hold_no_run_are_refused(runs, tmp_path: Path, capsys):
    with pytest.raises(UserError, match=r"holds no predictions\.parquet: give the output folders of two finished runs"):
        hfft.compare(runs[0], tmp_path)
    assert main(["compare", runs[0]]) == 2
    Dataset.from_dict({"input": ["a"]}).to_parquet(Path(runs[1]) / "predictions.parquet")
    with pytest.raises(UserError, match="has no column label, predicted, probability_a"):
        hfft.compare(*runs)
    (Path(runs[1]) / "predictions.parquet").write_text("no table")
    assert main(["compare", *runs, "--output", str(tmp_path / "nowhere" / "c.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"predictions.parquet' cannot be read: "):
        hfft.compare(*runs)
