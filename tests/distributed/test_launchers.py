"""The configurations in examples/accelerate, and what launchers really start."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from tests.forkserver import run_hfft

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = sorted((EXAMPLES / "accelerate").glob("*.yaml"))
PREFIXES = {"fsdp_config": "fsdp_"}


def launcher_arguments(name: str) -> Namespace:
    """Return what ``accelerate launch`` makes of a configuration."""
    path = EXAMPLES / "accelerate" / f"{name}.yaml"
    flags = ["--config_file", str(path), "--main_process_port", "0", "-m", "hfft", "train"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(flags))
    args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return args


def test_there_is_a_configuration_for_each_kind_of_hardware():
    names = ["cpu", "deepspeed_zero2", "deepspeed_zero3", "fsdp2", "one_gpu", "several_gpus", "two_nodes"]
    assert [path.stem for path in CONFIGS] == names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_key_is_one_of_the_launcher(path: Path):
    load_config_from_file(str(path))  # knows the keys at the top
    known = vars(launch_command_parser().parse_args(["script.py"]))
    for section, settings in yaml.safe_load(path.read_text()).items():
        prefix = PREFIXES.get(section, "")
        for key in settings if isinstance(settings, dict) else ():
            assert (key if key.startswith(prefix) else prefix + key) in known, key
    launcher_arguments(path.stem)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_command_on_top_is_complete(path: Path):
    commands = [line.removeprefix("#").split() for line in path.read_text().splitlines() if "accelerate launch" in line]
    for command in filter(lambda words: words[:2] == ["accelerate", "launch"], commands):
        args = launch_command_parser().parse_args(command[2:])
        assert (Path(args.config_file).name, args.training_script) == (path.name, "hfft")
        assert args.training_script_args[:3] == ["train", "--config", "run.yaml"]
    assert commands


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("one_gpu", {"multi_gpu": False, "use_fsdp": False, "use_deepspeed": False, "num_processes": 1}),
        ("several_gpus", {"multi_gpu": True, "num_processes": 4, "num_machines": 1}),
        ("two_nodes", {"multi_gpu": True, "num_processes": 16, "num_machines": 2, "machine_rank": 0}),
        ("fsdp2", {"use_fsdp": True, "fsdp_version": 2, "num_processes": 4}),
        ("deepspeed_zero2", {"use_deepspeed": True, "zero_stage": 2, "num_processes": 4}),
        ("deepspeed_zero3", {"use_deepspeed": True, "zero_stage": 3, "zero3_save_16bit_model": True}),
        ("cpu", {"multi_gpu": True, "use_cpu": True, "num_processes": 2}),  # MULTI_CPU starts one process
    ],
)
def test_a_configuration_means_what_its_name_says(name: str, meant: dict[str, Any]):
    args = vars(launcher_arguments(name))
    assert {key: args[key] for key in meant} == meant


def test_each_of_two_nodes_starts_its_half():
    args = launcher_arguments("two_nodes")
    prepare_multi_gpu_env(args)
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "8", 0)
    assert args.rdzv_endpoint.startswith("10.0.0.1:")


def test_what_reaches_fsdp_is_its_second_version(monkeypatch: pytest.MonkeyPatch):
    for name, value in prepare_multi_gpu_env(launcher_arguments("fsdp2")).items():
        if name.startswith(("FSDP", "ACCELERATE")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)


@pytest.mark.parametrize("stage", [2, 3])
def test_what_reaches_deepspeed_is_the_stage(stage: int):
    _, environment = prepare_deepspeed_cmd_env(launcher_arguments(f"deepspeed_zero{stage}"))
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    # the run's own are taken
    own = ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_GRADIENT_CLIPPING", "ACCELERATE_DEEPSPEED_CONFIG_FILE")
    assert not set(own) & set(environment)


def run_one_process(flags: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``hfft train`` as ``accelerate launch`` starts a single process: it only fills the environment."""
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(flags))
    assert not any((args.multi_gpu, args.use_fsdp, args.use_deepspeed))
    (python, *module), environment = prepare_simple_launcher_cmd_env(args)
    assert (python, *module[:3]) == (sys.executable, "-m", "hfft", "train")
    return run_hfft(module[2:], folder, environment=environment)


def test_a_launcher_that_starts_one_process_of_two_is_refused(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    flags = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "-m", "hfft", "train"]
    argv = ["--model", str(tiny_bert), "--data", str(text_folder), "--output_dir", "out"]
    done = run_one_process([*flags, *argv], tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("asked for several processes, but has started one: add --multi_gpu") == 1
    assert not (tmp_path / "out").exists()


def test_one_process_of_accelerate_trains_from_a_yaml_file(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    settings = {"model": str(tiny_bert), "data": str(text_folder), "output_dir": "out", "num_train_epochs": 1}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    one = ["--config_file", str(EXAMPLES / "accelerate" / "one_gpu.yaml")]
    done = run_one_process([*one, "-m", "hfft", "train", "--config", "run.yaml"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"model.safetensors", "metrics.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_the_script_does_nothing_when_it_is_imported():
    path = EXAMPLES / "train_with_accelerate.py"
    spec = importlib.util.spec_from_file_location("train_with_accelerate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.main)
