"""CUDA kernels: one file of CUDA C++ for a kind of work, and what launches it through CuPy."""

from minigrad.backend.cuda import (
    bias,
    cross_entropy,
    dropout,
    elementwise,
    gradients,
    linear_cross_entropy,
    normalization,
    optimize,
    philox,
    softmax,
)
from minigrad.backend.cuda.matmul import multiplied
from minigrad.backend.cuda.philox import keep_mask

__all__ = [
    "bias", "cross_entropy", "dropout", "elementwise", "gradients", "keep_mask", "linear_cross_entropy", "multiplied",
    "normalization", "optimize", "philox", "softmax",
]  # fmt: skip
