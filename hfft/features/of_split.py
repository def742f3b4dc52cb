"""The features of one split under a model, kept from run to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hfft.data.inspecting import Track
from hfft.data.prepared import encoded
from hfft.data.split_names import REFERENCE
from hfft.features.extraction import Share, compute_features, kept_features, model_inputs, model_key
from hfft.features.readout import Readout
from hfft.hardware.precision import FP32
from hfft.storage.arrays import column_values
from hfft.storage.caching import Cache, content_key
from hfft.task import StagedEncoder, Task

_MOST_CONTENTS = 4
_contents: dict[tuple[str, str], list[str]] = {}
"""The digests of the splits that were read last, which the trials of a search ask for again and again."""


class Features:
    """The features of one split under a model, kept from run to run.

    Args:
        task: encodes and collates.
        model: on the device to compute on.
        processor: of the model.
        split: raw examples; their labels are not read.
        cache: where features are kept, or ``None``.
        batch_size: examples at a time.
        precision: number format to compute in.
        track: shows the progress.
        share: of this process among those with the same cache; see :func:`kept_features`.
        drawn: the rows of the split that are meant; features are computed of all of it. Left out, all of them.
    """

    def __init__(
        self,
        task: Task,
        model: Any,
        processor: Any,
        split: Any,
        cache: Cache | None,
        batch_size: int = 64,
        precision: str = FP32,
        track: Track | None = None,
        share: Share = (0, 1),
        drawn: np.ndarray | None = None,
    ) -> None:
        self._drawn = drawn
        self._task, self._model, self._cache = task, model, cache
        self._batch_size, self._precision, self._track, self._share = batch_size, precision, track, share
        self._encoder = task.encoder(processor, training=False)
        self._collate = task.collator(processor)
        self._split = split.remove_columns([name for name in split.column_names if name == "label"])

    def readout(self) -> Readout:
        """Find where the features of the model are read."""
        first = encoded(self._split.select(range(min(2, len(self._split)))), self._encoder, cache=None, seed=0)
        device = next(self._model.parameters()).device
        return Readout.of(self._model, model_inputs(self._collate([first[row] for row in range(len(first))]), device))

    def read(self, readout: Readout, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return (examples, width) float32, of some of the rows that are meant or of all."""
        if self._drawn is not None:
            every = self._read(readout, self._split)
            return every[self._drawn if rows is None else self._drawn[rows]]
        return self._read(readout, self._split if rows is None else self._split.select(rows))

    def _read(self, readout: Readout, split: Any) -> np.ndarray:
        keys = self._content(split)

        def compute(chosen: Sequence[int], share: Share) -> tuple[np.ndarray, np.ndarray]:
            # what is read once is not worth keeping: the features are
            examples = encoded(split.select(chosen), self._encoder, cache=None, seed=0, track=None)
            return compute_features(
                self._model,
                readout,
                examples,
                self._collate,
                lengths=getattr(examples, "lengths", None),
                batch_size=self._batch_size,
                precision=self._precision,
                track=self._track,
                share=share,
            )

        if keys is None:
            rows, found = compute(range(len(split)), (0, 1))
            return found[np.argsort(rows)]
        assert isinstance(self._encoder, StagedEncoder)
        key = model_key(self._model, readout.behind, str(self._encoder.key), readout.path, self._precision)
        return kept_features(compute, key, keys, self._cache, self._share)

    def _content(self, split: Any) -> list[str] | None:
        """Return a digest of each example, or ``None`` where the encoder cannot tell what it depends on."""
        if not isinstance(self._encoder, StagedEncoder) or self._encoder.key is None or self._cache is None:
            return None
        known = (split._fingerprint, self._encoder.key)
        if known not in _contents:
            found = [content_key(self._encoder.content(example)) for example in split]
            while len(_contents) >= _MOST_CONTENTS:
                del _contents[next(iter(_contents))]
            _contents[known] = found
        return _contents[known]


def rows_in(split: Any, pool: Any) -> np.ndarray:
    """Return where the examples of a split stand in what it was drawn from, (rows,)."""
    place = {reference: row for row, reference in enumerate(column_values(pool, REFERENCE).tolist())}
    return np.array([place[reference] for reference in column_values(split, REFERENCE).tolist()], dtype=np.int64)
