"""Kernels of the softmax family and of cross entropy: each equals the generic body and rule, or leaves it the work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad._core import dispatch
from minigrad._core.cpu import Kernel
from minigrad.ops.conversion import new
from minigrad.ops.registry import REGISTRY
from minigrad.testing.contract import CANCELLED
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import assert_variants

FAMILY = ("softmax", "log_softmax", "logsumexp")
KERNELS = {name: Kernel("softmax", name) for stem in FAMILY for name in (stem, f"{stem}_vjp")}
cross_entropy, cross_entropy_vjp = (Kernel("cross_entropy", f"cross_entropy{end}") for end in ("", "_vjp"))
Array = np.ndarray[Any, Any]
FLOATS = (mg.float32, mg.float64)
SPECIAL = [-math.inf, -3e38, -1e4, -88.0, -1.0, -0.0, 0.0, 1.0, 88.0, 1e4, 3e38, math.inf, math.nan]
PLAIN = {"ignore_index": None, "label_smoothing": 0.0, "reduction": "mean"}
ENDS: dict[str, Any] = {"floor": CANCELLED, "each": True}  # for special values: each element at its own scale


def params(name: str, axis: int | None = -1) -> dict[str, Any]:
    """What a kernel of the family is called with."""
    return {"axis": axis} | ({"keepdims": False} if name.startswith("logsumexp") else {})


@st.composite
def logits(draw: st.DrawFn, shape: tuple[int, ...]) -> Array:
    """Numbers of one scale or another, in any layout, some of them at the ends of the range, infinite or NaN."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.normal(scale=draw(st.sampled_from([0.1, 1.0, 30.0])), size=shape)
    special = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))
    x[special] = rng.choice(draw(st.lists(st.sampled_from(SPECIAL), min_size=1)), special.sum())
    return relayout(x.astype(draw(st.sampled_from(FLOATS))), draw(layouts()))


# ---- softmax, log_softmax, logsumexp ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
@given(data=st.data())
def test_softmax_is_the_generic_one(name: str, data: st.DataObject) -> None:
    n = data.draw(st.sampled_from([1, 2, 3, 5, 16, 31, 32, 33, 70]))
    shape = data.draw(st.permutations([n, data.draw(st.integers(0, 4)), data.draw(st.integers(1, 3))]))
    axis = data.draw(st.sampled_from([-1, -1, -2, 0, 1, None] if name == "logsumexp" else [-1, -1, -2, 0, 1]))
    options = {"keepdims": data.draw(st.booleans())} if name == "logsumexp" else {}
    x = data.draw(logits(tuple(shape)))
    # the gradient of log_softmax is what is left of a cotangent of about 1 and of a share of their sum
    ends = ENDS | {"floor": 1.0} if name == "log_softmax" else ENDS
    assert_variants(lambda t: getattr(mg, name)(t, axis=axis, **options), x, **ends)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((300, 200), -1), ((3, 20_000), -1), ((30_000, 3), -1), ((40, 30, 60), 1), ((200, 600), 0), ((3, 1100, 20), 1)],
)
def test_large_softmax(name: str, dtype: Any, shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).normal(scale=3.0, size=shape).astype(dtype)
    assert_variants(lambda t: getattr(mg, name)(t, axis=axis), x)
    if max(shape) < 1000:
        assert_variants(lambda t: getattr(mg, name)(t, axis=axis), np.asfortranarray(x), ran=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 131_073), -1), ((2, 140_000), 1), ((30_000, 5), 0), ((700, 2100), 0), ((2, 1100, 120), 1)]
)
def test_long_rows_and_columns_that_threads_share(name: str, dtype: Any, shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).normal(scale=3.0, size=shape).astype(dtype)
    # a gradient is what is left of a probability times cotangents of about 1
    assert_variants(lambda t: getattr(mg, name)(t, axis=axis), x, wide=True, floor=1.0)


