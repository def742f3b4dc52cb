"""Task: the one interface that a modality implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hfft.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from hfft.arguments import ModelArguments
    from hfft.findings import Finding
    from hfft.targets import Target

Example = Mapping[str, Any]
"""One row, the task's input columns by role, and ``label`` where it is known."""

Encoder = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]
"""Turns a batch of raw columns (lists of equal length) into model inputs, and ``label`` into ``labels``."""

Prepared = dict[str, "np.ndarray"]
"""What the first stage of a :class:`StagedEncoder` makes of an example: arrays of any shape, by name."""


class StagedEncoder(ABC):
    """An :data:`Encoder` in two stages: what is computed once for each example, and what is done each time.

    The core keeps what :meth:`prepare` returns, on disk and for later runs as well; whether it could be kept changes
    the time alone, never the result.

    Attributes:
        key: of all that :meth:`prepare` depends on beside the example, versions of libraries included; ``None`` where
            that is not known: nothing is kept on disk then.
        random: whether :meth:`finish` depends on its seed.
        threads: whether several threads make :meth:`finish` faster, because its work leaves Python's lock.
        length_of: the prepared array whose length batches are padded to; such examples are small enough to be kept in
            memory where they cannot be kept on disk.
    """

    key: str | None = None
    random: bool = False
    threads: bool = False
    length_of: str | None = None

    @abstractmethod
    def content(self, example: Example) -> bytes:
        """Return what :meth:`prepare` reads of an example, or a digest of it."""

    @abstractmethod
    def prepare(self, batch: dict[str, list[Any]]) -> list[Prepared]:
        """Return what is computed once for each example of a batch of raw columns."""

    @abstractmethod
    def finish(self, prepared: Prepared, seed: int) -> dict[str, Any]:
        """Return an example's model inputs; another ``seed``, another random view of it."""

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Encode a batch of raw columns, as every :data:`Encoder` does; seeds are drawn from torch's random numbers."""
        rows = [self.finish(prepared, _any_seed() if self.random else 0) for prepared in self.prepare(batch)]
        encoded = {name: [row[name] for row in rows] for name in rows[0]}
        return encoded | ({"labels": batch["label"]} if "label" in batch else {})


def _any_seed() -> int:
    import torch

    return int(torch.randint(2**62, ()))


Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]
"""Turns a list of encoded examples into one batch of tensors."""


@dataclass(frozen=True)
class InputColumn:
    """An input of the task: its role, the column names it commonly goes by, and whether it may be missing."""

    role: str
    common_names: tuple[str, ...]
    required: bool = True


SKETCH = 16
"""Pixels a side of an :class:`Inspection`'s sketch."""


@dataclass(slots=True)
class Inspection:
    """What one look at an example's inputs tells.

    Attributes:
        problem: what is wrong, as the end of a sentence, or ``None``.
        key: equal for inputs that are the same, bit for bit; ``None`` where the task makes none.
        text: of a text what copies are found by: without capitals, punctuation and double blanks, for instance.
        sketch: (16, 16, 3) uint8 likeness of a picture, for copies that are not the same bit for bit.
        remark: what is odd about an example that can be used, in words that fit every example like it.
    """

    problem: str | None = None
    key: bytes | None = None
    text: str | None = None
    sketch: np.ndarray | None = None
    remark: str | None = None


