from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForImageClassification,
    BartConfig,
    BartForSequenceClassification,
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
from transformers.modeling_layers import GradientCheckpointingLayer

from hfft import LayerStack, UserError
from hfft.layers import blocks_of

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


def depths(model: nn.Module) -> dict[str, int]:
    """Return parameter name -> index of its group."""
    return {name: depth for depth, group in enumerate(LayerStack.from_model(model)) for name in group.parameter_names}


MODELS = [bert, roberta, distilbert, vit, swin, resnet, mobilenet, timm_vit, convnext]


@pytest.mark.parametrize("make", MODELS)
def test_each_parameter_is_in_exactly_one_group(make):
    model = make()
    grouped = [name for group in LayerStack.from_model(model) for name in group.parameter_names]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("make", MODELS)
def test_groups_stand_in_the_order_of_the_forward_pass(make):
    model = make().eval()
    depth_of = depths(model)
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
    config = AlbertConfig(**SMALL, vocab_size=20, embedding_size=8)
    config.num_hidden_layers = 3
    model = AlbertForSequenceClassification(config)
    depth_of = depths(model)
    inner = [name for name in depth_of if "albert_layers" in name]
    assert len({depth_of[name] for name in inner}) == 1


def bart() -> PreTrainedModel:
    sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 20, "pad_token_id": 1}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartForSequenceClassification(BartConfig(**sizes, **layers))


def test_an_encoder_stands_below_its_decoder_and_norms_of_embeddings_with_the_embeddings():
    stack = LayerStack.from_model(bart())
    names = [group.name for group in stack]
    blocks = [f"model.{part}.layers.{index}" for part in ("encoder", "decoder") for index in (0, 1)]
    assert [name for name in names if ".layers." in name] == blocks
    assert "model.encoder.layernorm_embedding.weight" in stack[0].parameter_names  # registered behind the layers
    before_decoder = stack[names.index("model.decoder.layers.0") - 1]
    assert {"model.decoder.embed_positions.weight", "model.decoder.layernorm_embedding.weight"} <= {
        *before_decoder.parameter_names
    }


def test_a_tied_parameter_is_grouped_once():
    model = bart()
    assert model.model.encoder.embed_tokens.weight is model.model.decoder.embed_tokens.weight
    grouped = [name for group in LayerStack.from_model(model) for name in group.parameter_names]
    assert sum("shared" in name or "embed_tokens" in name for name in grouped) == 1


def test_shared_blocks_are_said_to_be_shared():
    stack = LayerStack.from_model(AlbertForSequenceClassification(AlbertConfig(**SMALL, vocab_size=20)))
    assert stack.notes == ("3 layers share the parameters of 1 block: one group each.",)
    assert LayerStack.from_model(bert()).notes == ()


def test_adapters_learn_with_the_blocks_that_they_are_in():
    from peft import LoraConfig, get_peft_model

    plain = LayerStack.from_model(bert())
    model = get_peft_model(bert(), LoraConfig(target_modules=["query"], modules_to_save=["classifier"]))
    stack = LayerStack.from_model(model)
    assert [group.name for group in stack] == [group.name for group in plain]
    for index, group in enumerate(stack[1:-1]):
        lora = [name for name in group.parameter_names if "lora_" in name]
        assert len(lora) == 2
        assert all(f"layer.{index}." in name for name in lora)
    assert "base_model.model.classifier.modules_to_save.default.weight" in stack.head.parameter_names
    assert not any("lora_" in name for name in stack.head.parameter_names)


def test_a_base_model_without_a_head_is_ordered_too():
    names = [group.name for group in LayerStack.from_model(vit().vit)]
    assert names == ["stem", "layers.0", "layers.1", "layers.2"]


def test_the_blocks_of_a_model_are_its_modules():
    model = bert()
    assert blocks_of(model) == [*model.bert.encoder.layer]


def test_patterns_give_the_order_where_it_cannot_be_derived():
    model = bert()
    stack = LayerStack.from_model(model, ["embeddings", r"layer\.(\d+)\.", "pooler|classifier"])
    derived = LayerStack.from_model(model)
    assert [set(group.parameter_names) for group in stack] == [set(group.parameter_names) for group in derived]
    assert stack.head.name == "head"


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["embeddings", "classifier"], r"bert\.encoder\.layer\.0.*match no pattern"),
        (["embeddings", r"layer\.(\d+)", "pooler|classifier", "decoder"], "No parameter matches decoder"),
        (["(embeddings"], "no regular expression"),
    ],
)
def test_patterns_that_do_not_fit_are_an_error(patterns, message):
    with pytest.raises(UserError, match=message):
        LayerStack.from_model(bert(), patterns)


