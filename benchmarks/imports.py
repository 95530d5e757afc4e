"""The import. It starts after ``import numpy``."""

from __future__ import annotations

from benchmarks.workload import Goal, Task, Workload


def import_minigrad() -> Task:
    def run() -> None:
        import minigrad  # noqa: F401

    return Task(run)


def import_torch() -> Task:
    def run() -> None:
        import torch  # noqa: F401

    return Task(run)


def import_jax() -> Task:
    def run() -> None:
        import jax  # noqa: F401

    return Task(run)


WORKLOADS = [
    Workload(
        "import beyond NumPy",
        {"minigrad": import_minigrad, "torch": import_torch, "jax": import_jax},
        Goal(ratio=0.02, seconds=0.03),
        once=True,
    ),
]
SWEEP: list[Workload] = []
QUICK = WORKLOADS
