"""The libraries that take part: how to set their threads, and what computes for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A library. `threads` sets its number of threads where environment and affinity are not enough."""

    threads: Callable[[int], None]
    blas: Callable[[], str]


def by_environment(count: int) -> None:
    """Nothing to do: the process was started with the variables that the library reads."""


def torch_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def numpy_blas() -> str:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown (threadpoolctl is not installed)"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return (
        ", ".join(f"{p['internal_api']} {p['version']} {p.get('architecture', '')}".strip() for p in pools) or "unknown"
    )


def torch_blas() -> str:
    import torch

    # PyTorch's wheels link their BLAS statically, where threadpoolctl cannot see it.
    return f"{'MKL' if torch.backends.mkl.is_available() else 'no MKL'}, {torch.backends.cpu.get_cpu_capability()}"


def jax_blas() -> str:
    return "XLA"


PEERS = {
    "minigrad": Peer(by_environment, numpy_blas),
    "torch": Peer(torch_threads, torch_blas),
    "jax": Peer(by_environment, jax_blas),
}
