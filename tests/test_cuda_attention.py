"""Attention on the GPU: its kernels equal the generic body in float64 for every option, and are left what they take."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from cuda_results import FLOATS, counted
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import autograd, dtypes
from minigrad.nn import functional as F
from minigrad.ops.conversion import new
from minigrad.ops.registry import REGISTRY
from minigrad.testing.contract import CANCELLED, CANCELLED_HALF
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.tolerances import assert_close
from minigrad.testing.variants import generic

pytestmark = pytest.mark.usefixtures("gpu")

Array = np.ndarray[Any, Any]
op = REGISTRY["attention"]
PLAIN = {"is_causal": False, "window": None, "softcap": None, "dropout": 0.0, "seed": (0, 0), "scale": 0.5}
INPUTS = ("query", "key", "value", "mask", "bias", "alibi_slopes", "key_lengths")


def results(given: dict[str, Array], options: dict[str, Any], device: str, wide: bool = False) -> dict[str, Array]:
    """Both results of the op and the gradients of its floating inputs under random cotangents."""
    tensors: dict[str, Any] = dict.fromkeys(INPUTS)
    for name, x in given.items():
        real = x.dtype in dtypes.FLOATING
        tensors[name] = new(x.astype(np.float64) if wide and real else x).to(device).detach()
        tensors[name].requires_grad = real
    out, lse = op(*tensors.values(), **options)
    leaves = {name: t for name, t in tensors.items() if t is not None and t.requires_grad}
    rng, dtype = np.random.default_rng(1), given["query"].dtype
    sums = np.float64 if dtype == np.float64 else np.float32
    g_out, g_lse = rng.normal(size=out.shape).astype(dtype), rng.normal(size=lse.shape).astype(sums)
    seeds = [new(g_out.astype(out.dtype)).to(device), new(g_lse.astype(lse.dtype)).to(device)]
    grads = autograd.grad([out, lse], list(leaves.values()), seeds)
    found = {"out": out, "lse": lse} | {f"gradient of {name}": g for name, g in zip(leaves, grads, strict=True)}
    return {name: t.detach().to("cpu").numpy() for name, t in found.items()}


def assert_same(given: dict[str, Array], **options: Any) -> None:
    """The kernels take the arguments, and give what the generic body does in float64."""
    options = PLAIN | options
    dtype = given["query"].dtype
    with counted("attention") as took:
        found = results(given, options, "cuda")
    assert took == [True, True]
    whole = (*given["query"].shape[:3], given["key"].shape[2])
    bias = given.get("bias", np.zeros(1, dtype))
    spread = given | {"bias": np.broadcast_to(bias, whole).copy()}
    slopes = given.get("alibi_slopes", np.zeros(whole[1], dtype))
    with generic():
        truth = results(spread | {"alibi_slopes": slopes}, options, "cpu", wide=True)
    size = np.abs(truth["gradient of bias"])  # of the terms that make gradients of what is broadcast
    lead = (1,) * (4 - bias.ndim) + bias.shape
    axes = tuple(axis for axis in range(4) if lead[axis] == 1)
    truth["gradient of bias"] = truth["gradient of bias"].sum(axes, keepdims=True).reshape(bias.shape)
    distance = np.abs(np.arange(whole[3]) - np.arange(whole[3] - whole[2], whole[3])[:, None])
    floors = {
        "gradient of bias": size.sum(axes).max(initial=0),
        "gradient of alibi_slopes": (size * distance).sum((0, 2, 3)).max(initial=0),
    }
    usual = CANCELLED_HALF if dtype in dtypes.HALF else CANCELLED
    for name, x in found.items():
        own = np.dtype(np.float32) if name == "lse" and dtype in dtypes.HALF else dtype
        assert x.dtype == own, name
        assert_close(x.astype(np.float64), truth[name], own, name, floor=max(usual, floors.get(name, 0.0)))


def operands(
    rng: np.random.Generator,
    batch: int,
    key_heads: int,
    group: int,
    n: int,
    m: int,
    width: int,
    value_width: int,
    dtype: Any,
) -> dict[str, Array]:
    shapes = (batch, key_heads * group, n, width), (batch, key_heads, m, width), (batch, key_heads, m, value_width)
    return {
        name: rng.normal(size=shape).astype(dtype)
        for name, shape in zip(("query", "key", "value"), shapes, strict=True)
    }


def arranged(x: Array, layout: str) -> Array:
    """The layouts of `relayout`, one as a projection has its heads, and one inside a wider array."""
    if layout == "projected":
        return x.swapaxes(1, 2).copy().swapaxes(1, 2)
    if layout == "sliced":
        return np.concatenate([x, x, x], axis=-1)[..., x.shape[-1] : 2 * x.shape[-1]]
    return relayout(x, layout)


@given(data=st.data())
def test_attention_is_the_generic_one(data: st.DataObject) -> None:
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(FLOATS))
    batch, key_heads, group = draw(st.sampled_from([(1, 1, 1), (2, 2, 1), (1, 1, 3), (2, 2, 2)]))
    n, m = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    widths = st.sampled_from([1, 8, 13, 16, 24, 64])
    heads = key_heads * group
    arrays = operands(rng, batch, key_heads, group, n, m, draw(widths), draw(widths), dtype)
    arrays = {
        name: arranged(x, draw(layouts() | st.sampled_from(["projected", "sliced"]))) for name, x in arrays.items()
    }

    def over_scores() -> tuple[int, ...]:
        shape = [extent if draw(st.booleans()) else 1 for extent in (batch, heads, n, m)]
        return tuple(shape[draw(st.sampled_from([0, 0, 1, 2])) :])

    bound = st.sampled_from([None, 0, 1, 20, 2**40])
    options: dict[str, Any] = {
        "is_causal": draw(st.booleans()),
        "window": draw(st.none() | st.tuples(bound, bound)),
        "scale": draw(st.sampled_from([0.3, 0.3, -0.2])),
    }
    if draw(st.booleans()):  # else the kernels without options
        options["softcap"] = draw(st.sampled_from([None, 1.5]))
        options["dropout"] = draw(st.sampled_from([0.0, 0.3]))
        options["seed"] = draw(st.tuples(*[st.integers(0, 2**64 - 1)] * 2, st.integers(0, 2**40)))
        if draw(st.booleans()):
            mask = rng.random(over_scores()) < draw(st.sampled_from([0.1, 0.9]))
            arrays["mask"] = relayout(mask, draw(layouts()))
        if draw(st.booleans()):
            arrays["bias"] = relayout(rng.normal(size=over_scores()).astype(dtype), draw(layouts()))
        if draw(st.booleans()):
            arrays["alibi_slopes"] = relayout(rng.uniform(0.01, 0.1, heads).astype(dtype), draw(layouts()))
    if draw(st.booleans()):
        arrays["key_lengths"] = rng.integers(0, m + 1, batch).astype(draw(st.sampled_from([mg.int64, mg.int32])))
    assert_same(arrays, **options)


@pytest.mark.parametrize("dtype", [dtypes.bfloat16, dtypes.float32], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"window": (40, 3)},
        {"dropout": 0.2, "seed": (1, 2), "is_causal": True},
        {"bias": (2, 150, 200), "softcap": 2.0, "mask": (2, 1, 1, 200), "alibi_slopes": (2,)},
    ],
    ids=str,
)
def test_many_blocks(dtype: Any, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.random(value) < 0.7 if name == "mask" else rng.uniform(0.01, 0.05, value).astype(dtype)
        for name, value in options.items()
        if name in INPUTS
    }
    given = operands(rng, 2, 1, 2, 150, 200, 40, 24, dtype) | arrays
    assert_same(given, **{name: value for name, value in options.items() if name not in INPUTS})


@pytest.mark.parametrize("dtype", [dtypes.bfloat16, dtypes.float32], ids=str)
@pytest.mark.parametrize("widths", [(80, 128), (128, 72), (200, 256)])
@pytest.mark.parametrize("options", [{}, {"alibi_slopes": True, "dropout": 0.1}], ids=str)
def test_wide_heads(dtype: Any, widths: tuple[int, int], options: dict[str, Any]) -> None:
    given = operands(np.random.default_rng(0), 1, 1, 1, 70, 90, *widths, dtype)
    if options:
        given["alibi_slopes"] = np.array([0.1], dtype)
    assert_same(given, is_causal=True, scale=0.1, dropout=options.get("dropout", 0.0))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_row_that_sees_no_key(dtype: Any, softcap: float | None) -> None:
    given = operands(np.random.default_rng(0), 1, 1, 1, 100, 40, 8, 8, dtype)
    found = results(given, PLAIN | {"is_causal": True, "softcap": softcap}, "cuda")
    assert (found["lse"][..., :60] == -math.inf).all()
    assert (found["out"][..., :60, :] == 0).all()
    assert (found["gradient of query"][..., :60, :] == 0).all()
    assert (found["gradient of query"][..., 60:, :] != 0).any()


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_lengths_out_of_range_count_as_the_next_in_it(dtype: Any, kernels: bool) -> None:
    given = operands(np.random.default_rng(0), 4, 1, 1, 20, 40, 8, 8, dtype)
    found = []
    for lengths in ([-(2**40), -1, 41, 2**40], [0, 0, 40, 40]):
        with nullcontext() if kernels else generic():
            found.append(results(given | {"key_lengths": np.array(lengths)}, PLAIN, "cuda"))
    for name, wanted in found[1].items():
        np.testing.assert_array_equal(found[0][name], wanted)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_padding_may_hold_anything(dtype: Any) -> None:
    given = operands(np.random.default_rng(0), 1, 1, 1, 20, 100, 8, 8, dtype) | {"key_lengths": np.array([45])}
    expected = results(given, PLAIN, "cuda")
    given["key"][:, :, 45:] = given["value"][:, :, 45:] = math.nan
    found = results(given, PLAIN, "cuda")
    for name in ("out", "lse", "gradient of query"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in ("gradient of key", "gradient of value"):
        np.testing.assert_array_equal(found[name][:, :, :45], expected[name][:, :, :45])
        assert (expected[name][:, :, 45:] == 0).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("special", [math.inf, -math.inf, math.nan, 1e4])
@pytest.mark.parametrize("place", ["query", "key", "value", "bias"])
def test_special_values(dtype: Any, special: float, place: str) -> None:
    rng = np.random.default_rng(0)
    given = operands(rng, 1, 1, 1, 20, 150, 8, 8, dtype)
    if place == "bias":
        given["bias"] = rng.normal(size=(20, 150)).astype(dtype)
    given[place][..., 3, 5] = special
    given[place][..., 9, 5] = -special
    with np.errstate(all="ignore"), generic():
        truth = results(given, PLAIN, "cpu", wide=True)
    found = results(given, PLAIN, "cuda")
    for name in ("out", "lse"):
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(truth[name]))
        np.testing.assert_array_equal(np.isposinf(found[name]), np.isposinf(truth[name]))


@pytest.mark.parametrize("dtype", [dtypes.bfloat16, dtypes.float32], ids=str)
def test_every_launch_gives_the_same_bits(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    given = operands(rng, 2, 1, 2, 70, 70, 16, 16, dtype)
    given |= {"bias": rng.normal(size=(1, 70)).astype(dtype), "alibi_slopes": np.array([0.1, 0.2], dtype)}
    first, second = (results(given, PLAIN | {"dropout": 0.2}, "cuda") for _ in range(2))
    for name, x in first.items():
        assert x.tobytes() == second[name].tobytes(), name


def test_results_lie_as_queries_do() -> None:
    from minigrad.backend.cuda.attention import attention, attention_vjp

    given = operands(np.random.default_rng(0), 2, 2, 2, 40, 50, 16, 24, np.float16)
    for layout, order in (("C", (0, 1, 2, 3)), ("projected", (0, 2, 1, 3))):
        arrays = [new(arranged(x, layout)).to("cuda")._array for x in given.values()]
        out = attention(*arrays, None, None, None, None, **PLAIN)
        grads = attention_vjp(out, *arrays, None, None, None, None, out, **PLAIN)
        for x in (out[0], *grads[:3]):
            assert x.transpose(order).flags.c_contiguous


def test_a_captured_step_adds_to_the_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    from minigrad.backend.cuda import capture

    given = operands(np.random.default_rng(0), 1, 1, 1, 40, 50, 8, 8, np.float16)
    expected = results(given, PLAIN | {"dropout": 0.4, "seed": (3, 11)}, "cuda")
    other = results(given, PLAIN | {"dropout": 0.4, "seed": (3, 4)}, "cuda")
    moved = new(np.array([7], np.uint64)).to("cuda")._array
    monkeypatch.setattr(capture, "offset", lambda: moved)
    found = results(given, PLAIN | {"dropout": 0.4, "seed": (3, 4)}, "cuda")
    for name, x in found.items():
        np.testing.assert_array_equal(x, expected[name])
        assert name == "lse" or (x != other[name]).any()


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=str)
def test_the_public_function_keeps_half_types(dtype: Any) -> None:
    """Nothing is cast to float32 on the way: kernels for half types take all of it, and are told cotangents so."""
    given = operands(np.random.default_rng(0), 2, 2, 1, 20, 20, 16, 16, dtype)
    query, key, value = (new(x).to("cuda") for x in given.values())
    bias = mg.zeros((1, 2, 20, 20), dtype=dtype, device="cuda")
    for t in (query, key, value, bias):
        t.requires_grad = True
    with counted("attention") as took:
        out, lse = F.scaled_dot_product_attention(query, key, value, bias=bias, is_causal=True, return_lse=True)
        out.sum().backward()
    assert took == [True, True]
    assert (out.dtype, lse.dtype) == (dtype, np.float32)
    assert {t.grad.dtype for t in (query, key, value, bias)} == {np.dtype(dtype)}
    with generic():
        truth = [new(x.astype(np.float64), requires_grad=True) for x in given.values()]
        F.scaled_dot_product_attention(*truth, is_causal=True).sum().backward()
    for t, wide in zip((query, key, value), truth, strict=True):
        found = t.grad.to("cpu").numpy().astype(np.float64)
        assert_close(found, wide.grad.numpy(), np.dtype(dtype), "gradient", floor=CANCELLED_HALF)


def test_second_order() -> None:
    given = operands(np.random.default_rng(0), 1, 1, 1, 3, 4, 2, 2, np.float64)

    def second(device: str) -> list[Any]:
        leaves = [new(x).to(device).detach() for x in given.values()]
        for leaf in leaves:
            leaf.requires_grad = True
        out, _ = op(*leaves, None, None, None, None, **PLAIN)
        grads = autograd.grad([(out * out).sum()], leaves, create_graph=True)
        again = autograd.grad([sum((g * g).sum() for g in grads)], leaves)
        return [g.to("cpu").numpy() for g in again]

    for a, b in zip(second("cuda"), second("cpu"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


SMALL = operands(np.random.default_rng(0), 1, 1, 2, 3, 4, 5, 6, np.float32)
Q, K, V = SMALL.values()


@pytest.mark.parametrize(
    "arguments",
    [
        (Q.astype(np.float64), K, V),
        (Q, K, V.astype(np.float64)),
        (Q[:, :, :0], K, V),
        (Q, K[:, :, :0], V[:, :, :0]),
        (Q[..., :4], K, V),
        (Q, K[:, :, :3], V),
        (Q[:, :1], np.tile(K, (1, 2, 1, 1)), np.tile(V, (1, 2, 1, 1))),
        (Q, K, np.tile(V, (1, 1, 1, 50))),
        (Q, K, V, np.ones((3, 4), np.int8)),
        (Q, K, V, np.ones((2, 4), np.bool_)),
        (Q, K, V, None, np.ones((3, 4))),
        (Q, K, V, None, np.ones((3, 3), np.float32)),
        (Q, K, V, None, None, np.ones(2)),
        (Q, K, V, None, None, np.ones(1, np.float32)),
        (Q, K, V, None, None, None, np.ones(1, np.float32)),
        (Q, K, V, None, None, None, np.array([3, 3])),
    ],
)
def test_what_is_left_to_the_generic_body(arguments: tuple[Any, ...]) -> None:
    from minigrad.backend.cuda.attention import attention, attention_vjp

    inputs = [None if x is None else new(x).to("cuda")._array for x in (*arguments, *[None] * (7 - len(arguments)))]
    out = tuple(mg.ones(shape, device="cuda")._array for shape in ((1, 2, 3, 6), (1, 2, 3)))
    assert attention(*inputs, **PLAIN) is NotImplemented
    assert attention_vjp(out, *inputs, out, **PLAIN) is NotImplemented


@pytest.mark.parametrize("options", [{"window": (-1, 0)}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_options_that_are_left_to_the_generic_body(options: dict[str, Any]) -> None:
    from minigrad.backend.cuda.attention import attention

    inputs = [new(x).to("cuda")._array for x in SMALL.values()]
    assert attention(*inputs, None, None, None, None, **(PLAIN | options)) is NotImplemented


def test_empty_operands_go_through_the_op() -> None:
    query, key = mg.zeros((1, 2, 3, 8), device="cuda", requires_grad=True), mg.zeros((1, 2, 0, 8), device="cuda")
    out = F.scaled_dot_product_attention(query, key, key)
    out.sum().backward()
    assert out.to("cpu").tolist() == query.grad.to("cpu").tolist() == np.zeros((1, 2, 3, 8)).tolist()


def test_tiles_fit() -> None:
    """Two blocks of threads of half types with up to 128 features fit a multiprocessor of an H100, all fit an A100."""
    from minigrad.backend.cuda.attention import WIDTHS, Problem

    for width in WIDTHS:
        x = mg.zeros((1, 1, 2, width), dtype=mg.bfloat16, device="cuda")._array
        p = Problem(x, x, x, None, None, None, None, False, None, None, 0.0, (0, 0), 1.0)
        assert p.plain
        for kind in ("forward", "queries", "keys"):
            assert p.shared(kind) <= (163 << 10 if width > 128 else 113 << 10), (width, kind)


def test_narrow_heads_leave_wide_ones_their_shared_memory() -> None:
    from minigrad.backend.cuda.attention import attention

    def call(width: int) -> Any:
        x = mg.ones((1, 1, 2, width), device="cuda")._array
        return attention(x, x, x, None, None, None, None, **PLAIN)[0]

    first = [call(width) for width in (256, 128, 256)][-1]
    assert mg.asarray(first).to("cpu").tolist() == np.ones((1, 1, 2, 256)).tolist()
