"""Start jobs on several processes, and compare what came out with what one process makes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from safetensors.numpy import load_file

from tests.distributed.cells import FEATURES, LAUNCHERS, TEST, VALIDATION, Feature, Launcher, Material
from tests.distributed.jobs import FACTS, run_jobs

TOLERANCE = 1e-5
_SMALL = 1e-2  # numbers below are compared as if they were of this size


def torchrun(ranks: int, nodes: int, argv: list[str], folder: Path, timeout: float = 600) -> None:
    """Run a module on so many processes; on several nodes each is an agent of its own, and they meet on loopback."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks // nodes)]
    if nodes == 1:
        command += ["--standalone"]
    else:
        meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{_free_port()}", "--rdzv_id", "jobs"]
        command += ["--nnodes", str(nodes), "--local_addr", "localhost", *meeting]
    logs = [(folder / f"agent-{node}.log").open("w") for node in range(nodes)]
    agents = [
        subprocess.Popen([*command, *argv], stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=Path.cwd())
        for log in logs
    ]
    try:
        codes = [agent.wait(timeout) for agent in agents]
    finally:
        for agent, log in zip(agents, logs, strict=True):
            agent.kill()
            log.close()
    assert not any(codes), "\n".join((folder / f"agent-{node}.log").read_text()[-6000:] for node in range(nodes))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


@dataclass
class Runs:
    """The runs of all cells below a folder; those of one process are shared between launchers."""

    root: Path
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.material = Material(self.root / "material")

    def launch(self, cells: Iterable[tuple[str, str]], more: list[dict[str, Any]] | None = None) -> None:
        """Run (feature, launcher) cells of launchers with the same processes, and other jobs, in one launch."""
        cells = list(cells)
        shape = LAUNCHERS[cells[0][1]]
        jobs = [self._job(feature, LAUNCHERS[name], self.folder(feature, name)) for feature, name in cells]
        folder = self.root / f"launch-{shape.ranks}-{shape.nodes}"
        folder.mkdir(parents=True)
        torchrun(shape.ranks, shape.nodes, ["-m", "tests.distributed.jobs", str(_write(jobs + (more or []), folder))], folder)

    def one_process(self, feature: str, examples: int) -> Path:
        """Return the folder of a run on one process, which is made here when it is first asked for."""
        folder = self.root / f"one-{examples}" / _slug(feature)
        if not folder.exists():
            job = self._job(feature, None, folder, examples) | {"stop_at": None, "disagree": False}
            run_jobs(_write([job], folder.parent), rank=0)
        return folder

    def folder(self, feature: str, launcher: str) -> Path:
        """Return where a cell's run is."""
        return self.root / _slug(launcher) / _slug(feature)

    def difference(self, feature: str, launcher: str) -> float:
        """Return the largest relative difference of a cell from one process; raises AssertionError for any other."""
        layout = LAUNCHERS[launcher]
        several, one = self.folder(feature, launcher), self.one_process(feature, layout.examples)
        _assert_same_decisions(FEATURES[feature], layout, several, one)
        return max(_differences(several, one).values())

    def _job(self, feature: str, launcher: Launcher | None, folder: Path, examples: int = 0) -> dict[str, Any]:
        asked = FEATURES[feature]
        settings = self.material.settings(asked, launcher, launcher.examples if launcher else examples)
        settings |= {"output_dir": str(folder), "cache_dir": str(folder.with_suffix(".cache"))}
        return {"kind": "train", "settings": settings, "stop_at": asked.stop_at, "disagree": asked.disagree}


def _write(jobs: list[dict[str, Any]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return folder / "jobs.json"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _facts(folder: Path, ranks: int) -> list[dict[str, Any]]:
    return [json.loads((folder / FACTS.format(rank)).read_text()) for rank in range(ranks)]


def _assert_same_decisions(feature: Feature, layout: Launcher, several: Path, one: Path) -> None:
    """Assert that all ranks have decided as one process does, and that nothing was left out or counted twice."""
    found, (expected,) = _facts(several, layout.ranks), _facts(one, 1)
    for facts in found:
        assert facts["codes"] == ([0] if feature.stop_at is None else [75, 0])
        assert facts["world_size"] == layout.ranks
        assert not feature.trains or facts["wrapped"] == "DistributedDataParallel"
        assert facts.get("steps") == expected.get("steps")
        assert feature.stop_at is None or facts["stopped_after"] == feature.stop_at + 1
        assert facts["best"] == expected["best"]
        assert facts["metrics"] == found[0]["metrics"]
    assert found[0]["notes"] == expected["notes"]
    assert any(name.startswith(feature.keeps) for name in found[0]["kept"])
    steps = len(range(0, layout.examples, 12))
    assert feature.stops_early == (feature.trains and expected["steps"] < steps * feature.settings.get("num_train_epochs", 3))
    counts = {name: found[0]["metrics"][f"{name}_examples"] for name in ("train", "validation", "test")}
    if feature.trains:
        assert counts == {"train": layout.examples, "validation": VALIDATION, "test": TEST}
    left_out = [json.loads((folder / "data_report.json").read_text()) for folder in (several, one)]
    assert left_out[0] == left_out[1]
    assert len(pandas.read_parquet(several / "predictions.parquet")) == TEST


def _differences(several: Path, one: Path) -> dict[str, float]:
    """Return what differs by how much: weights, predictions, metrics, and the losses on the way."""
    weights, expected = load_file(several / "model.safetensors"), load_file(one / "model.safetensors")
    assert weights.keys() == expected.keys()
    differences = {name: relative_difference(weights[name], expected[name]) for name in expected}
    predictions, predicted = (pandas.read_parquet(folder / "predictions.parquet") for folder in (several, one))
    for name in predicted.columns:
        if predicted[name].dtype.kind == "f":
            differences[name] = relative_difference(predictions[name].to_numpy(), predicted[name].to_numpy())
        else:
            assert predictions[name].tolist() == predicted[name].tolist(), name
    found, before = (_facts(folder, 1)[0] for folder in (several, one))
    assert found["metrics"].keys() == before["metrics"].keys()
    for name, value in before["metrics"].items():
        differences[name] = relative_difference(np.asarray(found["metrics"][name]), np.asarray(value))
    if len(found["codes"]) == 1:  # the norm of a gradient in a step that a stop has logged is not in the other's log
        differences["losses"] = relative_difference(np.asarray(found.get("losses")), np.asarray(before.get("losses")))
    for name, difference in differences.items():
        assert difference < TOLERANCE, f"{name}: {difference}"
    return differences


def relative_difference(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the largest number."""
    if not expected.size:
        return 0.0
    return float(np.abs(values - expected).max() / max(float(np.abs(expected).max()), _SMALL))
