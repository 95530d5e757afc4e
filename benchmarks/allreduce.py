"""The allreduce of gradients by size: time, and the bytes of an array that are averaged a second.

``python -m benchmarks.allreduce -n 2`` starts ranks by the launcher; ``mpiexec -n 2 python -m benchmarks.allreduce``
measures MPI. ``--vs torch`` measures PyTorch's gloo as well, in processes of its own. This is no family of
``python -m benchmarks``, whose sides are one process each.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SIZES = [1 << k for k in range(2, 27, 2)]  # bytes: 4 to 64 MiB
SECONDS = 0.3  # of each size


def measure(reduce: Callable[[Array], Any], agree: Callable[[float], float], size: int, seconds: float) -> float:
    """Seconds of one call, the median of the rounds of the slowest rank."""
    x = np.ones(size // 4, np.float32)
    reduce(x)
    begun = time.perf_counter()
    reduce(x)
    calls = max(1, int(agree(seconds / 7 / (time.perf_counter() - begun))))
    rounds = []
    for _ in range(7):
        x[:] = 1.0
        begun = time.perf_counter()
        for _ in range(calls):
            reduce(x)
        rounds.append(agree((time.perf_counter() - begun) / calls))
    return float(np.median(rounds))


def rank_main(peer: str, sizes: list[int], seconds: float) -> None:
    """What each rank does."""
    from minigrad import parallel

    world = parallel.init()
    reduce: Callable[[Array], Any] = lambda x: world.allreduce(x, "mean", out=x)  # noqa: E731
    name = world.engine
    if peer == "torch":
        import torch
        from torch import distributed

        torch.set_num_threads(1)
        store = f"file://{os.environ['MINIGRAD_BENCH_STORE']}"
        distributed.init_process_group("gloo", init_method=store, rank=world.rank, world_size=world.size)
        reduce, name = lambda x: distributed.all_reduce(torch.from_numpy(x)), "torch, gloo"

    def agree(value: float) -> float:
        return float(world.allreduce(value, "max"))

    if world.rank == 0:
        print(f"{name}, {world.size} ranks\n{'bytes':>12}{'time':>14}{'rate':>14}")
    for size in sizes:
        took = measure(reduce, agree, size, seconds)
        if world.rank == 0:
            print(f"{size:>12,}{took * 1e6:>11,.1f} us{size / took / 1e9:>9.2f} GB/s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allreduce", description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=2, help="how many ranks (default: %(default)s)")
    parser.add_argument("--vs", choices=["torch"], help="measure it as well")
    parser.add_argument("--quick", action="store_true", help="few sizes, few calls")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes, seconds = ([4, 1 << 16, 1 << 22], 0.01) if arguments.quick else (SIZES, SECONDS)
    from minigrad import launch, parallel

    if arguments.peer or parallel.init().size > 1:
        rank_main(arguments.peer or "minigrad", sizes, seconds)
        return 0
    status = 0
    for peer in ["minigrad", *([arguments.vs] if arguments.vs else [])]:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MINIGRAD_BENCH_STORE"] = str(Path(folder, "store"))
            words = ["-n", str(arguments.n), "--threads", "1", "-m", "benchmarks.allreduce", "--peer", peer]
            status = launch.main([*words, *(["--quick"] if arguments.quick else [])]) or status
    return status


if __name__ == "__main__":
    sys.exit(main())
