"""From what the user points at to checked splits with one class list."""

from hfft.data.labelled import LabelledData, label_split, prepare
from hfft.data.labels import split_labels
from hfft.data.reading import read_labelled
from hfft.data.sources import Source, read_inputs, read_source

__all__ = [
    "LabelledData",
    "Source",
    "label_split",
    "prepare",
    "read_inputs",
    "read_labelled",
    "read_source",
    "split_labels",
]
