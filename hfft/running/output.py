"""The output folder of a run: refused, replaced, or gone on with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from hfft.errors import UserError, listed
from hfft.hardware.processes import from_first_process
from hfft.run_folder import (
    ADAPTER_FOLDER,
    CARD_FILE,
    CROSSVAL_FILE,
    CROSSVAL_SETTINGS,
    DATA_FILE,
    FOLDS,
    METRICS_FILE,
    MODEL_FILES,
    PREDICTIONS_FILE,
    REFIT,
    REPORT_FILE,
    RUN_FILE,
    SEARCH,
    SEARCH_SETTINGS,
    TRIALS_FILE,
    TRIALS_TABLE,
    is_of_cross_validation,
    is_run,
)
from hfft.running.resuming import binds_checkpoint, differences
from hfft.storage.checkpoints import UNFINISHED, newest_whole
from hfft.targets import Target
from hfft.terminal import is_first_process

ASIDE = ".replaced"  # where an old run waits until the new model is saved

# What a run writes to its model's folder, beside its checkpoints.
RUN_PRODUCTS = (
    *MODEL_FILES,
    *(RUN_FILE, DATA_FILE, METRICS_FILE, PREDICTIONS_FILE, CARD_FILE, REPORT_FILE, ADAPTER_FOLDER),
)
# What is written to the top of an output folder, and --overwrite replaces. Anything else there is left alone.
_PRODUCTS = (
    *RUN_PRODUCTS,
    *(CROSSVAL_FILE, CROSSVAL_SETTINGS, FOLDS, REFIT),
    *(SEARCH_SETTINGS, SEARCH, TRIALS_FILE, TRIALS_TABLE),
)


def require_free(
    folder: Path, *, resume: bool, overwrite: bool, inputs: Iterable[object], settings_file: str = RUN_FILE
) -> None:
    """Check where a run is to be written.

    Args:
        folder: there or not.
        resume, overwrite: what is to become of a run in it.
        inputs: the paths that the run reads.
        settings_file: that it writes; only what wrote such a one is gone on with.

    Raises:
        UserError: for a folder that cannot be written, that holds other files, or a run that is neither to be resumed
            nor replaced, and where replacing it would take away what the new run reads.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--output_dir: '{existing}' is a file.")
    if not os.access(existing, os.W_OK):
        raise UserError(f"--output_dir: the folder '{existing}' cannot be written to.")
    if existing != folder or not any(folder.iterdir()):
        return
    if not is_run(folder):
        raise UserError(f"--output_dir: the folder '{folder}' is not empty and holds no run. Choose another one.")
    if not (resume or overwrite):
        raise UserError(
            f"--output_dir: the folder '{folder}' holds a run. Go on with it (--resume), replace it (--overwrite), or "
            "choose another one."
        )
    of_another = settings_file == RUN_FILE and is_of_cross_validation(folder)
    if resume and (of_another or not (folder / settings_file).is_file()):
        raise UserError(
            f"--resume: what the folder '{folder}' holds was begun by another command, and only that goes on with it. "
            "Choose another folder."
        )
    for path in inputs:
        if overwrite and isinstance(path, str | Path) and Path(path).resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--overwrite: '{path}' lies in '{folder}', which would be replaced. Choose another folder."
            )


def settings_within(settings: dict[str, Any], place: Path) -> dict[str, Any]:
    """Return the settings of a run in the folder of the one that it is a part of; what is there of it is gone on with.

    In trackers it is a run of its own, too.
    """
    own = {name: value for name, value in settings.items() if name != "overwrite"}
    own |= {"output_dir": str(place), "resume": is_run(place)}
    if settings.get("report_to", "none") not in ("none", [], ["none"]):
        own["run_name"] = f"{settings.get('run_name') or Path(str(settings['output_dir'])).resolve().name}-{place.name}"
    return own


def is_complete(folder: Path) -> bool:
    """Say whether a run has come to its end: the card is its last file."""
    return (folder / CARD_FILE).is_file()


def drop_model(folder: Path) -> None:
    """Delete model, card and checkpoints of a run of which only the figures are wanted."""
    for path in [path for pattern in (*MODEL_FILES, CARD_FILE) for path in folder.glob(pattern)]:
        path.unlink()
    for of_training in (*folder.glob("checkpoint-*"), *folder.glob(ADAPTER_FOLDER)):
        shutil.rmtree(of_training)


def checkpoint_to_resume(folder: Path, settings: dict[str, Any], target: Target, console: Console) -> str | None:
    """Return the newest checkpoint of a folder, if there is one, and tell of it.

    Raises :class:`UserError` where it belongs to another run than the one with these settings and this target.
    """
    checkpoint, skipped = from_first_process(newest_whole(folder))
    if skipped:
        console.print(f"Passed over: {listed(skipped)}.")
    if checkpoint is not None and is_first_process():
        require_same_run(folder, checkpoint, settings, target)
    console.print(f"Resuming from {checkpoint}" if checkpoint else "Nothing to resume: starting from the beginning.")
    return checkpoint


def require_same_run(folder: Path, checkpoint: str, settings: dict[str, Any], target: Target) -> None:
    """Raise :class:`UserError` with what differs between the run that is resumed and the one that is asked for."""
    old = yaml.safe_load((folder / RUN_FILE).read_text("utf-8")) or {}
    changed = differences(old, settings, binds_checkpoint)
    config = json.loads((Path(checkpoint) / "config.json").read_text("utf-8"))
    trained = config.get("label_names") or [name for _, name in sorted(config["id2label"].items(), key=_index)]
    if difference := target.difference(config.get("problem_type"), trained):
        changed.append(difference)
    if changed:
        raise UserError(f"--resume: '{folder}' holds another run: {'; '.join(changed)}.")


def _index(item: tuple[str, str]) -> int:
    return int(item[0])


def set_aside(folder: Path, products: Iterable[str] = _PRODUCTS) -> None:
    """Move what an earlier run wrote to the folder, and nothing else, out of the way; :func:`discard` deletes it."""
    if not is_run(folder):
        return
    aside = folder / ASIDE
    aside.mkdir(exist_ok=True)
    checkpoints = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    for path in [*checkpoints, *(path for pattern in products for path in folder.glob(pattern))]:
        target = aside / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)


def discard(folder: Path) -> None:
    """Delete what :func:`set_aside` moved and what a killed process left unfinished, once the new model is saved."""
    for name in (ASIDE, UNFINISHED):
        shutil.rmtree(folder / name, ignore_errors=True)
