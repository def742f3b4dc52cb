"""Runs that predict several classes, or a number."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoConfig, pipeline

import hfft
from hfft import UserError
from hfft.cli import main
from hfft.targets.target import THRESHOLDS
from tests.conftest import COLOURS, WORDS, write_csv, write_picture
from tests.without_hfft import Pipelines

QUICK: dict[str, Any] = {
    "strategy": "full", "num_train_epochs": 6, "per_device_train_batch_size": 8, "seed": 3, "learning_rate": 1e-2,
}  # fmt: skip
TAGS = {**QUICK, "num_train_epochs": 12, "per_device_train_batch_size": 4}


def tagged(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Return texts and the kinds of word in them: none, one or two."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        kinds = sorted(generator.choice(sorted(WORDS), size=index % 3, replace=False).tolist())
        words = [str(generator.choice(WORDS[kind])) for kind in kinds]
        rows.append((f"this is {' and '.join(words)} of {seed} {index}", kinds))
    return rows


def rated(count: int, seed: int) -> list[tuple[str, float]]:
    """Return texts and a number around 10,000 that their words decide."""
    generator = np.random.default_rng(seed)
    values = {word: place for words in WORDS.values() for place, word in enumerate(words)}
    rows = []
    for index in range(count):
        one, two = generator.choice(sorted(values), 2)
        rows.append((f"{one} and {two} of {seed} {index}", 10_000.5 + 500 * (values[one] + values[two])))
    return rows


def write_jsonl(path: Path, rows: list[tuple[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


@pytest.fixture(scope="module")
def tags_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tags")
    write_jsonl(root / "train.jsonl", tagged(90, 1))
    write_jsonl(root / "test.jsonl", tagged(30, 2))
    return root


@pytest.fixture(scope="module")
def tags_run(tiny_bert: Path, tags_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> hfft.FineTuneResult:
    out = tmp_path_factory.mktemp("runs") / "tags"
    return hfft.finetune(model=str(tiny_bert), data=str(tags_folder), output_dir=str(out), validation_size=0.3, **TAGS)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ratings")
    for split, count, seed in (("train", 120, 1), ("test", 30, 2)):
        write_csv(root / f"{split}.csv", [(t, str(v)) for t, v in rated(count, seed)], ("text", "price"))
    return root


@pytest.fixture(scope="module")
def price_run(tiny_bert: Path, ratings: Path, tmp_path_factory: pytest.TempPathFactory) -> hfft.FineTuneResult:
    return hfft.finetune(
        model=str(tiny_bert),
        data=str(ratings),
        output_dir=str(tmp_path_factory.mktemp("runs") / "prices"),
        label_column="price",
        problem_type="regression",
        **QUICK | {"num_train_epochs": 12},
    )


def inputs_of(run: hfft.FineTuneResult) -> list[str]:
    table = Dataset.from_parquet(str(Path(run.output_dir) / "predictions.parquet"), keep_in_memory=True)
    return list(table["input"])


@pytest.fixture(scope="module")
def asked_without_hfft(tags_run, price_run, pipelines: Pipelines) -> list[list[Any]]:
    """What the pipelines of both runs answer to their test inputs in a process that cannot import hfft."""
    runs = ((tags_run, {"top_k": None}), (price_run, {}))
    asked = [(run.record.task, run.output_dir, inputs_of(run), options) for run, options in runs]
    return [pipelines.ask(*of_run, **options)["answers"] for *of_run, options in asked]


# several classes


def test_a_run_with_several_classes_learns(tags_run):
    metrics = tags_run.metrics
    assert tags_run.record.class_names == sorted(WORDS)
    assert metrics["test_micro_f1"] > 0.6
    assert metrics["test_mean_average_precision"] > 0.6
    assert metrics["baseline_test_micro_f1"] == pytest.approx(0.5)  # all classes always: a third of the cells is true
    assert metrics["baseline_test_hamming_loss"] == pytest.approx(1 / 3)  # no class ever
    assert metrics["test_hamming_loss"] < metrics["baseline_test_hamming_loss"]
    assert metrics["test_micro_f1_ci_low"] <= metrics["test_micro_f1"] <= metrics["test_micro_f1_ci_high"]
    assert metrics["baseline_test_macro_auroc"] == 0.5


def test_pipeline_and_predict_give_the_probabilities_of_the_run(tags_run, asked_without_hfft, tmp_path: Path):
    folder = Path(tags_run.output_dir)
    seen = Dataset.from_parquet(str(folder / "predictions.parquet"), keep_in_memory=True)
    again = hfft.predict(str(folder), write_csv(tmp_path / "new.csv", [(text,) for text in seen["input"]], ("text",)))
    for row, asked, predicted in zip(seen, asked_without_hfft[0], again, strict=True):
        scores = {answer["label"]: answer["score"] for answer in asked}
        for name in sorted(WORDS):
            assert scores[name] == pytest.approx(row[f"probability_{name}"], abs=1e-5)
            assert predicted[f"probability_{name}"] == pytest.approx(row[f"probability_{name}"], abs=1e-5)
        assert predicted["predicted"] == row["predicted"]
    labels = [set(kinds) for _, kinds in tagged(30, 2)]
    assert [set(label) for label in seen["label"]] == labels
    right = [set(row) == label for row, label in zip(seen["predicted"], labels, strict=True)]
    assert np.mean(right) == pytest.approx(tags_run.metrics["test_subset_accuracy"])


def test_the_thresholds_travel_with_the_model_and_decide(tags_run, tmp_path: Path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(tags_run.output_dir, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config[THRESHOLDS] == tags_run.record.target.thresholds
    (folder / "config.json").write_text(json.dumps({**config, THRESHOLDS: [0.0, 1.1, 0.0]}))
    table = write_csv(tmp_path / "new.csv", [("this is red",), ("this is cat",)], ("text",))
    names = sorted(WORDS)
    assert hfft.predict(str(folder), table, tmp_path / "p.csv")["predicted"] == [[names[0], names[2]]] * 2
    with (tmp_path / "p.csv").open() as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == [f"{names[0]};{names[2]}"] * 2


def test_the_usage_in_the_card_gives_what_predict_gives(tags_run, tmp_path: Path):
    card = (Path(tags_run.output_dir) / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("THIS_FOLDER_OR_REPOSITORY", tags_run.output_dir)
    found: dict[str, Any] = {}
    exec(code.replace('"a text"', '"this is red and cat"'), found)
    assert found["predicted"]
    table = write_csv(tmp_path / "new.csv", [("this is red and cat",)], ("text",))
    assert sorted(found["predicted"]) == hfft.predict(tags_run.output_dir, table)["predicted"][0]


def test_evaluate_gives_the_metrics_of_a_run_with_several_classes(tags_run, tags_folder: Path, capsys):
    again = hfft.evaluate(tags_run.output_dir, str(tags_folder), seed=QUICK["seed"])
    names = [name for name in tags_run.metrics if name.startswith("test_") and name != "test_examples"]
    assert {name: again.metrics[name] for name in names} == pytest.approx(
        {name: tags_run.metrics[name] for name in names}, abs=1e-6
    )
    assert main(["evaluate", "--model", tags_run.output_dir, "--data", str(tags_folder)]) == 0
    assert "constant answer" in capsys.readouterr().out


def test_classes_that_a_delimiter_divides_train_the_same_model(tags_run, tiny_bert: Path, tmp_path: Path):
    for split, count, seed in (("train", 90, 1), ("test", 30, 2)):
        rows = [(text, "; ".join(kinds)) for text, kinds in tagged(count, seed)]
        write_csv(tmp_path / "data" / f"{split}.csv", rows)
    flags = ["--label_delimiter", ";", "--validation_size", "0.3"]
    flags += [f"--{name}={value}" for name, value in TAGS.items()]
    out = tmp_path / "out"
    assert (
        main(["train", "--model", str(tiny_bert), "--data", str(tmp_path / "data"), f"--output_dir={out}", *flags]) == 0
    )
    first, second = (load_file(Path(folder) / "model.safetensors") for folder in (tags_run.output_dir, out))
    assert all(torch.equal(first[name], second[name]) for name in first)
    elsewhere = write_csv(tmp_path / "new.csv", [("this is red", "colour"), ("cat one", "animal;number")])
    argv = ["evaluate", "--model", tags_run.output_dir, "--data", str(elsewhere), "--label_delimiter", ";"]
    assert main([*argv, "--output", str(tmp_path / "m.json")]) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["baseline_test_macro_auroc"] == 0.5
    assert main(argv[:-2]) == 2
    with pytest.raises(UserError, match=r"holds 'colour'; wanted is a list of classes .*--label_delimiter"):
        hfft.evaluate(tags_run.output_dir, str(elsewhere))


def test_a_step_in_parts_is_the_step_in_one(tiny_bert: Path, tags_folder: Path, ratings: Path, tmp_path: Path):
    config = json.loads((tiny_bert / "config.json").read_text())
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_bert.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "config.json").write_text(
        json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    )
    for name, settings in {
        "tags": {"data": str(tags_folder), "label_smoothing_factor": 0.1},
        "prices": {"data": str(ratings), "problem_type": "regression", "label_column": "price"},
    }.items():
        weights = []
        for size, parts in ((16, 1), (4, 4)):
            run = hfft.finetune(
                model=str(model),
                output_dir=str(tmp_path / f"{name}-{size}"),
                validation_size=0,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=parts,
                **{"optim": "sgd", "num_train_epochs": 1, "seed": 3, "learning_rate": 1e-2, **settings},
            )
            weights.append(load_file(Path(run.output_dir) / "model.safetensors"))
        for key, value in weights[0].items():
            torch.testing.assert_close(weights[1][key], value, atol=1e-5, rtol=1e-4, msg=f"{name}: {key}")


def test_pictures_with_several_classes(tiny_timm: Path, tmp_path: Path):
    generator, rows = np.random.default_rng(0), []
    for index in range(48):
        kinds = sorted(generator.choice(sorted(COLOURS), size=index % 3, replace=False).tolist())
        colour = np.sum([COLOURS[kind] for kind in kinds] or [[0, 0, 0]], axis=0)
        write_picture(tmp_path / "data" / f"{index}.png", tuple(colour), generator)
        rows.append((f"{index}.png", "|".join(kinds)))
    write_csv(tmp_path / "data" / "all.csv", rows, ("image", "label"))
    run = hfft.finetune(
        model=str(tiny_timm),
        data=str(tmp_path / "data" / "all.csv"),
        output_dir=str(tmp_path / "out"),
        label_delimiter="|",
        **QUICK,
    )
    config = AutoConfig.from_pretrained(run.output_dir)
    assert (config.problem_type, len(config.label_thresholds)) == ("multi_label_classification", 3)
    inputs = [str(tmp_path / "data" / row[0]) for row in rows[:4]]
    table = write_csv(tmp_path / "new.csv", [(path,) for path in inputs], ("image",))
    predicted = hfft.predict(run.output_dir, table)
    answers = pipeline("image-classification", run.output_dir, device="cpu")(inputs, top_k=3)
    for row, asked in zip(predicted, answers, strict=True):
        for answer in asked:
            assert answer["score"] == pytest.approx(row[f"probability_{answer['label']}"], abs=1e-5)


def test_a_hub_model_of_several_classes_is_read_with_sigmoids(tags_run, tmp_path: Path):
    """Thresholds are hfft's own: elsewhere they are 0.5."""
    import shutil

    folder = tmp_path / "model"
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    folder.mkdir()
    for name in names:
        shutil.copy(Path(tags_run.output_dir) / name, folder)
    config = json.loads((folder / "config.json").read_text())
    del config[THRESHOLDS]
    (folder / "config.json").write_text(json.dumps(config))
    row = hfft.predict(str(folder), write_csv(tmp_path / "new.csv", [("this is red and cat",)], ("text",)))[0]
    assert sum(row[f"probability_{name}"] for name in WORDS) != pytest.approx(1, abs=1e-3)
    assert row["predicted"] == [name for name in sorted(WORDS) if row[f"probability_{name}"] >= 0.5]


