"""What a model is trained to minimise."""

from hfft.objectives.cross_entropy import cross_entropy

__all__ = ["cross_entropy"]
