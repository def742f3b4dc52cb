"""TrainerCallbacks, one file each."""

from hfft.callbacks.early_stopping import EarlyStopping
from hfft.callbacks.gradual_unfreezing import GradualUnfreezing
from hfft.callbacks.progress import TrainingProgress

__all__ = ["EarlyStopping", "GradualUnfreezing", "TrainingProgress"]
