"""Threads: graphs built and differentiated at the same time, apart and shared."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import GradError

THREADS = 8


def run(work):
    start = threading.Barrier(THREADS)

    def each(k):
        start.wait()
        return work(k)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(each, range(THREADS)))


def test_separate_graphs():
    def work(k):
        x = mg.tensor(np.full(2000, float(k)), requires_grad=True)
        for _ in range(50):
            x.grad = None
            (mg.sin(x) * x).sum().backward()
        return x.grad.numpy()

    for k, g in enumerate(run(work)):
        np.testing.assert_allclose(g, np.sin(k) + k * np.cos(k))


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_shared_leaf_loses_no_gradient(size):
    x = mg.tensor(np.ones(size), requires_grad=True)

    def work(k):
        for _ in range(50):
            (x * 2.0).sum().backward()

    run(work)
    assert x.grad.tolist() == [2.0 * 50 * THREADS] * size


def test_a_shared_graph_that_is_retained():
    x = mg.tensor(np.ones(100), requires_grad=True)
    h = mg.exp(x)
    for _ in range(50):
        h = h * 1.01

    def work(k):
        for _ in range(10):
            h.sum().backward(retain_graph=True)

    run(work)
    np.testing.assert_allclose(x.grad, np.e * 1.01**50 * 10 * THREADS)


def test_a_shared_graph_that_is_freed_gives_one_winner_and_errors_but_no_crash():
    for _ in range(20):
        x = mg.tensor(np.ones(10), requires_grad=True)
        h = mg.exp(x)
        for _ in range(100):
            h = mg.tanh(h)
        y = h.sum()

        def work(k, y=y):
            try:
                y.backward()
            except GradError:
                return 0
            return 1

        assert sum(run(work)) >= 1


def test_modes_belong_to_a_thread():
    x = mg.tensor(1.0, requires_grad=True)
    with mg.no_grad():
        assert all(run(lambda k: (x * 2).requires_grad))
        assert not (x * 2).requires_grad


def test_one_tensor_changed_and_read_by_threads_does_not_crash():
    t = mg.zeros(1000)

    def work(k):
        nonlocal t
        for i in range(200):
            t[k] = float(i)
            (t * 2).sum()

    run(work)
    assert t[0].item() == 199.0
