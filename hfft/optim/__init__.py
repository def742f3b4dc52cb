"""Layer-wise parameter groups and optimizer factories, usable with the stock ``Trainer``."""

from hfft.optim.factory import layerwise_optimizer
from hfft.optim.param_groups import layerwise_param_groups
from hfft.optim.schedules import schedule_factor

__all__ = ["layerwise_optimizer", "layerwise_param_groups", "schedule_factor"]
