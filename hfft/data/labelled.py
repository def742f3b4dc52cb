"""LabelledData: splits with named columns and one frozen target."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.data.inspecting import Inspected, Track
from hfft.data.split_names import LABEL, REFERENCE
from hfft.findings import Findings
from hfft.storage.arrays import column_values
from hfft.storage.caching import Cache, content_key
from hfft.targets import Target
from hfft.task import Encoder, StagedEncoder

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class LabelledData:
    """Splits whose columns are the task's input roles, ``label`` and ``reference``.

    Attributes:
        splits: ``train``, ``test``, and ``validation`` unless it was not wanted. The reference is the path of a file,
            or the number of a row, counted from 1 (:func:`hfft.findings.reference_text`).
        target: what is predicted, and what ``label`` holds; from the training split alone. Data that is only checked
            may have none, and no ``label`` then.
        origin: how the user named the data.
        findings: what is wrong or odd, and what was decided on the way.
        columns: role -> column of the table that it was read from; empty where the examples are files.
        group_column: the column of the groups that drawn splits keep whole.
        drawn: the splits that were not given, but drawn from the training split.
        inspected: what was seen of the rows of each split, as they stand in it.
        pool: where ``train`` and ``test`` are one of several draws, what they are drawn from: its features are computed
            once.
    """

    splits: dict[str, Dataset]
    target: Target
    origin: str
    findings: Findings = field(default_factory=Findings)
    columns: dict[str, str] = field(default_factory=dict)
    group_column: str | None = None
    drawn: frozenset[str] = frozenset()
    inspected: dict[str, Inspected] = field(default_factory=dict, repr=False)
    pool: Dataset | None = field(default=None, repr=False)

    @property
    def notes(self) -> list[str]:
        """The findings, a sentence each."""
        return self.findings.messages()

    def put_back(self) -> LabelledData:
        """Return the data with a drawn validation split put back: one training split, its own pool if there is none."""
        from datasets import concatenate_datasets

        whole = concatenate_datasets([self.splits["train"], self.splits["validation"]])
        return replace(self, splits={"train": whole}, pool=whole if self.pool is None else self.pool)

    def report(self, task: str) -> dict[str, Any]:
        """Return what a data report holds, as JSON knows it."""
        what = {"data": self.origin, "task": task, "columns": self.columns, "splits": self.counts()}
        return {**what, **self.findings.report()}

    @property
    def class_names(self) -> list[str]:
        """What each output stands for."""
        return self.target.output_names

    def labels(self, name: str) -> np.ndarray:
        """Return the labels of a split in array form (see :mod:`hfft.targets.target`)."""
        return self.target.array(column_values(self.splits[name], LABEL))

    def digest(self) -> str:
        """Return what tells other examples, or the same in another order, from these: files or rows, and labels."""
        parts: list[bytes | str] = []
        for name, split in self.splits.items():
            places = column_values(split, REFERENCE)
            if places.dtype == object:  # the folder of the data may have another name on another machine
                places = np.asarray([Path(path).name for path in places])
            parts += [name, places.tobytes(), np.ascontiguousarray(self.labels(name)).tobytes()]
        return content_key(*parts)

    def encoded(
        self,
        name: str,
        encoder: Encoder | StagedEncoder,
        cache: Cache | None = None,
        seed: int = 0,
        track: Track | None = None,
    ) -> Any:
        """Return a split as model inputs and labels in model form; see :func:`hfft.data.prepared.encoded`."""
        from hfft.data.prepared import encoded

        split = self.splits[name]
        return encoded(split, encoder, cache, seed, track, self.target.for_model(split[LABEL]))

    def counts(self) -> dict[str, dict[str, float]]:
        """Return split -> what is told of its labels: how often each class occurs."""
        return {name: self.target.counts(self.labels(name)) for name in self.splits} if self.target else {}
