"""Dropout and stochastic depth, by what they do to models and by what their configurations say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hfft.tasks import ImageClassification, TextClassification
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

import hfft
from hfft import ModelArguments, UserError
from hfft.features.extraction import model_key
from hfft.layers.dropout import changed_rates, with_changed_rates
from hfft.targets import SingleLabel
from tests.conftest import save_timm_model
from tests.coverage import zoo

TARGET = SingleLabel(["a", "b", "c"])
# What has "drop" in its name and is neither dropout nor stochastic depth: whole layers of encoders and decoders, a
# head for answers, a truth value, and models whose field does something else.
OTHERS = {"layerdrop", "encoder_layerdrop", "decoder_layerdrop", "qa_dropout", "token_dropout"}
ODD = {("pp_lcnet", "hidden_dropout_prob"), ("levit", "drop_path_rate"), ("diffllama", "attention_dropout")}


def load(model: Path, task: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    arguments, config = ModelArguments(model=str(model), **options), AutoConfig.from_pretrained(model)
    return (task or TextClassification()).load(arguments, config, TARGET)[0]


def varies(case: zoo.Case, monkeypatch: pytest.MonkeyPatch, **rates: float) -> bool:
    """Say whether the logits of a tiny model in training mode depend on random numbers."""
    tiny_config = zoo.tiny_config

    def changed(*args: Any) -> Any:
        return with_changed_rates(tiny_config(*args), ModelArguments(**rates))

    with monkeypatch.context() as patch:
        patch.setattr(zoo, "tiny_config", changed)
        model = case.build().train()
    inputs = {name: torch.cat([value] * 4) for name, value in case.inputs(model).items()}
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(model(**inputs).logits)
    return any(not torch.equal(found[0], other) for other in found[1:])


TEXTS = ("bert", "distilbert", "roberta", "deberta-v2", "electra", "modernbert", "xlnet", "t5", "gpt2", "llama")
IMAGES = ("vit", "clip", "mobilevit", "swiftformer")
CASES = {case.name: case for case in (*zoo.text_cases(), *zoo.image_cases())}


@pytest.mark.parametrize("name", [*TEXTS, *IMAGES])
def test_dropout_of_any_name_is_off_at_zero_and_on_above(name: str, monkeypatch):
    assert not varies(CASES[name], monkeypatch, dropout=0.0)
    assert varies(CASES[name], monkeypatch, dropout=0.5)


@pytest.mark.parametrize("name", ["convnext", "dinov2", "poolformer", "cvt"])
def test_stochastic_depth_is_off_at_zero_and_on_above(name: str, monkeypatch):
    assert not varies(CASES[name], monkeypatch, drop_path_rate=0.0)
    assert varies(CASES[name], monkeypatch, drop_path_rate=0.7)


@pytest.mark.parametrize(
    "names", [MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES]
)
def test_every_field_of_every_configuration_is_known(names: dict[str, Any]):
    """A new name for dropout in a new transformers would be left out in silence."""
    unknown = set()
    for model_type in set(names) - {"timm_wrapper", "mpt"}:
        config = CONFIG_MAPPING[model_type]()
        known: set[str] = set()
        for rate in ("dropout", "drop_path_rate"):
            try:
                known |= set(changed_rates(config, ModelArguments(**{rate: 0.3})))
            except UserError:
                continue
        unknown |= {
            (model_type, name)
            for name in config.to_dict()
            if "drop" in name and name not in known | OTHERS and (model_type, name) not in ODD
        }
    assert unknown == set()


def test_all_dropout_of_a_bert_is_the_same(tiny_bert: Path):
    model = load(tiny_bert, dropout=0.35)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.35}
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    assert [getattr(model.config, name) for name in names] == [0.35] * 3
    plain = load(tiny_bert)
    assert {module.p for module in plain.modules() if isinstance(module, nn.Dropout)} == {0.1}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())


def test_timm_models_have_both(tmp_path: Path):
    folder = save_timm_model(tmp_path / "vit", "test_vit3", size=160)
    model = load(folder, ImageClassification(), dropout=0.25, drop_path_rate=0.4)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} >= {0.25}
    attention = model.timm_model.blocks[0].attn
    assert (attention.attn_drop.p, attention.proj_drop.p, model.timm_model.head_drop.p) == (0.25, 0.25, 0.25)
    depths = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.timm_model.blocks]
    assert depths[0] == 0
    assert depths[-1] == pytest.approx(0.4)
    assert depths == sorted(depths)
    options = {"drop_rate": 0.25, "attn_drop_rate": 0.25, "proj_drop_rate": 0.25, "drop_path_rate": 0.4}
    assert model.config.model_args == options


@pytest.mark.parametrize(("architecture", "size"), [("test_vit", 160), ("eva02_tiny_patch14_224", 224)])
def test_patches_are_left_out_in_training_alone(architecture: str, size: int, tmp_path: Path):
    folder = save_timm_model(tmp_path / "vit", architecture, size=size)
    model, plain = load(folder, ImageClassification(), patch_drop_rate=0.75), load(folder, ImageClassification())
    assert model.config.model_args == {"patch_drop_rate": 0.75}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())
    seen: list[torch.Tensor] = []
    model.timm_model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        for training in (True, True, False):
            answers = model.train(training)(pixel_values=pixels).logits
        torch.testing.assert_close(answers, plain.eval()(pixel_values=pixels).logits, rtol=0, atol=0)
    patches = model.timm_model.patch_embed.num_patches
    assert [values.shape[1] - 1 for values in seen] == [patches // 4, patches // 4, patches]  # and the class token
    assert not torch.equal(seen[0], seen[1])


def test_architectures_that_read_every_patch_are_refused():
    of_timm = [
        SimpleNamespace(model_type="timm_wrapper", architecture=name, model_args=None)
        for name in ("samvit_base_patch16_224", "deit_tiny_distilled_patch16_224", "test_resnet")
    ]
    for config in (*of_timm, CASES["vit"].build().config):
        with pytest.raises(UserError, match=r"patch_drop_rate: a model of the architecture \w+ has no patch dropout"):
            changed_rates(config, ModelArguments(patch_drop_rate=0.5))


def test_rates_and_another_size_go_together(tmp_path: Path):
    folder = save_timm_model(tmp_path / "vit", "test_vit3", size=160)
    model = load(folder, ImageClassification(), dropout=0.25, drop_path_rate=0.4, image_size=96)
    assert model.timm_model.head_drop.p == 0.25
    assert model.timm_model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.4)
    assert model.config.model_args["img_size"] == 96


def test_configurations_within_the_configuration_are_changed(tmp_path: Path):
    case = CASES["clip"]
    config = with_changed_rates(case.build().config, ModelArguments(dropout=0.3))
    assert config.vision_config.attention_dropout == 0.3
    assert config.vision_config.hidden_size == case.build().config.vision_config.hidden_size
    case.build().save_pretrained(tmp_path)
    changes = changed_rates(case.build().config, ModelArguments(dropout=0.3))
    loaded = type(case.build()).from_pretrained(tmp_path, **changes)
    assert {layer.self_attn.dropout for layer in loaded.vision_model.encoder.layers} == {0.3}


@pytest.mark.parametrize("name", ["resnet", "convnext", "pp_lcnet"])
def test_models_without_dropout_are_refused(name: str):
    with pytest.raises(UserError, match=rf"dropout: a model of the architecture {name} has no dropout"):
        changed_rates(CASES[name].build().config, ModelArguments(dropout=0.1))


@pytest.mark.parametrize("name", ["bert", "resnet", "levit"])
def test_models_without_stochastic_depth_are_refused(name: str):
    with pytest.raises(UserError, match=rf"drop_path_rate: a model of the architecture {name} has no stochastic depth"):
        changed_rates(CASES[name].build().config, ModelArguments(drop_path_rate=0.1))


def test_architectures_of_timm_without_stochastic_depth_are_refused():
    config = SimpleNamespace(model_type="timm_wrapper", architecture="dla46x_c", model_args=None)
    with pytest.raises(UserError, match="drop_path_rate: a model of the architecture dla46x_c has no stochastic depth"):
        changed_rates(config, ModelArguments(drop_path_rate=0.1))  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), "much"])
@pytest.mark.parametrize("name", ["dropout", "drop_path_rate", "patch_drop_rate"])
def test_rates_are_shares(name: str, rate: Any):
    with pytest.raises(UserError, match=name):
        ModelArguments(**{name: rate})


def test_features_are_found_again_under_other_rates(tmp_path: Path):
    folder = save_timm_model(tmp_path / "vit", "test_vit3", size=160)
    task = ImageClassification()
    rates = ({}, {"dropout": 0.2}, {"dropout": 0.1, "drop_path_rate": 0.3}, {"patch_drop_rate": 0.5})
    models = [load(folder, task, **each) for each in rates]
    assert len({model_key(model, ()) for model in models}) == 1
    assert model_key(load(folder, task, image_size=96), ()) != model_key(models[0], ())
    with torch.no_grad():
        models[0].timm_model.pos_embed += 1
    assert model_key(models[0], ()) != model_key(models[1], ())


@pytest.mark.parametrize("command", [hfft.finetune, hfft.cross_validate])
def test_rates_have_no_place_where_nothing_is_trained(command, tiny_bert: Path, text_folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="dropout has no place in the strategy 'linear-probe'"):
        command(
            model=str(tiny_bert),
            data=str(text_folder),
            output_dir=str(tmp_path / "out"),
            strategy="linear-probe",
            dropout=0.1,
        )
    assert not (tmp_path / "out").exists()


def test_rates_have_no_place_in_evaluation_and_prediction(tiny_bert: Path, text_folder: Path):
    with pytest.raises(UserError, match="drop_path_rate belongs to training"):
        hfft.evaluate(str(tiny_bert), str(text_folder), drop_path_rate=0.1)
    with pytest.raises(UserError, match="dropout belongs to training"):
        hfft.predict(str(tiny_bert), str(text_folder / "test.csv"), dropout=0.0)


def test_a_run_trains_with_its_dropout_and_says_so(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    quick = {"max_steps": 2, "eval_strategy": "no", "load_best_model_at_end": False, "seed": 3}

    def run(name: str, **settings: Any) -> hfft.FineTuneResult:
        out = str(tmp_path / name)
        return hfft.finetune(model=str(tiny_bert), data=str(text_folder), output_dir=out, **quick, **settings)

    losses = [
        run(name, **settings).trainer.state.log_history[0]["loss"]
        for name, settings in {"own": {}, "same": {"dropout": 0.1}, "more": {"dropout": 0.6}}.items()
    ]
    assert losses[0] == losses[1]  # the checkpoint's own is 0.1
    assert losses[0] != losses[2]
    config = json.loads((tmp_path / "more" / "config.json").read_text())
    assert config["hidden_dropout_prob"] == config["classifier_dropout"] == 0.6
    with pytest.raises(UserError, match=r"dropout was 0.6, now 0.2"):
        run("more", dropout=0.2, resume=True)
