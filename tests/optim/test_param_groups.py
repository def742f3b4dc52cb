from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hfft import LayerStack, UserError, layerwise_param_groups


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


def test_rates_fall_by_a_quarter_by_default(bert):
    rates = {group["layer"]: group["lr"] for group in layerwise_param_groups(bert, lr=1.0)}
    assert [*rates.values()] == [0.75**3, 0.75**2, 0.75, 1]


def test_equal_rates_need_no_order():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.base_model_prefix, model.trunk, model.score = "trunk", torch.nn.Bilinear(2, 2, 2), torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="cannot be ordered"):
        layerwise_param_groups(model, lr=1.0, layer_decay=0.9)
    groups = layerwise_param_groups(model, lr=1.0, layer_decay=1, head_lr=2.0)
    assert {(group["layer"], group["lr"]) for group in groups} == {("trunk", 1.0), ("head", 2.0)}


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


def test_a_parameter_that_zero_has_shared_out_counts_as_whole(bert):
    weight = bert.classifier.weight
    weight.ds_shape, weight.data = weight.shape, torch.empty(0)
    decayed = {
        name
        for group in layerwise_param_groups(bert, lr=1e-3, weight_decay=0.1)
        if group["weight_decay"]
        for name in group["param_names"]
    }
    assert "classifier.weight" in decayed


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


def test_multipliers_by_pattern_split_groups_and_the_first_match_counts(bert):
    model = bert
    plain = {name: group["lr"] for group in layerwise_param_groups(model, lr=1.0) for name in group["param_names"]}
    patterns = {r"layer\.1\.attention": 3.0, r"layer\.1": 2.0, "embeddings": 0}
    groups = layerwise_param_groups(model, lr=1.0, weight_decay=0.1, lr_multipliers=patterns)
    names = [name for group in groups for name in group["param_names"]]
    assert sorted(names) == sorted(plain)
    for group in groups:
        for name in group["param_names"]:
            times = 3 if "layer.1.attention" in name else 2 if "layer.1" in name else 0 if "embeddings" in name else 1
            assert group["lr"] == pytest.approx(plain[name] * times), name
    assert len({(g["layer"], g["lr"], g["weight_decay"]) for g in groups}) == len(groups)


def test_lora_plus_ratios_are_multipliers(bert):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(bert, LoraConfig(target_modules=["query"]))
    groups = layerwise_param_groups(model, lr=1.0, layer_decay=0.5, lr_multipliers={"lora_B": 16})
    rates = {name: group["lr"] for group in groups for name in group["param_names"]}
    assert rates
    for name, rate in rates.items():
        if "lora_B" in name:
            assert rate == 16 * rates[name.replace("lora_B", "lora_A")]


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        ({"embedings": 0}, "'embedings' matches no parameter"),
        ({"embeddings": -1}, "a number from 0 on"),
        ({"embeddings": float("nan")}, "a number from 0 on"),
        ({"embeddings": float("inf")}, "a number from 0 on"),
        ({"(embeddings": 1}, "no regular expression"),
    ],
)
def test_multipliers_that_do_not_fit_are_an_error(multipliers, message, bert):
    with pytest.raises(UserError, match=message):
        layerwise_param_groups(bert, lr=1.0, lr_multipliers=multipliers)
