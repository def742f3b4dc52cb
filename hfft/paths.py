"""Files and folders that a user named."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfft.errors import UserError, listed, nearest

if TYPE_CHECKING:
    from hfft.arguments import ModelArguments

_JUNK = {"__MACOSX", "__pycache__"}


def existing_path(path: str | Path, flag: str) -> Path:
    """Return the path if it exists; raises :class:`UserError` with the nearest name beside it."""
    wanted = Path(path).expanduser()
    try:
        if wanted.exists():
            return wanted
    except OSError as error:
        raise UserError(f"{flag}: '{path}' cannot be opened: {error.strerror}.") from error
    parent = next((p for p in wanted.parents if p.is_dir()), Path())
    missing = wanted.relative_to(parent).parts[0] if parent in wanted.parents else wanted.name
    hint = nearest(missing, (p.name for p in parent.iterdir())) if parent.is_dir() else ""
    raise UserError(f"{flag}: there is no file or folder '{path}'.{hint}")


def visible(folder: Path) -> list[Path]:
    """Return what stands in a folder, sorted, without hidden files and what archives leave behind."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in _JUNK)


def files_below(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Return the files of these suffixes at any depth, sorted; raises :class:`UserError` for a name in no UTF-8."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") or part in _JUNK for part in path.relative_to(folder).parts)
    )
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"The name of the file {os.fsencode(path)!r} is no UTF-8. Rename it.") from error
    return files


def model_file(arguments: ModelArguments, name: str) -> Path | None:
    """Return a file of a checkpoint: of a local folder, or of the Hub and its cache; ``None`` if there is none."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    model = str(arguments.model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        cached = try_to_load_from_cache(model, name, revision=arguments.revision)
        if isinstance(cached, str):
            return Path(cached)
        if hub_info(model, arguments.revision) is None:
            return None
        return Path(hf_hub_download(model, name, revision=arguments.revision))
    except Exception:  # of several libraries; the file is wanted for a warning alone
        return None


@cache
def hub_info(model: str, revision: str | None) -> Any:
    """Return the Hub's ``ModelInfo``, or ``None`` where it does not answer.

    It is asked once: a download is tried six times over half a minute, also where there is no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        return None
    try:
        return HfApi().model_info(model, revision=revision, timeout=10.0)
    except Exception:  # of several libraries
        return None


def last_part(value: Any) -> str:
    """Return a Hub id whole, and of a local path only the name, as in what is made to be shared."""
    text = str(value)
    return Path(text).resolve().name if Path(text).exists() else text


def model_settings(arguments: ModelArguments, name: str) -> dict[str, Any]:
    """Return a JSON file of a checkpoint; empty where there is none, or no settings are in it."""
    file = model_file(arguments, name)
    try:
        settings = {} if file is None else json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def require_model(model: str, weights: bool) -> None:
    """Check a local folder; a name that is no folder is left to the Hub unless it can only be a path.

    Raises :class:`UserError` with what is not there.
    """
    folder = Path(model).expanduser()
    if not folder.exists():
        if not _may_be_hub_id(model):
            existing_path(model, "--model")
        return
    if not folder.is_dir():
        raise UserError(f"--model: '{model}' is a file; wanted is a folder with config.json and model.safetensors.")
    if not (folder / "config.json").is_file():
        raise UserError(f"--model: the folder '{model}' has no config.json, so it is no model.")
    if weights and not any(folder.glob("*.safetensors")):
        pickled = [path.name for path in folder.glob("*.bin")] + [path.name for path in folder.glob("*.pt*")]
        reason = f" ({listed(pickled)} may run code when it is loaded; convert it)" if pickled else ""
        raise UserError(f"--model: the folder '{model}' has no weights: no *.safetensors file{reason}.")


def _may_be_hub_id(model: str) -> bool:
    """Tell ``name`` and ``owner/name`` from what can only be a path; ``models/x`` beside a folder models is a path."""
    parts = model.split("/")
    is_name = len(parts) <= 2 and all(parts) and not model.startswith((".", "~"))
    return is_name and not (len(parts) == 2 and Path(parts[0]).is_dir())


def require_writable(output: Path, suffixes: tuple[str, ...], inputs: Path | None = None) -> None:
    """Raise :class:`UserError` unless ``output`` can be written, before anything is computed."""
    if output.suffix.lower() not in suffixes:
        raise UserError(f"--output: '{output}' must end in {' or '.join(suffixes)}.")
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output: there is no folder '{output.parent}'.")
    if output.is_dir() or (inputs is not None and output.resolve() == inputs.resolve()):
        raise UserError(f"--output: '{output}' is a folder, or the input itself.")
