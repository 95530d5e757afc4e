"""CUDA kernels: one file of CUDA C++ for a kind of work, and what launches it through CuPy."""

from minigrad.backend.cuda import attention
from minigrad.backend.cuda.philox import keep_mask

__all__ = ["attention", "keep_mask"]
