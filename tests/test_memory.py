"""Memory: graphs are freed by reference count alone, at any depth, and nothing grows."""

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn


@pytest.fixture
def no_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_graph_is_freed_by_reference_count(no_gc):
    x = mg.tensor(np.ones(10), requires_grad=True)
    h = mg.exp(x) * mg.tanh(x)
    kept = [weakref.ref(h), weakref.ref(h.grad_fn), weakref.ref(mg.softmax(h).grad_fn)]
    loss = (h + mg.softmax(h)).sum()
    del h
    assert kept[1]() is not None
    del loss
    assert all(r() is None for r in kept)


def test_backward_frees_residuals_as_it_goes(no_gc):
    x = mg.tensor(np.ones(10), requires_grad=True)
    alive = []
    h = mg.exp(x)
    array = h._array

    def hook(g):
        alive.append(sys.getrefcount(array))

    x2 = h * 1
    x2.register_hook(hook)
    y = mg.exp(x2)
    del h, x2
    loss = y.sum()
    node = weakref.ref(y.grad_fn)
    del y
    loss.backward()
    assert node() is None
    assert loss.grad_fn is None or loss.grad_fn.freed


def test_only_residuals_outlive_the_forward(no_gc):
    class Array(np.ndarray):
        pass

    x = mg.tensor(np.ones(10), requires_grad=True)
    for op, keeps in [(lambda t: t + 1, False), (lambda t: t.sum(), False), (mg.square, True), (mg.exp, False)]:
        h = x * 2
        reference = weakref.ref(h)
        y = op(h)
        del h
        assert (reference() is not None) == keeps
        del y


@pytest.mark.parametrize("freed_by", ["backward", "forgetting"])
def test_a_chain_of_a_million_nodes(freed_by, no_gc):
    x = mg.tensor([1.0], requires_grad=True)
    y = x
    for _ in range(1_000_000):
        y = y * 1.0
    if freed_by == "backward":
        y.sum().backward()
        assert x.grad.item() == 1.0
    del y


def test_a_wide_graph():
    x = mg.tensor(1.0, requires_grad=True)
    y = x * 0
    for _ in range(20_000):
        y = y + x
    y.backward()
    assert x.grad.item() == 20_000


def resident_pages():
    """Pages of this process in memory now; the peak that `resource` knows would hide growth behind an earlier test."""
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to read the resident memory")
def test_training_steps_do_not_grow_memory(no_gc):
    rng = np.random.default_rng(0)
    x = mg.tensor(rng.standard_normal((16, 8)), dtype=mg.float32)
    w = mg.tensor(rng.standard_normal((8, 4)), dtype=mg.float32, requires_grad=True)
    b = mg.zeros(4, requires_grad=True)

    def step():
        w.grad = b.grad = None
        h = mg.tanh(x @ w + b)
        (mg.softmax(h) * h).sum().backward()
        with mg.no_grad():
            w.__isub__(0.001 * w.grad)
            b.__isub__(0.001 * b.grad)

    for _ in range(300):
        step()
    objects, pages = len(gc.get_objects()), resident_pages()
    for _ in range(10_000):
        step()
    assert len(gc.get_objects()) <= objects + 20
    assert resident_pages() <= pages + 128  # 10,000 lost nodes alone would take more than 500 pages of 4 kB


def test_walks_over_a_model_leave_nothing_to_the_collector(no_gc):
    model = nn.Sequential([nn.Dense(3, in_features=2), nn.Sequential([nn.Dense(2, in_features=3)])])
    x = mg.ones((1, 2))
    gc.collect()
    for act in (model.parameters, model.eval, model.train, model.state_dict):
        act()
        assert gc.collect() == 0, act
    model.summary(x)
    assert gc.collect() == 0
    freed = weakref.ref(model)
    del model, act
    assert freed() is None


def test_value_and_grad_leaves_nothing_to_the_collector(no_gc):
    step = mg.value_and_grad(lambda p: (p["w"] * p["b"][0]).sum())
    w = mg.ones(2)
    step({"w": w, "b": [w]})
    gc.collect()
    step({"w": w, "b": [w]})
    assert gc.collect() == 0


def test_a_deep_tree_of_modules():
    model = nn.Identity()
    for _ in range(3 * sys.getrecursionlimit()):
        model = nn.Residual(model)
    assert len(model.modules()) == 3 * sys.getrecursionlimit() + 1
    while hasattr(model, "module"):  # no deep recursion in freeing either
        model = model.module
