"""Runs that are killed, told to stop, find a damaged checkpoint, or cannot write one."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import hfft
from hfft import finetuning
from hfft.callbacks.interruption import StopOnSignal
from hfft.errors import RunInterrupted, UserError
from hfft.storage.checkpoints import SEAL, UNFINISHED, fault_of, newest_whole
from tests.conftest import make_sentences, write_csv
from tests.forkserver import call

_MOMENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


@pytest.fixture(scope="module")
def settings(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small job: a solved head, evaluations and checkpoints in the middle of epochs and at their ends."""
    folder = tmp_path_factory.mktemp("texts")
    write_csv(folder / "train.csv", make_sentences(36, 1))
    write_csv(folder / "test.csv", make_sentences(12, 2))
    return {
        "model": str(tiny_bert), "data": str(folder), "num_train_epochs": 2, "per_device_train_batch_size": 4,
        "seed": 3, "learning_rate": 5e-3, "strategy": "lp-ft", "eval_strategy": "steps", "eval_steps": 3,
        "save_strategy": "steps", "save_steps": 3, "save_total_limit": 2, "disable_tqdm": True,
        "cache_dir": str(folder / "cache"),
    }  # fmt: skip


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sum up as the other processes do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], int]:
    """The weights of a run that nothing disturbs, and its moments."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(settings, out, moment=0) == 0
    return load_file(out / "model.safetensors"), int((out / "moments").read_text())


def run(settings: dict[str, Any], out: Path, moment: int, number: int = 9) -> int:
    """Go on with a run in a process that sends itself a signal at one of its moments; return its exit code."""
    return call(_run, {**settings, "output_dir": str(out)}, moment, number)


def _run(settings: dict[str, Any], moment: int, number: int) -> None:
    from hfft.cli import main

    torch.set_num_threads(1)
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), number)

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _MOMENTS and str(arguments[0]).startswith(settings["output_dir"]):
            count()

    step = torch.optim.AdamW.step
    torch.optim.AdamW.step = lambda *args, **kw: (count(), step(*args, **kw))[1]  # type: ignore[method-assign]
    sys.addaudithook(audited)
    code = main(
        ["train", *(text for name, value in settings.items() for text in (f"--{name}", str(value))), "--resume"]
    )
    moments, out = seen, Path(settings["output_dir"])
    if out.is_dir():
        (out / "moments").write_text(str(moments))
    sys.exit(code)


def same(out: Path, weights: dict[str, torch.Tensor]) -> bool:
    found = load_file(out / "model.safetensors")
    return found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)


def killed_and_resumed(settings, whole, out: Path, seed: int) -> None:
    """Kill a job at random moments of training and of writing, until it comes through."""
    weights, moments = whole
    generator = random.Random(seed)
    moment = generator.randint(1, moments)
    assert run(settings, out, moment) == -signal.SIGKILL
    while run(settings, out, moment := generator.randint(1, 2 * moments)) == -signal.SIGKILL:
        pass
    assert same(out, weights)
    assert not (out / UNFINISHED).exists()


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_run_goes_on_to_the_same_weights(settings, whole, tmp_path: Path, seed: int):
    killed_and_resumed(settings, whole, tmp_path / "out", seed)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(3, 53))
def test_fifty_killed_runs_go_on_to_the_same_weights(settings, whole, tmp_path: Path, seed: int):
    killed_and_resumed(settings, whole, tmp_path / "out", seed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_finishes_the_step_saves_and_leaves(settings, whole, tmp_path, number):
    weights, moments = whole
    out = tmp_path / "out"
    assert run(settings, out, moments // 2, int(number)) == 75
    checkpoint, skipped = newest_whole(out)
    assert checkpoint is not None
    assert not skipped
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
    assert 0 < state["global_step"] < state["max_steps"]
    assert not (out / "model.safetensors").exists()
    assert run(settings, out, 0) == 0
    assert same(out, weights)


@pytest.mark.usefixtures("one_thread")
def test_what_is_damaged_is_passed_over_and_told(settings, whole, tmp_path: Path, capsys):
    weights, moments = whole
    out = tmp_path / "out"
    assert run({**settings, "save_total_limit": 9}, out, moments * 2 // 3, int(signal.SIGTERM)) == 75
    newest, second, third, *_ = sorted(out.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    with (newest / "optimizer.pt").open("r+b") as file:
        file.write(b"\0\0\0\0")
    (second / SEAL).unlink()
    assert fault_of(newest) == "optimizer.pt is damaged"
    assert fault_of(third) is None
    checkpoint, skipped = newest_whole(out)
    assert checkpoint == str(third)
    assert skipped == [f"{newest.name} (optimizer.pt is damaged)", f"{second.name} (it was not finished)"]
    result = hfft.finetune(**{**settings, "output_dir": str(out), "resume": True})
    assert f"Passed over: {', '.join(skipped)}." in " ".join(capsys.readouterr().out.split())
    assert same(Path(result.output_dir), weights)


@pytest.mark.usefixtures("one_thread")
def test_a_checkpoint_that_cannot_be_written_leaves_those_before(settings, whole, tmp_path: Path, monkeypatch):
    out, save, saved = tmp_path / "out", torch.save, []

    def full(*args: Any, **kwargs: Any) -> None:
        saved.append(1)
        if len(saved) > 6:
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"checkpoint-\d+ cannot be written to .*: No space left on device"):
        hfft.finetune(**{**settings, "output_dir": str(out)})
    checkpoint, skipped = newest_whole(out)
    assert checkpoint is not None
    assert not skipped
    monkeypatch.setattr(torch, "save", save)
    hfft.finetune(**{**settings, "output_dir": str(out), "resume": True})
    assert same(out, whole[0])


def test_a_second_signal_is_not_waited_for(settings, tmp_path: Path):
    stop = StopOnSignal()
    before = signal.getsignal(signal.SIGINT)
    stop.on_train_begin(None, None, None)
    try:
        signal.raise_signal(signal.SIGINT)
        assert stop.caught == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        stop.release()
    assert signal.getsignal(signal.SIGINT) is before


def add_callback(patch: pytest.MonkeyPatch, callback: TrainerCallback) -> None:
    """Give the trainers of runs one more callback."""
    make = finetuning.make_trainer

    def with_callback(*args: Any, **kwargs: Any) -> Any:
        trainer = make(*args, **kwargs)
        trainer.add_callback(callback)
        return trainer

    patch.setattr(finetuning, "make_trainer", with_callback)


def test_python_gets_an_exception_that_names_the_checkpoint(settings, tmp_path: Path):
    class Interrupt(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        add_callback(patch, Interrupt())
        with pytest.raises(RunInterrupted, match="--resume goes on") as caught:
            hfft.finetune(**{**settings, "output_dir": str(tmp_path / "out")})
    assert caught.value.checkpoint == str(tmp_path / "out" / "checkpoint-5")


class Epochs(TrainerCallback):
    """A clock that each epoch puts forward by 20 seconds; notes when checkpoints were told of."""

    def __init__(self) -> None:
        self.now, self.told = 1000.0, list[int]()

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.now += 20

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.told.append(state.global_step)


def epochs_saved(settings: dict[str, Any], patch: pytest.MonkeyPatch, **chosen: Any) -> tuple[list[int], Any]:
    """Return the epochs after which a run of seven has saved, 0 for the start, and the run."""
    epochs = Epochs()
    add_callback(patch, epochs)
    patch.setattr("hfft.storage.checkpoints.time", SimpleNamespace(monotonic=lambda: epochs.now))
    own = {**settings, "eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 7}
    run = hfft.finetune(**{**own, "save_total_limit": 20, **chosen})
    steps = sorted(int(path.name.partition("-")[2]) for path in Path(run.output_dir).glob("checkpoint-*"))
    assert epochs.told == [step for step in steps if step]
    return [step * 7 // run.trainer.state.max_steps for step in steps], run


@pytest.mark.parametrize(("seconds", "saved"), [(0, [1, 2, 3, 4, 5, 6, 7]), (30, [1, 3, 5, 7]), (1e9, [1, 7])])
def test_short_epochs_share_a_checkpoint(settings, tmp_path: Path, monkeypatch, seconds: float, saved: list[int]):
    own = {"strategy": "full", "validation_size": 0, "save_seconds": seconds, "output_dir": str(tmp_path / "out")}
    assert epochs_saved(settings, monkeypatch, **own)[0] == saved


@pytest.mark.parametrize("rate", [3.0, 5e-3])
def test_the_best_checkpoint_is_saved_however_short_its_epoch_is(settings, tmp_path: Path, monkeypatch, rate: float):
    own = {"learning_rate": rate, "save_seconds": 1e9, "output_dir": str(tmp_path / "out")}
    own |= {"head_penalty": 1e3} if rate < 1 else {}  # a head that is sure of nothing is easily bettered
    saved, run = epochs_saved(settings, monkeypatch, **own)
    losses = [entry["eval_loss"] for entry in run.record.history if "eval_loss" in entry]
    assert len(losses) == 8
    better = [epoch for epoch in range(8) if losses[epoch] < min(losses[:epoch], default=math.inf)]
    assert saved == sorted({*better, 7})
    assert (better == [0]) == (rate > 1)


def test_a_run_that_is_told_to_stop_saves_however_short_its_epoch_is(settings, tmp_path: Path, monkeypatch):
    class Interrupt(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if round(state.epoch) == 3:
                control.should_training_stop = True

    add_callback(monkeypatch, Interrupt())
    own = {"strategy": "full", "validation_size": 0, "save_seconds": 1e9, "output_dir": str(tmp_path / "out")}
    assert epochs_saved(settings, monkeypatch, **own)[0] == [1, 3]
