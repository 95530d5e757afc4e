"""CUDA kernels: one file of CUDA C++ for a kind of work, and what launches it through CuPy."""

from minigrad.backend.cuda import gradients, optimize
from minigrad.backend.cuda.philox import keep_mask

__all__ = ["gradients", "keep_mask", "optimize"]