@pytest.mark.parametrize("name", FAMILY)
def test_a_row_has_the_same_bits_among_few_and_among_many(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(8, 131_500)).astype(np.float32)
    kernel, rule = KERNELS[name], KERNELS[f"{name}_vjp"]
    many = kernel(x, **params(name))
    g = np.random.default_rng(1).normal(size=many.shape).astype(np.float32)
    grads = rule(g, x if name == "logsumexp" else many, **params(name))
    few = kernel(x[:2], **params(name))
    np.testing.assert_array_equal(few, many[:2])
    np.testing.assert_array_equal(rule(g[:2], x[:2] if name == "logsumexp" else few, **params(name)), grads[:2])


@pytest.mark.parametrize("shape", [(1, 131_073), (131_073, 1, 2)])
@pytest.mark.parametrize("name", FAMILY)
def test_special_values_among_many(name: str, shape: tuple[int, ...]) -> None:
    axis = int(np.argmax(shape))
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    last = (-1,) * len(shape)
    for value in (-np.inf, np.nan):
        x[last] = value
        assert_variants(lambda t: getattr(mg, name)(t, axis=axis), x, wide=True, floor=1.0, each=True)
    assert_variants(lambda t: getattr(mg, name)(t, axis=axis), np.full_like(x, -np.inf), **ENDS)
    x[last] = np.inf
    assert KERNELS[name](x, **params(name, axis)) is NotImplemented


