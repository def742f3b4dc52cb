"""What trackers have of a run, read back with their own readers; nothing of it tries the network."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainerCallback
from transformers.integrations import integration_utils

import hfft
from hfft.cli import main
from hfft.training_arguments import FineTuningArguments
from tests.forkserver import run_hfft

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
OFFLINE = {
    "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off",
    "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true",
}  # fmt: skip
FILES = {"report.html", "run.yaml", "metrics.json"}


@pytest.fixture(scope="module")
def run(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run ``out``, made by a process of its own, and what each installed tracker has kept of it."""
    root = tmp_path_factory.mktemp("tracked")
    installed = [name for name in TRACKERS if importlib.util.find_spec(name) is not None]
    settings = {
        "model": str(tiny_bert), "data": str(text_folder), "output_dir": "out", "strategy": "gradual",
        "pooling": "model", "max_steps": 8, "per_device_train_batch_size": 8, "disable_tqdm": True,
        "logging_strategy": "steps", "logging_steps": 1, "report_to": installed, "run_name": "tracked",
        "project": "small-data", "calibration": "temperature",
    }  # fmt: skip
    (root / "run.yaml").write_text(yaml.safe_dump(settings))
    environment = {**os.environ, **OFFLINE, "TRACKIO_DIR": str(root / "trackio")}
    done = run_hfft(["train", "--config", "run.yaml"], root, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "did not take everything" not in done.stderr
    return root


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "out" / "metrics.json").read_text())


def require_metrics(found: dict[str, Any], metrics: dict[str, float]) -> None:
    """Check that a tracker has all of ``metrics.json``, and the thaws, head first."""
    assert {"test_accuracy", "test_accuracy_ci_low", "test_accuracy_ci_high"} <= metrics.keys()
    assert {name: found[name] for name in metrics} == pytest.approx(metrics)
    thaws = {name: epoch for name, epoch in found.items() if name.startswith("thaw_epoch/")}
    assert thaws["thaw_epoch/head"] == 0
    assert thaws["thaw_epoch/stem"] == max(thaws.values()) > 0


def require_log(points: Callable[[str], list[tuple[int, float]]]) -> None:
    """Check rates and thaws of a log, given as name -> (step, value) pairs."""
    training = dict(points("layer_groups_training"))
    assert training[0] == 1
    assert sorted(training.values()) == list(range(1, len(training) + 1))  # each thaw at its step
    assert max(training.values()) == 4
    stem, head = dict(points("lr/stem")), dict(points("lr/head"))
    assert len(head) == 8
    assert stem[2] == 0 < head[2]


