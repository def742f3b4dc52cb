"""Processes that need not import the libraries anew, which takes longer than most of what they are asked for."""

from __future__ import annotations

import atexit
import gc
import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process that calls a function."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hfft.finetuning"])
    process = context.Process(target=_call, args=(dict(os.environ), target, *arguments))
    process.start()
    return process


def _call(environment: dict[str, str], target: Callable[..., None], *arguments: Any) -> None:
    from datasets import fingerprint

    os.environ.clear()  # of when the first process was forked
    os.environ.update(environment)
    fingerprint.fingerprint_rng.seed()  # or all processes draw the same names of what they keep
    gc.freeze()  # or each training looks through all that the imports have made
    multiprocessing.set_start_method(None, force=True)  # the system's own, as in a process that is started anew
    target(*arguments)


def call(target: Callable[..., None], *arguments: Any) -> int:
    """Call a function in a process of its own; return the exit code."""
    process = start(target, *arguments)
    process.join(timeout=240)
    code = process.exitcode
    process.kill()
    assert code is not None, "it had not come to its end"
    return code


def run_hfft(
    argv: Sequence[object],
    folder: Path,
    *sites: Path,
    environment: Mapping[str, str] = os.environ,
    module: str = "hfft.cli",
) -> CompletedProcess[str]:
    """Run a command of hfft, or of another module, in a folder.

    Args:
        argv: its arguments.
        folder: where it is run.
        sites: paths of packages that are installed for it.
        environment: what it finds there; what libraries read of it when they are imported is that of the tests.
        module: whose function ``main`` takes the arguments.
    """
    said = (folder / "stdout.log", folder / "stderr.log")
    for path in said:
        path.touch()
    code = call(_run_main, module, [*map(str, argv)], folder, [*map(str, sites)], dict(environment), said)
    stdout, stderr = (path.read_text("utf-8") for path in said)
    for path in said:
        path.unlink()
    return CompletedProcess(argv, code, stdout, stderr)


def _run_main(
    module: str, argv: list[str], folder: Path, sites: list[str], environment: dict[str, str], said: tuple[Path, Path]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = sites
    for descriptor, path in enumerate(said, start=1):
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)
    try:
        sys.exit(importlib.import_module(module).main(argv))
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def run_ranks(ranks: int, target: Callable[..., None], *arguments: Any) -> None:
    """Call a function in so many processes, in the environment that ``torchrun`` would start them in."""
    shared = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    processes = [
        start(_run_rank, {**shared, "RANK": rank, "LOCAL_RANK": rank}, target, arguments) for rank in range(ranks)
    ]
    try:
        while running := [process.sentinel for process in processes if process.exitcode is None]:
            assert wait(running, timeout=600), "they wait for each other"
            failed = [process.exitcode for process in processes if process.exitcode]
            assert not failed, failed  # the others would wait for it
    finally:
        for process in processes:
            process.kill()


def _run_rank(environment: Mapping[str, int | str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    target(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """Return a port of this machine that nothing listens to."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]