class Task(ABC):
    """What the core has to know about a modality. Tasks hold no state; importing one imports no torch."""

    name: ClassVar[str]
    """The registered name, which is also the ``pipeline`` task that loads the result."""

    summary: ClassVar[str]
    """One line for ``hfft tasks``."""

    inputs: ClassVar[tuple[InputColumn, ...]]
    """The input columns, the required ones first."""

    file_suffixes: ClassVar[frozenset[str]] = frozenset()
    """Lower-case suffixes of the files that a folder of class folders may hold; empty where files are no input."""

    problem_types: ClassVar[tuple[str, ...]] = ("single_label_classification",)
    """What the task can predict of an example, by the names of a transformers configuration; the first where the labels
    do not tell; see :mod:`hfft.targets`."""

    augmentations: ClassVar[tuple[str, ...]] = ("none",)
    """The values of ``augment`` that :meth:`encoder` knows; ``auto`` means the second where there is one."""

    model_arguments: ClassVar[tuple[str, ...]] = ()
    """What :meth:`load` makes of how inputs are cut, of ``max_length``, ``image_size``, ``crop_pct`` and ``crop_mode``;
    the core refuses the others."""

    usage: ClassVar[str] = 'classify("an-input-file")'
    """How a ``pipeline`` called ``classify`` is asked, for the model card."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    """Training arguments that fit the modality better than the general defaults."""

    @abstractmethod
    def accepts(self, value: Any) -> bool:
        """Say whether a raw cell of a table looks like an input of this task (cheap: nothing is opened)."""

    @abstractmethod
    def check(self, example: Example) -> str | None:
        """Return what is wrong with an example's inputs, as the end of a sentence, or ``None``."""

    def inspect(self, example: Example) -> Inspection:
        """Look at an example's inputs once: what :meth:`check` says, and what copies are found by."""
        return Inspection(self.check(example))

    def inspect_batch(self, batch: Mapping[str, Sequence[Any]]) -> list[Inspection]:
        """Look at a batch of raw columns; worth overriding where a batch is faster than one example at a time."""
        rows = zip(*batch.values(), strict=True)
        return [self.inspect(dict(zip(batch, row, strict=True))) for row in rows]

    def check_model(
        self, arguments: ModelArguments, splits: Mapping[str, Dataset], processor: Any = None
    ) -> list[Finding]:
        """Return what the model will not make the best of: texts that it cuts, pictures far from its size.

        ``hfft check`` asks without a processor and must not import torch: what is not to be had so is not checked.
        """
        return []

    @abstractmethod
    def supports(self, config: PretrainedConfig) -> bool:
        """Say whether a model of this configuration can be trained on this task."""

    @abstractmethod
    def load(
        self, arguments: ModelArguments, config: PretrainedConfig, target: Target | None
    ) -> tuple[PreTrainedModel, Any]:
        """Load model (float32, a fresh head for ``target``) and processor.

        With ``target=None`` the checkpoint is loaded as it is, for evaluation and prediction. Raises :class:`UserError`
        where the checkpoint is not complete.
        """

    def require_known(self, arguments: ModelArguments) -> None:
        """Raise :class:`UserError` for what :attr:`model_arguments` leaves out."""
        from hfft.arguments import OF_PICTURES, OF_TEXTS

        for name in arguments.given(OF_PICTURES + OF_TEXTS):
            if name not in self.model_arguments:
                raise UserError(f"--{name} has no place in {self.name.replace('-', ' ')}. Leave it out.")

    def architecture(self, arguments: ModelArguments, config: PretrainedConfig) -> PreTrainedModel:
        """Return the model that :meth:`load` would load, for its structure alone; its weights need not be there."""
        return self.load(arguments, config, None)[0]

    @abstractmethod
    def encoder(self, processor: Any, *, training: bool, augment: str = "none") -> Encoder:
        """Return what turns a batch of raw examples into model inputs; without ``training`` deterministically,
        and just as ``pipeline`` does. A :class:`StagedEncoder` lets the core compute once what does not change."""

    @abstractmethod
    def collator(self, processor: Any) -> Collator:
        """Return what joins encoded examples into a batch."""

    def poolings(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the ways in which the head can read the trunk, the architecture's own (``model``) first."""
        return ("model",)

    def pool(self, model: PreTrainedModel, pooling: str) -> Callable[[], None]:
        """Let the head of a model read the trunk in another of its :meth:`poolings`; return what undoes it."""
        raise NotImplementedError

    def finished(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model that ships: a stock architecture, whatever stood in it for training."""
        return model

    def unfinished(self, model: PreTrainedModel, keep_head: bool) -> bool:
        """Undo in place what :meth:`finished` did to a model that is to be trained further; say whether there was any.

        ``keep_head`` where the head is the one that shipped, and not drawn anew for another target.
        """
        return False

    @abstractmethod
    def describe(self, example: Example) -> str:
        """Return one line that shows an example to a person: a path, a text."""

    def thumbnail(self, example: Example) -> bytes | None:
        """Return a small JPEG of an example that is seen better than read, for the report."""
        return None

    def class_inputs(self, names: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return raw inputs that stand for the classes of these names by their meaning, one for each, or none at all.

        A head that is solved on few examples learns from them too, where cross-validation says that they help.
        """
        return []

    def specimens(self) -> list[Mapping[str, Any]]:
        """Return raw inputs of three examples made up, the last of another length where lengths differ.

        An exported model is tried on them; a task without any cannot be exported.
        """
        return []

    def from_file(self, path: str) -> dict[str, Any]:
        """Return the raw inputs of an example that is a file (needed where ``file_suffixes`` is not empty)."""
        return {self.inputs[0].role: path}
