"""What the strategy auto ships: what was trained, or the solved head that it was trained from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hfft
from hfft import UserError
from hfft.data.split_names import GROUP
from hfft.errors import UnsolvableHeadError
from hfft.features import readout
from hfft.running.deciding import SolvedModel, decide
from hfft.targets import SingleLabel
from tests.conftest import counted_features, make_sentences, write_csv
from tests.finetuning.test_targets import tagged, write_jsonl

HOPELESS = {"learning_rate": 1e-9, "num_train_epochs": 2}


@pytest.fixture(scope="module")
def settings(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A head with a penalty of its own: what it is solved on decides alone."""
    return {
        "model": str(tiny_bert), "data": str(text_folder), "cache_dir": str(tmp_path_factory.mktemp("cache")),
        "seed": 3, "disable_tqdm": True, "per_device_train_batch_size": 8, "head_penalty": 0.1, "pooling": "model",
        "validation_size": 0.25,
    }  # fmt: skip


def weights(run: Any) -> dict[str, torch.Tensor]:
    return load_file(Path(run.output_dir) / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_solved_head_ships_with_the_validation_examples_in_it(settings, tmp_path, capsys):
    run = hfft.finetune(**settings, **HOPELESS, strategy="auto", output_dir=str(tmp_path / "auto"))
    told = next(note for note in run.record.notes if note.startswith("The solved head ships"))
    assert "solved on all 36 examples that were given to learn from" in told
    assert told in " ".join(capsys.readouterr().out.split())
    own = {**settings, "validation_size": 0}
    probe = hfft.finetune(**own, strategy="linear-probe", output_dir=str(tmp_path / "probe"))
    shipped, solved = weights(run), weights(probe)
    for name, value in solved.items():
        if not name.startswith("classifier."):
            assert torch.equal(shipped[name], value)  # the trunk as it was pretrained, bit for bit
    torch.testing.assert_close(shipped["classifier.weight"], solved["classifier.weight"], rtol=1e-4, atol=1e-5)
    assert run.metrics["test_log_loss"] == pytest.approx(probe.metrics["test_log_loss"], rel=1e-4)
    # what is told of the validation split is of the head that had not seen it, and no layer has moved
    start = next(entry for entry in run.record.history if entry["step"] == 0)
    assert run.metrics["validation_loss"] == start["eval_loss"]
    assert run.metrics["shipped_epoch"] == 0
    assert {each["distance"] for each in run.record.distances} == {0.0}
    assert not any(name.startswith("baseline_probe") for name in run.metrics)  # it is no baseline of itself
    assert run.metrics["learned_from_examples"] == 36
    with pytest.raises(UserError, match="has learned from the validation split, too"):
        hfft.evaluate(run.output_dir, settings["data"], "validation")
    again = hfft.evaluate(run.output_dir, settings["data"])
    assert again.metrics["test_log_loss"] == pytest.approx(run.metrics["test_log_loss"], rel=1e-5)


def test_what_was_trained_ships_where_it_is_better(settings, tmp_path):
    own = {**settings, "learning_rate": 1e-2, "num_train_epochs": 8}
    own |= {"head_penalty": 1e3, "metric_for_best_model": "loss"}  # a head that is sure of nothing
    auto, tuned = (hfft.finetune(**own, strategy=name, output_dir=str(tmp_path / name)) for name in ("auto", "lp-ft"))
    told = next(note for note in auto.record.notes if note.startswith("What was trained ships"))
    assert f"log loss {auto.metrics['validation_log_loss']:.3f} with training" in told
    assert auto.metrics["shipped_epoch"] > 0
    assert same(weights(auto), weights(tuned))
    assert "learned_from_examples" not in auto.metrics
    found = hfft.evaluate(auto.output_dir, settings["data"], "validation")
    assert found.metrics["validation_log_loss"] == pytest.approx(auto.metrics["validation_log_loss"], rel=1e-5)


def test_a_validation_split_that_was_given_is_not_learned_from(settings, tmp_path):
    for name, count, seed in (("train", 36, 1), ("validation", 12, 5), ("test", 15, 2)):
        write_csv(tmp_path / "data" / f"{name}.csv", make_sentences(count, seed))
    own = {**settings, "data": str(tmp_path / "data")}
    run = hfft.finetune(**own, **HOPELESS, strategy="auto", output_dir=str(tmp_path / "auto"))
    probe = hfft.finetune(**own, strategy="linear-probe", output_dir=str(tmp_path / "probe"))
    assert any("The solved head ships, solved on the training split" in note for note in run.record.notes)
    assert same(weights(run), weights(probe))


def test_a_run_that_was_interrupted_decides_as_one_that_was_not(settings, tmp_path, monkeypatch):
    own = {**settings, **HOPELESS, "strategy": "auto"}
    whole = hfft.finetune(**own, output_dir=str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr("hfft.finetuning.decide", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            hfft.finetune(**own, output_dir=str(tmp_path / "parts"))
    parts = hfft.finetune(**own, output_dir=str(tmp_path / "parts"), resume=True)
    assert same(weights(whole), weights(parts))
    assert parts.metrics["validation_loss"] == whole.metrics["validation_loss"]


@pytest.mark.parametrize("calibration", ["none", "temperature"])
def test_what_is_fitted_on_the_validation_split_knows_a_head_that_has_not_seen_it(calibration, tiny_bert, tmp_path):
    for split, count, seed in (("train", 60, 1), ("test", 30, 3)):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", tagged(count, seed))
    own = {"model": str(tiny_bert), "data": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache"), "seed": 3}
    own |= {"pooling": "model", "head_penalty": 10.0, "validation_size": 0.4, "calibration": calibration}
    auto = hfft.finetune(**own, **HOPELESS, strategy="auto", output_dir=str(tmp_path / "auto"))
    probe = hfft.finetune(**own, strategy="linear-probe", output_dir=str(tmp_path / "probe"))
    assert any(note.startswith("The solved head ships") for note in auto.record.notes)
    assert auto.record.target.thresholds == pytest.approx(probe.record.target.thresholds, abs=1e-5)
    assert auto.record.target.thresholds != [0.5] * 3
    temperatures = [run.record.temperature for run in (auto, probe)]
    assert [each is None for each in temperatures] == [calibration == "none"] * 2
    if calibration != "none":
        assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-3)
    told = [name for name in probe.metrics if name.startswith("validation_") and "examples" not in name]
    assert {name: auto.metrics[name] for name in told} == pytest.approx({n: probe.metrics[n] for n in told}, abs=1e-4)
    assert not torch.equal(weights(auto)["classifier.weight"], weights(probe)["classifier.weight"])


def test_a_head_that_cannot_be_solved_is_trained(settings, tmp_path, monkeypatch):
    def not_linear(*_: Any) -> Any:
        raise UnsolvableHeadError("It is no linear layer.")

    monkeypatch.setattr(readout, "find_classifier", not_linear)
    own = {**settings, "num_train_epochs": 1, "pooling": "auto"}
    del own["head_penalty"]
    auto, full = (hfft.finetune(**own, strategy=name, output_dir=str(tmp_path / name)) for name in ("auto", "full"))
    assert "the head starts at random: It is no linear layer." in auto.record.notes
    assert same(weights(auto), weights(full))
    with pytest.raises(UserError, match="no linear layer"):
        hfft.finetune(**own, strategy="lp-ft", output_dir=str(tmp_path / "lp-ft"))


def test_a_head_that_knows_the_classes_is_kept(settings, tmp_path):
    first = hfft.finetune(**settings, strategy="linear-probe", output_dir=str(tmp_path / "first"))
    own = {**settings, "model": first.output_dir, "num_train_epochs": 1}
    del own["head_penalty"]
    auto, full = (hfft.finetune(**own, strategy=name, output_dir=str(tmp_path / name)) for name in ("auto", "full"))
    assert "the head stays as it is: it was trained on the same target." in auto.record.notes
    assert same(weights(auto), weights(full))


@pytest.mark.parametrize("chosen", [{"validation_size": 0}, {"eval_strategy": "no"}])
def test_without_a_validation_split_what_is_trained_ships(settings, tmp_path, chosen, capsys):
    own = {**settings, **HOPELESS, **chosen}
    auto, tuned = (hfft.finetune(**own, strategy=name, output_dir=str(tmp_path / name)) for name in ("auto", "lp-ft"))
    assert "what is trained ships in any case: nothing is chosen on a validation split." in auto.record.notes
    assert "whichever is better" not in capsys.readouterr().out
    assert same(weights(auto), weights(tuned))


def decided(
    losses: np.ndarray, others: np.ndarray, metric: str | None = "loss", groups: list[str] | None = None
) -> tuple[bool, str]:
    """Return what becomes of a solved head and of what was trained, by the log loss of each validation example."""
    target = SingleLabel(["a", "b"])

    def logits(of: np.ndarray) -> np.ndarray:
        return np.stack([np.log(np.exp(-of)), np.log1p(-np.exp(-of))], axis=1)

    split = SimpleNamespace(column_names=[] if groups is None else [GROUP])
    split.data = {GROUP: groups}
    data = SimpleNamespace(
        target=target, labels=lambda _: np.zeros(len(losses), dtype=np.int64), splits={"validation": split}
    )
    loaded: list[Any] = []
    chosen = {} if metric is None else {"metric_for_best_model": metric}
    prepared: Any = SimpleNamespace(data=data, chosen=chosen)
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(metrics=None),
        state=SimpleNamespace(best_global_step=7, log_history=[{"eval_loss": 1.0, "step": 7}]),
        model=SimpleNamespace(load_state_dict=loaded.append),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        eval_dataset=None,
        predict=lambda _: SimpleNamespace(predictions=logits(others)),
    )
    solved, told = decide(trainer, prepared, SolvedModel(logits(losses), {}, "some"))
    assert told is not None
    assert loaded == [{}] * solved
    return solved, told


def right(rows: list[int], count: int, sure: float = 0.2, wrong: float = 1.5) -> np.ndarray:
    """Return the log loss of examples of which these are right."""
    losses = np.full(count, wrong)
    losses[rows] = sure
    return losses


@pytest.mark.parametrize("metric", ["accuracy", None])
def test_what_was_trained_ships_where_the_first_metric_is_better_by_its_standard_error(metric):
    """Or the loss, but in each case here that is worse: more right answers, each less sure."""
    for gained, lost, solved in ((1, 0, False), (0, 1, True), (3, 1, False), (2, 1, True), (1, 2, True), (0, 0, True)):
        both = list(range(10, 20))
        before, after = right([*range(lost), *both], 30), right([*range(9 - gained, 9), *both], 30) * 1.4
        found, told = decided(before, after, metric)
        assert found == solved, (gained, lost, told)
        assert f"validation accuracy {(10 + gained) / 30:.3f} with training, {(10 + lost) / 30:.3f} without" in told
        differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * (30 - gained - lost))
        assert f"standard error of the difference {differences.std(ddof=1) / 30**0.5:.3f}" in told
        assert f"; log loss {after.mean():.3f} with training, {before.mean():.3f} without" in told


def test_what_was_trained_ships_where_the_loss_is_lower():
    for lost in (0, 1, 3):
        before, after = right([*range(lost), *range(10, 20)], 30, wrong=3.0), right([*range(10, 20)], 30, wrong=0.8)
        assert not decided(before, after, None)[0]
    assert decided(before, before * 1.01, None)[0]


def test_the_loss_decides_alone_where_it_was_asked_for():
    losses, better = right([], 30, wrong=0.8), right([*range(10)], 30, sure=0.6, wrong=5.0)
    assert not decided(losses, better, "accuracy")[0]
    assert decided(losses, better, "loss")[0]
    assert not decided(losses, losses - 0.01, "loss")[0]


def test_examples_of_one_group_count_as_one(monkeypatch):
    monkeypatch.setattr("hfft.running.deciding.encode_column", lambda split, name: (np.array(split.data[name]), None))
    before, after = right([0], 8), right([1, 2], 8, sure=0.6, wrong=4.0)  # a gain of less than its error
    for repeats, solved in ((1, True), (5, False)):
        assert decided(np.repeat(before, repeats), np.repeat(after, repeats), None)[0] == solved
    groups = np.repeat(np.arange(8), 5).tolist()
    assert decided(np.repeat(before, 5), np.repeat(after, 5), None, groups=groups)[0]


def test_one_example_is_judged_by_its_loss():
    assert not decided(np.array([1.5]), np.array([0.1]), None)[0]
    assert decided(np.array([0.1]), np.array([0.2]), None)[0]


@pytest.mark.parametrize("count", range(3, 40))
def test_one_example_more_that_is_right_is_a_gain_of_just_its_error(count: int):
    losses = np.full(count, 0.1)
    losses[:2] = 0.8
    better = losses + 0.4  # less sure of each
    better[0] = 0.1
    assert better.mean() > losses.mean()
    assert not decided(losses, better, None)[0]


def test_nothing_of_the_pretrained_model_is_read_after_the_training(settings, tiny_bert, tmp_path, monkeypatch):
    import shutil

    base = shutil.copytree(tiny_bert, tmp_path / "base")
    monkeypatch.setattr("hfft.finetuning.train", lambda *_: shutil.rmtree(base))
    monkeypatch.setattr("hfft.finetuning.decide", lambda trainer, *rest: decide(after_training(trainer), *rest))

    def after_training(trainer: Any) -> Any:
        trainer.state.best_global_step = 0
        return trainer

    own = {**settings, **HOPELESS, "model": str(base)}
    run = hfft.finetune(**own, strategy="auto", output_dir=str(tmp_path / "out"))
    assert run.metrics["test_accuracy"] == 1.0
    assert any("nothing that was trained was evaluated" in note for note in run.record.notes)


def test_the_default_solves_no_head_where_less_than_an_epoch_is_trained(settings, tmp_path):
    own = {name: value for name, value in settings.items() if name != "head_penalty"}
    run = hfft.finetune(**own, max_steps=2, output_dir=str(tmp_path / "out"))
    assert run.record.settings["strategy"] == "auto"
    assert any("takes longer than to train for less than an epoch" in note for note in run.record.notes)
    assert run.metrics["shipped_epoch"] > 0
    with_penalty = hfft.finetune(**settings, max_steps=2, output_dir=str(tmp_path / "asked"))
    assert any(note.startswith("head solved on") for note in with_penalty.record.notes)


def test_the_names_of_classes_that_a_fresh_model_has_anyway_are_no_training(settings, tmp_path):
    rows = [
        (text, f"LABEL_{sorted({'animal', 'colour', 'number'}).index(name)}") for text, name in make_sentences(36, 1)
    ]
    rows = [row for row in rows if row[1] != "LABEL_2"]
    write_csv(tmp_path / "data" / "train.csv", rows)
    write_csv(tmp_path / "data" / "test.csv", rows[:6])
    own = {name: value for name, value in settings.items() if name != "head_penalty"}
    own |= {"data": str(tmp_path / "data"), "num_train_epochs": 1, "on_problem": "warn"}
    run = hfft.finetune(**own, output_dir=str(tmp_path / "out"))
    assert any(note.startswith("head solved on") for note in run.record.notes)


def test_no_features_are_computed_for_the_solved_head_that_are_not_needed_anyway(settings, tmp_path):
    with counted_features() as counted:
        hfft.finetune(
            **{**settings, **HOPELESS, "cache_dir": str(tmp_path / "cache")}, output_dir=str(tmp_path / "out")
        )
    assert sum(counted) == 36 + 3 + 15  # examples, names of classes, test
