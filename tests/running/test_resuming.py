"""What may be otherwise where something is gone on with."""

from __future__ import annotations

from dataclasses import fields

from hfft.arguments import DataArguments, ModelArguments
from hfft.command_arguments import CrossValidationArguments
from hfft.running import resuming
from hfft.running.resuming import binds_checkpoint, binds_result, differences
from hfft.training_arguments import FineTuningArguments


def test_what_binds_a_checkpoint_binds_a_result_too():
    kinds = (ModelArguments, DataArguments, FineTuningArguments, CrossValidationArguments)
    names = {field.name for kind in kinds for field in fields(kind)}
    assert names >= resuming._CHECKPOINT_DEPENDS_ON | resuming._NO_RESULT_DEPENDS_ON
    assert all(binds_result(name) for name in names if binds_checkpoint(name))


def test_differences_are_told_by_name_and_only_where_they_bind():
    old = {"seed": 1, "num_train_epochs": 3, "cache_dir": "a", "dataloader_num_workers": 0}
    new = {"seed": 2, "num_train_epochs": 4, "cache_dir": "b", "dataloader_num_workers": 2, "freeze": ["2"]}
    assert differences(old, new, binds_checkpoint) == ["freeze was None, now ['2']", "seed was 1, now 2"]
    assert differences(old, new, binds_result) == [
        "freeze was None, now ['2']", "num_train_epochs was 3, now 4", "seed was 1, now 2",
    ]  # fmt: skip
