from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from hfft import (
    FineTuningArguments,
    FineTuningTrainer,
    GradualUnfreezing,
    LayerStack,
    UserError,
    finetune,
    layerwise_param_groups,
    training_checks,
)
from hfft.hardware import launching
from hfft.hardware.launching import (
    require_all_processes,
    require_fsdp,
    require_one_world,
    require_whole_model,
    shard_blocks,
)
from tests.conftest import make_sentences, write_csv

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
ONE_OF_TWO = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}


def arguments(tmp_path: Path, **settings: Any) -> FineTuningArguments:
    return FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


@pytest.fixture
def with_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take DeepSpeed for installed: its configuration is read before it is imported."""
    monkeypatch.setattr(launching, "_has_deepspeed", lambda: True)


def small_vit() -> ViTForImageClassification:
    return ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=8))


def small_timm_vit() -> TimmWrapperForImageClassification:
    return TimmWrapperForImageClassification(TimmWrapperConfig(architecture="test_vit", num_labels=3))


def small_bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(BertConfig(**SMALL, vocab_size=9))


# processes


def test_processes_that_do_not_see_each_other_are_refused():
    require_one_world(2, 2)
    with pytest.raises(UserError, match="started 2 processes, but the training sees 1"):
        require_one_world(2, 1)


def test_a_launcher_that_started_one_process_of_several_is_refused(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        for name, value in ONE_OF_TWO.items():
            patch.setenv(name, value)
        with pytest.raises(UserError, match="asked for several processes, but has started one: add --multi_gpu"):
            arguments(tmp_path)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"MASTER_PORT": "29500"},  # of a cluster, no launcher
        {name: value for name, value in ONE_OF_TWO.items() if name != "MASTER_PORT"},
        {**ONE_OF_TWO, "RANK": "0"},
        {**ONE_OF_TWO, "PMI_RANK": "0"},  # MPI has started the others
    ],
)
def test_what_was_launched_as_asked_for_goes_ahead(environment):
    require_all_processes(environment)


# FSDP


def test_fsdp_that_would_not_be_had_is_refused(tmp_path):
    with pytest.raises(UserError, match="fsdp was asked for, but this run is on the CPU"):
        arguments(tmp_path, fsdp=True)


def test_fsdp_of_the_launcher_that_would_not_be_had_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="fsdp was asked for, but this run is on the CPU"):
        arguments(tmp_path)


@pytest.mark.parametrize("config", [{"version": 1}, {"fsdp_version": 1}])
@pytest.mark.filterwarnings("ignore:.*FSDP1.*")
def test_the_first_fsdp_is_refused(config, tmp_path):
    with pytest.raises(UserError, match=r'FSDP 1 flattens parameters.*fsdp_config \{"version": 2\}'):
        arguments(tmp_path, fsdp=True, fsdp_config=config)


@pytest.mark.parametrize("version", ["1", None])
def test_the_first_fsdp_of_the_launcher_is_refused(version, monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    if version is not None:
        monkeypatch.setenv("FSDP_VERSION", version)
    with pytest.raises(UserError, match=r"FSDP 1 flattens parameters.*fsdp_version: 2 in the configuration"):
        arguments(tmp_path)


def on_gpus(**settings: Any) -> Any:
    mode = SimpleNamespace(value="distributed")
    return SimpleNamespace(parallel_mode=mode, device=torch.device("cuda"), **settings)


def test_the_second_fsdp_on_gpus_goes_ahead():
    require_fsdp(on_gpus(fsdp=True, fsdp_plugin_args={"fsdp_version": 2}), {})
    require_fsdp(on_gpus(fsdp=None), {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ({"fsdp": True, "fsdp_config": {"cpu_ram_efficient_loading": True}}, {}),
        ({"fsdp": None}, {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}),
    ],
)
def test_a_head_is_not_solved_on_weights_that_only_one_process_has(settings, environment):
    with pytest.raises(UserError, match="only the first process has the pretrained weights"):
        require_whole_model(on_gpus(**settings), environment)
    require_whole_model(on_gpus(fsdp=True, fsdp_config={}), environment)
    require_whole_model(on_gpus(fsdp=None), {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"})


def test_a_head_is_not_solved_on_parts_of_the_weights(monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(UserError, match="only a part of the weights, as with ZeRO stage 3"):
        arguments(tmp_path, strategy="lp-ft")
    arguments(tmp_path, strategy="lp-ft", head_start="random")


def test_a_strategy_that_trains_nothing_is_not_sharded(monkeypatch, tmp_path):
    arguments(tmp_path, strategy="linear-probe")
    monkeypatch.setattr(training_checks, "require_fsdp", lambda args: None)  # which refuses it on the CPU
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP and DeepSpeed have no place with linear-probe"):
        arguments(tmp_path, strategy="linear-probe")


@pytest.mark.parametrize("switch", ["fsdp", "zero3"])
def test_nothing_is_folded_into_a_model_in_parts(switch, monkeypatch, tiny_bert, text_folder, tmp_path):
    run = {"model": str(tiny_bert), "data": str(text_folder), "output_dir": str(tmp_path / "out"), "use_cpu": True}
    monkeypatch.setattr(training_checks, "require_fsdp", lambda args: None)
    if switch == "fsdp":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    else:
        monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(UserError, match="pooling mean is folded into the model in the end"):
        finetune(**run, strategy="full", pooling="mean")
    assert not (tmp_path / "out").exists()


def test_numbers_are_not_trained_in_parts(monkeypatch, tiny_bert, tmp_path):
    rows = [(text, f"{index / 3}") for index, (text, _) in enumerate(make_sentences(30, 1))]
    data = write_csv(tmp_path / "numbers.csv", rows)
    monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(UserError, match="Numbers cannot be trained with ZeRO stage 3"):
        finetune(model=str(tiny_bert), data=str(data), output_dir=str(tmp_path / "out"), strategy="full")
    assert not (tmp_path / "out").exists()


def wrapped(model: nn.Module, plugin: FullyShardedDataParallelPlugin) -> list[str]:
    """Return the paths of what accelerate would shard by itself."""
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert wraps is not None
    return [path for path, module in model.named_modules() if path and wraps(module)]


def plugin_of(**options: Any) -> FullyShardedDataParallelPlugin:
    return FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP", **options)


def test_the_blocks_of_a_timm_model_are_sharded_each_by_itself():
    model, plugin = small_timm_vit(), plugin_of()
    with pytest.raises(ValueError, match="Could not find the transformer layer class"):
        wrapped(model, plugin)
    shard_blocks(plugin, model)
    blocks = [f"timm_model.blocks.{index}" for index in range(len(model.timm_model.blocks))]
    assert wrapped(model, plugin) == blocks


def test_the_embeddings_are_not_sharded_twice():
    model, plugin = small_bert(), plugin_of()
    assert "bert.embeddings" in wrapped(model, plugin)  # beside which accelerate shards the table of tokens by itself
    shard_blocks(plugin, model)
    assert wrapped(model, plugin) == ["bert.encoder.layer.0", "bert.encoder.layer.1"]


def test_what_the_user_names_is_sharded():
    model, layers = small_bert(), ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    chosen = plugin_of(transformer_cls_names_to_wrap=["BertAttention"])
    shard_blocks(chosen, model)
    assert wrapped(model, chosen) == [f"{layer}.attention" for layer in layers]


# DeepSpeed


def test_deepspeed_that_is_missing_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "_has_deepspeed", lambda: False)
    with pytest.raises(UserError, match="not installed: `pip install deepspeed`"):
        arguments(tmp_path, deepspeed={"zero_optimization": {"stage": 2}})
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="not installed: `pip install deepspeed`"):
        arguments(tmp_path)


@pytest.mark.parametrize("section", ["optimizer", "scheduler"])
@pytest.mark.parametrize("form", ["dict", "json", "file", "launcher"])
def test_deepspeed_that_would_bypass_the_rates_is_refused(section, form, with_deepspeed, tmp_path, monkeypatch):
    config = {"zero_optimization": {"stage": 2}, section: {"type": "AdamW"}}
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(config))
    given: dict[str, Any] = {"dict": config, "json": json.dumps(config), "file": str(path)}
    if form == "launcher":
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    with pytest.raises(UserError, match=f"has the section {section}, with which DeepSpeed would give every layer"):
        arguments(tmp_path, deepspeed=given.get(form))


def test_a_deepspeed_configuration_without_these_sections_goes_ahead(with_deepspeed):
    launching.require_deepspeed({"zero_optimization": {"stage": 2}}, True, {})
    launching.require_deepspeed({"optimizer": {"type": "AdamW"}}, False, {})
    launching.require_deepspeed(None, True, {"ACCELERATE_USE_DEEPSPEED": "true"})
    with pytest.raises(UserError, match=r"deepspeed: nowhere\.json: 'nowhere\.json' is neither JSON nor a file of it"):
        launching.require_deepspeed("nowhere.json", True, {})


def as_partitioned(model: nn.Module) -> nn.Module:
    """Leave behind of each parameter what ZeRO stage 3 does."""
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape  # type: ignore[attr-defined]
        parameter.data = torch.empty(0)
    return model


@pytest.mark.parametrize("make", [small_bert, small_timm_vit])
def test_layers_and_weight_decay_are_those_of_the_whole_parameters(make):
    model = make()
    stack = [(group.name, group.parameter_names) for group in LayerStack.from_model(model)]
    groups = layerwise_param_groups(model, lr=1.0, weight_decay=0.1)
    as_partitioned(model)
    assert [(group.name, group.parameter_names) for group in LayerStack.from_model(model)] == stack
    rules = [(group["param_names"], group["weight_decay"]) for group in groups]
    found = layerwise_param_groups(model, lr=1.0, weight_decay=0.1)
    assert [(group["param_names"], group["weight_decay"]) for group in found] == rules


def flat_optimizer(model: nn.Module, **kept: Any) -> torch.optim.Optimizer:
    """Make an optimizer of flat copies, as ZeRO does of each group."""
    groups = layerwise_param_groups(model, lr=1.0)
    for group in groups:
        group["params"] = [nn.Parameter(torch.cat([p.detach().flatten() for p in group["params"]]))]
        for name in kept.get("without", ()):
            del group[name]
    return torch.optim.AdamW(groups)


def begun(optimizer: torch.optim.Optimizer, model: nn.Module, tmp_path: Path) -> GradualUnfreezing:
    callback = GradualUnfreezing(start_steps=[0, 2, 4, 6], rewarm_steps=0)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state = SimpleNamespace(global_step=0, max_steps=8, stateful_callbacks={})
    callback.on_train_begin(args, state, None, model=model, optimizer=optimizer)  # type: ignore[arg-type]
    return callback


def test_frozen_layers_have_a_rate_of_0_where_the_optimizer_holds_copies(tmp_path):
    model = small_bert()
    optimizer = flat_optimizer(model)
    callback = begun(optimizer, model, tmp_path)
    names = [group.name for group in LayerStack.from_model(model)]
    for step, frozen in ((0, names[:-1]), (2, names[:-2]), (6, [])):
        layers = [group["layer"] for group in optimizer.param_groups]
        factors = dict(zip(layers, callback.rate_factors(optimizer, step), strict=True))
        assert factors == {name: 0.0 if name in frozen else 1.0 for name in names}


def test_copies_of_unknown_layers_are_refused(tmp_path):
    model = small_bert()
    with pytest.raises(UserError, match="holds copies of the parameters, as DeepSpeed's do"):
        begun(flat_optimizer(model, without=["layer"]), model, tmp_path)


def test_the_optimizer_is_made_once(tmp_path):
    """transformers asks for it twice under DeepSpeed: a second one would hold parameters that nobody steps."""
    trainer = FineTuningTrainer(small_bert(), arguments(tmp_path, eval_strategy="no", load_best_model_at_end=False))
    assert trainer.create_optimizer() is trainer.create_optimizer()


# unfreezing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ddp_static_graph": True}, "ddp_static_graph has no place with gradual"),
        ({"ddp_find_unused_parameters": False}, "ddp_find_unused_parameters false has no place with gradual"),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant .* silently not train"),
        pytest.param(
            {"gradient_checkpointing_kwargs": '{"use_reentrant": true}'},
            "use_reentrant .* silently not train",
            marks=pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),  # the old name
        ),
    ],
)
def test_settings_that_a_thaw_breaks_are_refused(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        arguments(tmp_path, strategy="gradual", **settings)
    arguments(tmp_path, **settings)


def test_a_stock_trainer_is_told_as_well(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, ddp_static_graph=True, max_steps=1)
    trainer = Trainer(small_vit(), args, train_dataset=pictures(), callbacks=[GradualUnfreezing()])
    with pytest.raises(UserError, match="ddp_static_graph has no place with GradualUnfreezing"):
        trainer.train()


def pictures() -> list[dict[str, Any]]:
    return [{"pixel_values": torch.randn(3, 16, 16), "labels": 0} for _ in range(2)]


def trained_names(tmp_path: Path, **checkpointing: Any) -> set[str]:
    """Train a model with a frozen stem for a step of the stock Trainer, and name what has moved."""
    torch.manual_seed(0)
    model = small_vit()
    model.vit.embeddings.requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, max_steps=1, save_strategy="no", report_to="none", **checkpointing
    )
    Trainer(model, args, train_dataset=pictures()).train()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_above_frozen_layers_is_refused(tmp_path):
    reentrant = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}
    assert not any(".layers." in name for name in trained_names(tmp_path, **reentrant))  # why
    assert any(".layers." in name for name in trained_names(tmp_path, activation_checkpointing=True))
    with pytest.raises(UserError, match=r"use_reentrant .* silently not train\. Leave it out with freeze"):
        arguments(tmp_path, freeze=["1"], **reentrant)


# precision


@pytest.mark.parametrize(
    ("launched", "message"),
    [
        ("fp8", "--mixed_precision fp8 of the launcher: hfft trains in fp32, bf16 or fp16"),
        ("fp16", "fp16 needs a GPU"),
    ],
)
def test_a_precision_of_the_launcher_that_the_device_lacks_is_refused(launched, message, monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    with pytest.raises(UserError, match=message):
        arguments(tmp_path)
