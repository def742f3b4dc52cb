"""The label that does not count, in every loss."""

IGNORED = -100
"""As torch's cross-entropy and the Trainer, which counts labels, have it."""