@pytest.mark.parametrize("name", FAMILY)
def test_order_in_memory(name: str) -> None:
    """Fortran order is kept; a large array whose neighbors lie apart is left to the generic body."""
    x = np.random.default_rng(0).normal(size=(120, 90))
    kernel, rule = KERNELS[name], KERNELS[f"{name}_vjp"]
    reversed_x = np.asfortranarray(x)
    out = kernel(reversed_x, **params(name))
    assert out.flags.f_contiguous
    np.testing.assert_array_equal(out, kernel(np.ascontiguousarray(x.T), **params(name, 0)).T)
    grad = rule(out, reversed_x if name == "logsumexp" else out, **params(name))
    assert grad.flags.f_contiguous
    assert kernel(np.repeat(x, 2, axis=1)[:, ::2], **params(name)) is NotImplemented
    assert kernel(np.repeat(x, 2, axis=0)[::2], **params(name)).shape == out.shape


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("classes", [1027, 8193])  # rows that are written past the caches, and rows too long for that
def test_results_that_exceed_the_caches(name: str, classes: int) -> None:
    x = np.random.default_rng(0).normal(size=(2**24 // 4 // classes + 1, classes)).astype(np.float32)
    kernel, rule = KERNELS[name], KERNELS[f"{name}_vjp"]
    out = kernel(x, **params(name))
    g = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    grad = rule(g, x if name == "logsumexp" else out, **params(name))
    for rows in (slice(0, 2), slice(-2, None)):
        few = kernel(x[rows], **params(name))
        np.testing.assert_array_equal(few, out[rows])
        saved = x[rows] if name == "logsumexp" else few
        np.testing.assert_array_equal(rule(g[rows], saved, **params(name)), grad[rows])


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("name", FAMILY)
def test_a_row_of_minus_infinity(name: str, axis: int) -> None:
    x = np.array([[-np.inf, -np.inf, -np.inf], [1.0, -np.inf, 2.0], [0.0, 1.0, 2.0]], np.float32)
    assert_variants(lambda t: getattr(mg, name)(t, axis=axis), x if axis else x.T.copy(), **ENDS)


def test_expanded_cotangents_and_read_only_inputs() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5))
    x.flags.writeable = False
    for name in FAMILY:
        op = REGISTRY[name]
        out = KERNELS[name](x, **params(name))
        saved = x if name == "logsumexp" else out
        expanded = np.broadcast_to(np.array(0.5), out.shape)  # as the rule of sum makes it
        found = KERNELS[f"{name}_vjp"](expanded, saved, **params(name))
        np.testing.assert_allclose(found, op.vjps[0].rule(np, expanded, saved, **params(name)), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize(
    ("x", "axis"),
    [
        (np.ones((2, 3), np.float16), -1),
        (np.ones((2, 3), np.int64), -1),
        (np.ones((2, 3), ">f4"), -1),
        (np.ones((0, 3), np.float32), -1),
        (np.ones((), np.float32), -1),
        (np.full((2, 3), np.inf, np.float32), -1),
        (np.full((2, 3), np.inf, np.float32), 0),
        (np.ones((2, 3), np.float32), 2),
        (np.ones((2, 3), np.float32), -3),
        (np.ones((2, 3), np.float32), (0, 1)),
        (np.ones((2, 3), np.float32), True),
        (1.0, -1),
    ],
)
@pytest.mark.parametrize("name", FAMILY)
def test_softmax_leaves_to_the_generic_body(name: str, x: Any, axis: Any) -> None:
    assert KERNELS[name](x, **params(name, axis)) is NotImplemented


@pytest.mark.parametrize("name", FAMILY)
def test_a_cotangent_of_another_kind(name: str) -> None:
    x = np.ones((2, 3), np.float32)
    shape = (2,) if name == "logsumexp" else (2, 3)
    for g in (np.ones((3, 2), np.float32), np.ones(shape), np.ones(shape, ">f4"), 1.0):
        assert KERNELS[f"{name}_vjp"](g, x, **params(name)) is NotImplemented


# ---- cross entropy ---------------------------------------------------------------------------------------------------


@given(data=st.data(), n=st.integers(0, 6), classes=st.sampled_from([1, 2, 3, 5, 10, 32, 256, 261]))
def test_cross_entropy_is_the_generic_one(data: st.DataObject, n: int, classes: int) -> None:
    x = data.draw(logits((n, classes)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    integer = data.draw(st.sampled_from([mg.int64, mg.int32, mg.uint8]))
    targets = relayout(rng.integers(0, min(classes, 256), n).astype(integer), data.draw(layouts()))
    weight = rng.uniform(0.5, 2.0, classes).astype(x.dtype) if data.draw(st.booleans()) else None
    options: dict[str, Any] = {
        "ignore_index": data.draw(st.sampled_from([None, 0, 1, -100, 2**70])),
        "label_smoothing": data.draw(st.sampled_from([0.0, 0.0, 0.1, 1.0])),
        "reduction": data.draw(st.sampled_from(["mean", "sum", "none"])),
    }
    given_weight = None if weight is None else new(weight)
    taken = targets.dtype != mg.uint8 and targets.flags.c_contiguous and options["ignore_index"] != 2**70

    def call(t: mg.Tensor) -> mg.Tensor:
        return mg.cross_entropy(t, new(targets), weight=given_weight, **options)

    assert_variants(call, x, seed=n, ran=None if taken else False, **ENDS)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(2000, 30), (30, 5000)])
def test_large_cross_entropy(dtype: Any, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=shape).astype(dtype), new(rng.integers(0, shape[1], shape[0]))
    weight = new(rng.uniform(0.5, 2.0, shape[1]).astype(dtype))
    calls: list[Callable[[mg.Tensor], mg.Tensor]] = [
        lambda t: mg.cross_entropy(t, targets),
        lambda t: mg.cross_entropy(t, targets, label_smoothing=0.1, reduction="none").sum(),
        lambda t: mg.cross_entropy(t, targets, weight=weight, label_smoothing=0.1, ignore_index=3),
    ]
    for call in calls:
        assert_variants(call, x)


def test_a_gradient_that_exceeds_the_caches() -> None:
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(4100, 1027)).astype(np.float32), rng.integers(0, 1027, 4100)
    grad = cross_entropy_vjp(np.ones((), np.float32), x, targets, None, **(PLAIN | {"reduction": "sum"}))
    few = cross_entropy_vjp(np.ones((), np.float32), x[-3:], targets[-3:], None, **(PLAIN | {"reduction": "sum"}))
    np.testing.assert_array_equal(grad[-3:], few)


