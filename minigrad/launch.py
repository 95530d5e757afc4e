"""``python -m minigrad.launch -n 4 train.py [arguments]``: run a script as several processes that train together."""

from __future__ import annotations

import argparse
import os
import sys

from minigrad import threads
from minigrad.parallel.processes import MOST
from minigrad.parallel.supervisor import Supervisor
from minigrad.parallel.worker import INTERRUPTED

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """The options; what comes after the script is the script's."""
    made = argparse.ArgumentParser(
        prog="python -m minigrad.launch",
        usage="%(prog)s [-n N] [--threads T] [--max-restarts R] (script.py | -m module) [arguments]",
        description="Run a script as N processes of this machine that train one model (docs/parallel.md).",
    )
    made.add_argument("-n", type=int, metavar="N", help="how many processes; the physical cores by default")
    made.add_argument(
        "--threads", type=int, metavar="T", help="threads of each process; by default the cores are shared evenly"
    )
    made.add_argument(
        "--max-restarts", type=int, default=0, metavar="R", help="how often to start again after a failure (0)"
    )
    made.add_argument(
        "--grace", type=float, default=10.0, metavar="S", help="seconds to end in after Ctrl-C or SIGTERM (10)"
    )
    made.add_argument("-m", dest="module", action="store_true", help="run a module instead of a file")
    made.add_argument("target", metavar="script", help="the file, or with -m the module")
    made.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    return made


def environment(size: int, threads_each: int | None) -> dict[str, str]:
    """That of a rank: as many threads as are its share of the cores, unless the user's says another number."""
    made = dict(os.environ)
    given = made.get("MINIGRAD_NUM_THREADS") or made.get("OMP_NUM_THREADS")
    if threads_each is not None or not given:
        share = threads_each if threads_each is not None else max(1, threads.cores() // size)
        made["MINIGRAD_NUM_THREADS"] = made["OMP_NUM_THREADS"] = str(share)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the status to exit with: 0, or that of the first rank that failed."""
    made = parser()
    options = made.parse_args(argv)
    size = threads.cores() if options.n is None else options.n
    for name, value, least in (
        ("-n", size, 1), ("--threads", options.threads, 1), ("--max-restarts", options.max_restarts, 0),
        ("--grace", options.grace, 0),
    ):  # fmt: skip
        if value is not None and not value >= least:  # nor NaN
            made.error(f"{name} is {value}, needs at least {least}")
    if size > MOST:
        made.error(f"-n is {size}, needs at most {MOST}")
    if not options.module and not os.path.exists(options.target):
        made.error(f"there is no file {options.target}")
    command = ["module" if options.module else "script", options.target, *options.arguments]
    for attempt in range(options.max_restarts + 1):
        ranks = environment(size, options.threads)
        ranks["MINIGRAD_RESTARTS"] = str(attempt)
        supervisor = Supervisor(command, size, ranks, options.grace)
        status = supervisor.run()
        if status in (0, INTERRUPTED) or supervisor.signal is not None:  # Ctrl-C, here or in a rank, is no failure
            return status
        if attempt < options.max_restarts:
            print(f"minigrad.launch: restart {attempt + 1} of {options.max_restarts}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
