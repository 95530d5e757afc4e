"""``python -m benchmarks``: measure minigrad, and its peers where they are installed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import FAMILIES, machine, plot, report
from benchmarks.peers import PEERS
from benchmarks.runner import BenchmarkError, Settings, installed, run


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument(
        "--vs", default="torch", metavar="PEERS", help="peers, with commas: torch, jax (default: torch; '' for none)"
    )
    parser.add_argument("--sweep", action="store_true", help="measure each family over a range of sizes instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios there (needs matplotlib)")
    parser.add_argument(
        "--threads", type=positive, default=machine.processors(), help="of each side (default: %(default)s)"
    )
    parser.add_argument(
        "--repeat", type=positive, metavar="ROUNDS", help="rounds of turns (default: 7, sweep 3, quick 1)"
    )
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        help="measure peak memory too (default: yes, but not for --sweep and --quick)",
    )
    parser.add_argument("--quick", action="store_true", help="a few calls each: shows that it works, not how fast")
    parser.add_argument(
        "--quiet", action="store_true", help="measure again what was measured while other processes were busy"
    )
    for peer in ("torch", "jax"):
        variable = f"MINIGRAD_{peer.upper()}_PYTHON"
        parser.add_argument(
            f"--{peer}-python",
            default=os.environ.get(variable, sys.executable),
            metavar="PATH",
            help=f"the interpreter that has {peer} (default: ${variable}, or this one)",
        )
    arguments = parser.parse_args(argv)
    for family in arguments.families:
        if family not in FAMILIES:
            parser.error(f"unknown family {family!r}, needs one of {', '.join(FAMILIES)}")
    arguments.vs = [peer for peer in arguments.vs.split(",") if peer]
    for peer in arguments.vs:
        if peer not in PEERS or peer == "minigrad":
            parser.error(
                f"unknown peer {peer!r}, needs one of {', '.join(name for name in PEERS if name != 'minigrad')}"
            )
    return arguments


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def settings(arguments: argparse.Namespace, pythons: Mapping[str, str | None]) -> Settings:
    """How to measure."""
    short = arguments.quick or arguments.sweep
    return Settings(
        pythons,
        arguments.threads,
        arguments.repeat or (1 if arguments.quick else 3 if arguments.sweep else 7),
        arguments.quick,
        arguments.quiet,
        "sweep" if arguments.sweep else "quick" if arguments.quick else "rows",
        not short if arguments.memory is None else arguments.memory,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write the report; 1 where something could not be measured."""
    arguments = parse(argv)
    try:
        pythons: dict[str, str | None] = {"minigrad": sys.executable}
        for peer in arguments.vs:
            python = getattr(arguments, f"{peer}_python")
            pythons[peer] = python if installed(python, peer) else None
        if arguments.plot and not installed(sys.executable, "matplotlib"):
            raise BenchmarkError("matplotlib: --plot needs it, and it is not installed")
        made = run(
            arguments.families or FAMILIES, settings(arguments, pythons), lambda text: print(text, file=sys.stderr)
        )
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print(report.heading(made), report.table(made), report.summary(made), sep="\n\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    if arguments.plot and any(row["ratios"] for row in made["rows"]):
        plot.draw(made, arguments.plot)
    return 1 if made["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
