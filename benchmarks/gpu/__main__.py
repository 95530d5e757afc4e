"""``python -m benchmarks.gpu``: minigrad and PyTorch on one GPU, each side of each work in a process of its own.

``--quick`` runs everything once in tiny sizes; on a machine without a GPU it is a dry run, by the tests' stand-in for
CuPy and PyTorch's CPU, that shows that all of it works and measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.gpu import table
from benchmarks.gpu.side import works
from benchmarks.gpu.work import SIDES
from benchmarks.runner import BenchmarkError, installed, start


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="measure the works alone whose names have one of these in them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each side, in turns (default: 1)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, each once; without a GPU a dry run")
    parser.add_argument(
        "--torch-python", default=os.environ.get("MINIGRAD_TORCH_PYTHON", sys.executable), metavar="PATH",
        help="the interpreter that has PyTorch (default: $MINIGRAD_TORCH_PYTHON, or this one)",
    )  # fmt: skip
    return parser.parse_args(argv)


def driver() -> str | None:
    """The GPU and its driver, as the driver says; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def has_gpu() -> bool:
    """Whether minigrad finds one; asked in another process, as this one shall not hold any of its memory."""
    script = "import sys, minigrad as mg; sys.exit(not mg.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure: plain data, as it goes to JSON."""
    dry = not has_gpu()
    if dry and not options.quick:
        raise BenchmarkError("there is no GPU that CuPy can use; --quick makes a dry run without one")
    pythons = {"minigrad": sys.executable}
    if installed(options.torch_python, "torch"):
        pythons["torch"] = options.torch_python
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "machine": machine.describe(), "driver": driver(), "dry": dry,
        "quick": options.quick, "sides": dict.fromkeys(("minigrad", "torch")), "rows": [], "failed": {},
    }  # fmt: skip
    found = works(options.quick)
    chosen = [i for i, work in enumerate(found) if not options.words or any(w in work.name for w in options.words)]
    made: dict[int, dict[str, list[dict[str, Any]]]] = {index: {} for index in chosen}
    begun = time.monotonic()
    # memory that one work took is none that another is given back: each has its process, but where nothing is measured
    for indices in [chosen] if options.quick else [[index] for index in chosen] * options.rounds:
        for side in SIDES:
            able = [index for index in indices if side in found[index].sides]
            if not able or side.split()[0] not in pythons:
                continue
            what = found[able[0]].name if len(able) == 1 else f"{len(able)} works"
            print(f"{time.monotonic() - begun:5.0f} s  {side}: {what}", file=sys.stderr, flush=True)
            job = json.dumps({"side": side, "indices": able, "quick": options.quick, "dry": dry})
            try:
                ran = start([pythons[side.split()[0]], "-m", "benchmarks.gpu.side", job], machine.processors())
            except BenchmarkError as error:
                ran = {"results": {str(index): {"error": str(error)} for index in able}}
            else:
                report["sides"][side.split()[0]] = {"version": ran["version"], "gpu": ran["gpu"]}
            for index in able:
                result = ran["results"][str(index)]
                if "error" in result:
                    report["failed"][f"{found[index].name}, {side}"] = result["error"]
                else:
                    made[index].setdefault(side, []).append(result)
    report["rows"] = [table.row(found[index], made[index], report["failed"]) for index in chosen]
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write the report; 1 where something could not be measured."""
    options = parse(argv)
    try:
        report = run(options)
    except BenchmarkError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 1
    print(table.heading(report), table.table(report), sep="\n\n")
    for name, text in report["failed"].items():
        print(f"\n{name}: {text}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
