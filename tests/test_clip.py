"""Clipping and unscaling: norms of any scale, half and row-sparse gradients, PyTorch's results, what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.backend.rows import RowSparse
from minigrad.errors import GradError
from minigrad.testing import variants

Array = np.ndarray[Any, Any]
SHAPES: list[tuple[int, ...]] = [(), (0,), (7,), (3, 5), (9001,), (130, 140)]
NORMS = [1.0, 2.0, math.inf, 3.0, 0.5]


def made(gradients: list[Array]) -> list[nn.Parameter]:
    """Parameters with these gradients."""
    params = [nn.Parameter(np.zeros(g.shape, g.dtype)) for g in gradients]
    for p, g in zip(params, gradients, strict=True):
        p.grad = mg.asarray(g.copy())
    return params


def gradient(p: mg.Tensor) -> Array:
    assert p.grad is not None
    return p.grad.numpy()


def draw(seed: int, dtype: Any = np.float64, size: float = 1.0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape) * size).astype(dtype) for shape in SHAPES]


def norm_of(gradients: list[Array], power: float) -> float:
    return float(np.linalg.norm(np.concatenate([g.ravel().astype(np.float64) for g in gradients]), power))


# --- norms ------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), power=st.sampled_from(NORMS), dtype=st.sampled_from(["f4", "f8"]))
def test_the_norm_is_that_of_one_vector(seed: int, power: float, dtype: str) -> None:
    gradients = draw(seed, dtype)
    assert optim.grad_norm(made(gradients), power) == pytest.approx(norm_of(gradients, power), rel=1e-12)


@pytest.mark.parametrize("power", NORMS)
@pytest.mark.parametrize(
    ("dtype", "size"), [("f8", 1e200), ("f8", 1e-200), ("f4", 1e25), ("f4", 1e-30), ("f8", 1e-300)]
)
def test_squares_neither_overflow_nor_vanish(power: float, dtype: str, size: float) -> None:
    gradients = draw(1, dtype)
    expected = norm_of([g.astype(np.float64) for g in draw(1, dtype)], power)
    params = made([(g * np.asarray(size, dtype)).astype(dtype) for g in gradients])
    norm = optim.grad_norm(params, power)
    assert norm == pytest.approx(expected * size, rel=1e-5 if dtype == "f4" else 1e-12)
    limit = size / 100
    assert optim.clip_grad_norm_(params, limit, power) == norm
    clipped = norm_of([gradient(p).astype(np.float64) / limit for p in params], power)
    if norm > 1.0:  # the constant 1e-6 counts where norms are as small
        assert clipped == pytest.approx(1.0, rel=1e-5)
    else:
        assert clipped <= 1.0


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
def test_halves_are_added_up_in_float64_and_become_float32(dtype: Any) -> None:
    p, q = nn.Parameter(np.zeros(70_000), dtype=dtype), nn.Parameter([1.0])
    p.grad, q.grad = mg.full((70_000,), 200.0, dtype=dtype), mg.tensor([3.0])
    norm = math.sqrt(70_000 * 200.0**2 + 9)  # the squares' sum is beyond both, and its parts beyond float16
    assert optim.grad_norm([p, q]) == pytest.approx(norm, rel=1e-14)
    assert p.grad.dtype == dtype
    optim.clip_grad_norm_([p, q], 1.0)
    assert gradient(p).dtype == np.float32
    np.testing.assert_allclose(gradient(p), 200.0 / norm, rtol=1e-6)


def test_row_sparse_gradients() -> None:
    layer = nn.Embedding(50, 3, sparse=True)
    layer(mg.tensor([7, 7, 2])).backward(mg.asarray(np.arange(9, dtype=np.float32).reshape(3, 3)))
    expected = gradient(layer.weight).copy()
    assert optim.grad_norm(layer.parameters()) == pytest.approx(np.linalg.norm(expected), rel=1e-12)
    optim.clip_grad_norm_(layer.parameters(), 0.5)
    assert layer.weight._grad is not None
    assert type(layer.weight._grad._array) is RowSparse
    np.testing.assert_allclose(gradient(layer.weight), expected * 0.5 / np.linalg.norm(expected), rtol=1e-6)
    optim.clip_grad_value_(layer.weight, 0.1)
    assert abs(gradient(layer.weight)).max() == np.float32(0.1)
    assert type(layer.weight._grad._array) is RowSparse


def test_the_norm_does_not_depend_on_threads() -> None:
    params = made([*draw(3, np.float32), np.random.default_rng(0).normal(size=300_000).astype(np.float32)])
    found = []
    for threads in (1, 2):
        with variants.variant(variants.cpu.level(), threads):
            found.append(optim.grad_norm(params))
    assert found[0] == found[1]


def test_each_parameter_once_and_only_those_with_a_gradient() -> None:
    p, q, unused = nn.Parameter([0.0]), nn.Parameter([0.0]), nn.Parameter([1.0])
    p.grad, q.grad = mg.tensor([3.0]), mg.tensor([4.0])
    assert optim.grad_norm(x for x in (p, q, p, unused)) == 5.0
    assert optim.grad_norm(p) == 3.0
    assert optim.grad_norm([("p", p), ("q", q)]) == 5.0
    assert optim.grad_norm([unused]) == optim.clip_grad_norm_([], 1.0) == 0.0
    assert optim.clip_grad_norm_((x for x in (p, q, p)), 2.5) == 5.0
    assert (p.grad.item(), q.grad.item()) == (pytest.approx(1.5), pytest.approx(2.0))
    tied = nn.Sequential([nn.Dense(2, in_features=2, bias=False)])
    tied.add(nn.Dense(2, in_features=2, bias=False))
    tied[1].weight = tied[0].weight
    tied[0].weight.grad = mg.ones((2, 2))
    assert optim.grad_norm(tied.parameters()) == 2.0


def test_gradients_change_in_place_where_they_may() -> None:
    p, shared, twin, frozen = (nn.Parameter(np.ones(2, np.float32)) for _ in range(4))
    memory = np.full(2, 4.0, np.float32)
    p.grad = mg.asarray(memory)
    shared.grad = twin.grad = mg.tensor([4.0, 4.0])  # one tensor, which must not shrink twice
    constant = np.broadcast_to(np.float32(4.0), (2,))
    frozen.grad = mg.asarray(constant)
    optimizer = optim.SGD([p, shared, twin, frozen], lr=1.0)
    assert optim.unscale_(optimizer, 0.5)
    assert memory.tolist() == [2.0, 2.0]
    assert [gradient(x).tolist() for x in (p, shared, twin, frozen)] == [[2.0, 2.0]] * 4
    assert constant.tolist() == [4.0, 4.0]


def test_a_recorded_gradient_is_replaced() -> None:
    p = nn.Parameter([2.0])
    (p**3).sum().backward(create_graph=True)
    kept = p.grad
    assert kept is not None
    optim.clip_grad_value_([p], 1.0)
    assert gradient(p).tolist() == [1.0]
    assert mg.grad(kept.sum(), p).tolist() == [12.0]


def test_a_graph_that_saved_a_gradient_finds_the_change() -> None:
    p, w = nn.Parameter([2.0]), nn.Parameter([3.0])
    p.grad = mg.tensor([5.0])
    late = (w * p.grad).sum()
    optim.clip_grad_norm_([p], 1.0)
    with pytest.raises(GradError, match=r"multiply.*was changed in place at a change of gradients in place"):
        late.backward()


# --- what is not finite, and what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("power", [1.0, 2.0, math.inf])
def test_a_norm_that_is_not_finite(bad: float, power: float) -> None:
    params = made([np.array([1.0, 2.0]), np.array([bad, 1.0])])
    norm = optim.grad_norm(params, power)
    assert math.isnan(norm) if math.isnan(bad) else norm == math.inf
    with pytest.raises(GradError, match=r"clip_grad_norm_: the norm of the gradients is (inf|nan), needs a finite"):
        optim.clip_grad_norm_(params, 1.0, power, error_if_nonfinite=True)
    assert gradient(params[0]).tolist() == [1.0, 2.0]
    optim.clip_grad_norm_(params, 1.0, power)
    assert not gradient(params[0]).any() or np.isnan(gradient(params[0])).all()
    assert math.isnan(gradient(params[1])[0])


def test_infinity_and_nan_together_are_nan() -> None:
    assert math.isnan(optim.grad_norm(made([np.array([math.inf]), np.array([math.nan])])))


P = nn.Parameter([1.0])
REFUSED: list[tuple[Any, Any, str]] = [
    (lambda: optim.clip_grad_norm_([P], -1.0), ValueError, "clip_grad_norm_: max_norm is -1.0, needs a number"),
    (lambda: optim.clip_grad_norm_([P], math.nan), ValueError, "max_norm is nan"),
    (lambda: optim.clip_grad_norm_([P], True), ValueError, "max_norm is True"),
    (lambda: optim.clip_grad_norm_([P], 1.0, 0), ValueError, "clip_grad_norm_: norm_type is 0, needs a number above 0"),
    (lambda: optim.grad_norm([P], "inf"), ValueError, "grad_norm: norm_type is 'inf'"),
    (lambda: optim.clip_grad_value_([P], -1), ValueError, "clip_grad_value_: clip_value is -1"),
    (lambda: optim.clip_grad_value_(nn.Dense(2), 1.0), TypeError, r"is a Dense, needs .*Pass model\.parameters\(\)"),
    (lambda: optim.grad_norm(1.0), TypeError, "grad_norm: parameters is 1.0"),
    (lambda: optim.grad_norm([1.0]), TypeError, "grad_norm: parameter 0 is 1.0, needs a tensor"),
    (lambda: optim.unscale_(optim.SGD([P]), 0.0), ValueError, "unscale_: inv_scale is 0.0, needs a positive, finite"),
    (lambda: optim.unscale_(optim.SGD([P]), math.inf), ValueError, "inv_scale is inf"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refused(call: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


# --- unscaling --------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), power=st.integers(-20, 20), dtype=st.sampled_from(["f2", "f4", "f8"]))
def test_unscaling_by_a_power_of_two_changes_no_digit(seed: int, power: int, dtype: str) -> None:
    gradients = draw(seed, dtype)
    params = made([g * np.asarray(1.0, dtype) for g in gradients])
    assert optim.unscale_(optim.SGD(params), 2.0**-power)
    for p, g in zip(params, gradients, strict=True):
        wide = g.astype(np.float32) if dtype == "f2" else g
        assert gradient(p).tobytes() == (wide * wide.dtype.type(2.0**-power)).tobytes()


def test_small_values_of_halves_survive() -> None:
    p = nn.Parameter([1.0, 1.0], dtype=mg.float16)
    (p * mg.tensor([1.0, 0.5], dtype=mg.float16)).astype(mg.float32).sum().backward()
    assert optim.unscale_(optim.SGD([p]), 2.0**-30)
    assert gradient(p).tolist() == [2.0**-30, 2.0**-31]  # float16 ends at 2**-24
    (p * mg.tensor([1.0, 0.5], dtype=mg.float16)).sum().backward()  # backward adds to it in float32
    assert gradient(p).tolist() == [1.0, 0.5]
    assert gradient(p).dtype == np.float32


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
@pytest.mark.parametrize("make", [
    lambda dtype: nn.Dense(64, "relu", in_features=64, dtype=dtype), lambda dtype: nn.LayerNorm(64, dtype=dtype),
    lambda dtype: nn.Conv1D(4, 3, in_channels=3, dtype=dtype), lambda dtype: nn.GRU(4, in_features=64, dtype=dtype),
    lambda dtype: nn.Embedding(20, 8, dtype=dtype), lambda dtype: nn.Embedding(20, 8, dtype=dtype, sparse=True),
])  # fmt: skip
def test_backward_adds_to_float32_gradients_of_halves(make: Any, dtype: Any) -> None:
    """Every kernel that may be lent one has to take it, or leave it to others."""
    layer, rng = make(dtype), np.random.default_rng(0)
    x = rng.integers(0, 20, (4, 30)) if isinstance(layer, nn.Embedding) else rng.normal(size=(8, 3, 64))
    inputs = mg.asarray(x) if x.dtype.kind == "i" else mg.asarray(x).astype(dtype)

    def backward() -> None:
        out = layer(inputs)
        g = np.random.default_rng(1).normal(size=out.shape)
        (out * mg.asarray(g).astype(dtype)).astype(mg.float32).sum().backward()

    backward()
    once = [gradient(p).astype(np.float32) for p in layer.parameters()]
    assert optim.unscale_(optim.SGD(layer.parameters()), 2.0**-7)
    backward()
    for p, g in zip(layer.parameters(), once, strict=True):
        assert gradient(p).dtype == np.float32
        np.testing.assert_allclose(gradient(p), g * (1 + 2.0**-7), rtol=1e-6, atol=1e-6 * abs(g).max())


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", range(3))
def test_unscaling_finds_what_is_not_finite(bad: float, where: int) -> None:
    layer = nn.Embedding(9, 2, sparse=True)
    layer(mg.tensor([1, 4])).sum().backward()
    params = [*made([np.ones(3, np.float32), np.ones((2, 2), np.float16)]), layer.weight]
    optimizer = optim.SGD([*params, nn.Parameter([1.0])])
    assert optim.unscale_(optimizer, 0.5)
    array = params[where]._grad._array
    (array.values if where == 2 else array)[..., -1] = bad
    assert not optim.unscale_(optimizer, 0.5)


def test_a_sum_that_overflows_is_no_infinite_gradient() -> None:
    params = made([np.full(4, 3e38, np.float32)])
    assert optim.unscale_(optim.SGD(params), 1.0)
    assert not optim.unscale_(optim.SGD(params), 2.0)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1.0, 2.0, math.inf, 3.0])
@pytest.mark.parametrize("limit", [0.1, 3.0, 1e6])
@pytest.mark.parametrize(("dtype", "tolerance"), [("f4", 2e-6), ("f8", 1e-12)])
def test_clipping_is_that_of_pytorch(power: float, limit: float, dtype: str, tolerance: float) -> None:
    torch = pytest.importorskip("torch")
    gradients = draw(5, dtype)
    params = made(gradients)
    theirs = [
        torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float32 if dtype == "f4" else torch.float64))
        for g in gradients
    ]
    for p, g in zip(theirs, gradients, strict=True):
        p.grad = torch.tensor(g)
    if power == math.inf:  # PyTorch has no largest element of none
        params, theirs = [p for p in params if p.size], [p for p in theirs if p.numel()]
    total = torch.nn.utils.clip_grad_norm_(theirs, limit, power)
    assert optim.clip_grad_norm_(params, limit, power) == pytest.approx(total.item(), rel=tolerance)
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(gradient(p), q.grad.numpy(), rtol=tolerance)
    torch.nn.utils.clip_grad_value_(theirs, limit / 10)
    optim.clip_grad_value_(params, limit / 10)
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(gradient(p), q.grad.numpy(), rtol=tolerance)
