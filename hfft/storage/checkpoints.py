"""Checkpoints that are whole or not there: sealed when all is written, and verified before anything goes on from them.

A checkpoint is written to a folder beside, sealed with the digest of each of its files, and renamed. A process that is
killed at any moment leaves the checkpoints before as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import xxhash
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy, rotate_checkpoints
from transformers.utils import ADAPTER_CONFIG_NAME

from hfft.failures import writing

SEAL = "checkpoint.json"
UNFINISHED = ".unfinished"  # the folder beside, in the run's own


def seal(folder: Path) -> None:
    """Put all files of a checkpoint on the disk for good, and write down their digests."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digests[path.relative_to(folder).as_posix()] = _digest(path)
        _sync(path)
    (folder / SEAL).write_text(json.dumps(digests, indent=1), "utf-8")
    _sync(folder / SEAL)


def finish(beside: Path, checkpoint: Path) -> None:
    """Seal what was written beside, and give it its name; what had the name was damaged, or is trained anew."""
    seal(beside)
    shutil.rmtree(checkpoint, ignore_errors=True)
    beside.replace(checkpoint)
    shutil.rmtree(beside.parent, ignore_errors=True)


class WholeCheckpoints(Trainer):
    """A Trainer whose checkpoints are whole, without pickled arguments, and of which the start may be the best."""

    start_may_be_best = True
    """Whether an evaluation of the start counts as one of the training, with a checkpoint to go back to."""

    _writes_checkpoint = False
    _saved_at: float | None = None

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save as the Trainer does, but for what :meth:`_is_due` says."""
        if self.control.should_save and not self.control.should_evaluate:
            self.control.should_save = self._is_due(is_best=False)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Compare as the Trainer does; it decides between evaluating and saving."""
        is_best = super()._determine_best_metric(metrics=metrics, trial=trial)
        if self.control.should_save:
            self.control.should_save = self._is_due(is_best)
        return is_best

    def _is_due(self, is_best: bool) -> bool:
        """Say whether a checkpoint is to be written.

        Not at the end of an epoch that took less time than checkpoints of a large model take, unless it is the best one
        so far, the first, the last, or ``save_seconds`` after the one before.
        """
        ends = self.control.should_training_stop or self.state.global_step >= self.state.max_steps
        if self.args.save_strategy != SaveStrategy.EPOCH or is_best or ends or self._saved_at is None:
            return True
        return time.monotonic() - self._saved_at >= self.args.save_seconds

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False
    ) -> dict[str, float]:
        """Evaluate as the Trainer does; with ``eval_on_start`` the start may turn out as the best checkpoint."""
        if skip_scheduler and self.state.global_step > 0:
            return {}  # resumed: this is no start
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if skip_scheduler and self.start_may_be_best:
            self._determine_best_metric(metrics=metrics, trial=trial)
        if skip_scheduler and self.start_may_be_best and self.args.load_best_model_at_end:
            # the Trainer takes step 0 for no step
            self.state.best_model_checkpoint = str(Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-0")
            self._save_checkpoint(self.model, trial)
        return metrics

    def _get_output_dir(self, trial: Any) -> str:
        """Return the Trainer's, and while a checkpoint is written the folder beside."""
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / UNFINISHED) if self._writes_checkpoint else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as the Trainer does, but beside; a checkpoint that is whole is sealed and gets its name.

        Raises :class:`UserError` where it cannot be written; what was saved before stays.
        """
        run = Path(self._get_output_dir(trial))
        beside, name = run / UNFINISHED, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
        self.accelerator.wait_for_everyone()
        self._writes_checkpoint = True
        try:
            with writing(run, name, RuntimeError):  # which torch.save raises
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.state.best_model_checkpoint == str(beside / name):
                    self.state.best_model_checkpoint = str(run / name)
                if self.args.should_save:
                    self.state.save_to_json(str(beside / name / TRAINER_STATE_NAME))
                    finish(beside / name, run / name)
                    rotate_checkpoints(
                        output_dir=str(run),
                        save_total_limit=self.args.save_total_limit,
                        best_model_checkpoint=self.state.best_model_checkpoint,
                        use_mtime=True,
                    )
        finally:
            self._writes_checkpoint = False
        self.accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and processor as the Trainer does, without the pickled arguments beside them.

        Under FSDP whose checkpoints are in parts the Trainer would save no model; here it is whole.
        """
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled and not self._writes_checkpoint else None
        kept = getattr(plugin, "state_dict_type", None)
        if plugin is not None:
            plugin.set_state_dict_type("FULL_STATE_DICT")
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            if plugin is not None:
                plugin.state_dict_type = kept
        if self.args.should_save:
            folder = Path(output_dir if output_dir is not None else str(self.args.output_dir))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            if (folder / ADAPTER_CONFIG_NAME).is_file():  # what the model answers with stands in no adapter's own files
                self.accelerator.unwrap_model(self.model).config.save_pretrained(folder)
            for weights in folder.glob("*.safetensors"):
                let_others_read(weights)


def let_others_read(file: Path) -> None:
    """Let others read a file as far as the umask does; safetensors writes for the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)


def fault_of(checkpoint: Path) -> str | None:
    """Return why nothing can go on from a checkpoint, as a clause, or ``None``."""
    try:
        digests = json.loads((checkpoint / SEAL).read_text("utf-8"))
        for name, digest in digests.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if _digest(checkpoint / name) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError, AttributeError):
        return "it was not finished"
    return None


def newest_whole(folder: Path) -> tuple[str | None, list[str]]:
    """Return the newest checkpoint of a run that is whole, together with the best one it names; and why others are not.

    Returns:
        its path or ``None``, and a clause for each newer one.
    """
    skipped: list[str] = []
    steps = {path: path.name.rpartition("-")[2] for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    numbered = [path for path, step in steps.items() if step.isdecimal()]
    for checkpoint in sorted(numbered, key=lambda path: -int(steps[path])):
        fault = fault_of(checkpoint) or _fault_of_best(checkpoint)
        if fault is None:
            return str(checkpoint), skipped
        skipped.append(f"{checkpoint.name} ({fault})")
    return None, skipped


def _fault_of_best(checkpoint: Path) -> str | None:
    """Return what is wrong with the best checkpoint so far, which a run needs at its end."""
    named = json.loads((checkpoint / TRAINER_STATE_NAME).read_text("utf-8")).get("best_model_checkpoint")
    best = checkpoint.parent / Path(named).name if named else checkpoint
    fault = None if best == checkpoint else fault_of(best)
    return None if fault is None else f"of the best one so far, {best.name}, {fault}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()  # of accidents: nobody is kept from forging one


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
