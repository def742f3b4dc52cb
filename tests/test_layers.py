from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hfft import LayerStack, UserError

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}


def bert() -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**SMALL, vocab_size=20))


def roberta() -> PreTrainedModel:
    return RobertaForSequenceClassification(RobertaConfig(**SMALL, vocab_size=20))


def distilbert() -> PreTrainedModel:
    return DistilBertForSequenceClassification(
        DistilBertConfig(dim=16, n_layers=3, n_heads=2, hidden_dim=16, vocab_size=20)
    )


def vit() -> PreTrainedModel:
    return ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=8))


def swin() -> PreTrainedModel:
    return SwinForImageClassification(
        SwinConfig(embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=2, image_size=16, patch_size=2)
    )


def resnet() -> nn.Module:
    return timm.create_model("resnet18", num_classes=3)


def mobilenet() -> nn.Module:
    return timm.create_model("mobilenetv2_035", num_classes=3)


def timm_vit() -> nn.Module:
    return timm.create_model("test_vit", num_classes=3)


def convnext() -> nn.Module:
    return timm.create_model("test_convnext", num_classes=3)


MODELS = [bert, roberta, distilbert, vit, swin, resnet, mobilenet, timm_vit, convnext]


@pytest.mark.parametrize("make", MODELS)
def test_each_parameter_is_in_exactly_one_group(make):
    model = make()
    grouped = [name for group in LayerStack.from_model(model) for name in group.parameter_names]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("make", MODELS)
def test_groups_stand_in_the_order_of_the_forward_pass(make):
    model = make().eval()
    depth_of = LayerStack.from_model(model).depth_of()
    order: list[int] = []
    for path, module in model.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        # composite modules hold parameters of their own too (a class token); leaves tell when they are used
        if own and not list(module.children()):
            module.register_forward_pre_hook(lambda *_, depth=depth_of[own[0]]: order.append(depth))
    with torch.no_grad():
        if isinstance(model, PreTrainedModel) and model.main_input_name == "input_ids":
            model(input_ids=torch.ones(1, 4, dtype=torch.long))
        else:
            size = 16 if isinstance(model, PreTrainedModel) else 160
            model(torch.zeros(1, 3, size, size))
    first_uses = list(dict.fromkeys(order))
    assert first_uses == sorted(first_uses)
    assert len(first_uses) == len(set(depth_of.values()))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (bert, ["stem", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.encoder.layer.2", "head"]),
        (vit, ["stem", "vit.layers.0", "vit.layers.1", "vit.layers.2", "head"]),
    ],
)
def test_names_of_groups(make, names):
    assert [group.name for group in LayerStack.from_model(make())] == names


def test_a_pooler_learns_with_the_head_and_a_last_norm_with_the_last_block():
    assert "bert.pooler.dense.weight" in LayerStack.from_model(bert()).head.parameter_names
    stack = LayerStack.from_model(vit())
    assert stack.head.parameter_names == ("classifier.weight", "classifier.bias")
    assert "vit.layernorm.weight" in stack[-2].parameter_names


def test_the_blocks_of_every_stage_are_groups():
    names = [group.name for group in LayerStack.from_model(swin())]
    blocks = [f"swin.encoder.layers.{stage}.blocks.{block}" for stage in (0, 1) for block in (0, 1)]
    assert [name for name in names if ".blocks." in name] == blocks
    assert len(LayerStack.from_model(resnet())) == 10  # stem, 8 blocks, head


def test_a_wrapped_timm_model_groups_as_the_plain_one(tiny_timm: Path):
    wrapped = AutoModelForImageClassification.from_pretrained(tiny_timm, num_labels=3)
    plain = LayerStack.from_model(wrapped.timm_model)
    assert [
        tuple(name.removeprefix("timm_model.") for name in group.parameter_names)
        for group in LayerStack.from_model(wrapped)
    ] == [group.parameter_names for group in plain]


def test_shared_blocks_collapse_into_one_group():
    from transformers import AlbertForSequenceClassification

    config = AlbertConfig(**SMALL, vocab_size=20, embedding_size=8)
    config.num_hidden_layers = 3
    model = AlbertForSequenceClassification(config)
    depth_of = LayerStack.from_model(model).depth_of()
    inner = [name for name in depth_of if "albert_layers" in name]
    assert len({depth_of[name] for name in inner}) == 1


def test_a_model_without_blocks_is_an_error_that_shows_what_was_seen():
    model = nn.Module()
    model.add_module("first", nn.TransformerEncoderLayer(4, 2))
    with pytest.raises(UserError, match=r"cannot be ordered.*first \(TransformerEncoderLayer\).*layer_decay to 1"):
        LayerStack.from_model(model)
