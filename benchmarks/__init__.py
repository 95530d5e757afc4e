"""Benchmarks: minigrad and its peers on the same work, each in a process of its own."""


__all__ = [
    ,
]  # fmt: skip
