"""Threads: graphs built and differentiated at the same time, apart and shared."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import GradError

THREADS = 8
SIZE = 20_000  # NumPy lets other threads run while it adds that many


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


def switching_often(work):
    """`run`, with threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        return run(work)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("plain", [0, 4])
def test_a_shared_leaf_loses_no_gradient_that_has_a_graph(plain):
    """Also where some of the threads make no graph, and add in place."""
    x = mg.tensor(np.ones(SIZE), requires_grad=True)

    def work(k):
        for _ in range(10):
            (x * x).sum().backward(create_graph=k >= plain)

    switching_often(work)
    assert x.grad.tolist() == [2.0 * 10 * THREADS] * SIZE
    if not plain:
        (second,) = mg.grad(x.grad.sum(), [x])
        assert second.tolist() == [2.0 * 10 * THREADS] * SIZE
    x.grad = None  # it holds a graph that holds x


def test_a_shared_tensor_that_keeps_its_gradient_loses_none():
    x = mg.tensor(np.ones(SIZE), requires_grad=True)
    h = x * 2.0
    h.retain_grad()
    y = h.sum()

    def work(k):
        for _ in range(10):
            y.backward(retain_graph=True)

    switching_often(work)
    assert h.grad.tolist() == [10.0 * THREADS] * SIZE


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


def test_threads_that_free_a_graph_under_each_other_raise_and_do_not_crash():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(150):
            x = mg.ones(12, requires_grad=True)
            t = x * 1.0
            for _ in range(10):
                t = mg.split(t, [1])[1]
            y = t.sum()

            def work(k, x=x, y=y):
                try:
                    y.backward() if k % 2 else mg.grad(y, x, create_graph=True)
                except GradError as error:
                    return str(error)
                return "freed nothing under anybody"

            assert all("freed" in text for text in run(work))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_accumulates_can_differentiate():
    w, stop = mg.zeros(1_000_000, requires_grad=True), threading.Event()

    def train():
        seed = mg.ones(1_000_000)
        while not stop.is_set():
            (w * 1).backward(seed)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(15):
            time.sleep(0.005)
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                x = mg.ones(1, requires_grad=True)
                x.sum().backward()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
