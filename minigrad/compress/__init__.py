"""Smaller models: pruning, distillation, quantization."""

from minigrad.compress.int8 import dequantize_array, quantize_array
from minigrad.compress.quantization import quantize
from minigrad.compress.quantized_dense import QuantizedDense
from minigrad.compress.quantized_embedding import QuantizedEmbedding

__all__ = [
    "QuantizedDense",
    "QuantizedEmbedding",
    "dequantize_array",
    "quantize",
    "quantize_array",
]
