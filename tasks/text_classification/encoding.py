"""Texts become token ids, once."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tokenizers

from hfft.storage.caching import content_key
from hfft.task import Example, Prepared, StagedEncoder

_PARALLEL = "TOKENIZERS_PARALLELISM"


class TextEncoder(StagedEncoder):
    """Tokenises texts and pairs of texts, cut to the tokenizer's ``model_max_length``."""

    length_of = "input_ids"

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @functools.cached_property
    def key(self) -> str | None:  # type: ignore[override]
        """All that the tokens depend on; ``None`` for a tokenizer in Python, which does not say it."""
        rust = getattr(self._tokenizer, "backend_tokenizer", None)
        return None if rust is None else f"texts {tokenizers.__version__} {_settings(self._tokenizer, rust)}"

    def content(self, example: Example) -> bytes:
        """Both texts."""
        return json.dumps([example["text"], example.get("text_pair")]).encode()

    def prepare(self, batch: dict[str, list[Any]]) -> list[Prepared]:
        """Tokenise the batch, in as many threads as there are cores."""
        with _in_parallel():
            columns = self._tokenizer(batch["text"], batch.get("text_pair"), truncation=True)
        return [
            {name: np.asarray(values[row], dtype=np.int32) for name, values in columns.items()}
            for row in range(len(batch["text"]))
        ]

    def finish(self, prepared: Prepared, seed: int) -> dict[str, Any]:
        """Return the token ids as lists, as tokenizers do."""
        return {name: values.tolist() for name, values in prepared.items()}


def _settings(tokenizer: Any, rust: Any) -> str:
    names = ("model_max_length", "truncation_side", "model_input_names", "add_bos_token", "add_eos_token")
    told = [str(getattr(tokenizer, name, None)) for name in names]
    state = json.loads(rust.to_str())
    for left_behind in ("padding", "truncation"):  # by earlier calls; the next sets them anew
        state.pop(left_behind, None)
    return content_key(type(tokenizer).__name__, *told, json.dumps(state))


@contextlib.contextmanager
def _in_parallel() -> Iterator[None]:
    """Let the tokenizer use every core, unless the environment says otherwise.

    Without the variable a process that is forked later on warns of it, and with it set for good would stand still.
    """
    if _PARALLEL in os.environ:
        yield
        return
    os.environ[_PARALLEL] = "true"
    try:
        yield
    finally:
        del os.environ[_PARALLEL]
