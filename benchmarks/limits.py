"""What the machine can do: ``python -m benchmarks.limits THREADS EFFORT`` prints a JSON object.

A large float32 matrix product by NumPy's BLAS, and a copy from memory to memory. `benchmarks.runner` starts it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.side import use_processors


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some calls; the first does not count."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def gemm(n: int, repeats: int) -> float:
    """Floating-point operations a second of a product of two (n, n) matrices."""
    a, b = np.random.default_rng(0).standard_normal((2, n, n), dtype=np.float32)
    out = np.empty_like(a)
    return 2 * n**3 / fastest(lambda: np.matmul(a, b, out=out), repeats)


def copy(size: int, threads: int, repeats: int) -> float:
    """Bytes a second, read and written together, of a copy that the threads share."""
    source, target = np.ones((2, threads, size // threads), np.uint8)
    with ThreadPoolExecutor(threads) as pool:  # NumPy copies without the GIL

        def run() -> None:
            list(pool.map(np.copyto, target, source))

        return 2 * source.nbytes / fastest(run, repeats)


def measure(threads: int, quick: bool) -> dict[str, float]:
    """The limits: "flops" and "bytes" a second."""
    use_processors(threads)
    if quick:
        return {"flops": gemm(128, 1), "bytes": copy(2**20, threads, 1)}
    return {"flops": gemm(2048, 7), "bytes": copy(2**28, threads, 7)}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), sys.argv[2] == "quick")))
