from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from transformers import AutoModelForImageClassification, TimmWrapperConfig

from hfft.errors import UserError
from hfft.targets import MultiLabel, SingleLabel
from hfft.targets.target import TEMPERATURE
from hfft.targets.temperature import calibrate, logit_layers
from tests.coverage.zoo import Case, image_cases, text_cases

TEXT = ("bert", "roberta", "deberta", "deberta-v2", "distilbert", "llama", "t5", "xlnet")
IMAGE = ("vit", "convnext", "resnet", "swin", "deit")
CASES = [case for case in text_cases() if case.name in TEXT] + [case for case in image_cases() if case.name in IMAGE]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("several", [False, True])
def test_the_folded_model_answers_with_calibrated_logits(case: Case, several: bool):
    torch.manual_seed(0)
    model = case.build(num_labels=3)
    inputs = case.inputs(model)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = logit_layers(model, inputs)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    generator = np.random.default_rng(0)
    logits = 3 * generator.normal(size=(400, 3))
    if several:
        target, labels = MultiLabel(list("abc")), generator.random((400, 3)) < expit(logits / 3)
    else:
        target = SingleLabel(list("abc"))
        labels = (generator.random((400, 1)) > softmax(logits / 3, axis=1).cumsum(axis=1)).sum(axis=1).clip(max=2)
    with torch.no_grad():
        expected = model(**inputs).logits
        temperature, told = calibrate(target, model, layers, labels, logits)
        found = model(**inputs).logits
    assert temperature == pytest.approx(3, rel=0.25)
    assert getattr(model.config, TEMPERATURE) == temperature
    assert f"temperature of {temperature:.3g}" in told
    torch.testing.assert_close(found, expected / temperature, rtol=1e-4, atol=1e-5)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    head = {id(parameter) for layer in layers for parameter in layer.parameters()}
    assert changed <= {
        name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in head
    }


def timm_model(architecture: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    config = TimmWrapperConfig(architecture=architecture, num_labels=3)
    model = AutoModelForImageClassification.from_config(config)
    return model, {"pixel_values": torch.randn(2, 3, 64, 64)}


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_convnext"])
def test_heads_of_timm_are_found(architecture: str):
    model, inputs = timm_model(architecture)
    assert [layer.out_features for layer in logit_layers(model, inputs)] == [3]


def test_a_head_of_the_hidden_size_is_told_from_the_layer_before_it():
    case = next(case for case in CASES if case.name == "roberta")
    width = case.build(num_labels=3).config.hidden_size
    model = case.build(num_labels=width)
    assert logit_layers(model, case.inputs(model)) == [model.classifier.out_proj]


def test_logits_that_do_not_scale_with_a_layer_are_refused(monkeypatch: pytest.MonkeyPatch):
    case = next(case for case in CASES if case.name == "bert")
    model = case.build(num_labels=3)
    monkeypatch.setattr(model, "classifier", torch.nn.Sequential(model.classifier, torch.nn.Tanh()))
    with pytest.raises(
        UserError, match="--calibration: the logits of a BertForSequenceClassification are not those of"
    ):
        logit_layers(model, case.inputs(model))


def test_a_model_is_left_as_it_is_where_the_validation_split_determines_no_temperature(tmp_path: Path):
    case = next(case for case in CASES if case.name == "bert")
    model = case.build(num_labels=3)
    layers = logit_layers(model, case.inputs(model))
    before = layers[0].weight.clone()
    found, told = calibrate(SingleLabel(list("abc")), model, layers, np.arange(3), np.eye(3))
    assert found is None
    assert told.startswith("no temperature was fitted: the 3 validation examples call for none")
    assert torch.equal(layers[0].weight, before)
    assert not hasattr(model.config, TEMPERATURE)
