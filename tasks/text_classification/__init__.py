"""Text classification with BERT and every other sequence classifier of transformers."""

from .task import TextClassification

__all__ = ["TextClassification"]