class Late(nn.Module):
    """Registers its parts in another order than it uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.norm = nn.LayerNorm(4)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(4, 2) for _ in range(2))
        self.embed = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm is None:
            raise ValueError
        x = self.features(x)
        return self.head(self.norm(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


def test_the_code_of_forward_gives_the_order_not_the_registration():
    stack = LayerStack.from_model(Late())
    assert [group.name for group in stack] == ["stem", "blocks.0", "blocks.1", "head"]
    assert stack[0].parameter_names == ("embed.weight", "embed.bias")
    assert stack.head.parameter_names[-2:] == ("head.weight", "head.bias")


def test_patterns_give_the_order_whatever_the_names_are():
    stack = LayerStack.from_model(Late(), ["embed", r"blocks\.(\d+)", "norm|head"])
    assert [group.name for group in stack] == ["embed", "blocks.0", "blocks.1", "head"]


class LateToken(Late):
    """A class token of the model itself, which joins between the blocks, as in CaiT."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for index, block in enumerate(self.blocks):
            x = block(x + self.token if index == 1 else x)
        return x


def test_a_class_token_that_joins_between_blocks_is_the_stem_s():
    stack = LayerStack.from_model(LateToken())
    assert stack[0].parameter_names == ("embed.weight", "embed.bias", "token")


class Grandchild(Late):
    """Calls the forward of the class above it, and has a part that no code names."""

    def __init__(self) -> None:
        super().__init__()
        self.other_task = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


def test_inherited_code_is_read_and_what_no_code_names_stays_out_of_the_head():
    stack = LayerStack.from_model(Grandchild())
    assert [group.name for group in stack] == ["stem", "blocks.0", "blocks.1", "head"]
    assert stack.head.parameter_names[-2:] == ("head.weight", "head.bias")
    assert not any("other_task" in name for name in stack.head.parameter_names)


class Interleaved(nn.Module):
    """Stages whose parts stand in lists of their own, as in PVT."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(2))
        self.stages = nn.ModuleList(nn.ModuleList(nn.TransformerEncoderLayer(4, 2) for _ in range(2)) for _ in range(2))
        self.merges = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for merge, stage, norm in zip(self.merges, self.stages, self.norms, strict=True):
            x = merge(x)
            for block in stage:
                x = block(x)
            x = norm(x)
        return x


def test_lists_that_one_loop_goes_through_together_take_turns():
    stack = LayerStack.from_model(Interleaved())
    names = [group.name for group in stack]
    assert names == ["stem", "stages.0.0", "stages.0.1", "merges.1", "stages.1.0", "stages.1.1"]
    assert "norms.1.weight" in stack[-1].parameter_names


class Unequal(nn.Module):
    """A loop over lists of which one is longer: nothing merges behind the last block."""

    def __init__(self) -> None:
        super().__init__()
        self.merges = nn.ModuleList([nn.Linear(4, 4)])
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(4, 2) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block, merge in zip(self.blocks, self.merges, strict=False):
            x = merge(block(x))
        return self.blocks[-1](x)


def test_lists_of_unequal_length_take_turns_as_far_as_they_go():
    stack = LayerStack.from_model(Unequal())
    assert [group.name for group in stack] == ["blocks.0", "blocks.1"]
    assert "merges.0.weight" in stack[0].parameter_names


class Twins(nn.Module):
    """Within a stage the first block is followed by a position encoding from a list of their own, as in Twins."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.stages = nn.ModuleList(nn.ModuleList(nn.TransformerEncoderLayer(4, 2) for _ in range(2)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage, position in zip(self.stages, self.positions, strict=True):
            for index, block in enumerate(stage):
                x = block(x)
                if index == 0:
                    x = position(x)
        return x


def test_what_a_loop_within_a_loop_uses_stands_behind_the_first_part():
    stack = LayerStack.from_model(Twins())
    assert [group.name for group in stack] == ["stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1"]
    assert "positions.0.weight" in stack[0].parameter_names
    assert "positions.1.weight" in stack[2].parameter_names


class InTraining(Late):
    """Uses a part in training alone, before all others."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = self.noise(x)
        return super().forward(x)


@pytest.mark.parametrize("training", [True, False])
def test_the_order_does_not_depend_on_the_mode(training):
    stack = LayerStack.from_model(InTraining().train(training))
    assert stack[0].parameter_names == ("noise.weight", "noise.bias", "embed.weight", "embed.bias")


class Attending(GradientCheckpointingLayer):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm, self.more = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.more(self.norm(self.dense(x)))


class Convolving(Attending):
    pass


def test_blocks_of_different_classes_are_known_by_their_mark():
    model = nn.Module()
    model.layers = nn.ModuleList([Attending(), Convolving()])
    assert [group.name for group in LayerStack.from_model(model)] == ["layers.0", "layers.1"]


def test_a_model_without_blocks_is_an_error_that_shows_what_was_seen():
    model = nn.Module()
    model.add_module("first", nn.TransformerEncoderLayer(4, 2))
    with pytest.raises(UserError, match=r"cannot be ordered.*first \(TransformerEncoderLayer\).*layer_decay to 1"):
        LayerStack.from_model(model)
