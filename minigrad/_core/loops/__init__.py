"""Kernels whose loops profit from wide vectors: each module is built once for every instruction set."""
