"""CUDA kernels: one file of CUDA C++ for a kind of work, and what launches it through CuPy."""

from minigrad.backend.cuda import (
    arithmetic,
    cross_entropy,
    dropout,
    elementwise,
    embedding,
    linear_cross_entropy,
    normalization,
    philox,
    rotary,
    softmax,
)
from minigrad.backend.cuda.casts import cast
from minigrad.backend.cuda.matmul import multiplied
from minigrad.backend.cuda.philox import keep_mask
from minigrad.backend.cuda.scatter import index_add, index_extremum, index_put, placed

__all__ = [
    "arithmetic", "cast", "cross_entropy", "dropout", "elementwise", "embedding", "index_add", "index_extremum",
    "index_put", "keep_mask", "linear_cross_entropy", "multiplied", "normalization", "philox", "placed", "rotary",
    "softmax",
]  # fmt: skip
