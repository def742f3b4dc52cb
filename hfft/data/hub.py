"""Data sets on the Hub: ``owner/name``, with a configuration and a revision where one is wanted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfft.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?")

_SECONDS = 10.0


def is_hub_id(data: str) -> bool:
    """Say whether ``data`` can only be meant as ``owner/name[:config][@revision]``: no path begins as it does."""
    return hub_parts(data) is not None


def hub_parts(data: str) -> dict[str, Any] | None:
    """Return ``repo``, ``config`` and ``revision`` of what :func:`is_hub_id`, and ``None`` of anything else."""
    match = _ID.fullmatch(data)
    if match is None or data.startswith(".") or Path(data.split("/")[0]).exists():
        return None
    return match.groupdict()


def read_hub(data: str, cache_dir: str | None) -> dict[str, Dataset]:
    """Load a data set from the cache or the Hub, every split under its own name.

    Raises:
        UserError: for a name that is not there, one that needs a configuration, and where the Hub is not reached.
    """
    from datasets import DatasetDict, load_dataset

    match = _ID.fullmatch(data)
    assert match is not None
    _require_answer(data, match["repo"], match["revision"])
    try:
        loaded: Any = load_dataset(match["repo"], match["config"], revision=match["revision"], cache_dir=cache_dir)
    except Exception as error:  # of four libraries, and of any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        if "Config name is missing" in reason or "BuilderConfig" in reason:
            reason += f" Name it behind a colon: {match['repo']}:CONFIG."
        raise UserError(
            f"--data: '{data}' is no file or folder here, and cannot be loaded from the Hub: {reason}"
        ) from error
    if not isinstance(loaded, DatasetDict):
        raise UserError(f"--data: '{data}' gives a {type(loaded).__name__}; wanted are splits of rows.")
    if not loaded:
        raise UserError(f"--data: '{data}' has no splits.")
    return dict(loaded)


def _require_answer(data: str, repo: str, revision: str | None) -> None:
    """Ask once whether there is such a data set: the library asks six times over half a minute, also for a typo."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if is_offline_mode():
        return
    try:
        HfApi().dataset_info(repo, revision=revision, timeout=_SECONDS)
    except HFValidationError as error:
        raise UserError(f"--data: '{data}' is no file or folder here, and is no name on the Hub: {error}") from error
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--data: '{data}' is no file or folder here, and the Hub does not give it: {reason}"
        ) from error
    except Exception as error:  # no network, in the words of one of several libraries
        raise UserError(
            f"--data: '{data}' is no file or folder here, and the Hub cannot be reached ({error}). What was loaded "
            "before is read from the cache with HF_HUB_OFFLINE=1."
        ) from error
