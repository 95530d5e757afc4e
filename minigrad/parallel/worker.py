"""The program of a process that `minigrad.launch` starts: become a rank, then run the user's script or module."""

from __future__ import annotations

import os
import runpy
import sys
from types import TracebackType
from typing import Any

from minigrad._core import shared
from minigrad.parallel import start
from minigrad.parallel.errors import WorldEnded
from minigrad.parallel.processes import Block

__all__ = ["main", "run"]

INTERRUPTED = 130  # the status of a shell's command that Ctrl-C ended


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
        if kind == "module":
            if not sys.flags.safe_path:
                sys.path[0] = os.getcwd()
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            if not sys.flags.safe_path:
                sys.path[0] = os.path.dirname(os.path.realpath(target))
            runpy.run_path(target, run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and world.claim(rank):
            sys.stdout.flush()
            text = f"minigrad: rank {rank} ended with status {status}" if isinstance(end.code, int) else end.code
            print(text, file=sys.stderr, flush=True)
        if status:
            world.stop(rank + 1)
        return status
    except WorldEnded:
        return 1
    except BaseException as error:
        if world.claim(rank):
            show(error, rank)
        world.stop(rank + 1)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def show(error: BaseException, rank: int) -> None:
    """Print the traceback, from the user's first line on."""
    sys.stdout.flush()
    print(f"minigrad: rank {rank} failed", file=sys.stderr)
    error.__traceback__ = cut(error.__traceback__)
    sys.excepthook(type(error), error, error.__traceback__)
    sys.stderr.flush()


def cut(found: TracebackType | None) -> TracebackType | None:
    """A traceback without what called the script."""
    own: Any = (__file__, runpy.__file__, "<frozen runpy>")
    entry = found
    while entry is not None and entry.tb_frame.f_code.co_filename in own:
        entry = entry.tb_next
    return entry if entry is not None else found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
