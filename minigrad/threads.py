"""How many threads compute. One setting holds for minigrad's own loops and for NumPy's BLAS."""

from __future__ import annotations

import os

__all__ = ["get_num_threads", "set_num_threads"]

MOST = 4096

# libgomp's threads spin after a parallel region, and would take the processors from BLAS and from other processes; it
# reads this once, when the first module that uses it is loaded
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def default() -> int:
    """The number of threads to start with.

    ``MINIGRAD_NUM_THREADS`` or ``OMP_NUM_THREADS`` if set; else the physical cores that this process may use, or the
    share of them that its control group grants.
    """
    for name in ("MINIGRAD_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdecimal() and 0 < int(value) <= MOST:
            return int(value)
    return cores()


def cores() -> int:
    """The physical cores that this process may use, or the share of them that its control group grants."""
    return max(1, min(_cores(), _quota()))


def _cores() -> int:
    """Physical cores among the processors of this process; all processors where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    cores = set()
    for cpu in usable:
        try:
            cores.add(_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        except OSError:
            return len(usable)
    return len(cores)


def _quota() -> int:
    """The processors that the control group grants, rounded up."""
    try:
        quota, period = _read("/sys/fs/cgroup/cpu.max").split()
    except (OSError, ValueError):
        return os.cpu_count() or 1
    return os.cpu_count() or 1 if quota == b"max" else -(-int(quota) // int(period))


def _read(path: str) -> bytes:
    """A short file of the kernel's. Every `import minigrad` reads one a processor, and `open` takes twice as long."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)


def set_num_threads(n: int) -> None:
    """Set how many threads compute.

    What kernels compute does not depend on it, bit for bit. NumPy's BLAS gets the same number. The default is the
    number of physical cores, or ``MINIGRAD_NUM_THREADS`` or ``OMP_NUM_THREADS`` if they are set.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    ValueError
        If `n` is less than 1 or more than 4096.
    RuntimeError
        If `n` is more than 1 in a child made by fork, which OpenMP's threads do not survive.
    TypeError
        If `n` is no int.

    Examples
    --------
    >>> import minigrad as mg
    >>> before = mg.get_num_threads()
    >>> mg.set_num_threads(1)
    >>> mg.get_num_threads()
    1
    >>> mg.set_num_threads(before)
    """
    from minigrad._core import blas, cpu
    from minigrad.errors import message

    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(message("set_num_threads", "n", n, "an int"))
    if not 1 <= n <= MOST:
        raise ValueError(message("set_num_threads", "n", f"{n}", f"1 to {MOST}"))
    cpu.set_threads(n)
    blas.set_threads(n)


def get_num_threads() -> int:
    """The number of threads that compute; see `set_num_threads`."""
    from minigrad._core import cpu

    return cpu.get_threads()
