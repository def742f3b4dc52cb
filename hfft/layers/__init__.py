"""LayerStack: any model as an ordered list of layer groups, from input to head."""

from hfft.layers.groups import LayerGroup
from hfft.layers.heads import head_parameter_names
from hfft.layers.stack import LayerStack, blocks_of

__all__ = ["LayerGroup", "LayerStack", "blocks_of", "head_parameter_names"]
