"""One side of some workloads of a family, measured in this process: ``python -m benchmarks.side JOB``.

The job is a JSON object, and so is the last line of the output. `benchmarks.runner` starts these processes, one at a
time.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing
from benchmarks.agreement import fingerprint
from benchmarks.peers import PEERS
from benchmarks.workload import Workload, workloads


@dataclass(frozen=True)
class Job:
    """What a process measures: the time of some workloads, or the memory of one."""

    family: str
    scope: str
    indices: Sequence[int]
    side: str
    threads: int
    effort: str  # of `timing.EFFORTS`, or "memory"


def measure(job: Job) -> dict[str, Any]:
    """The results of a job by index, and what ran."""
    use_processors(job.threads)
    peer = PEERS[job.side]
    found = workloads(job.family, job.scope)
    results = {}
    for index in sorted(job.indices, key=lambda index: size(found[index])):
        workload = found[index]
        if not workload.once:  # else the import is what is measured
            importlib.import_module(job.side)
            peer.threads(job.threads)
        measured = memory(workload, job.side) if job.effort == "memory" else times(workload, job.side, job.effort)
        results[index] = measured
        gc.collect()
    return {
        "results": results,
        "version": str(sys.modules[job.side].__version__),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": peer.blas(),
    }


def size(workload: Workload) -> float:
    """What workloads are ordered by, the small ones first: a C library's allocator learns from large arrays."""
    return 0.0 if workload.point is None else workload.point.size


def times(workload: Workload, side: str, effort: str) -> dict[str, Any]:
    """Seconds of one operation, and the fingerprint of the first two results: the second shows an optimizer's step."""
    task = workload.sides[side]()
    seconds, result = timing.call(task)
    values = fingerprint(result, workload.compare)
    if not workload.once:
        seconds, result = timing.call(task)
        values += fingerprint(result, workload.compare)
        del result
        seconds = timing.measure(task, timing.EFFORTS[effort], seconds)
    return {"seconds": seconds / workload.per, "values": values}


def memory(workload: Workload, side: str) -> dict[str, Any]:
    """The most memory that this process has had resident after a few calls, and what it had before the first."""
    base = resident("VmRSS")
    task = workload.sides[side]()
    for _ in range(1 if workload.once else 3):
        timing.call(task)
    return {"peak_bytes": peak_bytes(), "base_bytes": base}


def use_processors(count: int) -> None:
    """Keep to as many processors as there are threads; some libraries (XLA) take their number from that alone."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def resident(field: str) -> int | None:
    """Memory of this process as Linux counts it; None on another system."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
    return int(lines[field].split()[0]) * 1024 if field in lines else None


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    peak = resident("VmHWM")  # Linux counts in ru_maxrss what the parent held when it started the process
    if peak is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak


if __name__ == "__main__":
    print(json.dumps(measure(Job(**json.loads(sys.argv[1])))))
