"""TrainerCallbacks, one file each."""

from hfft.callbacks.progress import TrainingProgress

__all__ = ["TrainingProgress"]
