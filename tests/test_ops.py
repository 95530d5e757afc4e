"""Every op in the registry keeps the contract. It names none: an op is tested by being registered with samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import autograd, dtypes
from minigrad.ops.conversion import new
from minigrad.ops.registry import REGISTRY, Op
from minigrad.ops.samples import A, Case
from minigrad.ops.samples import case as sample
from minigrad.testing.contract import CHECKS
from minigrad.testing.samples import draw_case, relayout
from minigrad.testing.strategies import broadcastable_shapes, layouts
from minigrad.testing.tolerances import assert_close

UNARY = {((),), ((3,),), ((2, 3),), ((0, 2),)}
BINARY = {((2, 1), (1, 3)), ((2, 3), ()), ((), (2, 2))}


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_contract(name: str, check: Callable[[Op[Any]], None]) -> None:
    check(REGISTRY[name])


def elementwise(op: Op[Any]) -> Case | None:
    """A sample of an op that declares itself elementwise by having the samples of `unary` or `binary`, on floats."""
    plain = [c for c in op.cases if c.raises is None and not c.params and all(isinstance(i, A) for i in c.inputs)]
    tried = {tuple(i.shape for i in c.inputs) for c in plain}
    if op.variadic or not (tried >= UNARY or tried >= BINARY):
        return None
    return next((c for c in plain if all(i.kind == "float" and i.form == "any" for i in c.inputs)), None)


@pytest.mark.parametrize("name", [name for name in sorted(REGISTRY) if elementwise(REGISTRY[name]) is not None])
@given(data=st.data())
@settings(max_examples=max(settings().max_examples // 4, 5))
def test_elementwise_broadcasting(name: str, data: st.DataObject) -> None:
    """On shapes that broadcast, results and gradients are those on inputs that were stretched beforehand."""
    op = REGISTRY[name]
    case = elementwise(op)
    assert case is not None
    shapes = data.draw(broadcastable_shapes(len(case.inputs)))
    drawn = sample(*(A(s, i.low, i.high, i.avoid) for s, i in zip(shapes, case.inputs, strict=True)))
    inputs = draw_case(drawn, data.draw(st.integers(0, 2**31)))
    small = [new(relayout(v, data.draw(layouts())), requires_grad=True) for v in inputs]
    large = [new(v.copy(), requires_grad=True) for v in np.broadcast_arrays(*inputs)]
    out, expected = op(*small), op(*large)
    assert_close(out._array, expected._array, out.dtype, "output")
    if not out.requires_grad:
        return
    cotangent = np.random.default_rng(0).uniform(0.5, 1.5, out.shape)
    autograd.backward(out, new(cotangent))
    autograd.backward(expected, new(cotangent.copy()))
    for i, (s, b) in enumerate(zip(small, large, strict=True)):
        lead = tuple(range(b.ndim - s.ndim))
        stretched = tuple(k + len(lead) for k, n in enumerate(s.shape) if n == 1 and b.shape[k + len(lead)] != 1)
        want = b.grad._array.sum(axis=lead + stretched, keepdims=True).reshape(s.shape)
        assert_close(s.grad._array, want, dtypes.float64, f"gradient of input {i}")


def test_registry_is_walked() -> None:
    assert len(REGISTRY) > 20
    assert sum(elementwise(op) is not None for op in REGISTRY.values()) > 5
