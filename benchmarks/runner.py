"""Runner: starts a process for every side of every workload, in turns, and puts the figures together."""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.workload import Goal, Workload, workloads

ROOT = Path(__file__).resolve().parent.parent
# What a test machine may set and no user does: OpenBLAS pinned to an older processor or to another's cache, modules
# compiled anew at every import, kernels switched off or chosen.
REMOVED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE", "MINIGRAD_KERNELS", "MINIGRAD_CPU")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
AGREEMENT = 1e-3  # of the sides' values, relative
QUIET = 0.05  # the share of the processors that others may use in a quiet round
PATIENCE = 600.0  # seconds; then a round counts as it is, and the report says how busy others were


class BenchmarkError(RuntimeError):
    """A side could not be measured, or the sides did different work."""


@dataclass(frozen=True)
class Settings:
    """How to measure. `pythons` gives the interpreter of each side, minigrad first, None for a peer that is missing.

    With `quiet`, a side is measured again while other processes are busy.
    """

    pythons: Mapping[str, str | None]
    threads: int
    repeat: int
    quick: bool = False
    quiet: bool = False


def installed(python: str, module: str) -> bool:
    """Whether an interpreter can find a module."""
    script = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", script], cwd=ROOT, check=False).returncode == 0
    except OSError as error:
        raise BenchmarkError(f"{module}: cannot start the interpreter {python!r}: {error.strerror}") from None


def environment(threads: int) -> dict[str, str]:
    """The environment of every side: a user's, with one number of threads."""
    kept = {name: value for name, value in os.environ.items() if name not in REMOVED}
    return kept | dict.fromkeys(THREADS, str(threads))


def run(
    families: Iterable[str], settings: Settings, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure families, and return a report: plain data, as it goes to JSON."""
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(),
        "threads": settings.threads,
        "repeat": settings.repeat,
        "quick": settings.quick,
        "quiet": settings.quiet,
        "sides": dict.fromkeys(settings.pythons),
        "rows": [],
    }
    for family in families:
        for index, workload in enumerate(workloads(family)):
            progress(f"{family}: {workload.name}")
            runs = take_turns(family, index, workload, settings)
            for side, results in runs.items():
                report["sides"][side] = {key: results[0][key] for key in ("version", "python", "numpy", "blas")}
            report["rows"].append(row(family, workload, runs))
    return report


def take_turns(family: str, index: int, workload: Workload, settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Results of every round by side. Each is from a fresh process, and no two processes run at the same time."""
    pythons = {side: python for side, python in settings.pythons.items() if python and side in workload.sides}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
    if workload.once and not settings.quick:  # fills the caches of bytecode and files
        for side, python in pythons.items():
            run_side(python, family, index, side, settings)
    for _ in range(settings.repeat):
        for side, python in pythons.items():
            runs[side].append(measure(python, family, index, side, settings))
    return runs


def measure(python: str, family: str, index: int, side: str, settings: Settings) -> dict[str, Any]:
    """Measure one side once; where a quiet machine is asked for, again while others were busy meanwhile."""
    end = time.monotonic() + (PATIENCE if settings.quiet else 0)
    while True:
        wait_for_quiet(end)
        others = machine.Others()
        result = run_side(python, family, index, side, settings)
        result["others"] = others.share()
        if quiet(result["others"]) or time.monotonic() >= end:
            return result


def wait_for_quiet(end: float) -> None:
    """Wait until nothing else is busy, or for a time."""
    while time.monotonic() < end:
        others = machine.Others()
        time.sleep(0.5)
        if quiet(others.share()):
            return


def quiet(share: float | None) -> bool:
    """Whether others use so little of the processors that the figures hold; so where nothing is known."""
    return share is None or share <= QUIET


def run_side(python: str, family: str, index: int, side: str, settings: Settings) -> dict[str, Any]:
    """Start the process of one side, and return what it measured."""
    effort = "quick" if settings.quick else "full"
    command = [python, "-m", "benchmarks.side", family, str(index), side, str(settings.threads), effort]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(settings.threads), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{family}: {side} ended with status {done.returncode}:\n{done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def row(family: str, workload: Workload, runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds, their ratios, and whether the goal is reached."""
    check_agreement(workload, runs)
    rounds = {side: [result["seconds"] for result in results] for side, results in runs.items()}
    seconds = {side: statistics.median(times) for side, times in rounds.items()}
    fastest = {side: min(times) for side, times in rounds.items()}
    peers = [side for side in runs if side != "minigrad"]
    ratios = {side: seconds["minigrad"] / seconds[side] for side in peers}
    return {
        "family": family,
        "workload": workload.name,
        "seconds": seconds,
        "rounds": rounds,
        "ratios": ratios,
        "fastest_ratios": {side: fastest["minigrad"] / fastest[side] for side in peers},
        "others": {side: [result["others"] for result in results] for side, results in runs.items()},
        "peak_bytes": {side: max(result["peak_bytes"] for result in results) for side, results in runs.items()},
        "goal": asdict(workload.goal),
        "reached": reached(workload.goal, seconds["minigrad"], ratios.get("torch")),
    }


def reached(goal: Goal, seconds: float, ratio: float | None) -> bool | None:
    """Whether every part of a goal is reached; None where there is none, or PyTorch's time is missing."""
    parts: list[bool | None] = []
    if goal.seconds is not None:
        parts.append(seconds <= goal.seconds)
    if goal.ratio is not None:
        parts.append(None if ratio is None else ratio <= goal.ratio)
    if False in parts:
        return False
    return True if parts and None not in parts else None


def check_agreement(workload: Workload, runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """Raise where the sides' values differ: their times would not compare."""
    values = {side: results[0]["value"] for side, results in runs.items() if results[0]["value"] is not None}
    for side, value in values.items():
        if not abs(value - values["minigrad"]) <= AGREEMENT * abs(values["minigrad"]):
            raise BenchmarkError(f"{workload.name}: {side} got {value}, minigrad {values['minigrad']}")
