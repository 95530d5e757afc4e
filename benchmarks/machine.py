"""The machine that is measured on."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, its widest vectors, number of processors, operating system, and the load just now."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "vectors": next((name for name in ("avx512f", "avx2") if name in flags), platform.machine()),
        "virtual": "hypervisor" in flags,
        "processors": processors(),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Others:
    """The share of the processors that other processes use between its making and `share`."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy, self._own = busy_seconds(), own_seconds()

    def share(self) -> float | None:
        """From 0 to 1, also what other virtual machines took away; None where the system does not tell."""
        if self._busy is None:
            return None
        taken = (busy_seconds() or 0.0) - self._busy - (own_seconds() - self._own)
        return max(0.0, taken / (time.perf_counter() - self._started) / (os.cpu_count() or 1))


def busy_seconds() -> float | None:
    """Seconds that all processors together have been busy since the machine started; None where it is not Linux."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text(encoding="ascii").split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Seconds that this process and those it has waited for have computed."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
