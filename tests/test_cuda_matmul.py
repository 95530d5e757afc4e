"""Products on a GPU by cuBLAS, or by its stand-in: values and gradients, in any layout, and how few calls they take."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, ops
from minigrad.errors import DeviceError, ShapeError
from minigrad.testing.strategies import broadcastable_shapes
from minigrad.testing.tolerances import assert_close
from minigrad.testing.variants import generic

pytestmark = pytest.mark.usefixtures("gpu")

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
KINDS = (mg.float32, mg.float64, mg.float16, mg.bfloat16)
TF32 = 77  # CUBLAS_COMPUTE_32F_FAST_TF32


@pytest.fixture(scope="module")
def kernels(gpu: None) -> Any:
    """The module of the kernels, and what it calls."""
    mg.ones(1, device="cuda")
    modules = ("blas", "epilogue", "matmul")
    return SimpleNamespace(**{name: importlib.import_module(f"minigrad.backend.cuda.{name}") for name in modules})


def stands_in(kernels: Any) -> bool:
    """Whether the CPU does what cuBLAS is asked for."""
    return not hasattr(kernels.blas.cupy, "__file__")


@contextmanager
def products(kernels: Any) -> Iterator[list[Any]]:
    """Collect what cuBLAS is asked for in the block: (m, n, k, batches, adds) each."""
    made: list[Any] = []
    call = kernels.blas.multiply

    def noted(kind: Any, out: Any, m: int, n: int, k: int, a: Any, b: Any, c: Any, adds: bool, count: int) -> None:
        made.append((m, n, k, count, adds))
        call(kind, out, m, n, k, a, b, c, adds, count)

    kernels.matmul.multiply = noted
    try:
        yield made
    finally:
        kernels.matmul.multiply = call


@contextmanager
def copies(kernels: Any) -> Iterator[list[Shape]]:
    """Collect the shapes of the factors that are copied in the block."""
    made: list[Shape] = []
    cupy = kernels.matmul.cupy
    copy = cupy.ascontiguousarray

    def noted(x: Any) -> Any:
        made.append(x.shape)
        return copy(x)

    kernels.matmul.cupy = SimpleNamespace(**{**vars(cupy), "ascontiguousarray": noted})
    try:
        yield made
    finally:
        kernels.matmul.cupy = cupy


# ---- layouts: what lies in memory, and the view of it that is multiplied ---------------------------------------------

View = tuple[Callable[[Shape], Shape], Callable[[mg.Tensor], mg.Tensor]]


def leading_last(t: mg.Tensor) -> mg.Tensor:
    """A view whose leading axes lie between the two of its matrices, as the heads of attention do."""
    return mg.moveaxis(t, 0, -2) if t.ndim > 2 else t


READ: dict[str, View] = {
    "plain": (lambda s: s, lambda t: t),
    "turned": (lambda s: (*s[:-2], s[-1], s[-2]) if len(s) > 1 else s, lambda t: t.mT if t.ndim > 1 else t),
    "columns": (lambda s: (*s[:-1], s[-1] + 3), lambda t: t[..., 2:-1]),
    "rows": (
        lambda s: (*s[:-2], s[-2] + 2, s[-1]) if len(s) > 1 else s,
        lambda t: t[..., 1:-1, :] if t.ndim > 1 else t,
    ),
    "heads": (lambda s: (s[-2], *s[:-2], s[-1]) if len(s) > 2 else s, leading_last),
}
COPIED: dict[str, View] = {
    "stepped": (lambda s: (*s[:-1], 2 * s[-1]), lambda t: t[..., ::2]),
    "backwards": (lambda s: s, lambda t: mg.flip(t, axis=-1)),
    "last first": (lambda s: s, lambda t: mg.flip(t, axis=0)),
    "spread": (lambda s: (*s[:-1], 1), lambda t: t),  # broadcast by what is called
}
VIEWS = READ | COPIED


def normal(seed: int, shape: Shape, dtype: Any) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def outcome(f: Callable[..., mg.Tensor], bases: list[Array], device: str, dtype: Any, seed: int) -> list[Array]:
    """The values of a function and its gradients under a random cotangent."""
    leaves = [mg.tensor(base, dtype=dtype, device=device, requires_grad=True) for base in bases]
    out = f(*leaves)
    assert out.dtype == dtype
    cotangent = normal(seed, out.shape, bases[0].dtype)
    grads = mg.grad(out, leaves, mg.tensor(cotangent, dtype=dtype, device=device))
    return [t.detach().to("cpu").numpy() for t in (out, *grads)]


def assert_right(f: Callable[..., mg.Tensor], bases: list[Array], seed: int = 0, floor: float = 4.0) -> None:
    """Values and gradients on the GPU are those of the generic bodies in float64 on the CPU."""
    dtype = bases[0].dtype
    with generic():
        want = outcome(f, bases, "cpu", mg.float64, seed)
    for i, (g, w) in enumerate(zip(outcome(f, bases, "cuda", dtype, seed), want, strict=True)):
        assert g.dtype == dtype
        assert_close(g, w, dtype, f"gradient {i - 1}" if i else "value", floor=floor)


@given(
    data=st.data(),
    lead=broadcastable_shapes(2, max_dims=3, max_side=3),
    sides=st.tuples(*[st.integers(0, 5) | st.integers(15, 18)] * 3),
    dtype=st.sampled_from(KINDS),
    odd=st.sampled_from([None, None, math.inf, math.nan]),
)
def test_matmul_is_that_of_float64(kernels: Any, data: Any, lead: Any, sides: Any, dtype: Any, odd: Any) -> None:
    m, k, n = sides
    shapes: list[Shape] = [(*lead[0], m, k), (*lead[1], k, n)]
    for i in (0, 1):
        if data.draw(st.integers(0, 5)) == 0:
            shapes[i] = (k,)
    names = [data.draw(st.sampled_from([*VIEWS])) for _ in shapes]
    bases = [normal(i, VIEWS[name][0](s), dtype) for i, (name, s) in enumerate(zip(names, shapes, strict=True))]
    if odd is not None and bases[0].size:
        bases[0][(0,) * bases[0].ndim] = odd
    back = data.draw(st.booleans())

    def f(*leaves: mg.Tensor) -> mg.Tensor:
        views = [VIEWS[name][1](t) for name, t in zip(names, leaves, strict=True)]
        views = [mg.broadcast_to(t, s) for t, s in zip(views, shapes, strict=True)]
        out = mg.matmul(*views)
        return out.mT if back and out.ndim > 1 else out  # the cotangent comes as a view, too

    with products(kernels) as made:
        assert_right(f, bases)
    assert made or any(0 in s for s in shapes) or all(len(s) == 1 for s in shapes)


@given(
    data=st.data(),
    lead=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    sides=st.tuples(*[st.integers(0, 5) | st.integers(15, 18)] * 2),
    dtype=st.sampled_from(KINDS),
    biased=st.booleans(),
    relu=st.booleans(),
)
def test_linear_is_that_of_float64(data: Any, lead: Shape, sides: Any, dtype: Any, biased: bool, relu: bool) -> None:
    shapes: list[Shape] = [(*lead, sides[0]), sides, (sides[1],)][: 2 + biased]
    names = [data.draw(st.sampled_from([*VIEWS])) for _ in shapes]
    bases = [normal(i, VIEWS[name][0](s), dtype) for i, (name, s) in enumerate(zip(names, shapes, strict=True))]
    bases = [(np.round(4 * base) / 4).astype(dtype) for base in bases]  # quarters: no sum lies beside relu's kink

    def f(*leaves: mg.Tensor) -> mg.Tensor:
        views = [VIEWS[name][1](t) for name, t in zip(names, leaves, strict=True)]
        views = [mg.broadcast_to(t, s) for t, s in zip(views, shapes, strict=True)]
        return (ops.linear_relu if relu else mg.linear)(*views)

    assert_right(f, bases)


@pytest.mark.parametrize("second", [*VIEWS])
@pytest.mark.parametrize("first", [*VIEWS])
@pytest.mark.parametrize("lead", [(3,), (2, 3), (2, 3, 2)], ids=str)
def test_matmul_of_views(first: str, second: str, lead: Shape) -> None:
    views, shapes = (
        [VIEWS[name] for name in (first, second)],
        [(*lead, 5, 4), (4, 6) if len(lead) == 2 else (*lead, 4, 6)],
    )
    bases = [normal(i, view[0](s), np.float64) for i, (view, s) in enumerate(zip(views, shapes, strict=True))]

    def f(*leaves: mg.Tensor) -> mg.Tensor:
        return mg.matmul(*(mg.broadcast_to(v[1](t), s) for v, t, s in zip(views, leaves, shapes, strict=True)))

    assert_right(f, bases)


@pytest.mark.parametrize("second", [*READ])
@pytest.mark.parametrize("first", [*READ])
@pytest.mark.parametrize("lead", [(), (3,)], ids=str)
def test_what_flags_can_tell_is_not_copied(kernels: Any, first: str, second: str, lead: Shape) -> None:
    names, shapes = (first, second), ((*lead, 5, 4), (*lead, 4, 6))
    leaves = [
        mg.tensor(normal(0, VIEWS[n][0](s), np.float32), device="cuda") for n, s in zip(names, shapes, strict=True)
    ]
    views = [VIEWS[n][1](t).detach() for n, t in zip(names, leaves, strict=True)]
    for t in views:
        t.requires_grad = True
    with copies(kernels) as copied, products(kernels) as made:
        out = mg.matmul(*views)
        out.backward(mg.tensor(normal(1, out.shape, np.float32), device="cuda"))
    assert not copied
    assert [call[3] for call in made] == [math.prod(lead)] * 3  # one call each


@pytest.mark.parametrize("name", [*COPIED])
def test_what_they_cannot_tell_is_copied(kernels: Any, name: str) -> None:
    shape, view = VIEWS[name]
    x = mg.broadcast_to(view(mg.ones(shape((3, 4, 4)), device="cuda")), (3, 4, 4))
    with copies(kernels) as copied:
        mg.matmul(x, x)
    assert copied == [(3, 4, 4)] * 2


CALLS: list[tuple[str, Shape, Shape, list[tuple[int, ...]]]] = [
    ("a stack is one matrix", (2, 3, 5, 4), (4, 6), [(30, 6, 4, 1), (30, 4, 6, 1), (4, 6, 30, 1)]),
    ("so are its vectors", (2, 3, 4), (4,), [(6, 1, 4, 1), (6, 4, 1, 1), (4, 1, 6, 1)]),
    ("rows of a batch of one each", (7, 1, 4), (4, 6), [(7, 6, 4, 1), (7, 4, 6, 1), (4, 6, 7, 1)]),
    ("a batch", (2, 3, 5, 4), (2, 3, 4, 6), [(5, 6, 4, 6), (5, 4, 6, 6), (4, 6, 5, 6)]),
    ("a matrix with each of a batch", (5, 4), (3, 4, 6), [(5, 6, 4, 3), (5, 4, 6, 3), (4, 6, 5, 3)]),
    ("an axis of its own each", (3, 1, 5, 4), (2, 4, 6), [(5, 6, 4, 3), (5, 4, 6, 3), (4, 6, 5, 3)] * 2),
]


@pytest.mark.parametrize(("what", "first", "second", "expected"), CALLS, ids=[c[0] for c in CALLS])
def test_how_many_calls_it_takes(kernels: Any, what: str, first: Shape, second: Shape, expected: Any) -> None:
    x, y = (mg.tensor(normal(0, s, np.float32), device="cuda", requires_grad=True) for s in (first, second))
    with products(kernels) as made, copies(kernels) as copied:
        out = mg.matmul(x, y)
        out.backward(mg.tensor(normal(1, out.shape, np.float32), device="cuda"))
    assert sorted(call[:4] for call in made) == sorted(expected)
    assert not copied


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_views_with_two_axes_of_a_batch(kernels: Any, dtype: Any) -> None:
    """Heads beside features are read where they lie, unless it takes many calls."""
    for batch, heads, expected, copied_shapes in (
        (9, 2, [(5, 5, 4, 9)] * 2, []),
        (9, 10, [(5, 5, 4, 90)], [(9, 10, 5, 4)] * 2),
    ):
        x, y = (mg.tensor(normal(i, (batch, 5, heads, 4), dtype), device="cuda") for i in range(2))
        q, k = (mg.permute_dims(t, (0, 2, 1, 3)) for t in (x, y))
        with products(kernels) as made, copies(kernels) as copied:
            out = mg.matmul(q, k.mT)
        assert ([call[:4] for call in made], copied) == (expected, copied_shapes)
        want = np.einsum("bqhd,bkhd->bhqk", *(t.to("cpu").numpy().astype(np.float64) for t in (x, y)))
        assert_close(out.to("cpu").numpy(), want, dtype, "products")


@pytest.mark.parametrize(
    ("shape", "cut", "expected"),
    [((3, 9, 5), 4, [(5, 6, 12, 1)]), ((3, 99, 5), 90, [(5, 6, 90, 3)])],
    ids=["few", "many"],
)
def test_the_gradient_of_a_weight_for_some_rows_of_a_stack(
    kernels: Any, shape: Shape, cut: int, expected: list[tuple[int, ...]]
) -> None:
    """Rows with gaps are copied to one sum where that moves less than the products of each matrix would."""
    x = mg.tensor(normal(0, shape, np.float32), device="cuda")[:, :cut]
    w = mg.tensor(normal(1, (5, 6), np.float32), device="cuda", requires_grad=True)
    g = mg.tensor(normal(2, (3, cut, 6), np.float32), device="cuda")
    out = mg.linear(x, w)
    with products(kernels) as made:
        (grad,) = mg.grad(out, [w], g)
    assert [call[:4] for call in made] == expected
    want = np.einsum("bri,brj->ij", *(t.to("cpu").numpy().astype(np.float64) for t in (x, g)))
    assert_close(grad.to("cpu").numpy(), want, np.dtype(np.float32), "gradient")


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16], ids=str)
def test_half_types_are_summed_in_float32_and_rounded_once(dtype: Any) -> None:
    ones = mg.full((1, 5000), 0.5, dtype=dtype, device="cuda")
    assert mg.matmul(ones, mg.ones((5000, 1), dtype=dtype, device="cuda")).item() == np.asarray(2500, dtype)
    x, w, b = (normal(i, s, dtype) for i, s in enumerate([(40, 30), (30, 20), (20,)]))
    got = mg.linear(*(mg.tensor(a, device="cuda") for a in (x, w, b))).to("cpu").numpy()
    want = (x.astype(np.float64) @ w.astype(np.float64) + b.astype(np.float64)).astype(dtype)
    assert (got != want).mean() < 0.02  # a bias that is added to what was rounded makes it a third


def test_products_of_a_batch_are_added_before_they_are_rounded(kernels: Any) -> None:
    """The gradient of a factor that is broadcast: a sum of 16-bit results would lose the small ones."""
    x = np.zeros((3, 2, 2, 1), np.float16)
    x[:, :, 0, 0] = [[2048, 2048], [1, 1], [1, 1]]
    w = mg.zeros((2, 1, 1), dtype=mg.float16, device="cuda", requires_grad=True)
    y = mg.matmul(mg.tensor(x, device="cuda"), w)
    with products(kernels) as made:
        (grad,) = mg.grad(y, [w], mg.ones(y.shape, dtype=mg.float16, device="cuda"))
    assert [call[:4] for call in made] == [(1, 1, 2, 6)]  # three terms of two sums
    assert grad.tolist() == [[[2050.0]]] * 2


@pytest.mark.parametrize("rows", [(6,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", ["matmul", "linear", "linear_relu"])
def test_gradients_are_added_to_one_that_is_there(kernels: Any, name: str, rows: Shape) -> None:
    """The second backward pass adds its product to ``.grad`` where that lies."""
    f = {"matmul": mg.matmul, "linear": mg.linear, "linear_relu": ops.linear_relu}[name]
    w = mg.ones((4, 5), device="cuda", requires_grad=True)
    xs, gs = ([normal(seed + i, (*rows, n), np.float32) for i in range(2)] for seed, n in ((0, 4), (2, 5)))
    with products(kernels) as made:
        for x, g in zip(xs, gs, strict=True):
            f(mg.tensor(np.abs(x), device="cuda"), w).backward(mg.tensor(g, device="cuda"))  # positive, for relu
    assert [call for call in made if call[:2] == (4, 5)] == [(4, 5, 6, 1, False), (4, 5, 6, 1, True)]
    flat = [(np.abs(x).reshape(6, 4).astype(np.float64), g.reshape(6, 5)) for x, g in zip(xs, gs, strict=True)]
    want = sum(x.T @ g for x, g in flat)
    assert_close(w.grad.to("cpu").numpy(), want, np.dtype(np.float32), "gradient")


def test_a_gradient_is_not_added_to_what_the_rule_reads() -> None:
    """`into` is left alone where the cotangent lies in its memory."""
    backend = importlib.import_module("minigrad.backend.cupy").backend
    x, y = mg.ones((4, 4), device="cuda")._array, mg.ones((4, 4), device="cuda")._array
    assert backend.apart(x, [y, (4, 4), None])
    assert not backend.apart(x, [y, x[1:]])


def test_sums_of_products_are_added_too(kernels: Any) -> None:
    """With vectors, batches, and sums that one product cannot make."""
    cases: list[tuple[Shape, Shape, Shape]] = [  # of g, x1, x2
        ((2, 4), (2, 4, 3), (3,)),
        ((3, 2, 5), (3, 2, 4), (3, 4, 5)),
        ((3, 2, 2, 5), (3, 2, 2, 4), (2, 4, 5)),
        ((0, 5), (0, 4), (4, 5)),
        ((5,), (4,), (4, 5)),
    ]
    for shapes in cases:
        g, x, room = (normal(i, s, np.float64) for i, s in enumerate(shapes))
        a, b, into = (mg.tensor(v, device="cuda")._array for v in (g, x, room))
        fresh = kernels.matmul.matmul_vjp1(a, b, shapes[2])
        assert kernels.matmul.matmul_vjp1(a, b, shapes[2], into=into) is into
        got = [mg.asarray(v).to("cpu").numpy() for v in (into, fresh)]
        assert_close(got[0], room + got[1], np.dtype(np.float64), f"{shapes}")
    assert kernels.matmul.matmul_vjp1(a, b, shapes[2], into=into.T) is NotImplemented


def test_tf32_is_a_choice(kernels: Any) -> None:
    """Ten bits of mantissa instead of 23, where cuBLAS makes use of it; half types and float64 stay as they are."""
    x = mg.tensor(np.float32([[1 + 2.0**-13]]), device="cuda")
    one = mg.ones((1, 1), device="cuda")
    rounded = {1.0} if stands_in(kernels) else {1.0, 1 + 2.0**-13}  # a GPU may have a better kernel for one element
    assert mg.cuda.get_matmul_precision() == "highest"
    before = [kernels.blas.compute_type(kind) for kind in KINDS]
    assert mg.matmul(x, one).item() == 1 + 2.0**-13
    try:
        mg.cuda.set_matmul_precision("high")
        assert mg.cuda.get_matmul_precision() == "high"
        assert [kernels.blas.compute_type(kind) for kind in KINDS] == [TF32, *before[1:]]
        assert mg.matmul(x, one).item() in rounded
        assert mg.matmul(mg.astype(x, mg.float64), mg.astype(one, mg.float64)).item() == 1 + 2.0**-13
        small = mg.tensor(np.float16([[1 + 2.0**-10]]), device="cuda")
        assert mg.matmul(small, mg.ones((1, 1), dtype=mg.float16, device="cuda")).item() == 1 + 2.0**-10
    finally:
        mg.cuda.set_matmul_precision("highest")
    assert [kernels.blas.compute_type(kind) for kind in KINDS] == before
    with pytest.raises(ValueError, match=r"set_matmul_precision: precision is 'medium', needs 'highest' or 'high'"):
        mg.cuda.set_matmul_precision("medium")


def test_what_is_left_to_the_generic_body(kernels: Any) -> None:
    whole = mg.tensor([[1, 2], [3, 4]], device="cuda")
    vector = mg.tensor([1.0, 2.0], device="cuda")
    with products(kernels) as made:
        assert mg.matmul(whole, whole).tolist() == [[7, 10], [15, 22]]
        assert mg.matmul(vector, vector).item() == 5.0
    assert not made
    with pytest.raises(ShapeError, match=r"matmul: got x1 float32 \(2, 3\), x2 float32 \(2, 3\), needs .* with one k"):
        mg.matmul(mg.ones((2, 3), device="cuda"), mg.ones((2, 3), device="cuda"))
    with pytest.raises(ShapeError, match="broadcast together"):
        mg.matmul(mg.ones((2, 2, 3), device="cuda"), mg.ones((3, 3, 2), device="cuda"))
    with pytest.raises(ShapeError, match="linear: bias is float32"):
        mg.linear(mg.ones((2, 3), device="cuda"), mg.ones((3, 2), device="cuda"), mg.ones(3, device="cuda"))


def test_mixed_dtypes_are_promoted() -> None:
    x = mg.tensor(normal(0, (3, 4), np.float16), device="cuda", requires_grad=True)
    w = mg.tensor(normal(1, (4, 5), np.float32), device="cuda", requires_grad=True)
    out = mg.matmul(x, w)
    assert out.dtype == mg.float32
    g = normal(2, (3, 5), np.float32)
    grads = mg.grad(out, [x, w], mg.tensor(g, device="cuda"))
    a, b = (t.detach().to("cpu").numpy().astype(np.float64) for t in (x, w))
    for got, want in zip((out, *grads), (a @ b, g @ b.T, a.T @ g), strict=True):
        assert_close(got.detach().to("cpu").numpy(), want, got.dtype, "promoted")


def test_bodies_multiply_by_cublas(kernels: Any) -> None:
    """Ops that are made of products, such as einsum, ask for them where matmul does."""
    x, y = (mg.tensor(normal(i, (2, 3, 4), np.float32), device="cuda") for i in range(2))
    with products(kernels) as made:
        got = mg.einsum("bij,bkj->bik", x, y)
    assert made
    want = np.einsum("bij,bkj->bik", *(t.to("cpu").numpy().astype(np.float64) for t in (x, y)))
    assert_close(got.to("cpu").numpy(), want, np.dtype(np.float32), "einsum")


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_bodies_multiply_by_cublas(kernels: Any, layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's own products cannot be captured; each step has one forward and one backward."""
    x = mg.tensor(normal(0, (2, 5, 3), np.float32), device="cuda")
    model = layer(4, in_features=3).to("cuda")
    with products(kernels) as made:
        model(x)[0].sum().backward()
    small = [call for call in made if call[0] == 2]
    assert len(small) == 2 * 5


def test_what_cublas_refuses_is_said(kernels: Any) -> None:
    x = mg.ones((4, 4), device="cuda")
    one = kernels.blas.Matrix(x._array.data.ptr, False, 4)
    with pytest.raises(RuntimeError, match="cublasGemmEx_64: CUBLAS_STATUS_INVALID_VALUE"):
        kernels.blas.multiply(mg.float32, mg.float32, 4, 4, 4, one._replace(ld=3), one, one, False, 1)


def test_cublas_that_is_not_installed(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cuda import pathfinder

    def missing(name: str) -> None:
        raise RuntimeError("not found")

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    with pytest.raises(DeviceError, match=r"cublas is not found, needs the libraries of CUDA. Install .*\[gpu\]"):
        kernels.blas.library.__wrapped__()