# numbers


def test_a_run_on_numbers_learns_in_the_unit_of_the_user(price_run):
    metrics = price_run.metrics
    assert metrics["baseline_test_rmse"] > 800
    assert metrics["test_rmse"] < 0.6 * metrics["baseline_test_rmse"]
    assert metrics["test_r2"] > 0.6
    assert metrics["test_pearson_ci_low"] > 0.6
    assert "baseline_test_pearson" not in metrics  # a constant correlates with nothing
    assert metrics["validation_rmse"] == pytest.approx(metrics["test_rmse"], rel=0.7)
    counts = price_run.record.counts["train"]
    assert counts["lowest"] >= 10_000
    assert counts["highest"] <= 14_001


def test_pipeline_gives_the_number_itself(price_run, asked_without_hfft, tmp_path: Path):
    folder = Path(price_run.output_dir)
    config = json.loads((folder / "config.json").read_text())
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "price"})
    assert not {"target_mean", "target_scale"} & config.keys()
    seen = Dataset.from_parquet(str(folder / "predictions.parquet"), keep_in_memory=True)
    assert seen.column_names == ["input", "label", "predicted"]
    assert seen["label"] == [value for _, value in rated(30, 2)]
    again = hfft.predict(str(folder), write_csv(tmp_path / "new.csv", [(t,) for t in seen["input"]], ("text",)))
    np.testing.assert_allclose([answer["score"] for answer in asked_without_hfft[1]], seen["predicted"], rtol=1e-4)
    plain = pipeline(price_run.record.task, price_run.output_dir, device="cpu")
    asked = plain(list(seen["input"]), function_to_apply="none")
    np.testing.assert_allclose([answer["score"] for answer in asked], seen["predicted"], rtol=1e-4)
    np.testing.assert_allclose(again["predicted"], seen["predicted"], rtol=1e-5)


