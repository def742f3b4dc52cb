"""What experiment trackers get of a finished run, each in its own words; everything before comes from transformers."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hfft.errors import UserError, listed, nearest

if TYPE_CHECKING:
    from transformers import Trainer

_PACKAGED = ("tensorboard", "wandb", "mlflow", "trackio")  # the names of the packages are those of the trackers


def require_trackers(names: Sequence[str]) -> None:
    """Raise :class:`UserError` for a tracker that transformers does not know, or that is not installed."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = listed([*_PACKAGED, *sorted(set(INTEGRATION_TO_CALLBACK) - {*_PACKAGED})], 20)
            hint = nearest(name, INTEGRATION_TO_CALLBACK)
            raise UserError(f"report_to: there is no tracker '{name}'.{hint} Known: {known}.")
    missing = [name for name in names if name in _PACKAGED and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'report_to: {listed(missing)} cannot be found: pip install "hfft[track]".')


@dataclass(frozen=True)
class Finished:
    """What is handed over when a run is done.

    Attributes:
        metrics: as in ``metrics.json``, and the epochs of the thaws.
        files: report, settings and metrics.
        step: the last one.
    """

    metrics: dict[str, float]
    files: list[Path]
    step: int


class Tracker:
    """Any integration of transformers: the metrics come to it as one more entry of the log.

    Args:
        callback: the integration.
        trainer: that it follows.
        settings: model, data and task, which are none of the training arguments that it tells of itself.
    """

    def __init__(self, callback: Any, trainer: Trainer, settings: dict[str, str]) -> None:
        self.callback, self.settings, self._trainer = callback, settings, trainer
        self.name = type(callback).__name__.removesuffix("Callback")

    def send(self, event: str, **told: Any) -> None:
        """Let the integration know of an event of the training."""
        trainer = self._trainer
        told = {"model": trainer.model, "processing_class": trainer.processing_class, **told}
        getattr(self.callback, event)(trainer.args, trainer.state, trainer.control, **told)

    def begin(self) -> None:
        """Open the tracker's run."""
        self.send("on_train_begin")

    def hand_over(self, finished: Finished) -> None:
        """Give the tracker what came of the run."""
        self.send("on_log", logs=dict(finished.metrics))

    def close(self, failed: bool) -> None:
        """Close the tracker's run."""
        self.send("on_train_end")


class TensorBoard(Tracker):
    """Scalars, the settings as hyperparameters and as text; it keeps no files."""

    def hand_over(self, finished: Finished) -> None:
        """Write texts and hyperparameters beside the metrics."""
        writer = self.callback.tb_writer
        for file in finished.files:
            if file.suffix in (".yaml", ".json"):
                writer.add_text(file.name, f"```\n{file.read_text('utf-8')}\n```", finished.step)
        writer.flush()
        scalars = {n: v for n, v in vars(self._trainer.args).items() if isinstance(v, str | int | float)}
        hyperparameters = {**{n: v for n, v in scalars.items() if "token" not in n}, **self.settings}
        writer.add_hparams(hyperparameters, finished.metrics, run_name=".", global_step=finished.step)


class WeightsAndBiases(Tracker):
    """Summary, configuration and an artifact; a run that the user has opened stays open."""

    _is_ours = True

    def begin(self) -> None:
        """Open a run, or take the one that is open."""
        self._is_ours = self.callback._wandb.run is None
        super().begin()
        self.callback._wandb.config.update(self.settings, allow_val_change=True)

    def hand_over(self, finished: Finished) -> None:
        """Fill in the summary, and log the files."""
        wandb, run = self.callback._wandb, self.callback._wandb.run
        run.summary.update(finished.metrics)
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        for file in finished.files:
            artifact.add_file(str(file))
        run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        """Finish the run, so that the next one has its own."""
        if not failed:
            super().close(failed)
        if self._is_ours and self.callback._wandb.run is not None:
            self.callback._wandb.finish(exit_code=int(failed))


class MLflow(Tracker):
    """Metrics, parameters and artifacts; a run that the user has opened stays open."""

    def begin(self) -> None:
        """Start a run, or take the one that is active."""
        super().begin()
        self.callback._ml_flow.log_params(self.settings)

    def hand_over(self, finished: Finished) -> None:
        """Log metrics and files to the run."""
        mlflow = self.callback._ml_flow
        mlflow.log_metrics(finished.metrics, step=finished.step)
        for file in finished.files:
            mlflow.log_artifact(str(file))

    def close(self, failed: bool) -> None:
        """End the run."""
        if failed and self.callback._auto_end_run:
            self.callback._ml_flow.end_run("FAILED")
        super().close(failed)


class Trackio(Tracker):
    """Metrics, configuration and an artifact."""

    def begin(self) -> None:
        """Start a run; it takes settings before its first metrics alone."""
        super().begin()
        self.callback._trackio.config.update(self.settings, allow_val_change=True)

    def hand_over(self, finished: Finished) -> None:
        """Log metrics and files to the run."""
        trackio = self.callback._trackio
        trackio.log(finished.metrics)
        artifact = trackio.Artifact(name="report", type="report")
        for file in finished.files:
            artifact.add_file(str(file))
        trackio.log_artifact(artifact)


_TRACKERS: dict[type, type[Tracker]] = {
    integrations.TensorBoardCallback: TensorBoard,
    integrations.WandbCallback: WeightsAndBiases,
    integrations.MLflowCallback: MLflow,
    integrations.TrackioCallback: Trackio,
}


def tracker_of(callback: Any, trainer: Trainer, settings: dict[str, str]) -> Tracker | None:
    """Return the tracker that a callback of transformers stands for, ``None`` where it stands for none."""
    if not isinstance(callback, tuple(INTEGRATION_TO_CALLBACK.values())):
        return None
    kind = next((kind for known, kind in _TRACKERS.items() if isinstance(callback, known)), Tracker)
    return kind(callback, trainer, settings)
