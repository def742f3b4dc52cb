"""What a format is to an export: whether it can be written, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hfft.results.inference import Classifier

Batch = dict[str, torch.Tensor]
Answer = Callable[[Batch], np.ndarray]
"""Gives the logits, (batch, outputs), of the exported model."""


@dataclass(frozen=True)
class Format:
    """A format that models are exported to.

    Attributes:
        require: raises :class:`UserError` where this output cannot be written.
        write: the model to a path of the output's name, with batches to try it on, the first two of which differ in all
            axes that are to be free; returns what answers from there.
    """

    require: Callable[[Path], None]
    write: Callable[[Classifier, Path, list[Batch]], Answer]
