"""The task adapters that come with hfft."""

from .image_classification import ImageClassification
from .text_classification import TextClassification

__all__ = ["ImageClassification", "TextClassification"]
