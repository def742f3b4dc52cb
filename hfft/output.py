"""The output folder of a run: refused, replaced, or gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

from hfft.errors import UserError
from hfft.record import CARD_FILE, METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE, RUN_FILE

# What a run writes to the top of its folder, and --overwrite replaces. Anything else there is left alone.
_PRODUCTS = (
    *(RUN_FILE, METRICS_FILE, PREDICTIONS_FILE, CARD_FILE, REPORT_FILE),
    *("checkpoint-*", "*.safetensors", "*.safetensors.index.json", "config.json", "*processor_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
)


def require_free(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise :class:`UserError` for a folder that holds other files, or a run that is not to be resumed or replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--output_dir: '{folder}' is a file.")
    if not any(folder.iterdir()):
        return
    if not (folder / RUN_FILE).is_file():
        raise UserError(f"--output_dir: the folder '{folder}' is not empty and holds no run. Choose another one.")
    if not (resume or overwrite):
        raise UserError(
            f"--output_dir: the folder '{folder}' holds a run. Go on with it (--resume), replace it (--overwrite), or "
            "choose another one."
        )


def clear(folder: Path) -> None:
    """Remove what an earlier run wrote to the folder, and nothing else."""
    if not (folder / RUN_FILE).is_file():
        return
    for pattern in _PRODUCTS:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
