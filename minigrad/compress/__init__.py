"""Smaller models: pruning, distillation, quantization."""

from minigrad.compress.channels import remove_channels
from minigrad.compress.cost import Cost, measure
from minigrad.compress.heads import remove_heads
from minigrad.compress.layers import remove_layers
from minigrad.compress.neurons import remove_neurons, remove_units
from minigrad.compress.vocabulary import shrink_embedding
from minigrad.compress.width import remove_features

__all__ = [
    "Cost",
    "measure",
    "remove_channels",
    "remove_features",
    "remove_heads",
    "remove_layers",
    "remove_neurons",
    "remove_units",
    "shrink_embedding",
]
