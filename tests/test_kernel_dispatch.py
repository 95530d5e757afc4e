"""How kernels are called: half types as they are, and gradients added into memory that holds one already."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad._core import dispatch
from minigrad.errors import GradError
from minigrad.ops.registry import REGISTRY, Op, op, promote


@pytest.fixture
def scaled() -> Iterator[Op[Any]]:
    """An op ``x * w`` with rules but no kernels yet."""

    @op(dtype=promote, amp="widest")
    def scaled(xp: Any, x: Any, w: Any, /) -> Any:
        return x * w

    scaled.vjp(0)(lambda xp, g, w: g * w)
    scaled.vjp(1)(lambda xp, g, x: g * x)
    yield scaled
    del REGISTRY["scaled"]


def leaf(*values: float, dtype: Any = mg.float32) -> mg.Tensor:
    return mg.tensor(values, dtype=dtype, requires_grad=True)


def adding(seen: list[bool]) -> Any:
    """A kernel of the rule for w that adds into what it is given and notes that."""

    def kernel(g: Any, x: Any, into: Any = None) -> Any:
        seen.append(into is not None)  # a reference to it would keep others from writing to it
        if into is None:
            return g * x
        into += g * x
        return into

    return kernel


def test_a_gradient_is_added_to_the_one_of_an_earlier_pass(scaled: Op[Any]) -> None:
    seen: list[bool] = []
    scaled.kernel("cpu", mg.float32, vjp=1, into=True)(adding(seen))
    x, w = mg.tensor([2.0, 3.0]), leaf(1.0, 1.0)
    scaled(x, w).sum().backward()
    memory = w.grad
    scaled(x, w).sum().backward()
    assert seen == [False, True]
    assert w.grad is memory
    assert w.grad.tolist() == [4.0, 6.0]


def test_a_gradient_is_added_to_that_of_another_path(scaled: Op[Any]) -> None:
    seen: list[bool] = []
    scaled.kernel("cpu", mg.float32, vjp=1, into=True)(adding(seen))
    w = leaf(1.0, 1.0)
    v = w * 1.0
    out = scaled(mg.tensor([2.0, 3.0]), v) + scaled(mg.tensor([5.0, 7.0]), v) + scaled(mg.tensor([1.0, 1.0]), v)
    out.sum().backward()
    assert seen == [False, True, True]
    assert w.grad.tolist() == [8.0, 11.0]


def test_a_gradient_that_others_hold_is_not_written_to(scaled: Op[Any]) -> None:
    seen: list[bool] = []
    scaled.kernel("cpu", mg.float32, vjp=1, into=True)(adding(seen))
    w = leaf(1.0, 1.0)
    v = w * 1.0
    held: list[Any] = []
    v.register_hook(held.append)
    g = mg.ones(2)
    (v + scaled(mg.tensor([2.0, 3.0]), v)).backward(g)  # v gets g itself first
    assert g.tolist() == [1.0, 1.0]
    assert w.grad.tolist() == held[0].tolist() == [3.0, 4.0]


def test_hooks_see_the_contribution_and_not_the_sum(scaled: Op[Any]) -> None:
    seen: list[bool] = []
    scaled.kernel("cpu", mg.float32, vjp=1, into=True)(adding(seen))
    w = leaf(1.0, 1.0)
    hooked: list[Any] = []
    w.register_hook(lambda g: hooked.append(g.tolist()))
    for _ in range(2):
        scaled(mg.tensor([2.0, 3.0]), w).sum().backward()
    assert seen == [False, False]
    assert hooked == [[2.0, 3.0]] * 2
    assert w.grad.tolist() == [4.0, 6.0]


def test_an_operand_that_occurs_twice(scaled: Op[Any]) -> None:
    seen: list[bool] = []
    scaled.kernel("cpu", mg.float32, vjp=1, into=True)(adding(seen))
    w = leaf(2.0, 3.0)
    for _ in range(2):
        scaled(w, w).sum().backward()
    assert w.grad.tolist() == [8.0, 12.0]


def test_adding_counts_as_a_change(scaled: Op[Any]) -> None:
    scaled.kernel("cpu", mg.float32, vjp=1, into=True)(adding([]))
    w, x = leaf(1.0), mg.tensor([2.0])
    scaled(x, w).sum().backward()
    saved = leaf(1.0) * w.grad
    scaled(x, w).sum().backward()
    with pytest.raises(GradError, match=r"accumulation into \.grad"):
        saved.sum().backward()


def test_grad_and_create_graph_add_into_nothing(scaled: Op[Any]) -> None:
    seen: list[bool] = []
    scaled.kernel("cpu", mg.float32, vjp=1, into=True)(adding(seen))
    x, w = mg.tensor([2.0]), leaf(1.0)
    scaled(x, w).sum().backward()
    assert mg.grad(scaled(x, w).sum(), w).tolist() == [2.0]
    assert w.grad.tolist() == [2.0]
    assert seen == [False, False]
    scaled(x, w).sum().backward(create_graph=True)
    assert w.grad.tolist() == [4.0]
    assert len(seen) == 2


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16], ids=str)
def test_half_types_reach_a_kernel_of_theirs(scaled: Op[Any], dtype: Any) -> None:
    calls: list[str] = []

    def forward(x: Any, w: Any) -> Any:
        assert x.dtype == w.dtype == dtype
        calls.append("forward")
        return x * w

    def rule(g: Any, x: Any) -> Any:
        assert g.dtype == x.dtype == dtype
        calls.append("rule")
        return g * x if x[0] > 0 else NotImplemented

    scaled.kernel("cpu", dtype)(forward)
    scaled.kernel("cpu", dtype, vjp=1)(rule)
    for first in (2.0, -2.0):
        x, w = mg.tensor([first], dtype=dtype, requires_grad=True), leaf(3.0, dtype=dtype)
        out = scaled(x, w)
        out.sum().backward()
        assert out.dtype == x.grad.dtype == w.grad.dtype == dtype
        assert (out.tolist(), x.grad.tolist(), w.grad.tolist()) == ([3 * first], [3.0], [first])
    assert calls == ["forward", "rule"] * 2
    calls.clear()
    scaled(x, mg.tensor([1.0])).sum()
    scaled(x, 1.0)
    assert calls == []  # another dtype beside it: computed in float32


@pytest.fixture
def halved() -> Iterator[Op[Any]]:
    """An op of two results, ``x * w`` and ``sum(w)``, with one joint rule but no kernels yet."""

    @op(dtype=promote, skip="mask", amp="widest")
    def halved(xp: Any, x: Any, w: Any, mask: Any = None, /, *, factor: float = 1.0) -> Any:
        return x * w * factor, xp.sum(w)

    @halved.vjp()
    def rule(xp: Any, g: Any, x: Any, w: Any, mask: Any, x_shape: Any, out: Any, *, factor: float) -> Any:
        return g[0] * w * factor, g[0] * x * factor + g[1], None

    yield halved
    del REGISTRY["halved"]


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16], ids=str)
def test_half_types_reach_a_kernel_of_a_joint_rule(halved: Op[Any], dtype: Any) -> None:
    calls: list[float] = []

    def forward(x: Any, w: Any, mask: Any, *, factor: float) -> Any:
        return x * w * dtype.type(factor), np.asarray(w.sum(dtype=np.float32))

    def rule(g: Any, x: Any, w: Any, mask: Any, x_shape: Any, out: Any, *, factor: float) -> Any:
        assert g[0].dtype == x.dtype == w.dtype == out[0].dtype == dtype
        assert g[1].dtype == out[1].dtype == np.float32
        assert (mask.dtype, x_shape) == (np.int8, (1,))
        calls.append(float(x[0]))
        half = dtype.type(factor)
        return (g[0] * w * half, (g[0] * x * half).astype(np.float32) + g[1], None) if x[0] > 0 else NotImplemented

    halved.kernel("cpu", dtype)(forward)
    halved.kernel("cpu", dtype, vjp=-1)(rule)
    mask = mg.tensor([1], dtype=mg.int8)
    for first in (2.0, -2.0):
        x, w = leaf(first, dtype=dtype), leaf(3.0, dtype=dtype)
        out, total = halved(x, w, mask, factor=0.5)
        mg.grad(out.sum(), [x, w], create_graph=True)  # rules run on tensors
        (2 * out.sum() + total).backward()
        assert x.grad.dtype == w.grad.dtype == dtype
        assert (out.tolist(), x.grad.tolist(), w.grad.tolist()) == ([1.5 * first], [3.0], [first + 1])
    assert calls == [2.0, -2.0]
    calls.clear()
    for other in (mg.tensor([3.0]), 3.0):  # another dtype, or none, beside it: computed in float32
        x = leaf(2.0, dtype=dtype)
        halved(x, other, mask)[0].sum().backward()
        assert x.grad.tolist() == [3.0]
    assert calls == []


def test_a_kernel_of_a_joint_rule_answers_for_all_inputs(halved: Op[Any]) -> None:
    halved.kernel("cpu", mg.float16, vjp=-1)(lambda g, *residuals, factor: (g[0],))
    x = leaf(2.0, dtype=mg.float16)
    with pytest.raises(GradError, match="halved: its joint vjp rule gave 1, needs a tuple of 3"):
        halved(x, x)[0].sum().backward()


def test_float32_is_no_half_type(scaled: Op[Any]) -> None:
    scaled.kernel("cpu", mg.bfloat16)(lambda x, w: pytest.fail("called"))
    x = leaf(2.0)
    scaled(x, x).sum().backward()
    assert x.grad.tolist() == [4.0]


def grads_of(f: Any, kernels: bool) -> list[Any]:
    """What ``.grad`` of a weight is after a first backward pass and then f(x, w)."""
    rng = np.random.default_rng(0)
    x = mg.tensor(rng.normal(size=(70, 70)).astype(np.float32))
    w = mg.tensor(rng.normal(size=(70, 70)).astype(np.float32), requires_grad=True)
    before = dispatch.use_kernels(kernels)
    try:
        (x @ w).sum().backward()
        f(x, w)
    finally:
        dispatch.use_kernels(before)
    return w.grad.numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "f",
    [
        lambda x, w: (x @ w).backward(w.grad),
        lambda x, w: (w.grad @ w).sum().backward(),
        lambda x, w: (w.grad.T @ w).sum().backward(),
        lambda x, w: (x @ w).backward(w.grad.T),
    ],
)
def test_a_rule_does_not_add_into_what_it_reads(f: Any) -> None:
    np.testing.assert_allclose(grads_of(f, True), grads_of(f, False), rtol=1e-4, atol=1e-3)


def test_a_gradient_is_given_back_when_a_rule_fails_and_merged_with_what_came(scaled: Op[Any]) -> None:
    x, w = mg.tensor([2.0, 3.0]), leaf(1.0, 1.0)

    def failing(g: Any, x: Any, into: Any = None) -> Any:
        if into is not None:
            with mg.enable_grad():
                w.sum().backward()  # as a finalizer or another thread may, while the rule runs
            raise ValueError("full")
        return g * x

    scaled.kernel("cpu", mg.float32, vjp=1, into=True)(failing)
    scaled(x, w).sum().backward()
    held = w.grad
    with pytest.raises(ValueError, match="full"):
        scaled(x, w).sum().backward()
    assert w.grad is held
    assert w.grad.tolist() == [3.0, 4.0]


def test_clearing_gradients_while_another_thread_accumulates() -> None:
    x, w = mg.ones((64, 64)), mg.tensor(np.ones((64, 64), np.float32), requires_grad=True)
    stop = threading.Event()

    def clear() -> None:
        while not stop.is_set():
            w.grad = None

    worker = threading.Thread(target=clear)
    worker.start()
    try:
        for _ in range(300):
            (x @ w).sum().backward()
    finally:
        stop.set()
        worker.join()
    w.grad = None
    (x @ w).sum().backward()
    assert w.grad.tolist() == [[64.0] * 64] * 64