def test_evaluate_gives_the_metrics_of_a_run_on_numbers(price_run, ratings: Path):
    again = hfft.evaluate(price_run.output_dir, str(ratings), seed=QUICK["seed"])
    for name in ("rmse", "r2", "spearman", "mae_ci_high"):
        assert again.metrics[f"test_{name}"] == pytest.approx(price_run.metrics[f"test_{name}"], rel=1e-3)
    assert again.baseline_name == "training mean"


def test_a_checkpoint_of_mid_training_knows_its_unit(price_run, ratings: Path):
    checkpoint = sorted(Path(price_run.output_dir).glob("checkpoint-*"))[-1]
    found = hfft.evaluate(str(checkpoint), str(ratings), label_column="price")
    assert found.metrics["test_rmse"] < found.metrics["baseline_test_rmse"]


def test_training_goes_on_from_a_model_that_answers_in_numbers(price_run, ratings: Path, tmp_path: Path):
    """On other numbers in the same unit the head is kept, whatever their mean and scale."""
    data = write_csv(tmp_path / "more.csv", [(t, str(v + 300)) for t, v in rated(60, 5)], ("text", "price"))
    run = hfft.finetune(
        model=price_run.output_dir,
        data=str(data),
        output_dir=str(tmp_path / "out"),
        **{**QUICK, "num_train_epochs": 1, "learning_rate": 1e-9, "problem_type": "regression"},
        label_column="price",
    )
    table = write_csv(tmp_path / "new.csv", [(t,) for t, _ in rated(10, 6)], ("text",))
    before, after = (hfft.predict(folder, table)["predicted"] for folder in (price_run.output_dir, run.output_dir))
    np.testing.assert_allclose(after, before, rtol=1e-4)


