"""From what the user points at to checked splits with one target."""

from hfft.data.labelled import LabelledData
from hfft.data.labels import label_column_of
from hfft.data.preparing import label_split, prepare
from hfft.data.reading import read_labelled
from hfft.data.sources import Source, read_inputs, read_source

__all__ = [
    "LabelledData",
    "Source",
    "label_column_of",
    "label_split",
    "prepare",
    "read_inputs",
    "read_labelled",
    "read_source",
]
