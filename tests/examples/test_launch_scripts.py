"""The launch scripts in examples/launch start what they say, as far as that shows without the hardware."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from torch.distributed.run import config_from_args, get_args_parser

EXAMPLES = Path(__file__).parents[2] / "examples"
LAUNCH = EXAMPLES / "launch"
CONFIGS = sorted(path.stem for path in (EXAMPLES / "accelerate").glob("*.yaml"))
RUN = ["-m", "hfft", "train", "--config", "run.yaml"]
TELLING = """#!/usr/bin/env bash
case $(basename "$0") in
    scontrol) printf 'node7\\nnode8\\n' ;;
    srun) exec "$@" ;;
    *) printf '%s\\n' "$(basename "$0")" "$@" > called ;;
esac
"""


@pytest.fixture
def called(tmp_path: Path):
    """Run a script where the launchers only write down how they are called; returns the words."""
    for name in ("accelerate", "torchrun", "srun", "scontrol"):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(TELLING)
        command.chmod(0o755)

    def called(script: str, *argv: str, **environment: str) -> list[str]:
        names = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **environment}
        done = subprocess.run(
            [LAUNCH / script, *argv], cwd=tmp_path, env=names, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return (tmp_path / "called").read_text().splitlines()

    return called


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_is_told_each_configuration(called, name: str):
    command, launch, *argv = called("accelerate.sh", name, "run.yaml", "--seed", "3")
    assert (command, launch) == ("accelerate", "launch")
    parsed = launch_command_parser().parse_args(argv)
    _validate_launch_command(parsed)
    assert Path(parsed.config_file).resolve() == EXAMPLES / "accelerate" / f"{name}.yaml"
    assert (parsed.training_script, *parsed.training_script_args) == (*RUN[1:], "--seed", "3")


@pytest.mark.parametrize("rank", [0, 1])
def test_accelerate_is_told_which_of_two_machines_this_is(called, rank: int):
    _, _, *argv = called("accelerate.sh", "two_nodes", "run.yaml", MACHINE_RANK=str(rank), MAIN_ADDRESS="10.1.2.3")
    parsed, _, _ = _validate_launch_command(launch_command_parser().parse_args(argv))
    assert (parsed.machine_rank, parsed.main_process_ip, parsed.num_machines) == (rank, "10.1.2.3", 2)


def parsed_by_torchrun(words: list[str]):
    assert words[0] == "torchrun"
    parsed = get_args_parser().parse_args(words[1:])
    config, _, _ = config_from_args(parsed)
    return parsed, config


def test_torchrun_on_one_node_starts_so_many_processes(called):
    parsed, config = parsed_by_torchrun(called("torchrun_one_node.sh", "run.yaml", "--use_cpu", "true", PROCESSES="2"))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (1, 1, 2)
    assert ["-m", parsed.training_script, *parsed.training_script_args] == [*RUN, "--use_cpu", "true"]
    assert "gpu" in called("torchrun_one_node.sh", "run.yaml")


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_on_two_nodes_meets_on_the_first(called, rank: int):
    place = {"NODE_RANK": str(rank), "MAIN_ADDRESS": "10.1.2.3", "PROCESSES": "8"}
    parsed, config = parsed_by_torchrun(called("torchrun_two_nodes.sh", "run.yaml", **place))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 8)
    assert (config.rdzv_endpoint, config.rdzv_configs["rank"]) == ("10.1.2.3:29500", rank)
    assert ["-m", parsed.training_script, *parsed.training_script_args] == RUN


def test_slurm_starts_a_torchrun_on_each_node_that_goes_on(called):
    job = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "41"}
    words = called("slurm.sh", "run.yaml", "--seed", "3", **job)
    words[words.index("gpu")] = "4"  # as torchrun would find on a node
    parsed, config = parsed_by_torchrun(words)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 4)
    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "node7:29500", "41")
    assert ["-m", parsed.training_script, *parsed.training_script_args] == [*RUN, "--resume", "true", "--seed", "3"]


def test_slurm_reads_all_its_directives():
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    first_command = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [index for index, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert directives
    assert max(directives) < first_command  # sbatch reads no further


@pytest.mark.parametrize("script", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_a_script_without_a_run_says_what_is_missing(script: Path):
    done = subprocess.run([script], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "the YAML file of a run" in done.stderr or "which of" in done.stderr


def test_two_nodes_meet(tmp_path: Path):
    """Both nodes are this machine with a process each, and what they start tells the world that it sees."""
    (tmp_path / "hfft").mkdir()
    (tmp_path / "hfft" / "__init__.py").touch()
    (tmp_path / "hfft" / "__main__.py").write_text(
        "import os, sys\n"
        "names = ('RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_PORT')\n"
        "open('rank' + os.environ['RANK'], 'w').write(' '.join([*map(os.environ.get, names), *sys.argv[1:]]))\n"
    )
    (tmp_path / "torchrun").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m torch.distributed.run "$@"\n')
    (tmp_path / "torchrun").chmod(0o755)
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = str(listening.getsockname()[1])
    place = {**os.environ, "MAIN_ADDRESS": "localhost", "MAIN_PORT": port, "PROCESSES": "1"}
    place["PATH"] = f"{tmp_path}:{place['PATH']}"
    command = [LAUNCH / "torchrun_two_nodes.sh", "run.yaml"]
    nodes = [subprocess.Popen(command, cwd=tmp_path, env={**place, "NODE_RANK": rank}) for rank in "01"]
    try:
        codes = [node.wait(120) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert codes == [0, 0]
    told = [(tmp_path / f"rank{rank}").read_text() for rank in range(2)]
    assert told == [f"{rank} 2 1 {port} train --config run.yaml" for rank in range(2)]