def test_tensorboard(run: Path, metrics):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (run / "out" / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    names = events.Tags()["scalars"]
    require_metrics({name: events.Scalars(name)[-1].value for name in names}, metrics)
    require_log(lambda name: [(point.step, point.value) for point in events.Scalars(f"train/{name}")])
    assert not any(name.startswith("test/") for name in names)
    (text,) = events.Tensors("run.yaml/text_summary")[0].tensor_proto.string_val
    assert "strategy: gradual" in text.decode()
    assert "_hparams_/experiment" in events.summary_metadata


def test_mlflow(run: Path, metrics, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(run)
    client = mlflow.MlflowClient(f"sqlite:///{run}/mlflow.db")
    (found,) = client.search_runs(["0"])
    assert (found.info.run_name, found.info.status) == ("tracked", "FINISHED")
    require_metrics(found.data.metrics, metrics)
    require_log(lambda name: [(p.step, p.value) for p in client.get_metric_history(found.info.run_id, name)])
    assert found.data.params["strategy"] == "gradual"
    assert found.data.params["model"] == hfft.runs("out")[0]["model"]
    assert {file.path for file in client.list_artifacts(found.info.run_id)} == FILES


def test_weights_and_biases(run: Path, metrics):
    pytest.importorskip("wandb")
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    summary: dict[str, Any] = {}
    history, files, exit_codes = [], set(), []
    for record in wandb_records(file.read_bytes()):
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("history"):
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            history.append(row)
        files |= {entry.path for entry in record.artifact.manifest.contents}
        exit_codes += [record.exit.exit_code] if record.HasField("exit") else []
    assert exit_codes == [0]
    require_metrics(summary, metrics)
    require_log(lambda name: [(r["train/global_step"], r[f"train/{name}"]) for r in history if f"train/{name}" in r])
    assert files == FILES
    assert not any(name.startswith("test/") for row in history for name in row)


def wandb_records(data: bytes) -> Iterator[Any]:
    """Yield the records of a .wandb file: a LevelDB log behind a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_trackio(run: Path, metrics):
    pytest.importorskip("trackio")
    (file,) = (run / "trackio").glob("*.db")
    assert file.stem == "small-data"
    with sqlite3.connect(file) as database:
        rows = [json.loads(row) for (row,) in database.execute("select metrics from metrics order by id")]
        ((name, config),) = database.execute("select run_name, config from configs").fetchall()
        ((manifest,),) = database.execute("select manifest from artifact_versions").fetchall()
    assert name == "tracked"
    assert json.loads(config)["task"] == "text-classification"
    require_metrics(rows[-1], metrics)
    require_log(lambda name: [(r["train/global_step"], r[f"train/{name}"]) for r in rows if f"train/{name}" in r])
    assert all(name in manifest if isinstance(manifest, str) else name.encode() in manifest for name in FILES)
    assert "predictions" not in str(manifest)


class Broken(TrainerCallback):
    """A tracker that fails where it is told to."""

    fails_on: str = ""
    heard: list[str]

    def __init__(self) -> None:
        Broken.heard = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            Broken.heard.append(name)
            if name == Broken.fails_on:
                raise ConnectionError("no quota\nis left.")
        return super().__getattribute__(name)


@pytest.fixture
def broken(monkeypatch) -> type[Broken]:
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "broken", Broken)
    monkeypatch.setattr(Broken, "fails_on", "")
    return Broken


@pytest.fixture
def settings(tiny_bert: Path, text_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_bert), "data": str(text_folder), "output_dir": str(tmp_path / "out"), "max_steps": 2,
        "disable_tqdm": True, "report_to": ["broken"],
    }  # fmt: skip


def test_a_tracker_that_fails_later_is_told_of_once_and_loses_nothing(broken, settings, caplog):
    broken.fails_on = "on_log"
    with caplog.at_level(logging.WARNING, "hfft"):
        result = hfft.finetune(**settings)
    told = [record.getMessage() for record in caplog.records if "did not take" in record.getMessage()]
    assert told == ["Broken did not take everything: no quota is left. The run goes on."]
    assert (Path(result.output_dir) / "report.html").is_file()
    assert broken.heard.count("on_log") > 2
    assert broken.heard[-1] == "on_train_end"


def test_a_tracker_that_cannot_start_is_refused_before_training(broken, settings, monkeypatch):
    broken.fails_on = "on_train_begin"
    local = ["tensorboard"] if importlib.util.find_spec("tensorboard") is not None else []
    monkeypatch.setattr(hfft.FineTuningTrainer, "train", None)
    with pytest.raises(hfft.UserError, match="Broken cannot be started: no quota is left"):
        hfft.finetune(**{**settings, "report_to": [*local, "broken"]})
    assert not any(Path(settings["output_dir"]).iterdir())


def test_predictions_of_other_splits_are_not_told_as_those_of_the_test(broken, settings):
    hfft.finetune(**{**settings, "calibration": "temperature"})
    assert "on_predict" not in broken.heard
    assert broken.heard.count("on_train_begin") == broken.heard.count("on_train_end") == 1


def test_a_probe_that_trains_nothing_is_told_as_well(broken, settings):
    hfft.finetune(**{**settings, "strategy": "linear-probe"} | {"max_steps": -1})
    heard = [event for event in broken.heard if event != "on_init_end"]
    assert heard == ["on_train_begin", "on_log", "on_train_end"]


def test_a_run_that_breaks_off_closes_its_trackers(broken, settings, monkeypatch):
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hfft.FineTuningTrainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        hfft.finetune(**settings)
    assert broken.heard[-1] == "on_train_end"


def test_each_fold_is_a_run_of_its_own(broken, settings, monkeypatch):
    names: list[str] = []
    monkeypatch.setattr(Broken, "on_train_begin", lambda self, args, *rest, **kwargs: names.append(args.run_name))
    hfft.cross_validate(**{**settings, "strategy": "linear-probe", "folds": 2} | {"max_steps": -1})
    assert names == ["out-fold-1", "out-fold-2"]


def test_mlflow_calls_a_run_that_broke_off_failed(settings, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    for name, value in {**OFFLINE, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hfft.FineTuningTrainer, "save_model", None)
    with pytest.raises(TypeError):
        hfft.finetune(**{**settings, "report_to": ["mlflow"], "save_strategy": "no", "load_best_model_at_end": False})
    (found,) = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["0"])
    assert found.info.status == "FAILED"
    assert mlflow.active_run() is None


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    with pytest.raises(hfft.UserError, match=r'wandb cannot be found: pip install "hfft\[track\]"'):
        FineTuningArguments(report_to="wandb", output_dir=str(tmp_path))
    assert main(["train", "--model", "m", "--data", "d", "--report_to", "tensorbord"]) == 2
    assert "there is no tracker 'tensorbord'. Did you mean 'tensorboard'?" in capsys.readouterr().err
