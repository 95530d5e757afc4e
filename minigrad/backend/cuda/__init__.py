"""CUDA kernels: one file of CUDA C++ for a kind of work, and what launches it through CuPy."""

from minigrad.backend.cuda import (
    attention,
    bias,
    cross_entropy,
    dropout,
    elementwise,
    linear_cross_entropy,
    normalization,
    philox,
    softmax,
)
from minigrad.backend.cuda.matmul import multiplied
from minigrad.backend.cuda.philox import keep_mask

__all__ = [
    "attention", "bias", "cross_entropy", "dropout", "elementwise", "keep_mask", "linear_cross_entropy", "multiplied",
    "normalization", "philox", "softmax",
]  # fmt: skip
