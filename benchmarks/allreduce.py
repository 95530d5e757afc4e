"""The allreduce of gradients by size: time, and the bytes of an array that are averaged a second.

``python -m benchmarks.allreduce -n 2 --vs mpi torch`` measures ranks of the launcher, the same under the mpiexec beside
this Python or on the PATH, and PyTorch's gloo, one after the other, in one table. ``mpiexec -n 2 python -m
benchmarks.allreduce`` measures what it is started by, over machines too. This is no family of ``python -m benchmarks``,
whose sides are one process each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
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

    found = [measure(reduce, agree, size, seconds) for size in sizes]
    if world.rank == 0:
        store = os.environ.get("MINIGRAD_BENCH_STORE")
        if store is None:
            show(sizes, {f"{name}, {world.size} ranks": found})
        else:
            Path(store).with_name("found.json").write_text(json.dumps([name, found]))


def show(sizes: list[int], columns: dict[str, list[float]]) -> None:
    """Print a table of seconds."""
    print(f"{'bytes':>12}" + "".join(f"{name:>28}" for name in columns))
    for size, *row in zip(sizes, *columns.values()):
        print(f"{size:>12,}" + "".join(f"{took * 1e6:>11,.1f} us{size / took / 1e9:>9.2f} GB/s" for took in row))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allreduce", description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=2, help="how many ranks (default: %(default)s)")
    parser.add_argument("--vs", nargs="+", default=[], choices=["mpi", "torch"], help="measure these as well")
    parser.add_argument("--quick", action="store_true", help="few sizes, few calls")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes, seconds = ([4, 1 << 16, 1 << 22], 0.01) if arguments.quick else (SIZES, SECONDS)
    from minigrad import launch, parallel

    if arguments.peer or parallel.init().size > 1:
        rank_main(arguments.peer or "minigrad", sizes, seconds)
        return 0
    columns: dict[str, list[float]] = {}
    for peer in ["minigrad", *arguments.vs]:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MINIGRAD_BENCH_STORE"] = str(Path(folder, "store"))
            words = ["-m", "benchmarks.allreduce", "--peer", peer, *(["--quick"] if arguments.quick else [])]
            if peer == "mpi":
                status = mpi(arguments.n, words)
            else:
                status = launch.main(["-n", str(arguments.n), "--threads", "1", *words])
            if status:
                return status
            name, found = json.loads(Path(folder, "found.json").read_text())
            columns[name] = found
    print(f"{arguments.n} ranks of 1 thread")
    show(sizes, columns)
    return 0


def mpi(ranks: int, words: list[str]) -> int:
    """Run this file under mpiexec; its status."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    mpiexec = shutil.which("mpiexec", path=path)
    if mpiexec is None:
        print("benchmarks.allreduce: there is no mpiexec (pip install mpi4py mpich)", file=sys.stderr)
        return 2
    command = [mpiexec, "-n", str(ranks), sys.executable, *words]
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
