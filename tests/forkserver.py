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


def start(target: Callable[..., None], *arguments: Any, environment: Mapping[str, str] = os.environ) -> BaseProcess:
    """Start a process that calls a function; libraries have read the tests' environment when they were imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hfft.finetuning"])
    process = context.Process(target=_call, args=(dict(environment), target, *arguments))
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


def call(target: Callable[..., None], *arguments: Any, environment: Mapping[str, str] = os.environ) -> int:
    """Call a function in a process of its own; return the exit code."""
    process = start(target, *arguments, environment=environment)
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
        environment: what it finds there.
        module: whose function ``main`` takes the arguments.
    """
    said = (folder / "stdout.log", folder / "stderr.log")
    for path in said:
        path.touch()
    words, paths = [*map(str, argv)], [*map(str, sites)]
    code = call(_run_main, module, words, folder, paths, said, environment=environment)
    stdout, stderr = (path.read_text("utf-8") for path in said)
    for path in said:
        path.unlink()
    return CompletedProcess(argv, code, stdout, stderr)


def _run_main(module: str, argv: list[str], folder: Path, sites: list[str], said: tuple[Path, Path]) -> None:
    os.chdir(folder)
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
    size, port = str(ranks), str(free_port())
    shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    processes = [
        start(_run_rank, target, arguments, environment={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank})
        for rank in map(str, range(ranks))
    ]
    try:
        while running := [process.sentinel for process in processes if process.exitcode is None]:
            assert wait(running, timeout=600), "they wait for each other"
            _assert_none_failed(processes)  # the others would wait for it
        _assert_none_failed(processes)
    finally:
        for process in processes:
            process.kill()


def _assert_none_failed(processes: Sequence[BaseProcess]) -> None:
    assert not any(process.exitcode for process in processes), [process.exitcode for process in processes]


def _run_rank(target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    target(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """Return a port of this machine that nothing listens to."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]
