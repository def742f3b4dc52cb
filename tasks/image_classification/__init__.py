"""Image classification with timm models (through transformers' TimmWrapper) and transformers vision models."""

from .task import ImageClassification

__all__ = ["ImageClassification"]
