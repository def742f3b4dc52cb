"""What breaks off a run from outside: each time one sentence, and nothing trained is lost."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import get_worker_info

import hfft
from hfft import UserError, cli
from hfft.commands.frame import Command
from hfft.commands.looking import tasks_parser
from hfft.data.prepared import PreparedDataset
from hfft.errors import ProcessError
from hfft.record import RunRecord
from hfft.storage.checkpoints import newest_whole
from tests.conftest import make_sentences, write_csv


@pytest.fixture(autouse=True, scope="module")
def _impatience() -> Iterator[None]:
    """Wait for loading processes that do not end 0.1 seconds in place of 5."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
        yield
        gc.collect()


@pytest.fixture
def settings(tiny_bert: Path, tmp_path: Path) -> dict[str, Any]:
    write_csv(tmp_path / "train.csv", make_sentences(16, 1))
    return {
        "model": str(tiny_bert), "data": str(tmp_path / "train.csv"), "num_train_epochs": 2, "disable_tqdm": True,
        "output_dir": str(tmp_path / "out"),
    }  # fmt: skip


def test_a_data_loading_process_that_dies_is_told_and_the_run_can_go_on(settings, monkeypatch):
    read, out = PreparedDataset.__getitems__, Path(settings["output_dir"])

    def dies(data: PreparedDataset, rows: list[int]) -> Any:
        if get_worker_info() is not None and list(out.glob("checkpoint-*")):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(data, rows)

    monkeypatch.setattr(PreparedDataset, "__getitems__", dies)
    with pytest.raises(ProcessError, match=r"process that loads data died: killed by signal: Killed\. .*--resume"):
        hfft.finetune(**settings, dataloader_num_workers=1)
    checkpoint, skipped = newest_whole(out)
    assert checkpoint is not None
    assert not skipped


def test_an_input_found_bad_in_a_loading_process_is_told_as_in_this_one(settings, monkeypatch):
    def bad(data: PreparedDataset, rows: list[int]) -> Any:
        assert get_worker_info() is not None
        raise UserError("train.csv, row 3: the text\nis gone")

    monkeypatch.setattr(PreparedDataset, "__getitems__", bad)
    with pytest.raises(UserError) as error:
        hfft.finetune(**settings, dataloader_num_workers=1)
    assert str(error.value) == "train.csv, row 3: the text\nis gone"


def test_a_report_that_cannot_be_written_leaves_the_model(settings, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunRecord, "write_predictions", full)
    with pytest.raises(UserError, match=r"metrics and report cannot be written to '.*out': No space left on device\."):
        hfft.finetune(**settings)
    assert (Path(settings["output_dir"]) / "model.safetensors").is_file()


def test_a_folder_that_is_taken_away_is_an_error_in_a_sentence(settings, monkeypatch):
    save = torch.save

    def taken(value: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        file = Path(str(file))
        Path(settings["output_dir"]).rename(f"{settings['output_dir']}-gone")
        save(value, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", taken)
    with pytest.raises(UserError, match="checkpoint-2 cannot be written"):
        hfft.finetune(**settings, per_device_train_batch_size=8, save_strategy="steps", save_steps=2, eval_steps=2,
                      eval_strategy="steps", strategy="full")  # fmt: skip


def test_predicting_without_memory_says_what_helps(settings, monkeypatch):
    hfft.finetune(**settings)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.nn.Embedding, "forward", full)
    with pytest.raises(UserError, match=r"memory of the device is too small\. Lower --batch_size"):
        hfft.predict(settings["output_dir"], settings["data"])


@pytest.mark.parametrize(("error", "told"), [(ProcessError("the memory"), True), (UserError("the flag"), False)])
def test_what_one_process_met_alone_it_says_itself(error, told, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")

    def fail(_: Any) -> int:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "tasks", Command(tasks_parser, fail))
    assert cli.main(["tasks"]) == 2
    assert capsys.readouterr().err == ("hfft: process 1: the memory\n" if told else "")
