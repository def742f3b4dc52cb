from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import hfft
from hfft import LayerStack, UnfreezeSchedule, UserError
from hfft.freezing import put_frozen_in_eval_mode, select_parameters


def bert() -> BertForSequenceClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(**sizes, vocab_size=20))


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        ({"groups": 4, "steps_per_stage": 10}, (30, 20, 10, 0)),
        ({"groups": 4, "steps_per_stage": 2.5}, (8, 5, 3, 0)),
        ({"groups": 5, "steps_per_stage": 10, "groups_per_stage": 2}, (20, 20, 10, 10, 0)),
        ({"groups": 1, "steps_per_stage": 10}, (0,)),
    ],
)
def test_stages_thaw_from_the_top_down(options, starts):
    assert UnfreezeSchedule.in_stages(**options).starts == starts


def test_explicit_steps_leave_what_they_do_not_name_frozen():
    schedule = UnfreezeSchedule.at_steps(4, [0, 5, 9])
    assert schedule.starts == (None, 9, 5, 0)
    assert schedule.never(100) == [0]
    assert schedule.never(9) == [0, 1]


@pytest.mark.parametrize("steps", [[0, 5, 3], [-1], [0, 1, 2, 3, 4]])
def test_steps_that_make_no_schedule_are_an_error(steps):
    with pytest.raises(UserError, match="rise from the head down"):
        UnfreezeSchedule.at_steps(4, steps)


def test_nothing_once_trained_is_frozen_again():
    schedule = UnfreezeSchedule.in_stages(6, 3.7, groups_per_stage=2)
    trains = [[schedule.trains(group, step) for group in range(6)] for step in range(30)]
    for before, after in itertools.pairwise(trains):
        assert all(now for was, now in zip(before, after, strict=True) if was)
    assert [step for step in range(30) if schedule.thaws_at(step)] == [4, 8, 12]


def test_a_thawed_group_warms_up():
    schedule = UnfreezeSchedule((20, 10, 0), rewarm_steps=3)
    assert [schedule.factor(1, step) for step in (0, 9, 10, 11, 12, 13, 14)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert [schedule.factor(2, step) for step in (0, 1)] == [1, 1]
    assert UnfreezeSchedule((10, 0), rewarm_steps=0).factor(0, 10) == 1
    assert UnfreezeSchedule.in_stages(3, 2, rewarm_steps=10).rewarm_steps == 2


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        (["2"], {"bert.embeddings", "bert.encoder.layer.0"}),
        (["stem"], {"bert.embeddings"}),
        (["bert.encoder.layer.1"], {"bert.encoder.layer.1"}),
        ([r"layer\.[02]\."], {"bert.encoder.layer.0", "bert.encoder.layer.2"}),
        (["stem", "bert.encoder.layer.0"], {"bert.embeddings", "bert.encoder.layer.0"}),
    ],
)
def test_freeze_names_groups_numbers_and_patterns(freeze, frozen):
    model = bert()
    names = select_parameters(model, LayerStack.from_model(model), freeze)
    expected = [name for name, _ in model.named_parameters() if name.startswith(tuple(f"{path}." for path in frozen))]
    assert names == expected


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["9"], "5 layer groups, got 9"),
        (["5"], "nothing would be left"),
        (["bert.encoder.layr.0"], "Did you mean 'bert.encoder.layer.0'"),
        (["(a"], "no regular expression"),
    ],
)
def test_what_cannot_be_frozen_is_an_error(freeze, message):
    model = bert()
    with pytest.raises(UserError, match=message):
        select_parameters(model, LayerStack.from_model(model), freeze)


def test_only_what_is_frozen_whole_runs_in_eval_mode():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2)), nn.Dropout(), nn.Linear(2, 2)
    )
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    model.train()
    assert put_frozen_in_eval_mode(model) is False
    modes = {name: module.training for name, module in model.named_modules()}
    assert modes == {"": True, "0": False, "0.0": False, "0.1": False, "0.2": False, "1": True, "2": True}
    model[0][0].weight.requires_grad_(True)
    model.train()
    put_frozen_in_eval_mode(model)
    assert model[0][1].training
    assert not model[0][2].training


def test_what_is_frozen_for_good_stays_bit_for_bit_with_its_statistics(tiny_timm: Path, image_folder, tmp_path: Path):
    settings = {
        "model": str(tiny_timm),
        "data": str(image_folder),
        "strategy": "full",
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "freeze_batch_norm": False,
        "freeze": ["2"],
    }
    trained = hfft.finetune(output_dir=str(tmp_path / "out"), **settings).trainer.model.cpu()
    stack = LayerStack.from_model(trained)
    frozen = {name for group in stack[:2] for name in group.parameter_names}
    from safetensors.torch import load_file

    before = load_file(tiny_timm / "model.safetensors")
    state = {name.removeprefix("timm_model."): value for name, value in trained.state_dict().items()}
    prefixes = {name.removeprefix("timm_model.").rpartition(".")[0] for name in frozen}
    moved = {name for name, value in before.items() if not torch.equal(value, state[name])}
    held = {name for name in before if name.rpartition(".")[0] in prefixes}
    assert any("running_mean" in name for name in held)
    assert not held & moved
    assert any("running_mean" in name for name in moved)
    assert (tmp_path / "out" / "run.yaml").read_text().count("freeze:") == 1
