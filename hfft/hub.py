"""push(): a finished model goes to the Hub in one commit, without anything that tells of the data it was trained on."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from hfft.errors import UserError
from hfft.paths import existing_path, require_model
from hfft.run_folder import CARD_FILE, METRICS_FILE, MODEL_FILES, PLACEHOLDER, PREDICTIONS_FILE, REPORT_FILE

_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write (https://hf.co/settings/tokens)"
_ANSWERS = {
    401: "the Hub does not accept the token (401)",
    403: "the token may not write there (403)",
    404: "there is no such repository or revision, or the token may not see it (404)",
    429: "the Hub has had too many requests (429)",
}


def push(
    model: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    include_report: bool = False,
    include_predictions: bool = False,
) -> str:
    """Upload a model that ``hfft train`` wrote: weights, configuration, processor and card, in a single commit.

    Args:
        model: the folder.
        repo_id: ``owner/name`` on the Hub; made where there is none. A name alone is one of your own.
        private: whether a repository that is made is private (default: what its owner has set).
        token: that may write (default: that of ``hf auth login``, or HF_TOKEN).
        revision: branch to push to, made where there is none (default: main).
        commit_message: the first line of the commit.
        include_report: also ``report.html`` and ``metrics.json``; the report names files and paths of your data.
        include_predictions: also ``predictions.parquet``, which holds the test inputs or their paths.

    Returns:
        the address of the repository.

    Raises:
        UserError: for a folder without a model, and a push that fails, with the command that tries it again.
    """
    folder = existing_path(model, "--model")
    require_model(str(folder), weights=True)
    asked_for = (*((REPORT_FILE, METRICS_FILE) if include_report else ()), *_if(include_predictions, PREDICTIONS_FILE))
    for name in asked_for:
        if not (folder / name).is_file():
            raise UserError(f"--model: the folder '{folder}' has no {name} to include.")
    files = model_files(folder) + [folder / name for name in asked_for]
    retry = _command(
        {"model": str(folder), "repo_id": repo_id, "revision": revision},
        ("--private", private),
        ("--token YOUR_TOKEN", token is not None),
        (f"--commit_message {shlex.quote(commit_message)}", commit_message != "Upload model"),
        ("--include_report", include_report),
        ("--include_predictions", include_predictions),
    )
    lost_nothing = f"The model stays in '{folder}'. To try again: {retry}"
    with reaching(f"--repo_id: '{folder}' was not pushed to '{repo_id}'", lost_nothing, token):
        from huggingface_hub import CommitOperationAdd, HfApi

        api, created = HfApi(token=token), make_repository(repo_id, private, token)
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(created, branch=revision, exist_ok=True)
        additions = [CommitOperationAdd(path.name, _content(path, created)) for path in files]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
            # one commit of all files: a push that breaks off leaves the repository as it was
            api.create_commit(created, additions, commit_message=commit_message, revision=revision)
    return f"{api.endpoint}/{created}"


def model_files(folder: Path) -> list[Path]:
    """Return what of a run's folder makes the model: weights, configuration, processor and card."""
    known = (*MODEL_FILES, CARD_FILE)
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in known)
    ]


def make_repository(repo_id: str, private: bool | None, token: str | None) -> str:
    """Make a repository for models where there is none; return its full name."""
    from huggingface_hub import HfApi

    return HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id


def require_login(token: str | None) -> None:
    """Raise :class:`UserError` where the Hub does not know the token: before anything is trained, not after."""
    from huggingface_hub import HfApi

    with reaching("push_to_hub", f"{_LOG_IN}, or train without push_to_hub and `hfft push` the model later.", token):
        HfApi(token=token).whoami()


@contextmanager
def reaching(what: str, advice: str, token: str | None) -> Iterator[None]:
    """Turn what goes wrong on the way to the Hub into a :class:`UserError`.

    Args:
        what: does not work, the beginning of the sentence.
        advice: what to do, as a sentence or with a command at its end.
        token: that was given.
    """
    from huggingface_hub import get_token
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise UserError(f"{what}: HF_HUB_OFFLINE is set. {advice}")
    if token is None and get_token() is None:
        raise UserError(f"{what}: there is no token. {advice if _LOG_IN in advice else f'{_LOG_IN}. {advice}'}")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of several libraries, and of any kind
        raise UserError(f"{what}: {_reason(error)}. {advice}") from error


def _reason(error: BaseException) -> str:
    """Return why, as a clause; addresses stay out of it, which may carry signatures."""
    from huggingface_hub.errors import HTTPError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        said = " ".join(str(getattr(error, "server_message", None) or "").split())
        return _ANSWERS.get(status, f"the Hub answered {status}") + (f": {said.rstrip('.')}" if said else "")
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, HTTPError):
        return f"the Hub cannot be reached ({text})"
    is_upload = isinstance(error, RuntimeError) and error.__cause__ is not None  # of one file of several
    return f"{text}: {_reason(error.__cause__)}" if is_upload and error.__cause__ else text


def _content(path: Path, repo_id: str) -> str | bytes:
    """Return what is uploaded of a file: its path, but for the card, which names the repository from now on."""
    if path.name != CARD_FILE:
        return str(path)
    return path.read_text("utf-8").replace(PLACEHOLDER, repo_id).encode()


def _command(values: dict[str, str | None], *switches: tuple[str, bool | None]) -> str:
    words = [f"--{name} {shlex.quote(value)}" for name, value in values.items() if value is not None]
    return " ".join(["hfft push", *words, *(text for text, given in switches if given)])


def _if(wanted: bool, *names: str) -> tuple[str, ...]:
    return names if wanted else ()
