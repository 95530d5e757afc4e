"""NumPy's BLAS as the kernels call it: found, on one thread inside of them, and left as it was."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import numpy as np
import pytest

from minigrad._core import blas, cpu
from minigrad._core.cpu import Kernel
from minigrad.testing.variants import variant

matmul = Kernel("matmul", "matmul")
needs_blas = pytest.mark.skipif(not blas.available(), reason="NumPy's BLAS was not found")
X = np.random.default_rng(0).normal(size=(300, 250))  # large enough to be shared among threads


def threads_of_blas() -> list[int]:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    # SciPy brings an OpenBLAS of its own, which nobody here sets
    return [pool["num_threads"] for pool in pools if len(pools) == 1 or "numpy" in pool["filepath"]]


@pytest.mark.skipif(sys.platform != "linux", reason="wheels for other systems may use another BLAS")
def test_blas_of_a_wheel_is_found() -> None:
    folders = [os.path.dirname(np.__file__), os.path.dirname(np.__file__) + ".libs"]
    bundled = any("openblas" in name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder))
    assert blas.available() or not bundled


@needs_blas
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_threads_of_blas_are_left_as_they_were(threads: int) -> None:
    before = threads_of_blas()
    with variant(cpu.level(), threads):
        matmul(X, X.T)
        assert threads_of_blas() == before


@needs_blas
def test_threads_set_while_kernels_run_stay_set() -> None:
    before = cpu.get_threads()
    expected = X @ X.T
    wrong: list[Any] = []

    def work() -> None:
        for _ in range(20):
            out = matmul(X, X.T)
            if not np.allclose(out, expected):
                wrong.append(out)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    blas.set_threads(before + 1)
    for worker in workers:
        worker.join()
    try:
        assert not wrong
        assert set(threads_of_blas()) == {before + 1}
    finally:
        blas.set_threads(before)


@needs_blas
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_multiply() -> None:
    with variant(cpu.level(), 2):
        expected = matmul(X, X.T)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if matmul(X, X.T).tobytes() == expected.tobytes() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
