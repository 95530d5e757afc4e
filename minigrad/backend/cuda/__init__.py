"""CUDA kernels: one file of CUDA C++ for a kind of work, and what launches it through CuPy."""

from minigrad.backend.cuda import (
    arithmetic,
    attention,
    batch_norm,
    columns,
    cross_entropy,
    dropout,
    elementwise,
    embedding,
    gradients,
    linear_cross_entropy,
    normalization,
    optimize,
    philox,
    rotary,
    softmax,
)
from minigrad.backend.cuda.casts import cast
from minigrad.backend.cuda.matmul import multiplied
from minigrad.backend.cuda.philox import keep_mask
from minigrad.backend.cuda.scatter import index_add, index_extremum, index_put, placed, set_item

__all__ = [
    "arithmetic", "attention", "batch_norm", "cast", "columns", "cross_entropy", "dropout", "elementwise",
    "embedding", "gradients", "index_add", "index_extremum", "index_put", "keep_mask", "linear_cross_entropy",
    "multiplied", "normalization", "optimize", "philox", "placed", "rotary", "set_item", "softmax",
]  # fmt: skip
