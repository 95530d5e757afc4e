"""Smaller models: pruning, distillation, quantization."""

from minigrad.compress.channels import remove_channels
from minigrad.compress.heads import remove_heads
from minigrad.compress.neurons import remove_neurons, remove_units

__all__ = [
    "remove_channels",
    "remove_heads",
    "remove_neurons",
    "remove_units",
]
