"""Runner: starts the processes of the sides in turns, never two at a time, and puts their figures together."""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.agreement import agree
from benchmarks.side import Job
from benchmarks.workload import Goal, Workload, workloads

ROOT = Path(__file__).resolve().parent.parent
# What a test machine may set and no user does, by the beginnings of the names: a BLAS pinned to an older processor or
# to another's cache, modules compiled anew at every import, waiting threads and an allocator tuned by hand, minigrad's
# kernels switched off or chosen.
REMOVED = (
    "OPENBLAS_",
    "PYTHONDONTWRITEBYTECODE",
    "GOMP_",
    "OMP_",
    "KMP_",
    "MKL_",
    "MALLOC_",
    "GLIBC_TUNABLES",
    "MINIGRAD_",
)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MINIGRAD_NUM_THREADS")
QUIET = 0.05  # the share of the processors that others may use in a quiet round
PATIENCE = 600.0  # seconds; then a round counts as it is, and the report says how busy others were


class BenchmarkError(RuntimeError):
    """A side could not be measured, or the sides did different work."""


@dataclass(frozen=True)
class Settings:
    """How to measure. `pythons` gives the interpreter of each side, minigrad first, None for a peer that is missing.

    `scope` says which list of a family. With `quiet`, a side is measured again while other processes are busy.
    """

    pythons: Mapping[str, str | None]
    threads: int
    repeat: int
    quick: bool = False
    quiet: bool = False
    scope: str = "rows"
    memory: bool = False


def installed(python: str, module: str) -> bool:
    """Whether an interpreter can find a module."""
    script = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", script], cwd=ROOT, check=False).returncode == 0
    except OSError as error:
        raise BenchmarkError(f"{module}: cannot start the interpreter {python!r}: {error.strerror}") from None


def environment(threads: int) -> dict[str, str]:
    """The environment of every side: a user's, with one number of threads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(REMOVED)}
    return kept | dict.fromkeys(THREADS, str(threads))


def run(
    families: Iterable[str], settings: Settings, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure families, and return a report: plain data, as it goes to JSON.

    A family that cannot be measured is left out; "failed" says why.
    """
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(),
        "limits": {},
        "threads": settings.threads,
        "repeat": settings.repeat,
        "scope": settings.scope,
        "quick": settings.quick,
        "quiet": settings.quiet,
        "sides": dict.fromkeys(settings.pythons),
        "rows": [],
        "failed": {},
    }
    started = time.monotonic()
    report["limits"] = limits(settings)
    for family in families:
        progress(f"{time.monotonic() - started:4.0f} s  {family}")
        try:
            for rows, versions in measure_family(family, settings):
                report["rows"] += rows
                report["sides"] |= versions
        except BenchmarkError as error:
            report["failed"][family] = str(error)
            progress(f"{family} could not be measured")
    report["limits"] = {name: max(rate, report["limits"][name]) for name, rate in limits(settings).items()}
    report["geometric_means"] = geometric_means(report["rows"])
    report["minutes"] = (time.monotonic() - started) / 60
    return report


def limits(settings: Settings) -> dict[str, float]:
    """What the machine can do; measured before and after the families, as it is not equally fast at all times."""
    command = [sys.executable, "-m", "benchmarks.limits", str(settings.threads), effort(settings)]
    return start(command, settings.threads)


def effort(settings: Settings) -> str:
    """The name of the effort."""
    return "quick" if settings.quick else "full"


