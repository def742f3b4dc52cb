"""What training starts from: how the head reads the trunk, and a head that is solved where the strategy wants one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hfft.data.inspecting import Track
from hfft.data.labelled import LabelledData
from hfft.data.prepared import encoded
from hfft.data.split_names import GROUP, LABEL, REFERENCE
from hfft.errors import UserError, listed, nearest
from hfft.features.extraction import Share, compute_features, kept_features, model_inputs, model_key
from hfft.features.heads import LinearHead, solve_head
from hfft.features.readout import Readout
from hfft.hardware.precision import FP32
from hfft.hardware.processes import copy_from_first_process, from_first_process
from hfft.storage.arrays import column_values
from hfft.storage.caching import Cache, content_key
from hfft.targets import Target
from hfft.targets.stratification import draw_stratified
from hfft.task import StagedEncoder, Task

MODEL = "model"
"""The architecture's own way from the trunk to the head."""

AUTO = "auto"

_COMPARED = 1000  # examples that decide between poolings: where they do not tell them apart it does not matter

_MOST_CONTENTS = 4
_contents: dict[tuple[str, str], list[str]] = {}
"""The digests of the splits that were read last, which the trials of a search ask for again and again."""


@dataclass(frozen=True)
class Start:
    """What training starts from.

    Attributes:
        pooling: how the head reads the trunk.
        head: the solution that the head was given, or ``None`` where it was left as it was drawn.
        readout: where such a head reads, likewise.
        notes: a sentence each.
    """

    pooling: str
    head: LinearHead | None
    readout: Readout | None
    notes: list[str]


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


def choose_pooling(
    task: Task, model: Any, wanted: str, features: Callable[[], Features], target: Target, labels: np.ndarray, seed: int
) -> tuple[str, list[str]]:
    """Let the head read the trunk as asked, in place; ``auto`` takes what a solved head reads best.

    Returns:
        the pooling, and what to tell of it.

    Raises:
        UserError: for a pooling that the model does not have.
    """
    known = task.poolings(model)
    if wanted != AUTO and wanted not in known:
        raise UserError(
            f"--pooling: a {type(model).__name__} reads its trunk as {listed(known)}, not as '{wanted}'."
            f"{nearest(wanted, (AUTO, *known))}"
        )
    if wanted != AUTO or len(known) == 1:
        if wanted not in (AUTO, MODEL):
            task.pool(model, wanted)
        return (known[0] if wanted == AUTO else wanted), []
    rows = np.arange(len(labels))
    if len(labels) > _COMPARED:
        rows = draw_stratified(target.strata(labels), _COMPARED / len(labels), seed)
    losses: dict[str, float] = {}
    for pooling in known:
        undo = (lambda: None) if pooling == MODEL else task.pool(model, pooling)
        read = features()
        head = solve_head(read.read(read.readout(), rows), labels[rows], solver=target.head_solver, seed=seed)
        losses[pooling] = min((point.loss for point in head.path), default=np.inf)
        undo()
    losses = from_first_process(losses)
    best = min(known, key=lambda pooling: losses[pooling])
    if best != MODEL:
        task.pool(model, best)
    told = ", ".join(f"{pooling} {loss:.3f}" for pooling, loss in losses.items())
    return best, [f"pooling {best}: cross-validated loss of a head on {len(rows)} training examples: {told}."]


def start_from(
    task: Task,
    model: Any,
    processor: Any,
    data: LabelledData,
    *,
    solved_head: bool,
    pooling: str = AUTO,
    solver: str = AUTO,
    penalty: float | None = None,
    seed: int = 0,
    cache: Cache | None = None,
    batch_size: int = 64,
    precision: str = FP32,
    device: torch.device | None = None,
    track: Track | None = None,
    share: Share = (0, 1),
) -> Start:
    """Prepare a model for training, in place: how its head reads the trunk, and the head where it is to be solved.

    Only training examples are looked at.

    Raises:
        UserError: for a pooling or solver that does not fit, and a head that cannot be solved.
    """
    train = data.splits["train"]
    labels = np.asarray(data.target.for_model(train[LABEL]))
    groups = (
        np.unique(np.asarray(train[GROUP], dtype=str), return_inverse=True)[1] if GROUP in train.column_names else None
    )

    pool, drawn = (train, None) if data.pool is None else (data.pool, rows_in(train, data.pool))

    def features() -> Features:
        return Features(task, model, processor, pool, cache, batch_size, precision, track, share, drawn)

    home = next(model.parameters()).device
    model.to(device)
    try:
        if not solved_head:
            chosen, notes = choose_pooling(
                task, model, MODEL if pooling == AUTO else pooling, features, data.target, labels, seed
            )
            return Start(chosen, None, None, notes)
        chosen, notes = choose_pooling(task, model, pooling, features, data.target, labels, seed)
        source = features()
        readout = source.readout()

        def solve(values: torch.Tensor) -> LinearHead:
            return solve_head(
                values,
                labels,
                classes=len(data.target.output_names),
                solver=data.target.head_solver if solver == AUTO else solver,
                strength=penalty,
                groups=groups,
                seed=seed,
                intercept=readout.classifier.has_bias,
            )

        head = readout.install(solve, torch.from_numpy(source.read(readout)))
        copy_from_first_process(model.get_parameter(name) for name in readout.behind)
    finally:
        model.to(home)
    return Start(chosen, head, readout, [*notes, _told(head)])


def rows_in(split: Any, pool: Any) -> np.ndarray:
    """Return where the examples of a split stand in what it was drawn from, (rows,)."""
    place = {reference: row for row, reference in enumerate(column_values(pool, REFERENCE).tolist())}
    return np.array([place[reference] for reference in column_values(split, REFERENCE).tolist()], dtype=np.int64)


def _told(head: LinearHead) -> str:
    loss = min((point.loss for point in head.path if point.strength == head.strength), default=None)
    held_out = "" if loss is None else f", cross-validated loss {loss:.3f}"
    return f"head solved on {head.weight.shape[1]} features, penalty {head.strength:.2g}{held_out}."
