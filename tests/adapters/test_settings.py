"""What of adapters is refused before anything is loaded, and what a configuration of PEFT becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hfft import FineTuningArguments, UserError
from hfft.adapters.quantizing import require_quantizable
from hfft.adapters.settings import adapter_fields, make_config
from hfft.cli import main
from hfft.strategies import load_strategy


def fields(**settings: Any) -> dict[str, Any]:
    args = FineTuningArguments(**settings)
    return adapter_fields(args, load_strategy(args.strategy))


def test_a_strategy_is_a_configuration_of_peft():
    assert fields(strategy="lora") == {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
    assert fields(strategy="lora", lora_rank=4, lora_dropout=0.1)["lora_alpha"] == 8
    assert fields(strategy="dora")["use_dora"]
    assert make_config(fields(strategy="dora")).use_dora
    assert make_config(fields(strategy="ia3")).peft_type.value == "IA3"


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_file_says_what_is_trained_and_stands_in_the_settings_itself(tmp_path: Path, suffix: str):
    file = tmp_path / f"loha.{suffix}"
    settings = {"peft_type": "loha", "r": 4, "module_dropout": 0.1, "inference_mode": False, "target_modules": None}
    file.write_text(json.dumps(settings) if suffix == "json" else "peft_type: loha\nr: 4\nmodule_dropout: 0.1\n")
    args = FineTuningArguments(strategy="peft", adapter_config=str(file))
    assert args.adapter_config == {k: v for k, v in settings.items() if v}
    assert make_config(adapter_fields(args, load_strategy("peft"))).module_dropout == 0.1


def test_a_file_says_more_of_lora():
    got = fields(strategy="lora", adapter_config={"use_rslora": True, "r": 6})
    assert (got["r"], got["lora_alpha"], got["use_rslora"]) == (6, 12, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"strategy": "full", "lora_rank": 4},
            "lora_rank has no place in the strategy 'full': it belongs to lora, dora",
        ),
        ({"strategy": "full", "keep_adapter": True}, "keep_adapter has no place"),
        ({"strategy": "ia3", "lora_rank": 4}, "lora_rank has no place with IA3"),
        ({"strategy": "ia3", "lora_plus_ratio": 4.0}, "lora_plus_ratio has no place with IA3"),
        ({"strategy": "full", "load_in_4bit": True}, "load_in_4bit has no place in the strategy 'full'"),
        (
            {"strategy": "peft", "adapter_config": {"peft_type": "LOHA"}, "load_in_4bit": True},
            "load_in_4bit has no place with LOHA: it belongs to LORA, IA3",
        ),
        (
            {"strategy": "lora", "adapter_config": {"init_lora_weights": "pissa"}, "load_in_4bit": True},
            "init_lora_weights pissa changes the weights beside the adapters",
        ),
        ({"strategy": "lora", "lora_rank": 0}, "lora_rank must be at least 1"),
        ({"strategy": "lora", "lora_dropout": 1.0}, "lora_dropout must be"),
        ({"strategy": "lora", "freeze": ["2"]}, "adapter_layers and adapter_targets say"),
        ({"strategy": "lora", "freeze_batch_norm": False}, "freeze_batch_norm false"),
        ({"strategy": "lora", "activation_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant"),
        ({"strategy": "lora", "epochs_per_group": 1.0}, "epochs_per_group has no place"),
        ({"strategy": "peft"}, "needs adapter_config with a peft_type"),
        ({"strategy": "lora", "adapter_config": {"peft_type": "LOHA"}}, "take --strategy peft"),
        ({"strategy": "lora", "adapter_config": {"use_dora": True, "peft_type": "LOHA"}}, "take --strategy peft"),
        ({"strategy": "lora", "lora_rank": 4, "adapter_config": {"r": 8}}, "keep one of them"),
        ({"strategy": "lora", "adapter_config": {"use_rslor": True}}, "Did you mean 'use_rslora'?"),
        ({"strategy": "lora", "adapter_config": {"target_modules": ["query"]}}, "use adapter_targets"),
        ({"strategy": "lora", "adapter_config": {"modules_to_save": ["x"]}}, "the head always trains whole"),
        ({"strategy": "lora", "adapter_config": {"init_lora_weights": "eva"}}, "needs a pass over the data"),
        ({"strategy": "peft", "adapter_config": {"peft_type": "LOHO"}}, "Did you mean 'LOHA'?"),
        ({"strategy": "peft", "adapter_config": {"peft_type": "ADALORA", "total_step": 9}}, "shares out its ranks"),
        ({"strategy": "peft", "adapter_config": {"peft_type": "PREFIX_TUNING"}}, "cannot be merged"),
        ({"strategy": "peft", "adapter_config": "nowhere.yaml"}, "nowhere.yaml"),
        ({"strategy": "peft", "adapter_config": [1]}, "must hold names and values"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        FineTuningArguments(**settings)


def test_a_file_that_is_no_plain_yaml_is_refused(tmp_path: Path):
    file = tmp_path / "adapter.yaml"
    for text in ("peft_type: !!python/name:os.system", "- LORA", "a: [", "a: " + "[" * 5000):
        file.write_text(text)
        with pytest.raises(UserError, match="adapter_config"):
            FineTuningArguments(strategy="peft", adapter_config=str(file))


def test_adapters_need_the_whole_model_on_each_process(monkeypatch):
    monkeypatch.setattr("hfft.adapters.settings.is_sharded", lambda args: True)
    with pytest.raises(UserError, match="start it without FSDP and ZeRO stage 3"):
        FineTuningArguments(strategy="lora")


def test_the_command_line_refuses_in_one_message(tiny_bert: Path, text_folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    argv = ["train", "--model", str(tiny_bert), "--data", str(text_folder), "--output_dir", str(out)]
    for flags, message in (
        (["--strategy", "lora", "--adapter_layers", "0-5"], "adapter_layers: the model has the layers 0-1"),
        (["--strategy", "lora", "--adapter_targets", "qery"], "nothing that matches qery"),
        (["--strategy", "lora", "--keep_adapter", "true", "--pooling", "mean"], "pooling mean is folded into"),
        (["--strategy", "lora", "--keep_adapter", "true", "--image_size", "64"], "image_size changes what the model"),
        (["--strategy", "lora", "--keep_adapter", "true", "--crop_pct", "1"], "crop_pct changes what the model"),
        (["--strategy", "peft", "--adapter_config", '{"peft_type": "LILY"}'], "LILY adapters do not fit the model"),
        (["--strategy", "lor"], "Did you mean 'lora'?"),
    ):
        assert main([*argv, *flags]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_layers_in_4_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match=r'needs a recent bitsandbytes: pip install "hfft\[quantize\]"'):
        FineTuningArguments(strategy="lora", load_in_4bit=True)


def test_layers_in_4_bits_are_refused_under_deepspeed():
    args = FineTuningArguments(strategy="lora")
    with pytest.raises(UserError, match="load_in_4bit has no place with DeepSpeed"):
        require_quantizable(args, fields(strategy="lora"), {"ACCELERATE_USE_DEEPSPEED": "true"})
