from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hfft import LayerStack, layerwise_param_groups


@pytest.fixture
def bert(tiny_bert: Path) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)


def test_rates_fall_by_the_decay_from_the_head_down(bert):
    rates = {
        name: group["lr"]
        for group in layerwise_param_groups(bert, lr=1e-3, layer_decay=0.5)
        for name in group["param_names"]
    }
    expected = {
        "classifier": 1e-3,
        "pooler": 1e-3,
        "layer.1.": 5e-4,
        "layer.0.": 2.5e-4,
        "embeddings": 1.25e-4,
    }
    for name, rate in rates.items():
        assert rate == next(value for part, value in expected.items() if part in name)


def test_the_head_can_have_a_rate_of_its_own(bert):
    groups = layerwise_param_groups(bert, lr=1e-3, layer_decay=0.5, head_lr=0.2)
    assert {group["lr"] for group in groups if group["layer"] == "head"} == {0.2}
    assert {group["lr"] for group in groups if group["layer"] == "bert.encoder.layer.1"} == {5e-4}


def test_each_trainable_parameter_is_in_one_group_and_no_group_is_empty(bert):
    bert.bert.embeddings.requires_grad_(False)
    groups = layerwise_param_groups(bert, lr=1e-3)
    members = [parameter for group in groups for parameter in group["params"]]
    assert all(group["params"] for group in groups)
    assert sorted(map(id, members)) == sorted(id(p) for p in bert.parameters() if p.requires_grad)
    named = dict(bert.named_parameters())
    assert all(named[n] is p for g in groups for n, p in zip(g["param_names"], g["params"], strict=True))


def test_groups_stand_in_the_order_of_the_stack(bert):
    layers = [group["layer"] for group in layerwise_param_groups(bert, lr=1e-3)]
    assert list(dict.fromkeys(layers)) == [group.name for group in LayerStack.from_model(bert)]


def test_vectors_are_not_decayed_and_matrices_are(tiny_timm: Path):
    model = AutoModelForImageClassification.from_pretrained(tiny_timm, num_labels=3)
    for group in layerwise_param_groups(model, lr=1e-3, weight_decay=0.1):
        dimensions = {parameter.ndim for parameter in group["params"]}
        # BatchNorm weights among them, which the stock Trainer decays
        assert dimensions == {1} if group["weight_decay"] == 0 else 1 not in dimensions
        assert group["weight_decay"] in (0, 0.1)


def test_what_a_timm_model_exempts_is_not_decayed():
    import timm

    model = timm.create_model("test_vit", num_classes=3)
    undecayed = {
        name
        for group in layerwise_param_groups(model, lr=1e-3, weight_decay=0.1)
        if group["weight_decay"] == 0
        for name in group["param_names"]
    }
    assert {"pos_embed", "cls_token"} <= undecayed
