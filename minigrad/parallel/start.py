"""init: find out how the program was started, and with whom."""

from __future__ import annotations

import multiprocessing
import os

from minigrad.backend import devices
from minigrad.errors import message
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.processes import Block
from minigrad.parallel.single import SingleCommunicator

__all__ = ["finish", "give", "init", "replace", "restart_count"]

ENGINES = ("single", "processes", "mpi")
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # set by Open MPI's mpiexec; by MPICH's, Intel MPI's and Slurm's PMI

_given: tuple[Block, int] | None = None  # the block and the rank that the launcher gave
_world: Communicator | None = None


def init(engine: str | None = None, *, timeout: float | None = None) -> Communicator:
    """The communicator of all ranks; the same one whenever it is called.

    The same program runs alone (``python train.py``: one rank), as processes of one machine (``python -m
    minigrad.launch -n 4 train.py``), and over machines (``mpiexec -n 64 python train.py``, which needs mpi4py).

    From then on ``"cuda"`` stands for a GPU of this rank: that with its number among the ranks of the machine.

    Parameters
    ----------
    engine : {"single", "processes", "mpi"}, optional
        Demand one; by default that of the program that started this one.
    timeout : float, optional
        Seconds that a rank waits for the others in one call; by default ``MINIGRAD_TIMEOUT`` or half an hour.

    Returns
    -------
    Communicator

    Raises
    ------
    ValueError
        If there is no such engine.
    RuntimeError
        If the program was started otherwise than for `engine`, or `init` was called before for another one.

    Examples
    --------
    >>> from minigrad import parallel
    >>> parallel.init()
    Communicator(single, rank 0 of 1)
    """
    global _world
    if engine is not None and engine not in ENGINES:
        raise ValueError(message("parallel.init", "engine", repr(engine), "'single', 'processes' or 'mpi'"))
    if _world is None:
        _world = _make(engine, timeout)
        if _world.local_rank:
            devices.choose_gpu(_world.local_rank)
    elif engine is not None and engine != _world.engine:
        raise RuntimeError(message("parallel.init", "engine", repr(engine), f"{_world.engine!r}, which runs already"))
    return _world


def _make(engine: str | None, timeout: float | None) -> Communicator:
    if engine == "single":
        return SingleCommunicator()
    if _given is not None and engine in (None, "processes"):
        block, rank = _given
        return block.communicator(rank, timeout)
    if engine == "processes":
        hint = "Start it by `python -m minigrad.launch -n 4 train.py`"
        raise RuntimeError(message("parallel.init", "engine", "'processes'", "a launcher that made them", hint))
    if engine == "mpi" or (_given is None and _under_mpi()):
        from minigrad.parallel.mpi import start

        return start(timeout)
    return SingleCommunicator()


def _under_mpi() -> bool:
    """Whether mpiexec started this process with others; what the process itself starts is none of its ranks."""
    if multiprocessing.parent_process() is not None:
        return False
    sizes = [os.environ[name] for name in SIZES if name in os.environ]
    if not sizes and "PMIX_RANK" in os.environ:  # PMIx tells no size, Slurm does
        sizes = [os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "unknown"]
    return any(size != "1" for size in sizes)


def restart_count() -> int:
    """How often the launcher has started this program again after a failure (``--max-restarts``): 0 the first time.

    Examples
    --------
    >>> from minigrad import parallel
    >>> parallel.restart_count()
    0
    """
    return int(os.environ.get("MINIGRAD_RESTARTS") or 0)


def give(block: Block, rank: int) -> None:
    """What `init` is to use, in a process that a launcher started."""
    global _given
    _given = (block, rank)


def finish() -> None:
    """Forget the world, for a process that is given another one."""
    global _given, _world
    _given = _world = None


def replace(before: Communicator, after: Communicator) -> None:
    """Let `init` give another world, if it gave this one."""
    global _world
    if _world is before:
        _world = after
