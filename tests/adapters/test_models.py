"""Where adapters stand, what of a model trains with them, and that merging changes no answer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from timm.models.beit import Beit
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hfft import FineTuningArguments, FineTuningTrainer, LayerStack, UserError, layerwise_param_groups
from hfft.adapters.models import Adapter, add_adapters, merge, trained_parameters
from hfft.adapters.targets import find_targets
from hfft.training.optimizers import group_arguments
from tests.conftest import save_timm_model

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {"vocab_size": 30, "num_labels": 3, "pad_token_id": 0}
IDS = {"input_ids": torch.arange(1, 21).reshape(4, 5)}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)}


def bert() -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES, **TEXT)).eval()


def timm_model(architecture: str, folder: Path) -> Any:
    torch.manual_seed(0)
    folder = save_timm_model(folder / architecture, architecture)
    return AutoModelForImageClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True).eval()


def stir(model: nn.Module) -> None:
    """Move what trains away from where it changes nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(**inputs).logits


def arguments(**settings: Any) -> FineTuningArguments:
    return FineTuningArguments(**{"strategy": "lora", **settings})


def assert_merges_and_reloads(model: Any, inputs: dict[str, torch.Tensor], folder: Path, **settings: Any) -> None:
    base, before = copy.deepcopy(model), {name: value.clone() for name, value in model.state_dict().items()}
    wrapped, _ = add_adapters(model, arguments(**settings), inputs)
    stir(wrapped)
    expected = logits(wrapped, inputs)
    assert (expected - logits(base, inputs)).abs().max() > 1e-3
    merged, adapter = merge(wrapped)
    assert type(merged) is type(base)
    assert merged.state_dict().keys() == before.keys()
    torch.testing.assert_close(logits(merged, inputs), expected, atol=1e-5, rtol=1e-5)
    adapter.save(folder / "adapter", merged, "base")
    again = PeftModel.from_pretrained(base, str(folder / "adapter"))
    torch.testing.assert_close(logits(again, inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_adapters_of_timm_models_merge_and_reload(architecture: str, strategy: str, tmp_path: Path):
    assert_merges_and_reloads(timm_model(architecture, tmp_path), PIXELS, tmp_path, strategy=strategy)


@pytest.mark.parametrize("strategy", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_adapters_of_text_models_merge_and_reload(family: str, strategy: str, tmp_path: Path):
    torch.manual_seed(0)
    models = {
        "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES, **TEXT)),
        "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES, **TEXT)),
        "gpt2": lambda: GPT2ForSequenceClassification(GPT2Config(n_embd=32, n_layer=2, n_head=2, **TEXT)),
    }
    assert_merges_and_reloads(models[family]().eval(), IDS, tmp_path, strategy=strategy)


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "LOHA", "r": 4},
        {"peft_type": "LOKR", "r": 4},
        {"peft_type": "OFT", "oft_block_size": 8},
        {"peft_type": "HRA"},
        {"peft_type": "VERA", "r": 4},
        {"peft_type": "FOURIERFT", "n_frequency": 20},
        {"peft_type": "LORA", "init_lora_weights": "pissa", "r": 4},
        {"peft_type": "LORA", "bias": "all", "use_rslora": True},
        {"peft_type": "IA3", "feedforward_modules": ["output.dense"]},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_other_types_of_peft_merge_and_reload(config: dict[str, Any], tmp_path: Path):
    assert_merges_and_reloads(bert(), IDS, tmp_path, strategy="peft", adapter_config=config)


def test_norms_are_targets_where_they_are_asked_for(tmp_path: Path):
    config = {"peft_type": "LN_TUNING"}
    model = bert()
    wrapped, _ = add_adapters(model, arguments(strategy="peft", adapter_config=config, adapter_targets=["LayerNorm"]))
    trains = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert sum("LayerNorm" in name for name in trains) == 8  # scale and shift of two in each of two blocks
    stir(wrapped)
    expected = logits(wrapped, IDS)
    torch.testing.assert_close(logits(merge(wrapped)[0], IDS), expected, atol=1e-5, rtol=1e-5)


def test_the_dense_layers_of_all_blocks_are_targets_and_the_head_trains_whole():
    model = bert()
    wrapped, (told,) = add_adapters(model, arguments(), IDS)
    trains = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    lora, head = {name for name in trains if "lora_" in name}, {name for name in trains if "lora_" not in name}
    assert len(lora) == 2 * 2 * 6
    assert not any("pooler" in name or "embeddings" in name for name in lora)
    saved = "modules_to_save.default"
    prefixes = ("bert.pooler.dense", "classifier")
    assert head == {f"base_model.model.{p}.{saved}.{kind}" for p in prefixes for kind in ("weight", "bias")}
    counted = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    assert trained_parameters(wrapped)[0] == counted
    assert f"{counted / 1e6:.3g} of" in told


def test_layers_and_targets_narrow_the_choice():
    model, stack = bert(), LayerStack.from_model(bert())
    last, _ = find_targets(model, stack, layers="1")
    assert len(last) == 6
    assert all("layer.1." in path for path in last)
    assert find_targets(model, stack, layers="0-0")[0] == [path.replace("layer.1", "layer.0") for path in last]
    queries, _ = find_targets(model, stack, patterns=["query$", "value$"], layers="0-1")
    assert len(queries) == 4
    for layers in ("0", "3", "1-2", "1-0", "a", "-1"):
        with pytest.raises(UserError, match="adapter_layers"):
            find_targets(model, stack, layers=layers)


def test_depthwise_convolutions_are_no_targets(tmp_path: Path):
    model = timm_model("test_efficientnet", tmp_path)
    targets, _ = find_targets(model, LayerStack.from_model(model))
    groups = {model.get_submodule(path).groups for path in targets if isinstance(model.get_submodule(path), nn.Conv2d)}
    assert groups == {1}
    assert any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())


class ReadsWeights(nn.Module):
    """A block of which one layer is called, and of the other the weights are read."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.called, self.read = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.called(self.norm(x)) + nn.functional.linear(x, self.read.weight)


class Trunk(nn.Module):
    base_model_prefix = "trunk"

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(ReadsWeights() for _ in range(2)))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x))


def test_what_is_read_without_being_called_gets_no_adapter():
    model = Trunk()
    stack, inputs = LayerStack.from_model(model), {"x": torch.ones(2, 8)}
    assert find_targets(model, stack, inputs=inputs) == (
        ["trunk.0.called", "trunk.1.called"],
        ["trunk.0.read", "trunk.1.read"],
    )
    with pytest.raises(UserError, match="without calling them"):
        find_targets(model, stack, patterns=["read"], inputs=inputs)


def test_adapters_are_drawn_alike_whatever_was_drawn_before():
    first = add_adapters(bert(), arguments(seed=5))[0].state_dict()
    model = bert()
    torch.rand(3)
    state = torch.get_rng_state()
    second = add_adapters(model, arguments(seed=5))[0].state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_parameter_has_the_rate_of_its_layer_and_matrix():
    args = arguments(learning_rate=1.0, head_learning_rate=0.1, layer_decay=0.5, lora_plus_ratio=16.0)
    wrapped, _ = add_adapters(bert(), args)
    rates = {
        name: group["lr"]
        for group in layerwise_param_groups(wrapped, **group_arguments(args))
        for name in group["param_names"]
    }
    assert rates.keys() == {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    for name, rate in rates.items():
        layer = next((layer for layer in (0, 1) if f"layer.{layer}." in name), None)
        expected = 0.1 if layer is None else 0.5 ** (2 - layer) * (16 if ".lora_B." in name else 1)
        assert rate == expected, name


def test_factors_that_are_not_0_where_they_change_nothing_are_not_decayed():
    for strategy, name in (("ia3", "ia3_l"), ("dora", "magnitude")):
        args = arguments(strategy=strategy, weight_decay=0.1)
        wrapped, _ = add_adapters(bert(), args)
        groups = layerwise_param_groups(wrapped, **group_arguments(args))
        decays = {group["weight_decay"] for group in groups for each in group["param_names"] if name in each}
        assert decays == {0.0}


def test_a_head_that_was_changed_after_the_merge_stands_in_the_adapter(tmp_path: Path):
    base = bert()
    wrapped, _ = add_adapters(copy.deepcopy(base), arguments())
    stir(wrapped)
    merged, adapter = merge(wrapped)
    with torch.no_grad():
        merged.classifier.weight.mul_(3)
    assert isinstance(adapter, Adapter)
    adapter.save(tmp_path / "adapter", merged, "base", "main")
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(again, IDS), logits(merged, IDS), atol=1e-5, rtol=1e-5)
    assert again.peft_config["default"].base_model_name_or_path == "base"


def test_gradual_unfreezing_thaws_adapters_and_never_what_is_below_them(tmp_path: Path):
    args = FineTuningArguments(
        output_dir=str(tmp_path), strategy="gradual", learning_rate=0.05, max_steps=8, eval_strategy="no",
        load_best_model_at_end=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    wrapped, _ = add_adapters(bert(), arguments())
    before = {name: value.clone() for name, value in wrapped.state_dict().items()}
    trains = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    data = Dataset.from_dict({"input_ids": [[2, i, 3] for i in range(4, 16)], "labels": [i % 3 for i in range(12)]})
    trainer = FineTuningTrainer(wrapped, args, train_dataset=data.with_format("torch"))
    trainer.train()
    assert {name for name, value in wrapped.state_dict().items() if not torch.equal(value, before[name])} == trains
    assert trainer.thaws()["bert.encoder.layer.0"] > trainer.thaws()["bert.encoder.layer.1"] > 0


@pytest.mark.parametrize("family", ["BEiT", "Swin v2"])
def test_the_attention_of_some_timm_models_is_read_without_being_called(family: str):
    small = {"img_size": 32, "num_classes": 3}
    if family == "BEiT":
        model: Any = Beit(patch_size=8, embed_dim=32, depth=2, num_heads=2, **small)
    else:
        sizes = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
        model = SwinTransformerV2(patch_size=2, **sizes, **small)
    targets, passed_over = find_targets(model, LayerStack.from_model(model), inputs={"x": PIXELS["pixel_values"]})
    assert len(passed_over) == 2
    assert all(path.endswith("attn.qkv") for path in passed_over)
    assert any(path.endswith("attn.proj") for path in targets)
