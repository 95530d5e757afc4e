"""One side of one workload, measured in this process: ``python -m benchmarks.side FAMILY INDEX SIDE THREADS EFFORT``.

The last line of the output is a JSON object. `benchmarks.runner` starts these processes, one at a time.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing
from benchmarks.peers import PEERS
from benchmarks.workload import workloads


def measure(family: str, index: int, side: str, threads: int, effort: timing.Effort) -> dict[str, Any]:
    """Seconds for one operation, the value that the sides must agree on, peak memory, and what ran."""
    use_processors(threads)
    workload = workloads(family)[index]
    peer = PEERS[side]
    if not workload.once:  # else the import is what is measured
        peer.threads(threads)
    task = workload.sides[side]()
    seconds, result = timing.first_call(task)
    value = None if result is None else float(np.sum(result.tolist()))
    if not workload.once:
        seconds = timing.measure(task, effort)
    return {
        "seconds": seconds / workload.per,
        "value": value,
        "peak_bytes": peak_bytes(),
        "version": str(sys.modules[side].__version__),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": peer.blas(),
    }


def use_processors(count: int) -> None:
    """Keep to as many processors as there are threads; some libraries (XLA) take their number from that alone."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts in ru_maxrss what the parent held when it started the process
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    family, index, side, threads, effort = sys.argv[1:]
    efforts = {"full": timing.FULL, "quick": timing.QUICK}
    print(json.dumps(measure(family, int(index), side, int(threads), efforts[effort])))