@pytest.mark.parametrize(("dtype", "lowest"), [(np.float32, -87.0), (np.float64, -708.0)])
def test_small_probabilities_keep_their_digits(dtype: Any, lowest: float) -> None:
    x = np.concatenate([np.linspace(lowest, 0.0, 1001), [lowest - 3, -math.inf]]).astype(dtype)[np.newaxis]
    expected = np.exp(x[0].astype(np.longdouble))
    expected /= expected.sum()
    for found in (
        cross_entropy_vjp(np.ones((), dtype), x, np.array([1000]), None, **PLAIN)[0],
        KERNELS["softmax"](x, axis=-1)[0],
        KERNELS["softmax"](x.T, axis=0)[:, 0],
    ):
        np.testing.assert_allclose(found[:1000], expected[:1000].astype(np.float64), rtol=8 * np.finfo(dtype).eps)
        assert found[1001] < np.finfo(dtype).tiny
        assert found[1002] == 0


@pytest.mark.parametrize("wrong", [-1, 3, -(2**62), 2**62])
def test_a_wrong_class_is_refused_as_without_kernels(wrong: int) -> None:
    texts = []
    for kernels in (True, False):
        before = dispatch.use_kernels(kernels)
        try:
            with pytest.raises(IndexError) as caught:
                mg.cross_entropy(mg.zeros((2, 3)), mg.tensor([0, wrong]), ignore_index=1)
        finally:
            dispatch.use_kernels(before)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert f"the class {wrong}" in texts[0]


X, T = np.ones((2, 3), np.float32), np.array([0, 2])
G = np.ones((), np.float32)


def test_kernels_are_registered_and_take_plain_arrays() -> None:
    for name in (*FAMILY, "cross_entropy"):
        for dtype in FLOATS:
            assert ("cpu", dtype) in REGISTRY[name].kernels
            assert ("cpu", dtype) in REGISTRY[name].vjps[0].kernels
    frozen = X.copy()
    frozen.flags.writeable = False
    assert cross_entropy(frozen, T, None, **PLAIN).shape == ()
    assert cross_entropy_vjp(G, frozen, T, None, **PLAIN).shape == (2, 3)
    assert cross_entropy(np.asfortranarray(X), T.astype(np.int32), None, **PLAIN).shape == ()
    expanded = np.broadcast_to(G, 2)  # as the rule of sum makes it
    assert cross_entropy_vjp(expanded, X, T, None, **(PLAIN | {"reduction": "none"})).shape == (2, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        (X.astype(np.float16), T, None),
        (X.astype(">f4"), T, None),
        (X[0], T, None),
        (X[:0], T[:0], None),
        (X, T.astype(np.int16), None),
        (X, T[:1], None),
        (X, T[::-1], None),
        (X, T[:, np.newaxis], None),
        (X, np.array([0, 3]), None),
        (X, np.array([0, -1], np.int32), None),
        (X, T, np.ones(2, np.float32)),
        (X, T, np.ones(3)),
        (np.full_like(X, np.inf), T, None),
    ],
)
def test_cross_entropy_leaves_to_the_generic_body(arguments: tuple[Any, ...]) -> None:
    assert cross_entropy(*arguments, **PLAIN) is NotImplemented
    assert cross_entropy_vjp(G.astype(arguments[0].dtype), *arguments, **PLAIN) is NotImplemented


@pytest.mark.parametrize("g", [np.ones(()), np.ones(2, np.float32), 1.0, G.astype(">f4")])
def test_a_cotangent_that_does_not_fit(g: Any) -> None:
    assert cross_entropy_vjp(g, X, T, None, **PLAIN) is NotImplemented


@pytest.mark.parametrize("ignore_index", [2**63, 1.0, True])
def test_an_ignored_index_that_is_no_int64(ignore_index: Any) -> None:
    assert cross_entropy(X, T, None, **(PLAIN | {"ignore_index": ignore_index})) is NotImplemented
