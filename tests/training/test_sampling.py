from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, TrainerCallback

from hfft import FineTuningArguments, FineTuningTrainer, UserError
from hfft.training.rows import NumberedCollator
from hfft.training.sampling import GlobalBatchSampler, StandIn

LENGTHS = np.random.default_rng(0).integers(3, 60, size=503)
LAYOUTS = [(1, 16, 1), (2, 8, 1), (1, 4, 4), (2, 2, 4), (4, 4, 1)]  # ranks, examples of a micro-batch, accumulation


def steps(ranks: int, batch_size: int, accumulation: int, **options: Any) -> list[list[list[int]]]:
    """The micro-batches of every optimizer step, over all ranks, dealt out by accelerate's own class."""
    options = {"seed": 3, "lengths": LENGTHS, **options}
    sampler = GlobalBatchSampler(503, batch_size, ranks=ranks, accumulation=accumulation, **options)
    sampler.set_epoch(2)
    shards = [list(BatchSamplerShard(copy.copy(sampler), ranks, rank)) for rank in range(ranks)]
    assert {len(shard) for shard in shards} == {len(sampler) // ranks}  # no rank waits for another
    count = len(shards[0])
    return [
        [batch for shard in shards for batch in shard[start : start + accumulation]]
        for start in range(0, count, accumulation)
    ]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["random", "by length"])
@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=str)
def test_a_step_sees_the_same_examples_on_any_number_of_ranks_and_accumulation_steps(layout, lengths):
    one = [sorted(i for batch in step for i in batch) for step in steps(*LAYOUTS[0], lengths=lengths)]
    other = [sorted(i for batch in step for i in batch) for step in steps(*layout, lengths=lengths)]
    assert other == one
    assert sorted(i for step in one for i in step) == list(range(503))  # each example once an epoch


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_full_steps_are_cut_into_equal_parts_and_the_last_one_evenly(layout):
    *full, last = steps(*layout)
    assert {len(batch) for step in full for batch in step} == {layout[1]}
    sizes = [len(batch) for batch in last]
    assert sum(sizes) == 503 % 16
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= layout[1]


def test_every_rank_gets_an_example_where_fewer_are_left_than_ranks():
    sampler = GlobalBatchSampler(5, 1, ranks=4, seed=0)
    first, last = (list(sampler)[i : i + 4] for i in (0, 4))
    assert [len(batch) for batch in (*first, *last)] == [1] * 8
    assert len({batch[0] for batch in last}) == 1
    assert not any(isinstance(row, StandIn) for batch in first for row in batch)
    assert [isinstance(batch[0], StandIn) for batch in last] == [False, True, True, True]


@pytest.mark.parametrize("labels", [torch.tensor([1]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5])], ids=str)
def test_a_stand_in_has_no_label_where_the_loss_knows_of_that(labels: torch.Tensor):
    for ignores, expected in ((True, torch.full_like(labels, -100)), (False, labels)):
        collate = NumberedCollator(lambda examples: {"labels": labels.clone()}, ignores=ignores)
        assert torch.equal(collate([(StandIn(3), None)])["labels"], expected)
        assert torch.equal(collate([(3, None)])["labels"], labels)


def test_padding_falls_and_ranks_carry_about_the_same():
    def padded(step: list[list[int]]) -> int:
        return sum(len(batch) * int(LENGTHS[batch].max()) for batch in step)

    by_length, random = (sum(map(padded, steps(2, 4, 2, lengths=lengths))) for lengths in (LENGTHS, None))
    assert by_length < 1.2 * LENGTHS.sum()
    assert random > 1.5 * LENGTHS.sum()
    for step in steps(2, 4, 2)[:-1]:
        for micro_step in range(2):
            loads = [LENGTHS[step[rank * 2 + micro_step]].sum() for rank in range(2)]
            assert abs(loads[0] - loads[1]) <= 0.25 * max(loads)


