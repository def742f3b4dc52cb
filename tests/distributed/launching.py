"""Start jobs on several processes, and compare what came out with what one process makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from safetensors.numpy import load_file

from tests.distributed.cells import FEATURES, LAUNCHERS, TEST, VALIDATION, Feature, Launcher, Material
from tests.distributed.jobs import read_facts, run_jobs
from tests.forkserver import free_port, run_ranks

TOLERANCE = 1e-5
_SMALL = 0.1  # numbers below are compared as if they were of this size


def torchrun(ranks: int, nodes: int, jobs: Path, folder: Path) -> None:
    """Run jobs on so many processes; on several nodes each is an agent of its own, and they meet on loopback."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks // nodes)]
    if nodes == 1:
        command += ["--standalone"]
    else:
        meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{free_port()}", "--rdzv_id", "jobs"]
        command += ["--nnodes", str(nodes), "--local_addr", "localhost", *meeting]
    logs = [(folder / f"agent-{node}.log").open("w") for node in range(nodes)]
    agents = [
        subprocess.Popen(
            [*command, "-m", "tests.distributed.jobs", str(jobs)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=Path.cwd(),
        )
        for log in logs
    ]
    try:
        codes = [agent.wait(1200) for agent in agents]
    finally:
        for agent, log in zip(agents, logs, strict=True):
            agent.kill()
            log.close()
    assert not any(codes), "\n".join((folder / f"agent-{node}.log").read_text()[-6000:] for node in range(nodes))


def forked(ranks: int, nodes: int, jobs: Path, folder: Path) -> None:
    """Run jobs on so many processes that need not import the libraries anew."""
    run_ranks(ranks, run_jobs, jobs)


Start = Callable[[int, int, Path, Path], None]
"""(ranks, nodes, jobs, folder): runs jobs on so many processes."""

Cell = tuple[str, str]
"""(feature, launcher)."""


def cells_of(launchers: Iterable[str]) -> list[Cell]:
    """Return all cells of these columns."""
    return [(feature, launcher) for launcher in launchers for feature in FEATURES]


def by_processes(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return the cells that one launch can run."""
    launches: dict[tuple[int, int], list[Cell]] = {}
    for feature, launcher in cells:
        launches.setdefault((LAUNCHERS[launcher].ranks, LAUNCHERS[launcher].nodes), []).append((feature, launcher))
    return list(launches.values())


@dataclass
class Runs:
    """The runs of all cells below a folder; those of one process are shared between launchers."""

    root: Path

    def __post_init__(self) -> None:
        self.material = Material(self.root / "material")

    def launch(self, cells: list[Cell], shards: list[str], start: Start = torchrun, thaws: int | None = None) -> None:
        """Run cells of launchers with the same processes in one launch, and ``fully_shard`` with these optimizers.

        From checkpoints around so many of the thaws (default: all) the latter goes on.
        """
        launcher = LAUNCHERS[cells[0][1]]
        jobs = [self._job(feature, LAUNCHERS[name], self.folder(feature, name)) for feature, name in cells]
        if shards:
            facts = str(self._sharded(launcher.ranks))
            jobs.append({"kind": "sharded", "optimizers": shards, "thaws": thaws, "facts": facts})
        folder = self.root / f"launch-{launcher.ranks}-{launcher.nodes}"
        start(launcher.ranks, launcher.nodes, _write(jobs, folder), folder)

    def one_process(self, feature: str, examples: int) -> Path:
        """Return the folder of a run on one process, which is made here when it is first asked for."""
        folder = self.root / f"one-{examples}" / _slug(feature)
        if not folder.exists():
            job = self._job(feature, None, folder, examples) | {"stop_at": None, "disagree": False}
            folder.parent.mkdir(parents=True, exist_ok=True)
            run_jobs(_write([job], folder.parent))
        return folder

    def folder(self, feature: str, launcher: str) -> Path:
        """Return where a cell's run is."""
        return self.root / _slug(launcher) / _slug(feature)

    def difference(self, feature: str, launcher: str) -> float:
        """Return the largest relative difference of a cell from one process; raises AssertionError for any other."""
        layout = LAUNCHERS[launcher]
        assert not FEATURES[feature].refused
        several, one = self.folder(feature, launcher), self.one_process(feature, layout.examples)
        _assert_same_decisions(FEATURES[feature], layout, several, one)
        return max(_differences(several, one).values())

    def sharded(self, ranks: int) -> dict[str, float]:
        """Return what was measured under ``fully_shard``, on whichever rank it was the most."""
        found = read_facts(self._sharded(ranks))
        assert len(found) == ranks
        return {name: max(facts[name] for facts in found) for name in found[0]}

    def fault(self, feature: str, launcher: str) -> str:
        """Return what is wrong with a cell, nothing where it is as it should be."""
        try:
            self.refusal(feature, launcher) if FEATURES[feature].refused else self.difference(feature, launcher)
        except AssertionError as error:
            return str(error) or repr(error)
        return ""

    def _sharded(self, ranks: int) -> Path:
        return self.root / f"sharded-{ranks}.facts"

    def refusal(self, feature: str, launcher: str) -> str:
        """Return why a cell is refused; raises AssertionError where it is not, or a folder was made all the same."""
        folder, ranks = self.folder(feature, launcher), LAUNCHERS[launcher].ranks
        found = read_facts(folder.with_suffix(".facts"))
        assert [facts["codes"] for facts in found] == [[2]] * ranks
        assert not folder.exists()
        told, *others = (facts["errors"] for facts in found)
        assert not any(others)  # one voice
        assert told.startswith(f"hfft: {FEATURES[feature].refused.format(ranks=ranks)}"), told
        return told.removeprefix("hfft: ").strip()

    def _job(self, feature: str, launcher: Launcher | None, folder: Path, examples: int = 0) -> dict[str, Any]:
        asked = FEATURES[feature]
        settings = self.material.settings(asked, launcher, launcher.examples if launcher else examples)
        settings |= {"output_dir": str(folder), "cache_dir": str(folder.with_suffix(".cache"))}
        job = {"kind": "train", "settings": settings, "facts": str(folder.with_suffix(".facts"))}
        trouble = {name: getattr(asked, name) for name in ("stop_at", "disagree", "memory", "nan_at")}
        return {**job, **trouble, "others": self.material.others(asked)}


def _write(jobs: list[dict[str, Any]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return folder / "jobs.json"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _assert_same_decisions(feature: Feature, layout: Launcher, several: Path, one: Path) -> None:
    """Assert that all ranks have decided as one process does, and that nothing was left out or counted twice."""
    found, (expected,) = read_facts(several.with_suffix(".facts")), read_facts(one.with_suffix(".facts"))
    assert len(found) == layout.ranks
    for facts in found:
        assert facts["codes"] == ([0] if feature.stop_at is None else [75, 0])
        assert facts["world_size"] == layout.ranks
        assert not feature.trains or facts["wrapped"] == "DistributedDataParallel"
        assert facts.get("steps") == expected.get("steps")
        if feature.stop_at is not None:
            assert facts["stopped_after"] == facts["began_at"]["1"] == feature.stop_at + 1
        assert facts["best"] == expected["best"]
        assert facts["metrics"] == found[0]["metrics"]
        # with the head alone in the first bucket, nothing of the others has to be sent until they thaw; what is
        # computed in parts is sent at the end, and without buckets
        by_buckets = feature.settings.get("strategy") == "gradual" and feature.memory is None
        assert (facts["frozen_buckets"] > 0) == by_buckets
    in_parts = [note for note in found[0]["notes"] if note.startswith("Batches were computed in")]
    assert len(in_parts) == (feature.memory is not None)
    assert [note for note in found[0]["notes"] if note not in in_parts] == expected["notes"]
    assert any(name.startswith(feature.keeps) for name in found[0]["kept"])
    steps = len(range(0, layout.examples, 12))
    assert feature.stops_early == (
        feature.trains and expected["steps"] < steps * feature.settings.get("num_train_epochs", 3)
    )
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
            assert [*map(str, predictions[name])] == [*map(str, predicted[name])], name
    found, before = (read_facts(folder.with_suffix(".facts"))[0] for folder in (several, one))
    # of a head that the training does not start from several processes solve none
    shared = {name for name in before["metrics"] if name in found["metrics"] or "baseline_probe" not in name}
    assert found["metrics"].keys() == shared
    for name in shared:
        if name == "train_runtime" or "auroc" in name or "average_precision" in name:
            continue  # of outputs that hardly differ rounding decides which is the larger; they are compared above
        value, expected_value = (np.asarray(facts["metrics"][name]) for facts in (found, before))
        differences[name] = relative_difference(value, expected_value)
    # what a stop has logged of a step is not in the other's log, nor is a loss that was no number on one process alone
    if len(found["codes"]) == 1 and not any("no numbers" in note for note in found["notes"]):
        differences["losses"] = relative_difference(np.asarray(found.get("losses")), np.asarray(before.get("losses")))
    for name, difference in differences.items():
        assert difference < TOLERANCE, f"{name}: {difference}"
    return differences


def relative_difference(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the largest number."""
    if not expected.size:
        return 0.0
    return float(np.abs(values - expected).max() / max(float(np.abs(expected).max()), _SMALL))
