"""Runs that train adapters: what ships is an ordinary model, and what was frozen stays bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

import hfft
from hfft import FineTuningArguments, FineTuningTrainer, UserError
from hfft.adapters.models import add_adapters
from hfft.hub import model_files
from hfft.planning import plan_layers
from hfft.registry import load_task
from hfft.running.settling import task_defaults
from tests.conftest import WORDS, save_timm_model, save_tiny_bert, write_csv
from tests.finetuning.test_finetune import QUICK
from tests.without_hfft import Pipelines

# what training has moved is to ship, also where the solved head is better
SETTINGS: dict[str, Any] = {
    **QUICK,
    "strategy": "lora",
    "learning_rate": 1e-2,
    "load_best_model_at_end": False,
    "keep_adapter": True,
    "lora_dropout": 0.1,
}


def run_in(folder: Path, model: Path, data: Path, **settings: Any) -> hfft.FineTuneResult:
    places = {"output_dir": str(folder / "out"), "cache_dir": str(folder / "cache")}
    return hfft.finetune(**{"model": str(model), "data": str(data), **places, **SETTINGS, **settings})


@pytest.fixture(scope="module")
def text_run(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> hfft.FineTuneResult:
    return run_in(tmp_path_factory.mktemp("text"), tiny_bert, text_folder)


@pytest.fixture(scope="module")
def timm_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_model(tmp_path_factory.mktemp("models") / "tiny-timm-vit", "test_vit")


def shipped(run: hfft.FineTuneResult) -> dict[str, torch.Tensor]:
    return load_file(Path(run.output_dir) / "model.safetensors")


def assert_pipeline_answers_as_the_run(run: hfft.FineTuneResult, pipelines: Pipelines) -> None:
    table = Dataset.from_parquet(str(Path(run.output_dir) / "predictions.parquet"), keep_in_memory=True)
    answers = pipelines.probabilities(run.record.task, run.output_dir, table["input"][:6])
    for row, answer in zip(table.select(range(6)), answers, strict=True):
        for name, probability in answer.items():
            assert row[f"probability_{name}"] == pytest.approx(probability, abs=1e-5)


def assert_adapter_reloads(
    run: hfft.FineTuneResult, auto: Any, base: Path, inputs: dict[str, Any], rtol: float = 1e-5
) -> None:
    """The adapters on the base model answer as the model that ships, and otherwise than the base model alone."""
    folder = Path(run.output_dir)
    merged = auto.from_pretrained(folder).eval()
    config = merged.config
    model = auto.from_pretrained(base, num_labels=config.num_labels, ignore_mismatched_sizes=True).eval()
    reloaded = PeftModel.from_pretrained(model, str(folder / "adapter")).eval()
    assert reloaded.peft_config["default"].base_model_name_or_path == str(base)
    with torch.no_grad():
        expected, found = merged(**inputs).logits, reloaded(**inputs).logits
        torch.testing.assert_close(found, expected, atol=rtol * max(1.0, float(expected.abs().max())), rtol=rtol)
        with reloaded.disable_adapter():
            assert (reloaded(**inputs).logits - expected).abs().max() > 1e-2
    assert any(value.abs().max() > 0 for name, value in reloaded.named_parameters() if "lora_B" in name)


def test_a_text_run_ships_an_ordinary_model_and_adapters_for_the_base(text_run, tiny_bert: Path, pipelines: Pipelines):
    assert_pipeline_answers_as_the_run(text_run, pipelines)
    assert_adapter_reloads(
        text_run, AutoModelForSequenceClassification, tiny_bert, {"input_ids": torch.ones(2, 5).long()}
    )
    weights, base = shipped(text_run), load_file(tiny_bert / "model.safetensors")
    moved = {name for name, value in base.items() if not torch.equal(value, weights[f"bert.{name}"])}
    dense = {name for name in base if name.endswith(".weight") and "encoder" in name and "LayerNorm" not in name}
    assert moved == dense | {"pooler.dense.weight", "pooler.dense.bias"}
    assert not any("adapter" in path.name for path in model_files(Path(text_run.output_dir)))  # what a push takes
    assert any(note.startswith("pooling model, which may not be the best") for note in text_run.record.notes)


@pytest.mark.parametrize("strategy", ["lora", "dora"])
@pytest.mark.parametrize("family", ["transformers ViT", "timm ResNet", "timm ViT"])
def test_picture_runs_ship_ordinary_models(
    family: str,
    strategy: str,
    tiny_vit: Path,
    tiny_timm: Path,
    timm_vit: Path,
    image_folder: Path,
    tmp_path: Path,
    pipelines: Pipelines,
):
    base = {"transformers ViT": tiny_vit, "timm ResNet": tiny_timm, "timm ViT": timm_vit}[family]
    run = run_in(tmp_path, base, image_folder, strategy=strategy, learning_rate=1e-3)
    generator = torch.Generator().manual_seed(0)
    inputs = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    assert_adapter_reloads(run, AutoModelForImageClassification, base, inputs)
    weights, before = shipped(run), load_file(base / "model.safetensors")
    statistics = [name for name in before if "running_" in name]
    assert bool(statistics) == (family == "timm ResNet")
    assert all(torch.equal(before[name], weights[name]) for name in statistics)
    assert not any("pooling" in note for note in run.record.notes)  # there is none to choose
    if strategy == "lora":
        assert_pipeline_answers_as_the_run(run, pipelines)


def test_the_run_says_what_trains_and_how(text_run, capsys):
    folder = Path(text_run.output_dir)
    (told,) = (note for note in text_run.record.notes if "adapters on" in note)
    head = 32 * 32 + 32 + 3 * 32 + 3
    lora = 2 * 8 * (4 * (32 + 32) + 2 * (32 + 48))
    assert f"LoRA adapters on 12 layers: {(lora + head) / 1e6:.3g} of" in told
    rows = {row["name"]: row["parameters"] for row in text_run.trainer.layer_rates()}
    assert rows == {"bert.encoder.layer.0": lora // 2, "bert.encoder.layer.1": lora // 2, "head": head}
    moved = {row["name"]: row["distance"] for row in text_run.record.distances}
    assert moved["stem"] == 0
    assert moved["bert.encoder.layer.1"] > 0
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    assert (settings["strategy"], settings["lora_rank"], settings["lora_alpha"]) == ("lora", 8, 16)
    card = (folder / "README.md").read_text()
    assert "LoRA adapters on 12 layers" in card
    assert "strategy: lora" in card
    assert "peft " in card
    assert "LoRA adapters on 12 layers" in (folder / "report.html").read_text()


def test_evaluate_and_predict_see_an_ordinary_model(text_run, text_folder: Path, tmp_path: Path):
    found = hfft.evaluate(model=text_run.output_dir, data=str(text_folder)).metrics
    assert found["test_log_loss"] == pytest.approx(text_run.metrics["test_log_loss"], rel=1e-5)
    hfft.predict(text_run.output_dir, str(text_folder / "test.csv"), str(tmp_path / "p.csv"))
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 16


def test_nothing_frozen_moves_by_a_bit_in_training(tiny_bert: Path, tmp_path: Path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)
    args = FineTuningArguments(
        output_dir=str(tmp_path), strategy="lora", learning_rate=0.05, max_steps=3, eval_strategy="no",
        load_best_model_at_end=False, disable_tqdm=True,
    )  # fmt: skip
    with pytest.raises(UserError, match="wrap the model"):
        FineTuningTrainer(model, args)
    wrapped, _ = add_adapters(model, args)
    before = {name: value.clone() for name, value in wrapped.state_dict().items()}
    data = Dataset.from_dict({"input_ids": [[2, i, 3] for i in range(4, 16)], "labels": [i % 3 for i in range(12)]})
    trainer = FineTuningTrainer(wrapped, args, train_dataset=data.with_format("torch"))
    trainer.train()
    trains = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    for name, value in wrapped.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in trains), name


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(text_run, tiny_bert: Path, text_folder: Path, tmp_path: Path):
    class CutOffError(Exception):
        pass

    settings = {"num_train_epochs": 4, "save_total_limit": 5, "load_best_model_at_end": True, "learning_rate": 1e-3}
    whole = run_in(tmp_path / "whole", tiny_bert, text_folder, **settings)
    original = FineTuningTrainer._determine_best_metric

    def determine(self: Any, *args: Any, **kwargs: Any) -> bool:
        if self.state.epoch >= 3:
            raise CutOffError
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuningTrainer, "_determine_best_metric", determine)
        with pytest.raises(CutOffError):
            run_in(tmp_path / "part", tiny_bert, text_folder, **settings)
    with pytest.raises(UserError, match="lora_rank was 8, now 4"):
        run_in(tmp_path / "part", tiny_bert, text_folder, resume=True, lora_rank=4, **settings)
    resumed = run_in(tmp_path / "part", tiny_bert, text_folder, resume=True, **settings)
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        first, second = (load_file(Path(run.output_dir) / file) for run in (whole, resumed))
        assert all(torch.equal(first[name], second[name]) for name in first)
    checkpoint = next(Path(whole.output_dir).glob("checkpoint-*"))
    assert not (checkpoint / "model.safetensors").exists()  # the adapters and the head alone


def test_run_yaml_trains_the_same_adapters_again(
    tiny_bert: Path, text_folder: Path, tmp_path: Path, pipelines: Pipelines
):
    file = tmp_path / "adapter.yaml"
    file.write_text("peft_type: LOHA\nr: 4\n")
    given = {"strategy": "peft", "adapter_config": str(file), "lora_dropout": None, "pooling": "mean"}
    first = run_in(tmp_path / "first", tiny_bert, text_folder, **given, keep_adapter=False)
    file.unlink()  # what it said stands in the settings
    settings = yaml.safe_load((Path(first.output_dir) / "run.yaml").read_text())
    assert settings["adapter_config"] == {"peft_type": "LOHA", "r": 4}
    again = hfft.finetune(**{**settings, "output_dir": str(tmp_path / "again"), "cache_dir": str(tmp_path / "cold")})
    one, other = shipped(first), shipped(again)
    assert all(torch.equal(one[name], other[name]) for name in one)
    config = json.loads((Path(first.output_dir) / "config.json").read_text())
    assert config["num_hidden_layers"] == 3  # the mean of the tokens is folded in behind the merged layers
    assert_pipeline_answers_as_the_run(first, pipelines)
    assert not (Path(first.output_dir) / "adapter").exists()


def test_where_training_only_harms_the_solved_head_ships(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    harm = {"learning_rate": 3.0, "warmup_steps": 0, "load_best_model_at_end": True, "pooling": "model"}
    run = run_in(tmp_path, tiny_bert, text_folder, **harm)
    assert any("the solved head ships" in note for note in run.record.notes)
    weights, base = shipped(run), load_file(tiny_bert / "model.safetensors")
    assert all(torch.equal(value, weights[f"bert.{name}"]) for name, value in base.items() if "pooler" not in name)


def test_numbers_and_temperatures_stand_in_the_kept_adapter_too(tmp_path: Path):
    # dropout before a head that is solved on random features makes losses of hundreds
    bert = save_tiny_bert(tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    words = [(word, index) for index, of_one in enumerate(WORDS.values()) for word in of_one * 6]
    names = sorted(WORDS)
    for split in ("train", "test"):
        texts = [f"{word} {row} {split}" for row, (word, _) in enumerate(words)]
        numbers = [(text, str(100.5 + 10 * index)) for text, (_, index) in zip(texts, words, strict=True)]
        write_csv(tmp_path / "numbers" / f"{split}.csv", numbers)
        # every third label says nothing, for the answers not to be all right
        labels = [names[(index + (row % 3 == 0) * (row % 2)) % 3] for row, (_, index) in enumerate(words)]
        write_csv(tmp_path / "classes" / f"{split}.csv", list(zip(texts, labels, strict=True)))
    # behind a pooler that is nearly linear the weights of a solved head are in the hundreds, and so is what they round
    inputs = {"input_ids": torch.tensor([[2, 9, 3], [2, 12, 3]])}
    settings = {"learning_rate": 1e-5, "validation_size": 0.4}
    of_numbers = run_in(tmp_path / "a", bert, tmp_path / "numbers", problem_type="regression", **settings)
    assert_adapter_reloads(of_numbers, AutoModelForSequenceClassification, bert, inputs, rtol=1e-4)
    calibrated = run_in(tmp_path / "b", bert, tmp_path / "classes", calibration="temperature", **settings)
    assert calibrated.record.temperature is not None
    assert_adapter_reloads(calibrated, AutoModelForSequenceClassification, bert, inputs, rtol=1e-4)


def test_several_classes_train_with_adapters(tiny_bert: Path, tmp_path: Path):
    rows = [
        {"text": f"{one} and {other} of {n}", "label": sorted({first, second})}
        for n in range(6)
        for first, (one, *_) in WORDS.items()
        for second, (_, other, *_) in WORDS.items()
    ]
    for split, part in (("train", rows[:40]), ("test", rows[40:])):
        (tmp_path / "tags").mkdir(exist_ok=True)
        (tmp_path / "tags" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    run = run_in(tmp_path, tiny_bert, tmp_path / "tags", validation_size=0.3)
    assert "test_micro_f1" in run.metrics
    found = hfft.evaluate(model=run.output_dir, data=str(tmp_path / "tags")).metrics
    assert found["test_micro_f1"] == pytest.approx(run.metrics["test_micro_f1"])


def test_what_lies_below_the_adapters_is_computed_once(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    settings = {"adapter_layers": "1", "num_train_epochs": 8, "lora_dropout": None, "learning_rate": 1e-3}
    settings |= {"head_start": "random", "eval_on_start": True, "save_strategy": "no"}
    cached = run_in(tmp_path, tiny_bert, text_folder, **settings)
    kept = {path.name for path in (tmp_path / "cache" / "hfft").glob("activations-*")}
    assert kept
    others = {**settings, "lora_rank": 2, "learning_rate": 1e-2}  # on the same weights: they find them again
    run_in(tmp_path, tiny_bert, text_folder, overwrite=True, **others)
    assert {path.name for path in (tmp_path / "cache" / "hfft").glob("activations-*")} == kept
    plain = run_in(tmp_path / "plain", tiny_bert, text_folder, cache_activations=False, **settings)
    losses = [[entry["eval_loss"] for entry in run.record.history if "eval_loss" in entry] for run in (cached, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(losses[0]) == 9


def test_adapters_in_all_layers_leave_nothing_to_keep(text_run):
    folder = Path(text_run.output_dir).parent / "cache" / "hfft"
    assert not list(folder.glob("activations-*"))
    assert list(folder.glob("features-*"))  # the head was solved on the base model's


def test_activation_checkpointing_changes_nothing(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    settings = {"lora_dropout": None, "head_start": "random", "max_steps": 3}
    plain, saving = (
        run_in(tmp_path / str(on), tiny_bert, text_folder, activation_checkpointing=on, **settings)
        for on in (False, True)
    )
    one, other = shipped(plain), shipped(saving)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_overwrite_takes_the_adapter_of_the_old_run_away(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    run_in(tmp_path, tiny_bert, text_folder, max_steps=1)
    assert (tmp_path / "out" / "adapter").is_dir()
    run_in(tmp_path, tiny_bert, text_folder, max_steps=1, keep_adapter=False, overwrite=True)
    assert not (tmp_path / "out" / "adapter").exists()


def test_the_rate_of_adapters_is_a_multiple_of_the_tasks_and_the_heads_is_not():
    text, pictures = load_task("text-classification"), load_task("image-classification")
    found = task_defaults(text, {"strategy": "lora"})
    assert (found["learning_rate"], found["head_learning_rate"]) == (2e-3, 2e-4)
    found = task_defaults(pictures, {"strategy": "lora"})
    assert (found["learning_rate"], found["head_learning_rate"]) == pytest.approx((1e-4, 1e-3))
    assert (
        "learning_rate"
        not in task_defaults(text, {"strategy": "lora", "learning_rate": 1.0}).keys() - text.defaults.keys()
    )
    assert "head_learning_rate" not in task_defaults(pictures, {"strategy": "lora", "learning_rate": 1.0})
    assert task_defaults(text, {}) == dict(text.defaults)


def test_the_plan_of_adapters_is_what_a_run_trains(text_run, tiny_bert: Path):
    plan = plan_layers(str(tiny_bert), task="text-classification", strategy="lora", learning_rate=1e-2)
    rates = {layer.name: layer.learning_rate for layer in plan.layers}
    done = text_run.trainer.layer_rates()
    assert all(rates[row["name"]] == row["lr"] for row in done)
    trains = {layer.name: layer.trains for layer in plan.layers}
    assert trains["stem"] == "never"
    assert trains["bert.encoder.layer.0"] == f"adapters of {done[0]['parameters']:,} from step 1"
    assert trains["head"] == "from step 1"
    assert any("LoRA adapters on 12 layers" in note for note in plan.notes)


def test_cross_validation_keeps_no_adapters_and_finds_their_settings_again(
    tiny_bert: Path, text_folder: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("use_rslora: true")
    settings = {**SETTINGS, "max_steps": 1, "model": str(tiny_bert), "data": str(text_folder), "folds": 2}
    hfft.cross_validate(output_dir="cv", cache_dir=str(tmp_path / "cache"), adapter_config="own.yaml", **settings)
    assert not list((tmp_path / "cv").rglob("adapter*"))
    again = yaml.safe_load((tmp_path / "cv" / "crossval.yaml").read_text())
    assert again["adapter_config"] == str(tmp_path / "own.yaml")


def test_quantized_weights_are_refused(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    for file in tiny_bert.iterdir():
        (quantized / file.name).write_bytes(file.read_bytes())
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantized / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"are quantized \(bitsandbytes\).*Name the checkpoint that it was made from; load_in_4bit"
    ):
        run_in(tmp_path, quantized, text_folder)
    assert not (tmp_path / "out").exists()
