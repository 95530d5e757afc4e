"""CUDA kernels: one file of CUDA C++ for a kind of work, and what launches it through CuPy."""

from minigrad.backend.cuda import cross_entropy, linear_cross_entropy, normalization, softmax
from minigrad.backend.cuda.matmul import multiplied
from minigrad.backend.cuda.philox import keep_mask

__all__ = [
    "cross_entropy", "keep_mask", "linear_cross_entropy", "multiplied", "normalization", "softmax",
]  # fmt: skip