def test_resuming_a_run_on_numbers_ends_where_one_run_would(tiny_bert: Path, ratings: Path, tmp_path: Path):
    common = {**QUICK, "num_train_epochs": 3, "problem_type": "regression", "label_column": "price"}
    common |= {"model": str(tiny_bert), "data": str(ratings), "save_total_limit": 5}
    whole = hfft.finetune(output_dir=str(tmp_path / "whole"), **common)

    class StopError(Exception):
        pass

    original = hfft.FineTuningTrainer._determine_best_metric

    def determine(self: Any, *args: Any, **kwargs: Any) -> bool:
        if self.state.epoch >= 2:
            raise StopError
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hfft.FineTuningTrainer, "_determine_best_metric", determine)
        with pytest.raises(StopError):
            hfft.finetune(output_dir=str(tmp_path / "part"), **common)
    resumed = hfft.finetune(output_dir=str(tmp_path / "part"), resume=True, **common)
    first, second = (load_file(Path(run.output_dir) / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_number_is_not_resumed_as_a_class(price_run, tiny_bert: Path, ratings: Path):
    with pytest.raises(UserError, match="problem type was regression, now single_label_classification"):
        hfft.finetune(
            model=str(tiny_bert),
            data=str(ratings),
            output_dir=price_run.output_dir,
            label_column="price",
            problem_type="single_label_classification",
            resume=True,
            **QUICK | {"num_train_epochs": 12},
        )


def test_label_smoothing_of_numbers_is_refused_before_a_folder_is_made(tiny_bert: Path, ratings: Path, tmp_path: Path):
    argv = ["train", "--model", str(tiny_bert), "--data", str(ratings), "--label_column", "price"]
    argv += ["--problem_type", "regression", "--label_smoothing_factor", "0.1", "--output_dir", str(tmp_path / "out")]
    assert main(argv) == 2
    assert not (tmp_path / "out").exists()


def test_report_and_card_speak_of_what_is_predicted(tags_run, price_run):
    for run, phrases in {
        tags_run.output_dir: ("constant answer", "| class |", "micro f1", "threshold"),
        price_run.output_dir: ("training mean", "| price |", "rmse", "standard deviation"),
    }.items():
        card, report = ((Path(run) / name).read_text() for name in ("README.md", "report.html"))
        for phrase in phrases:
            assert phrase in report or phrase.startswith("|")
            assert phrase.replace(" f1", "_f1") in card.replace("\\_", "_")
        assert "majority" not in card + report


def test_without_a_validation_split_the_thresholds_are_a_half(tags_run, tags_folder: Path, tmp_path: Path):
    """Also where the model that is trained on brought others along."""
    run = hfft.finetune(
        model=tags_run.output_dir,
        data=str(tags_folder),
        output_dir=str(tmp_path / "out"),
        validation_size=0,
        **QUICK | {"num_train_epochs": 1},
    )
    assert tags_run.record.target.thresholds != [0.5] * 3
    assert json.loads((tmp_path / "out" / "config.json").read_text())[THRESHOLDS] == [0.5] * 3
    checkpoint = next((tmp_path / "out").glob("checkpoint-*"))
    assert THRESHOLDS not in json.loads((checkpoint / "config.json").read_text())
    assert "threshold" not in " ".join(run.record.notes)


def test_a_run_on_divided_texts_is_evaluated_on_lists_and_texts(tiny_bert: Path, tags_folder: Path, tmp_path: Path):
    data = write_csv(tmp_path / "data.csv", [(text, "|".join(kinds)) for text, kinds in tagged(60, 1)])
    settings = {"model": str(tiny_bert), "data": str(data), "label_delimiter": "|", **QUICK, "num_train_epochs": 1}
    run = hfft.finetune(output_dir=str(tmp_path / "out"), **settings)
    rows = [(text, "|".join(kinds)) for text, kinds in tagged(30, 2)]
    divided = hfft.evaluate(run.output_dir, str(write_csv(tmp_path / "new.csv", rows)))
    lists = hfft.evaluate(run.output_dir, str(tags_folder / "test.jsonl"))
    assert lists.metrics == divided.metrics
    own = hfft.evaluate(run.output_dir, str(data), seed=QUICK["seed"])
    assert own.metrics["test_log_loss"] == pytest.approx(run.metrics["test_log_loss"], abs=1e-6)
