"""The program of a process that `minigrad.launch` starts: become a rank, then run the user's script or module."""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

from minigrad._core import shared
from minigrad.parallel import start
from minigrad.parallel.errors import WorldEnded
from minigrad.parallel.processes import Block

__all__ = ["main", "run"]

INTERRUPTED = 130  # the status of a shell's command that Ctrl-C ended
PATIENCE = 5.0  # seconds in which the rank that fails first has told why


def main(arguments: list[str]) -> int:
    """Run ``fd size rank parent kind target [arguments]``; the status to end with."""
    fd, size, rank, parent = map(int, arguments[:4])
    kind, target = arguments[4:6]
    os.set_inheritable(fd, False)
    if not shared.die_with_parent(parent):
        return 1
    block = Block(size, fd, parent)
    start.give(block, rank)
    sys.argv = [target, *arguments[6:]]
    return run(block.world, rank, kind, target)


def run(world: shared.World, rank: int, kind: str, target: str) -> int:
    """Run a script or a module as ``python`` would. The rank that fails first says why and ends the others."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # the supervisor has blocked it until here
        if kind == "module":
            if not sys.flags.safe_path:
                sys.path[0] = os.getcwd()
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            if not sys.flags.safe_path:
                sys.path[0] = os.path.dirname(os.path.realpath(target))
            runpy.run_path(os.path.abspath(target), run_name="__main__")  # so __file__ holds wherever the script goes
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status:
            text = f"minigrad: rank {rank} ended with status {status}" if isinstance(end.code, int) else end.code
            fail(world, rank, lambda: print(text, file=sys.stderr))
        return status
    except WorldEnded:
        return 1
    except BaseException as error:
        fail(world, rank, partial(show, error, rank))
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def fail(world: shared.World, rank: int, tell: Callable[[], object]) -> None:
    """End the world; the rank that fails first tells why before, and what failed beside it lets it."""
    if world.claim(rank):
        for do in (flush, tell, flush):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # the streams may be closed, or none
                do()
        world.stop(rank + 1)
        return
    end = time.monotonic() + PATIENCE  # were this the first to end, the one that tells would be ended with it
    while not world.stopped() and time.monotonic() < end:
        time.sleep(0.005)
    world.stop(rank + 1)


def flush() -> None:
    """Write out what is printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def show(error: BaseException, rank: int) -> None:
    """Print the traceback, from the user's first line on."""
    print(f"minigrad: rank {rank} failed", file=sys.stderr)
    error.__traceback__ = cut(error.__traceback__)
    if error.__traceback__ is None and error.__cause__ is not None and cut(error.__cause__.__traceback__) is None:
        error.__cause__, error.__suppress_context__ = None, True  # what runpy says of a script that is not there
    sys.excepthook(type(error), error, error.__traceback__)


def cut(found: TracebackType | None) -> TracebackType | None:
    """A traceback without what called the script; None where nothing else was called."""
    own: Any = (__file__, signal.__file__, runpy.__file__, "<frozen runpy>", "<frozen importlib.util>")
    while found is not None and found.tb_frame.f_code.co_filename in own:
        found = found.tb_next
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
