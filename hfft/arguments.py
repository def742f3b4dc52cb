"""What a run is told about its model and its data; light, so that commands which train nothing import no torch.

One name in Python, on the command line and in YAML: ``max_length=64``, ``--max_length 64``, ``max_length: 64``.
The arguments of training stand in :mod:`hfft.training_arguments`, because they extend those of transformers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hfft.errors import UserError
from hfft.values import require_choice, require_range

ON_PROBLEM = ("error", "skip", "warn")
AUTO_PROBLEM_TYPE = "auto"
PROBLEM_TYPES = (
    AUTO_PROBLEM_TYPE,
    "single_label_classification",
    "multi_label_classification",
    "regression",
)


CROP_MODES = ("center", "squash")
OF_PICTURES = ("image_size", "crop_pct", "crop_mode")
OF_TEXTS = ("max_length",)
_RATES = ("dropout", "drop_path_rate", "patch_drop_rate")


@dataclass
class ModelArguments:
    """The pretrained model and how its inputs are cut."""

    model: str | None = field(default=None, metadata={"help": "Hub id or local folder of the pretrained model."})
    revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a model on the Hub (default: main)."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the Python code that a model repository brings along."}
    )
    pooling: str = field(
        default="auto",
        metadata={
            "help": "How the head reads the trunk: model (as the architecture does), mean (of a text's tokens, folded "
            "into the architecture in the end), or auto: what a solved head reads best."
        },
    )
    dropout: float | None = field(
        default=None,
        metadata={
            "help": "Share that dropout sets to 0 in training, of hidden states, attention and what the classifier "
            "reads alike (default: the checkpoint's own shares)."
        },
    )
    drop_path_rate: float | None = field(
        default=None,
        metadata={
            "help": "Stochastic depth: how often the last block is skipped in training, and those before it less often "
            "in most models (default: the checkpoint's own rate)."
        },
    )
    patch_drop_rate: float | None = field(
        default=None,
        metadata={
            "help": "Share of a picture's patches, others in each step, that vision transformers of timm leave out in "
            "training; without half of them a step takes about half of the time (default: the checkpoint's own rate)."
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Pixels a side of the square that the model reads of a picture; position embeddings are resized "
            "(default: the checkpoint's own)."
        },
    )
    crop_pct: float | None = field(
        default=None,
        metadata={
            "help": "Side of what the model reads, as a share of the side that a picture is resized to: 1 cuts nothing "
            "off the shorter side (default: the checkpoint's own)."
        },
    )
    crop_mode: str | None = field(
        default=None,
        metadata={
            "help": "How a picture is resized for that: center (in its proportions, and the middle is read) or squash "
            "(to the proportions of what is read; with crop_pct 1 the model sees all of it) (default: the checkpoint's "
            "own)."
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens after which a text is cut (default: what the model reads, at most 512)."},
    )

    def __post_init__(self) -> None:
        require_range(self, "max_length", low=4)
        require_range(self, "image_size", low=8, high=4096)
        if self.image_size is not None and not isinstance(self.image_size, int):
            raise UserError(f"image_size must be a whole number of pixels, got {self.image_size!r}.")
        require_range(self, "crop_pct", low=0.1, high=1)
        if self.crop_mode is not None:
            require_choice(self, "crop_mode", CROP_MODES)
        for name in _RATES:
            require_range(self, name, low=0, high=1, high_included=False)

    def given(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that were given."""
        return [name for name in names if getattr(self, name) is not None]

    def rates(self) -> dict[str, float]:
        """Return the rates that were given and make a difference in training alone, by name."""
        return {name: getattr(self, name) for name in self.given(_RATES)}


