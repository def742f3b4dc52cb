from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file

import hfft
from hfft import UserError
from hfft.cli import main
from tests.conftest import WORDS, make_sentences, write_csv

QUICK: dict[str, Any] = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "seed": 3}
CONTRACT = {
    "config.json",
    "model.safetensors",
    "README.md",
    "report.html",
    "metrics.json",
    "predictions.parquet",
    "run.yaml",
}


@pytest.fixture(scope="module")
def text_run(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> hfft.FineTuneResult:
    """A run that learns: the classes are told by single words."""
    out = tmp_path_factory.mktemp("runs") / "text"
    return hfft.finetune(
        model=str(tiny_bert),
        data=str(text_folder),
        output_dir=str(out),
        **{**QUICK, "num_train_epochs": 20, "learning_rate": 5e-3},
    )


@pytest.fixture(scope="module")
def image_run(tiny_timm: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> hfft.FineTuneResult:
    out = tmp_path_factory.mktemp("runs") / "image"
    return hfft.finetune(
        model=str(tiny_timm), data=str(image_folder), output_dir=str(out), freeze_batch_norm=False, **QUICK
    )


def test_a_text_run_learns(text_run):
    assert text_run.metrics["test_accuracy"] > 0.9
    assert text_run.metrics["baseline_test_accuracy"] == pytest.approx(1 / 3)
    low, high = text_run.metrics["test_accuracy_ci_low"], text_run.metrics["test_accuracy_ci_high"]
    assert low <= text_run.metrics["test_accuracy"] <= high


def test_the_output_folder_holds_what_the_contract_says(text_run, image_run):
    for run in (text_run, image_run):
        names = {path.name for path in Path(run.output_dir).iterdir()}
        assert names >= CONTRACT
        assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)
        assert any(name.startswith("checkpoint-") for name in names)
        modes = {(Path(run.output_dir) / name).stat().st_mode for name in ("config.json", "model.safetensors")}
        assert len(modes) == 1  # who may read the one may read the other
    assert "tokenizer.json" in {path.name for path in Path(text_run.output_dir).iterdir()}


def test_metrics_file_is_the_flat_result_and_predictions_agree_with_it(text_run):
    folder = Path(text_run.output_dir)
    assert json.loads((folder / "metrics.json").read_text()) == text_run.metrics
    table = Dataset.from_parquet(str(folder / "predictions.parquet"), keep_in_memory=True)
    assert table.column_names == [
        "input",
        "label",
        "predicted",
        *(f"probability_{name}" for name in sorted(WORDS)),
    ]
    correct = np.mean([label == predicted for label, predicted in zip(table["label"], table["predicted"], strict=True)])
    assert correct == pytest.approx(text_run.metrics["test_accuracy"])
    assert table["input"] == [text for text, _ in make_sentences(15, 2)]
    total = sum(np.array(table[f"probability_{name}"]) for name in sorted(WORDS))
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_evaluate_gives_the_metrics_of_the_run(text_run, text_folder: Path):
    again = hfft.evaluate(text_run.output_dir, str(text_folder), seed=QUICK["seed"])
    for name in ("accuracy", "macro_f1", "log_loss", "accuracy_ci_low", "accuracy_ci_high"):
        assert again.metrics[f"test_{name}"] == pytest.approx(text_run.metrics[f"test_{name}"], abs=1e-6)


def test_run_yaml_makes_the_same_run_again_bit_for_bit(image_run, tmp_path: Path):
    settings = yaml.safe_load((Path(image_run.output_dir) / "run.yaml").read_text())
    again = hfft.finetune(**{**settings, "output_dir": str(tmp_path / "again")})
    first, second = (load_file(Path(run.output_dir) / "model.safetensors") for run in (image_run, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    timeless = [{**run.metrics, "train_runtime": None} for run in (again, image_run)]
    assert timeless[0] == timeless[1]


def test_another_seed_gives_other_weights(tiny_timm: Path, image_folder: Path, image_run, tmp_path: Path):
    other = hfft.finetune(
        model=str(tiny_timm),
        data=str(image_folder),
        output_dir=str(tmp_path / "other"),
        freeze_batch_norm=False,
        **{**QUICK, "seed": 4},
    )
    first, second = (load_file(Path(run.output_dir) / "model.safetensors") for run in (image_run, other))
    assert not torch.equal(first["fc.weight"], second["fc.weight"])


def test_sentence_pairs_are_read_and_predicted(tiny_bert: Path, tmp_path: Path):
    rows = [
        (f"this is {a}", f"and {b}", "same" if a == b else "other")
        for a in ("cat", "dog", "red")
        for b in ("cat", "dog", "red")
    ]
    data = write_csv(tmp_path / "pairs.csv", rows * 3, ("sentence1", "sentence2", "label"))
    run = hfft.finetune(model=str(tiny_bert), data=str(data), output_dir=str(tmp_path / "out"), **QUICK)
    single = run.trainer.processing_class("this is cat")["input_ids"]
    encoded = run.trainer.train_dataset[0]["input_ids"]
    assert len(encoded) > len(single)
    assert run.trainer.processing_class.decode(encoded).count("[SEP]") == 2
    table = hfft.predict(str(tmp_path / "out"), data)
    assert table["input"][0] == "this is cat | and cat"


def test_a_transformers_vision_model_trains(tiny_vit: Path, image_folder: Path, tmp_path: Path):
    run = hfft.finetune(
        model=str(tiny_vit),
        data=str(image_folder),
        output_dir=str(tmp_path / "out"),
        **{**QUICK, "num_train_epochs": 8, "learning_rate": 5e-3},
    )
    assert run.metrics["test_accuracy"] > 0.9


def test_drawn_splits_are_found_again_by_evaluate(tiny_bert: Path, tmp_path: Path):
    data = write_csv(tmp_path / "all.csv", make_sentences(60, 5))
    run = hfft.finetune(model=str(tiny_bert), data=str(data), output_dir=str(tmp_path / "out"), **QUICK)
    again = hfft.evaluate(run.output_dir, str(data), seed=QUICK["seed"])
    assert again.examples == run.metrics["test_examples"] == 12
    assert again.metrics["test_log_loss"] == pytest.approx(run.metrics["test_log_loss"], abs=1e-6)
    assert hfft.evaluate(run.output_dir, str(data), "all").examples == 60
    elsewhere = write_csv(tmp_path / "new.csv", make_sentences(21, 6))
    assert hfft.evaluate(run.output_dir, str(elsewhere)).examples == 21


def test_without_validation_the_last_epoch_ships(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    run = hfft.finetune(
        model=str(tiny_bert),
        data=str(text_folder),
        output_dir=str(tmp_path / "out"),
        validation_size=0,
        **QUICK,
    )
    assert run.metrics["train_examples"] == 36
    assert not any(name.startswith("validation") for name in run.metrics)


def test_the_best_checkpoint_ships(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    run = hfft.finetune(
        model=str(tiny_bert),
        data=str(text_folder),
        output_dir=str(tmp_path / "out"),
        # rises, then falls apart: the last epoch is not the best
        **{**QUICK, "strategy": "full", "num_train_epochs": 4, "learning_rate": 0.3, "validation_size": 0.3},
    )
    losses = {entry["step"]: entry["eval_loss"] for entry in run.record.history if "eval_loss" in entry}
    best = min(losses, key=losses.__getitem__)
    assert best != max(losses)
    assert run.metrics["validation_loss"] == losses[best]
    shipped = load_file(Path(run.output_dir) / "model.safetensors")
    kept = load_file(Path(run.output_dir) / f"checkpoint-{best}" / "model.safetensors")
    assert all(torch.equal(shipped[name], kept[name]) for name in shipped)


def test_early_stopping_stops(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    run = hfft.finetune(
        model=str(tiny_bert),
        data=str(text_folder),
        output_dir=str(tmp_path / "out"),
        early_stopping_patience=1,
        **{**QUICK, "num_train_epochs": 30, "learning_rate": 0.5},
    )
    assert run.trainer.state.epoch < 30


def test_resume_goes_on_and_ends_where_one_run_would(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    common = {
        "model": str(tiny_bert),
        "data": str(text_folder),
        **QUICK,
        "num_train_epochs": 3,
        "save_total_limit": 5,
    }
    whole = hfft.finetune(output_dir=str(tmp_path / "whole"), **common)

    class InterruptError(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hfft.FineTuningTrainer, "_determine_best_metric", _raising_after(2, InterruptError))
        with pytest.raises(InterruptError):
            hfft.finetune(output_dir=str(tmp_path / "part"), **common)
    assert not (tmp_path / "part" / "metrics.json").exists()
    resumed = hfft.finetune(output_dir=str(tmp_path / "part"), resume=True, **common)
    first, second = (load_file(Path(run.output_dir) / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def _raising_after(epochs: int, error: type[Exception]) -> Any:
    original = hfft.FineTuningTrainer._determine_best_metric

    def determine(self: Any, *args: Any, **kwargs: Any) -> bool:
        if self.state.epoch >= epochs:
            raise error
        return original(self, *args, **kwargs)

    return determine


def test_resume_with_nothing_to_resume_starts_afresh_and_says_so(tiny_bert, text_folder, tmp_path: Path, capsys):
    run = hfft.finetune(
        model=str(tiny_bert), data=str(text_folder), output_dir=str(tmp_path / "out"), resume=True, **QUICK
    )
    assert "Nothing to resume" in capsys.readouterr().out
    assert run.metrics["test_examples"] == 15


def test_a_folder_with_a_run_is_kept_unless_told_otherwise(text_run, image_run, tiny_bert, text_folder, tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in Path(text_run.output_dir).rglob("*")}
    with pytest.raises(UserError, match=r"holds a run.*--resume.*--overwrite"):
        hfft.finetune(model=str(tiny_bert), data=str(text_folder), output_dir=text_run.output_dir, **QUICK)
    assert {path: path.stat().st_mtime_ns for path in Path(text_run.output_dir).rglob("*")} == before


def test_overwrite_replaces_the_run_and_nothing_else(tiny_bert, tiny_timm, image_folder, text_folder, tmp_path: Path):
    out = tmp_path / "out"
    hfft.finetune(model=str(tiny_bert), data=str(text_folder), output_dir=str(out), **QUICK)
    (out / "notes.txt").write_text("mine")
    hfft.finetune(model=str(tiny_timm), data=str(image_folder), output_dir=str(out), overwrite=True, **QUICK)
    names = {path.name for path in out.iterdir()}
    assert "notes.txt" in names
    assert "tokenizer.json" not in names
    assert hfft.evaluate(str(out), str(image_folder)).examples == 12


def test_overwrite_leaves_a_folder_alone_that_is_no_run(tiny_bert, text_folder, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds no run"):
        hfft.finetune(model=str(tiny_bert), data=str(text_folder), output_dir=str(tmp_path), overwrite=True, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_model_trained_on_other_classes_gets_a_new_head(text_run, tmp_path: Path):
    data = write_csv(tmp_path / "other.csv", [(text, label.upper()) for text, label in make_sentences(36, 7)])
    run = hfft.finetune(
        model=text_run.output_dir,
        data=str(data),
        output_dir=str(tmp_path / "out"),
        **{**QUICK, "learning_rate": 1e-8},
    )
    old, new = (load_file(Path(folder) / "model.safetensors") for folder in (text_run.output_dir, run.output_dir))
    assert not torch.allclose(old["classifier.weight"], new["classifier.weight"], atol=1e-3)
    torch.testing.assert_close(old["bert.pooler.dense.weight"], new["bert.pooler.dense.weight"], atol=1e-4, rtol=0)


def test_a_model_trained_on_the_same_classes_keeps_its_head(text_run, text_folder: Path, tmp_path: Path):
    run = hfft.finetune(
        model=text_run.output_dir,
        data=str(text_folder),
        output_dir=str(tmp_path / "out"),
        **{**QUICK, "learning_rate": 1e-8},
    )
    old, new = (load_file(Path(folder) / "model.safetensors") for folder in (text_run.output_dir, run.output_dir))
    torch.testing.assert_close(old["classifier.weight"], new["classifier.weight"], atol=1e-4, rtol=0)


def test_python_data_sets_train(tiny_bert: Path, tmp_path: Path):
    rows = make_sentences(40, 8)
    data = {
        split: Dataset.from_dict({"text": [text for text, _ in part], "label": [label for _, label in part]})
        for split, part in (("train", rows[:30]), ("test", rows[30:]))
    }
    run = hfft.finetune(model=str(tiny_bert), data=data, output_dir=str(tmp_path / "out"), **QUICK)
    assert run.metrics["test_examples"] == 10


def test_an_evaluate_metric_from_a_local_script_is_reported(tiny_bert, text_folder, tmp_path: Path):
    script = tmp_path / "share_of.py"
    script.write_text(
        "import datasets\nimport evaluate\n"
        "class ShareOf(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        value = datasets.Value('int64')\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='',\n"
        "            features=datasets.Features({'predictions': value, 'references': value}))\n"
        "    def _compute(self, predictions, references, which=0):\n"
        "        return {'share_of': float((references == which).mean() if hasattr(references, 'mean')\n"
        "            else sum(r == which for r in references) / len(references))}\n"
    )
    run = hfft.finetune(
        model=str(tiny_bert),
        data=str(text_folder),
        output_dir=str(tmp_path / "out"),
        metrics=[f"{script}:which=1"],
        **QUICK,
    )
    assert run.metrics["test_share_of"] == pytest.approx(1 / 3)


def test_epochs_are_raised_for_few_examples_unless_given(tiny_bert, text_folder, tmp_path: Path):
    never = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    common = {"model": str(tiny_bert), "data": str(text_folder), "per_device_train_batch_size": 16, **never}
    run = hfft.finetune(output_dir=str(tmp_path / "default"), **common)
    assert run.trainer.state.global_step == 40 * 2  # 32 examples in batches of 16, 40 epochs at most
    assert run.record.settings["num_train_epochs"] == 40
    run = hfft.finetune(output_dir=str(tmp_path / "given"), num_train_epochs=1, **common)
    assert run.trainer.state.global_step == 2


def test_a_diverged_run_says_so(tiny_bert, text_folder, tmp_path: Path):
    with pytest.raises(UserError, match=r"is no number.*--learning_rate"):
        hfft.finetune(
            model=str(tiny_bert),
            data=str(text_folder),
            output_dir=str(tmp_path / "out"),
            **{**QUICK, "learning_rate": 1e38},
        )


@pytest.mark.parametrize(
    ("change", "message"), [({"seed": 4}, "seed was 3, now 4"), ({"layer_decay": 0.5}, "layer_decay was 0.75, now 0.5")]
)
def test_resuming_another_run_is_refused_with_what_differs(text_run, text_folder, tiny_bert, change, message):
    settings = {**QUICK, "num_train_epochs": 12, "learning_rate": 1e-2, **change}
    before = (Path(text_run.output_dir) / "run.yaml").read_bytes()
    with pytest.raises(UserError, match=message):
        hfft.finetune(
            model=str(tiny_bert), data=str(text_folder), output_dir=text_run.output_dir, resume=True, **settings
        )
    assert (Path(text_run.output_dir) / "run.yaml").read_bytes() == before


def test_overwriting_the_model_that_is_trained_from_is_refused(text_run, text_folder):
    with pytest.raises(UserError, match=r"--overwrite: .* lies in"):
        hfft.finetune(
            model=text_run.output_dir,
            data=str(text_folder),
            output_dir=text_run.output_dir,
            overwrite=True,
            **QUICK,
        )
    assert (Path(text_run.output_dir) / "model.safetensors").is_file()


def test_a_replaced_run_is_kept_until_the_new_model_is_saved(tiny_bert, text_folder, tmp_path: Path, monkeypatch):
    common = {"model": str(tiny_bert), "data": str(text_folder), "output_dir": str(tmp_path / "out"), **QUICK}
    hfft.finetune(**common)
    old = (tmp_path / "out" / "model.safetensors").read_bytes()

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError("the machine died")

    with monkeypatch.context() as patch:
        patch.setattr(hfft.FineTuningTrainer, "train", fail)
        with pytest.raises(OSError, match="the machine died"):
            hfft.finetune(overwrite=True, **common)
    assert (tmp_path / "out" / ".replaced" / "model.safetensors").read_bytes() == old
    hfft.finetune(overwrite=True, **common)
    assert not (tmp_path / "out" / ".replaced").exists()


def test_local_tables_are_read_without_asking_the_network(text_folder, tmp_path: Path, monkeypatch):
    import socket

    import datasets.config

    from hfft.data import read_source

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(read_source(str(text_folder), [], str(tmp_path)).splits["train"]) == 36


def test_a_rate_that_is_given_is_the_head_s_as_well(tiny_vit, image_folder, tmp_path: Path):
    run = hfft.finetune(
        model=str(tiny_vit), data=str(image_folder), output_dir=str(tmp_path / "out"), learning_rate=3e-3, **QUICK
    )
    assert run.trainer.layer_rates()[-1]["lr"] == 3e-3


def test_evaluate_from_another_folder_still_knows_the_run_s_own_data(tiny_bert, tmp_path: Path, monkeypatch):
    write_csv(tmp_path / "here" / "all.csv", make_sentences(60, 5), ("said", "label"))
    monkeypatch.chdir(tmp_path / "here")
    hfft.finetune(model=str(tiny_bert), data="all.csv", output_dir="out", text_column="said", **QUICK)
    monkeypatch.chdir(tmp_path)
    assert hfft.evaluate("here/out", "here/all.csv").examples == 12
    # the run's columns are those of the model, so they need not be named again
    assert len(hfft.predict("here/out", "here/all.csv")) == 60


def test_gradual_unfreezing_through_the_front_door(tiny_bert, text_folder, tmp_path: Path, capsys):
    out = tmp_path / "out"
    settings = {"num_train_epochs": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "strategy": "gradual"}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    argv = ["train", "--model", str(tiny_bert), "--data", str(text_folder), "--output_dir", str(out), *flags]
    assert main([*argv, "--lr_scheduler_type", "slanted_triangular", "--logging_strategy", "epoch"]) == 0
    printed = capsys.readouterr().out
    assert "Strategy: gradual (a solved head first" in printed
    assert [f"{count} of 4 layer groups train from here on" in printed for count in (1, 2, 3, 4)] == [0, 1, 1, 1]
    again = tmp_path / "again"
    assert main(["train", "--config", str(out / "run.yaml"), "--output_dir", str(again)]) == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (out, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert main([*argv, "--resume", "--strategy", "full"]) == 2
    assert "strategy was gradual, now full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs_per_group": 1.0}, "belongs to gradual"),
        ({"strategy": "gradual", "epochs_per_group": -1.0}, "epochs_per_group must be"),
        ({"strategy": "full", "head_penalty": 1.0}, "head_penalty has no place where the head starts at random"),
        ({"strategy": "lp-ft", "head_penalty": 0.0}, "head_penalty must be more than 0"),
        ({"freeze": ["nothing_of_the_kind"]}, "no layer group"),
        ({"lr_multipliers": {"nothing": 2}}, "matches no parameter"),
        ({"lr_scheduler_type": "one_cycle", "lr_scheduler_kwargs": {"pct": 1}}, "pct_start"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    settings, message, tiny_bert, text_folder, tmp_path: Path
):
    with pytest.raises(UserError, match=message):
        hfft.finetune(model=str(tiny_bert), data=str(text_folder), output_dir=str(tmp_path / "out"), **settings)
    assert not (tmp_path / "out").exists()
