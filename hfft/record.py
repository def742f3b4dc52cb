"""RunRecord: what happened in a run. metrics.json, predictions, report, model card and run.yaml are views of it."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hfft.base_model import BaseModel
from hfft.evaluation.summary import metric_rows
from hfft.evidence import Evidence
from hfft.run_folder import DATA_FILE, METRICS_FILE, PREDICTIONS_FILE, RUN_FILE, TRAIN_COMMAND, header
from hfft.targets import Target

_PACKAGES = ("hfft", "torch", "transformers", "timm", "peft", "accelerate", "datasets", "scikit-learn")


@dataclass
class Predictions:
    """The test split as the finished model sees it.

    Attributes:
        inputs: (rows,) what a person recognises the example by.
        labels: a row each, in array form (see :mod:`hfft.targets.target`).
        outputs: a row each: probabilities, or numbers in the user's unit.
    """

    inputs: list[str]
    labels: np.ndarray
    outputs: np.ndarray


@dataclass
class RunRecord:
    """What happened in a run.

    Attributes:
        settings: the arguments that make the same run again, by name.
        task: name of the task.
        target: what is predicted.
        counts: split -> what is told of its labels: how often each class occurs.
        evidence: what the metrics are measured on.
        notes: what was decided on the way, a sentence each.
        usage: how a ``pipeline`` is asked.
        command: what makes the same run again, in the output folder.
        data_report: what was found wrong or odd in the data, and every example that was left out.
        base: what is known of the pretrained model.
        layers: the layer groups with parameters and learning rate, input first.
        thaws: layer group -> the epoch at which it thaws, with gradual unfreezing.
        distances: of each layer group but the head ``name`` and ``distance`` from the pretrained weights, relative.
        mistakes: test examples that the model gets wrong; see :func:`hfft.report.examples.shown_examples`.
        suspects: examples whose label is likely wrong, likewise.
        suspects_told: what they are, in a sentence or two.
        progress: how far the run is, ``None`` when it is done.
        history: the Trainer's log, an entry each.
        metrics: flat name -> value, as in metrics.json; ``train_runtime`` is the time in seconds in which the head was
            solved and the model trained since the run was last started.
        metric_names: the metrics of the evidence in the order in which they are shown.
        interval_notes: how the intervals were made, and which there are none of, a sentence each.
        details: what stands behind test metrics: see :meth:`hfft.targets.Target.details`.
        search: the trials that the settings were found by, as :func:`hfft.searching.results.told` has it.
        temperature: what the logits were divided by after training, ``None`` where they are as they were trained.
        predictions: of the test split; ``None`` without one.
        environment: package -> version, and the platform.
    """

    settings: dict[str, Any]
    task: str
    target: Target
    counts: dict[str, dict[str, float]]
    evidence: Evidence
    notes: list[str] = field(default_factory=list)
    usage: str = ""
    command: str = TRAIN_COMMAND
    data_report: dict[str, Any] = field(default_factory=dict)
    base: BaseModel = field(default_factory=BaseModel)
    layers: list[dict[str, Any]] = field(default_factory=list)
    thaws: dict[str, float] = field(default_factory=dict)
    distances: list[dict[str, Any]] = field(default_factory=list)
    mistakes: list[dict[str, Any]] = field(default_factory=list)
    suspects: list[dict[str, Any]] = field(default_factory=list)
    suspects_told: str = ""
    progress: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    metric_names: list[str] = field(default_factory=list)
    interval_notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    temperature: float | None = None
    predictions: Predictions | None = None
    environment: dict[str, str] = field(default_factory=lambda: environment())

    @property
    def class_names(self) -> list[str]:
        """What each output stands for."""
        return self.target.output_names

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics as rows: name, value, low and high of the interval, and the baseline's value."""
        return metric_rows(self.metrics, self.metric_names, self.evidence.prefix)

    def headline_rows(self) -> list[dict[str, Any]]:
        """Return those of :meth:`rows` that a short table shows."""
        return [row for row in self.rows() if self.target.metrics.is_headline(row["name"])]

    def write_run_file(self, folder: Path) -> None:
        """Write the settings, by which the command makes the run again."""
        text = yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True)
        (folder / RUN_FILE).write_text(f"{header(self.command)}\n{text}", "utf-8")

    def write_data_report(self, folder: Path) -> None:
        """Write what was found about the data, as ``hfft check --output`` does."""
        (folder / DATA_FILE).write_text(json.dumps(self.data_report, indent=2) + "\n", "utf-8")

    def write_metrics(self, folder: Path) -> None:
        """Write the flat dict of metrics, at once: where the file is, it is whole."""
        beside = folder / f".{METRICS_FILE}"
        beside.write_text(json.dumps(self.metrics, indent=2) + "\n", "utf-8")
        beside.replace(folder / METRICS_FILE)

    def write_predictions(self, folder: Path) -> None:
        """Write input, label, prediction and the probability of every class, a row for each test example."""
        if self.predictions is not None:
            seen = self.predictions
            table = prediction_table(seen.inputs, seen.outputs, self.target, seen.labels)
            table.to_parquet(folder / PREDICTIONS_FILE)


def prediction_table(inputs: list[str], outputs: np.ndarray, target: Target, labels: np.ndarray) -> Any:
    """Return a ``datasets.Dataset`` with ``input``, ``label``, ``predicted`` and the target's own columns."""
    from datasets import Dataset

    return Dataset.from_dict(
        {"input": inputs, "label": target.label_values(labels), **target.prediction_columns(outputs)}
    )


def environment() -> dict[str, str]:
    """Return the versions that a run depends on."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