def test_the_longest_example_comes_in_the_first_step_and_each_epoch_has_other_steps():
    sampler = GlobalBatchSampler(503, 16, lengths=LENGTHS)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append({tuple(sorted(step)) for step in sampler.steps()})
        *full, _ = sampler.steps()
        assert LENGTHS[full[0]].max() == LENGTHS[np.concatenate(full)].max()
    assert not epochs[0] & epochs[1]
    assert not epochs[1] & epochs[2]


def test_the_seed_and_the_epoch_decide_alone():
    first, again, other = (GlobalBatchSampler(503, 16, lengths=LENGTHS, seed=seed) for seed in (1, 1, 2))
    assert list(first) == list(again) != list(other)
    assert list(first) == list(first)
    again.set_epoch(1)
    assert list(first) != list(again)


def test_sequential_and_dropped_rest():
    assert list(GlobalBatchSampler(7, 3, shuffle=False)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(GlobalBatchSampler(7, 3, shuffle=False, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert list(GlobalBatchSampler(2, 3, shuffle=False, drop_last=True)) == [[0, 1]]  # never an epoch without a step


def test_further_views_are_counted_on():
    sampler = GlobalBatchSampler(4, 2, shuffle=False, further_views=True)
    sampler.set_epoch(3)
    assert list(sampler) == [[12, 13], [14, 15]]


class _Seen(TrainerCallback):
    """Stops at a step, to go on later."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.stop:
            control.should_save = control.should_training_stop = True


def train(tiny_bert: Path, out: Path, stop: int | None = None, resume: bool = False, **options: Any) -> tuple[Any, Any]:
    """Return the token ids of every micro-batch, and the trained weights."""
    seen: list[list[list[int]]] = []
    rows = [{"input_ids": [2, *[5 + index % 11] * (1 + index % 7), 3], "labels": index % 2} for index in range(22)]

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        ids = torch.tensor([e["input_ids"] + [0] * (longest - len(e["input_ids"])) for e in examples])
        labels = torch.tensor([example["labels"] for example in examples])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs["input_ids"].tolist()), with_kwargs=True)
    args = FineTuningArguments(
        output_dir=str(out), num_train_epochs=3, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        train_sampling_strategy="group_by_length", eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, disable_tqdm=True, **options,
    )  # fmt: skip
    trainer = FineTuningTrainer(
        model, args, train_dataset=Dataset.from_list(rows), data_collator=collate, callbacks=[_Seen(stop)]
    )
    trainer.train(resume_from_checkpoint=resume)
    return seen, {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("stop", [6, 9])  # at the end of an epoch of 6 steps, and in the middle of one
def test_a_resumed_run_sees_the_examples_that_were_left_and_ends_with_the_same_weights(tiny_bert, tmp_path, stop):
    whole, weights = train(tiny_bert, tmp_path / "whole")
    first, _ = train(tiny_bert, tmp_path / "cut", stop=stop)
    rest, resumed = train(tiny_bert, tmp_path / "cut", resume=True)
    assert first + rest == whole
    assert all(torch.equal(resumed[name], value) for name, value in weights.items())


def test_predictions_keep_their_order_where_training_is_grouped_by_length(tiny_bert, tmp_path):
    rows = [{"input_ids": [2, *[5] * (1 + index % 7), 3], "labels": index} for index in range(2)] * 8
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    args = FineTuningArguments(
        output_dir=str(tmp_path), train_sampling_strategy="group_by_length", per_device_eval_batch_size=1,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = FineTuningTrainer(model, args)
    assert trainer.predict(Dataset.from_list(rows)).label_ids.tolist() == [row["labels"] for row in rows]


@pytest.mark.parametrize("option", ["split_batches", "dispatch_batches"])
def test_accelerates_own_division_of_batches_is_refused(tiny_bert, tmp_path, option):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    args = FineTuningArguments(
        output_dir=str(tmp_path), accelerator_config={option: True}, eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False,
    )  # fmt: skip
    with pytest.raises(UserError, match=option):
        FineTuningTrainer(model, args)