def measure_family(family: str, settings: Settings) -> Iterable[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Rows of the report, and the versions of the sides, of each group of workloads that share their processes."""
    found = workloads(family, settings.scope)
    for indices in groups(found):
        chosen = [found[index] for index in indices]
        jobs = {
            side: Job(
                family,
                settings.scope,
                [index for index in indices if side in found[index].sides],
                side,
                settings.threads,
                effort(settings),
            )
            for side, python in settings.pythons.items()
            if python and any(side in workload.sides for workload in chosen)
        }
        runs = take_turns(jobs, settings, warm=any(workload.once for workload in chosen))
        rows = []
        for index, workload in zip(indices, chosen, strict=True):
            results = {side: of_workload(index, runs[side]) for side in jobs if side in workload.sides}
            peaks = memory(index, [jobs[side] for side in results], settings) if settings.memory else {}
            rows.append(row(family, workload, results, peaks))
        keys = ("version", "python", "numpy", "blas")
        yield rows, {side: {key: made[0][key] for key in keys} for side, made in runs.items()}


def groups(found: Sequence[Workload]) -> list[list[int]]:
    """The workloads that a process measures one after the other; one that runs once a process is alone."""
    alone = [[index] for index, workload in enumerate(found) if workload.once]
    together = [index for index, workload in enumerate(found) if not workload.once]
    return [together, *alone] if together else alone


def take_turns(jobs: Mapping[str, Job], settings: Settings, warm: bool) -> dict[str, list[dict[str, Any]]]:
    """What the process of every round returned, by side."""
    if warm and not settings.quick:  # fills the caches of bytecode and files
        for job in jobs.values():
            run_side(job, settings)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in jobs}
    for _ in range(settings.repeat):
        for side, job in jobs.items():
            runs[side].append(measure(job, settings))
    return runs


def of_workload(index: int, runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The results of one workload in the processes of a side, and how busy others were during each."""
    return [made["results"][str(index)] | {"others": made["others"]} for made in runs]


def memory(index: int, jobs: Iterable[Job], settings: Settings) -> dict[str, dict[str, int]]:
    """Peak memory by side, of processes that do nothing else: the peak of what ran before would hide a smaller one."""
    alone = [replace(job, indices=[index], effort="memory") for job in jobs]
    return {job.side: run_side(job, settings)["results"][str(index)] for job in alone}


def measure(job: Job, settings: Settings) -> dict[str, Any]:
    """Measure one side once; where a quiet machine is asked for, again while others were busy meanwhile."""
    end = time.monotonic() + (PATIENCE if settings.quiet else 0)
    while True:
        wait_for_quiet(end)
        others = machine.Others()
        result = run_side(job, settings)
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


def run_side(job: Job, settings: Settings) -> dict[str, Any]:
    """Start the process of one side, and return what it measured."""
    python = settings.pythons[job.side]
    assert python is not None
    try:
        return start([python, "-m", "benchmarks.side", json.dumps(asdict(job))], settings.threads)
    except BenchmarkError as error:
        raise BenchmarkError(f"{job.family}: {job.side} {error}") from None


def start(command: Sequence[str], threads: int) -> dict[str, Any]:
    """Start a process, wait for it, and return the JSON object in its last line."""
    done = subprocess.run(command, cwd=ROOT, env=environment(threads), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"ended with status {done.returncode}:\n{done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def row(
    family: str,
    workload: Workload,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    peaks: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
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
        "point": None if workload.point is None else asdict(workload.point),
        "flops": workload.flops,
        "moved": workload.moved,
        "seconds": seconds,
        "rounds": rounds,
        "ratios": ratios,
        "fastest_ratios": {side: fastest["minigrad"] / fastest[side] for side in peers},
        "others": {side: [result["others"] for result in results] for side, results in runs.items()},
        "peak_bytes": {side: peak["peak_bytes"] for side, peak in peaks.items()},
        "base_bytes": {side: peak["base_bytes"] for side, peak in peaks.items()},
        "goal": asdict(workload.goal),
        "reached": reached(workload.goal, seconds["minigrad"], ratios.get("torch")),
    }


def geometric_means(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The geometric mean of the ratios to each peer, over the rows that have a ratio for a goal."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row["goal"]["ratio"] is not None:
            for peer, ratio in row["ratios"].items():
                ratios.setdefault(peer, []).append(ratio)
    return {peer: statistics.geometric_mean(values) for peer, values in ratios.items()}


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


def check_agreement(workload: Workload, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Raise where the sides' results differ: their times would not compare."""
    values = {side: results[0]["values"] for side, results in runs.items()}
    for side, value in values.items():
        if not agree(values["minigrad"], value, workload.tolerance):
            raise BenchmarkError(f"{workload.name}: {side} got {value}, minigrad {values['minigrad']}")