@dataclass
class DataArguments:
    """The labelled data, the columns in it, and the splits that are drawn where none are given."""

    data: str | None = field(  # in Python also a DatasetDict; the flag decides the type
        default=None,
        metadata={
            "help": "Image folder, CSV/TSV/JSONL/Parquet file, pattern or folder of such files named for their splits, "
            "or owner/name[:config][@revision] on the Hub."
        },
    )
    task: str | None = field(  # in Python also a Task
        default=None, metadata={"help": "Registered task (see `hfft tasks`); left out, the data decides."}
    )
    text_column: str | None = field(default=None, metadata={"help": "Column of the text."})
    text_pair_column: str | None = field(
        default=None, metadata={"help": "Column of the second text of a sentence pair."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the image, or of its path."})
    columns: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": "Columns of inputs that no other flag names, as tasks of other packages have, by what they are, as "
            'JSON: {"audio": "take"}.'
        },
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the class, of the list of classes, or of the number."}
    )
    problem_type: str = field(
        default=AUTO_PROBLEM_TYPE,
        metadata={
            "help": "What is predicted: single_label_classification, multi_label_classification (any number of classes "
            "for each example), regression (a number), or auto, which reads lists as several classes and numbers with "
            "fractions as numbers."
        },
    )
    label_delimiter: str | None = field(
        default=None,
        metadata={"help": "What divides the classes in a label column of texts, such as ';': several classes each."},
    )
    group_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of what must not be torn apart where splits are drawn: the examples of one patient, of one "
            "author."
        },
    )
    validation_size: float = field(
        default=0.1,
        metadata={
            "help": "Share of the training examples held back for validation where the data has no validation "
            "split, drawn stratified and seeded; 0 trains on all and keeps the last epoch."
        },
    )
    test_size: float = field(
        default=0.2,
        metadata={"help": "Share of the examples held back as the test split where the data has none."},
    )
    on_problem: str = field(
        default="error",
        metadata={
            "help": "What to do about examples that cannot be used (unreadable, empty, without a label) and about "
            "given test examples that stand in train as well: error; skip leaves out the former and the training "
            "copies; warn does so too, but keeps the copies."
        },
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for converted data (default: that of the datasets library)."}
    )
    cache_budget: float = field(
        default=4.0,
        metadata={
            "help": "Gigabytes in cache_dir for what is computed once and read again, such as decoded pictures; the "
            "longest unused is deleted. 0 keeps nothing on disk."
        },
    )

    def __post_init__(self) -> None:
        if self.columns is not None:
            self.columns = _plain_columns(self.columns)
        require_choice(self, "on_problem", ON_PROBLEM)
        require_choice(self, "problem_type", PROBLEM_TYPES)
        if self.label_delimiter is not None and not self.label_delimiter:
            raise UserError("label_delimiter is empty; it must be what stands between two classes, such as ';'.")
        require_range(self, "validation_size", low=0, high=0.9)
        require_range(self, "cache_budget", low=0)
        require_range(self, "test_size", low=0, high=0.9, low_included=False)

    def named_columns(self) -> dict[str, str]:
        """Return the columns that the user named, by role: ``{"text": "sentence", "label": "intent"}``."""
        suffix = "_column"
        names = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name.endswith(suffix)}
        del names["group_column"]  # no input, and no label
        named = {name.removesuffix(suffix): value for name, value in names.items() if value is not None}
        return {**named, **(self.columns if isinstance(self.columns, dict) else {})}


def column_flag(role: str) -> str:
    """Return how the column of an input, or of the label, is named on the command line."""
    return f"--{role}_column" if _has_flag(role) else f'--columns \'{{"{role}": "..."}}\''


def column_settings(columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of :class:`DataArguments` that name columns given by role."""
    others = {role: column for role, column in columns.items() if not _has_flag(role)}
    own = {f"{role}_column": column for role, column in columns.items() if _has_flag(role)}
    return {**own, "columns": others} if others else own


def names_columns(name: str) -> bool:
    """Say whether a field of :class:`DataArguments` names columns that a task reads."""
    return name == "columns" or (name.endswith("_column") and name != "group_column")


def _has_flag(role: str) -> bool:
    return any(f.name == f"{role}_column" for f in dataclasses.fields(DataArguments))


def _plain_columns(columns: dict[str, str] | str) -> dict[str, str]:
    """Read ``columns``; raises :class:`UserError` for what is no mapping of texts."""
    try:
        given = json.loads(columns) if isinstance(columns, str) else dict(columns)
    except (ValueError, TypeError):
        given = None
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in (*given, *given.values())):
        raise UserError(f'columns must be JSON such as {{"audio": "take"}}, got {columns!r}.')
    if flagged := [role for role in given if _has_flag(role)]:
        raise UserError(f"columns: {flagged[0]} has a flag of its own: {column_flag(flagged[0])}.")
    return given
