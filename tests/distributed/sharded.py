"""FSDP2 on two CPU ranks, which accelerate keeps for GPUs."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, default_data_collator

from hfft import FineTuningArguments, FineTuningTrainer, finetuning, training_checks
from hfft.running import assembling

STEPS, ROWS = 8, 32
RESUMED = (1, 2, 3)  # of the thaws at 2, 3 and 4
KINDS = ("FULL_STATE_DICT", "SHARDED_STATE_DICT")
RATES = (2e-4, 3.0)  # with the latter the solved head ships


def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(**size, **dropout, vocab_size=20))


def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 20, (ROWS, 6), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": tokens, "labels": [row % 2 for row in range(ROWS)]})


class ShardedTrainer(FineTuningTrainer):
    """Takes the ranks for such on GPUs: accelerate leaves those on the CPU out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        super().__init__(*args, **kwargs)


def train(folder: str, batch_size: int, sharded: bool = False, resume: str | None = None) -> FineTuningTrainer:
    args = FineTuningArguments(
        output_dir=folder,
        use_cpu=True,
        strategy="gradual",
        head_start="random",
        per_device_train_batch_size=batch_size,
        max_steps=STEPS,
        learning_rate=1e-2,
        eval_strategy="no",
        load_best_model_at_end=False,
        save_strategy="no" if resume else "steps",
        save_steps=1,
        save_total_limit=None,
        disable_tqdm=True,
    )
    kind = ShardedTrainer if sharded else FineTuningTrainer
    trainer = kind(model(), args, train_dataset=data(), data_collator=default_data_collator)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def train_sharded(folder: str, kind: str) -> None:
    """Train without a break, and again from the checkpoints, which are of this kind."""
    os.environ["FSDP_STATE_DICT_TYPE"] = kind
    for step in (None, *RESUMED):
        resume = None if step is None else f"{folder}/whole/checkpoint-{step}"
        name = "whole" if step is None else f"resumed-{step}"
        trainer = train(f"{folder}/{name}", 2, sharded=True, resume=resume)
        assert trainer.args.world_size == 2
        assert trainer.accelerator.state.fsdp_plugin.state_dict_type.name == kind
        assert isinstance(trainer.model_wrapped, torch.distributed.fsdp.FSDPModule)
        layer = trainer.model.bert.encoder.layer[0]
        assert isinstance(layer, torch.distributed.fsdp.FSDPModule)
        assert isinstance(layer.attention.self.query.weight, torch.distributed.tensor.DTensor)
        trainer.save_model(f"{folder}/{name}/model")


def whole_run(folder: str, model: str, data: str, rate: float, **chosen: Any) -> None:
    """Make a run of a model and data."""
    settings: dict[str, Any] = {
        "strategy": "lp-ft",
        "num_train_epochs": 2,
        "use_cpu": True,
        "warmup_steps": 0,
        **chosen,
    }
    result = finetuning.finetune(model=model, data=data, output_dir=folder, learning_rate=rate, **settings)
    assert isinstance(result.trainer.model, torch.distributed.fsdp.FSDPModule)


def run(folder: str, model: str, data: str) -> None:
    """Train on this rank what the tests look at.

    With gradual unfreezing, and again from checkpoints before, at and after thaws, with each kind of checkpoint; then
    whole runs of a model and data. The configuration of FSDP is the one that ``accelerate launch`` would leave in the
    environment.
    """
    training_checks.require_fsdp = lambda args: None  # which refuses FSDP on the CPU
    assembling.FineTuningTrainer = ShardedTrainer
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    }
    for kind in KINDS:
        train_sharded(f"{folder}/{kind}", kind)
    os.environ["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"
    for rate in RATES:
        whole_run(f"{folder}/rate-{rate}", model, data, rate)
    whole_run(f"{folder}/auto", model, data, RATES[0], strategy="auto")
    whole_run(f"{folder}/auto-solved", model, data, RATES[0], strategy="auto", head_start="solved")
