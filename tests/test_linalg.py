"""Linear algebra: what the walk over the registry cannot reach, laws above all."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import DTypeError, GradError, ShapeError
from minigrad.ops.matmul import product
from minigrad.ops.registry import Array
from minigrad.tensor import Tensor
from minigrad.testing import gradcheck

# the extension linalg of the array API, 2024.12
STANDARD = (
    "cholesky cross det diagonal eigh eigvalsh inv matmul matrix_norm matrix_power matrix_rank matrix_transpose outer "
    "pinv qr slogdet solve svd svdvals tensordot trace vecdot vector_norm"
)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def symmetric(*shape: int, seed: int = 0) -> Array:
    x = normal(*shape, seed=seed)
    return x + np.swapaxes(x, -1, -2)


def of_rank(n: int, rank: int) -> Array:
    return np.matmul(normal(n, rank), normal(rank, n, seed=1))


def gradient(f: Any, x: Array) -> Array:
    t = mg.tensor(x, requires_grad=True)
    (g,) = mg.grad(f(t), [t])
    return g.numpy()


def test_the_standard_is_complete() -> None:
    assert set(STANDARD.split()) <= set(mg.linalg.__all__)
    assert all(callable(getattr(mg.linalg, name)) for name in STANDARD.split())


# matmul


class Spy(SimpleNamespace):
    """A namespace that notes what it multiplies."""

    def __init__(self) -> None:
        super().__init__(reshape=np.reshape, shapes=[])

    def matmul(self, a: Array, b: Array) -> Array:
        self.shapes.append((a.shape, b.shape))
        return np.matmul(a, b)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_stack_times_one_matrix_is_one_product(transposed: bool) -> None:
    x, w, spy = normal(3, 4, 5, 6), normal(6, 2), Spy()
    if transposed:
        x = np.swapaxes(normal(3, 4, 6, 5), -1, -2)
    np.testing.assert_allclose(product(spy, x, w), x @ w, rtol=1e-13)
    assert spy.shapes == [((60, 6), (6, 2))]


def test_gradient_of_one_matrix_under_a_stack() -> None:
    x, g = normal(3, 4, 5), normal(3, 4, 2, seed=1)
    for f in (mg.matmul, mg.linear):
        np.testing.assert_allclose(
            gradient(lambda w, f=f: mg.sum(f(x, w) * g), normal(5, 2)), np.einsum("abi,abj->ij", x, g), rtol=1e-12
        )


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
def test_half_types_accumulate_in_float32(dtype: Any) -> None:
    n = 4096
    row, column = mg.ones((1, n), dtype=dtype), mg.ones((n, 1), dtype=dtype, requires_grad=True)
    out = mg.matmul(row, column)
    assert out.dtype == dtype
    assert float(out.detach().astype(mg.float32).numpy()[0, 0]) == n  # a sum in the half type stops at 2048 or 256
    mg.sum(out).backward()
    assert column.grad is not None
    assert column.grad.dtype == dtype


def test_linear_without_bias_takes_no_third_gradient() -> None:
    assert gradcheck(mg.linear, [normal(2, 3), normal(3, 2, seed=1)])


def test_tensordot_takes_lists() -> None:
    x, y = normal(2, 3, 4), normal(4, 3, seed=1)
    out = mg.tensordot(mg.asarray(x), mg.asarray(y), axes=([1, 2], [1, 0]))  # type: ignore[arg-type]
    np.testing.assert_allclose(out.numpy(), np.tensordot(x, y, axes=([1, 2], [1, 0])), rtol=1e-13)


# einsum


@st.composite
def contractions(draw: st.DrawFn) -> tuple[str, list[tuple[int, ...]]]:
    """Subscripts with repeated, summed and stretched labels and ellipses, and shapes that fit."""
    extents = {label: draw(st.integers(1, 3)) for label in "abcd"}
    dots = draw(st.lists(st.integers(1, 3), max_size=2))
    terms, shapes = [], []
    for _ in range(draw(st.integers(1, 3))):
        labels = draw(st.lists(st.sampled_from("abcd"), max_size=3))
        # a label that stands once in an operand may be stretched from 1
        shape = [
            1 if labels.count(k) == 1 and draw(st.booleans()) and draw(st.booleans()) else extents[k] for k in labels
        ]
        term = "".join(labels)
        if draw(st.booleans()):
            at, own = draw(st.integers(0, len(labels))), dots[draw(st.integers(0, len(dots))) :]
            term = f"{term[:at]}...{term[at:]}"
            shape[at:at] = [1 if draw(st.booleans()) else n for n in own]
        terms.append(term)
        shapes.append(tuple(shape))
    subscripts = ",".join(terms)
    if draw(st.booleans()):
        known = sorted(set(subscripts) - set(",."))
        output = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        at = draw(st.integers(0, len(output)))
        ellipsis = "..." if "." in subscripts else ""
        subscripts += "->" + "".join(output[:at]) + ellipsis + "".join(output[at:])
    return subscripts, shapes


@given(contractions(), st.integers(0, 2**16))
def test_einsum_is_numpys_and_its_gradients_are_adjoints(
    contraction: tuple[str, list[tuple[int, ...]]], seed: int
) -> None:
    """A product is linear in each factor, so the derivative along d is the product with d in place of the factor."""
    subscripts, shapes = contraction
    arrays = [normal(*shape, seed=seed + i) for i, shape in enumerate(shapes)]
    directions = [normal(*shape, seed=seed + 10 + i) for i, shape in enumerate(shapes)]
    operands = [mg.tensor(a, requires_grad=True) for a in arrays]
    expected = np.einsum(subscripts, *arrays)
    out = mg.einsum(subscripts, *operands)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-10, atol=1e-10)
    c = normal(*expected.shape, seed=seed + 20)
    grads = mg.grad([out], operands, [mg.tensor(c)], create_graph=True)

    def along(*places: int) -> float:
        return float(
            np.sum(c * np.einsum(subscripts, *(directions[i] if i in places else a for i, a in enumerate(arrays))))
        )

    for i, (g, d) in enumerate(zip(grads, directions, strict=True)):
        assert g.shape == d.shape
        slope = mg.sum(g * d)
        np.testing.assert_allclose(float(slope.detach().numpy()), along(i), rtol=1e-9, atol=1e-9)
        if not slope.requires_grad:
            assert len(operands) == 1
            continue
        second = mg.grad([slope], operands, allow_unused=True, create_graph=True)
        for j, (h, e) in enumerate(zip(second, directions, strict=True)):
            curvature = 0.0 if h is None else float(mg.sum(h * e).detach().numpy())
            np.testing.assert_allclose(curvature, 0.0 if i == j else along(i, j), rtol=1e-9, atol=1e-9)


def test_einsum_takes_arrays_spaces_and_many_operands() -> None:
    a, b, c, d = normal(2, 3), normal(3, 4), normal(4, 5), normal(5)
    out = mg.einsum(" ij, jk ,kl , l -> i ", a, mg.tensor(b), c, d)
    np.testing.assert_allclose(out.numpy(), a @ b @ c @ d, rtol=1e-12)


def test_einsum_never_builds_what_the_order_of_contraction_avoids() -> None:
    n = 1500  # the outer product of the first two would have n ** 3 elements
    x, y, z = (mg.ones((n,)) for _ in range(3))
    assert float(mg.einsum("i,j,i,j->", x, y, z, y).numpy()) == n * n


def test_einsum_without_work_is_a_view() -> None:
    x = mg.tensor(normal(2, 3), requires_grad=True)
    for subscripts in ("ij->ji", "ij->ij"):
        out = mg.einsum(subscripts, x)
        assert out is not x
        assert np.shares_memory(out.detach().numpy(), x.detach().numpy())


def test_einsum_refuses_what_is_no_subscripts() -> None:
    with pytest.raises(DTypeError, match="a str such as 'ij,jk->ik' before the operands"):
        mg.einsum(mg.ones((2,)), [0])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="operands is empty"):
        mg.einsum("->")


# determinants


@pytest.mark.parametrize(
    "x", [of_rank(4, 3), of_rank(4, 2), of_rank(4, 1), np.zeros((3, 3)), np.eye(3), -np.eye(4), normal(4, 4)]
)
def test_det_has_two_derivatives_everywhere(x: Array) -> None:
    n = len(x)
    minors = np.array([[np.linalg.det(np.delete(np.delete(x, i, 0), j, 1)) for j in range(n)] for i in range(n)])
    sign = (-1.0) ** np.add.outer(np.arange(n), np.arange(n))
    np.testing.assert_allclose(gradient(mg.linalg.det, x), sign * minors, atol=1e-12)
    assert gradcheck(mg.linalg.det, [x])


def test_third_derivative_of_det() -> None:
    assert gradcheck(mg.linalg.det, [normal(3, 3)], order=3)


def test_slogdet_is_the_logarithm_of_det() -> None:
    x = normal(3, 3) * 1e-200  # det underflows
    sign, logabsdet = mg.linalg.slogdet(mg.tensor(x))
    expected = np.linalg.slogdet(x)
    assert sign.numpy() == expected.sign
    np.testing.assert_allclose(logabsdet.numpy(), expected.logabsdet, rtol=1e-14)


def test_what_has_no_inverse_says_who_and_what() -> None:
    singular = mg.zeros((2, 2))
    with pytest.raises(np.linalg.LinAlgError, match=r"linalg\.inv: got x float32 \(2, 2\).*pinv"):
        mg.linalg.inv(singular)
    with pytest.raises(np.linalg.LinAlgError, match=r"linalg\.solve: got a float32 \(2, 2\), b float32 \(2,\)"):
        mg.linalg.solve(singular, mg.ones((2,)))


# decompositions


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (2, 0, 3, 3), (2, 2, 4, 3)])
def test_decompositions_multiply_to_what_they_took(shape: tuple[int, ...]) -> None:
    x = mg.tensor(normal(*shape))
    for full in (False, True):
        u, s, vh = mg.linalg.svd(x, full_matrices=full)
        k = min(shape[-2:])
        np.testing.assert_allclose((u[..., :k] * s[..., None, :] @ vh[..., :k, :]).numpy(), x.numpy(), atol=1e-13)
    for mode in ("reduced", "complete"):
        q, r = mg.linalg.qr(x, mode=mode)
        np.testing.assert_allclose((q @ r).numpy(), x.numpy(), atol=1e-13)
        np.testing.assert_allclose(r.numpy(), np.triu(r.numpy()))
    gram = mg.matmul(mg.matrix_transpose(x), x) + mg.eye(shape[-1], dtype=mg.float64)
    w, v = mg.linalg.eigh(gram)
    np.testing.assert_allclose((v * w[..., None, :] @ mg.matrix_transpose(v)).numpy(), gram.numpy(), atol=1e-12)
    lower, upper = mg.linalg.cholesky(gram), mg.linalg.cholesky(gram, upper=True)
    np.testing.assert_allclose((lower @ upper).numpy(), gram.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: mg.linalg.qr(x).R,
        lambda x: mg.linalg.svd(x).U,
        lambda x: mg.linalg.eigh(x).eigenvectors,
        lambda x: mg.linalg.cholesky(x @ mg.matrix_transpose(x)),
        lambda x: mg.linalg.solve(x, np.arange(3.0)),
        mg.linalg.inv,
        mg.linalg.pinv,
        mg.linalg.det,
        lambda x: mg.linalg.matrix_norm(x, ord="nuc"),
        lambda x: mg.linalg.matrix_power(x, 3),
    ],
)
def test_a_batch_is_its_members(f: Any) -> None:
    x = symmetric(2, 2, 3, 3)
    weights = normal(*f(mg.tensor(x)).shape, seed=1)
    batch = gradient(lambda t: mg.sum(f(t) * weights), x)
    for index in np.ndindex(2, 2):
        single = gradient(lambda t, index=index: mg.sum(f(t) * weights[(*index, ...)]), x[index])
        np.testing.assert_allclose(batch[index], single, rtol=1e-9, atol=1e-11)


def exponential(x: Tensor) -> Tensor:
    w, v = mg.linalg.eigh(x)
    return v * mg.exp(w) @ v.mT


def projector(x: Tensor) -> Tensor:
    v = mg.linalg.eigh(x).eigenvectors[:, 1:]
    return v @ v.mT


def polar(x: Tensor) -> Tensor:
    u, _, vh = mg.linalg.svd(x, full_matrices=False)
    return u @ vh


def cubes_of_tall(x: Tensor) -> Tensor:
    return mg.linalg.svd(x[:, :2], full_matrices=False).S ** 3


def logarithm_of_wide(x: Tensor) -> Tensor:
    u, s, vh = mg.linalg.svd(x[:2], full_matrices=False)
    return u * mg.log(s) @ vh


def column_space(x: Tensor) -> Tensor:
    q = mg.linalg.qr(x[:, :2]).Q
    return q @ q.mT


@pytest.mark.parametrize("f", [exponential, projector, polar, cubes_of_tall, logarithm_of_wide, column_space])
def test_functions_of_spectra_have_two_derivatives(f: Callable[[Tensor], Tensor]) -> None:
    assert gradcheck(f, [symmetric(3, 3) + np.diag([0.0, 3.0, 9.0])])


def test_eigenvalues_know_the_frobenius_norm() -> None:
    """The sum of squares of the eigenvalues is that of the entries: its gradient is 2 x and its Hessian 2."""
    x = mg.tensor(symmetric(3, 3), requires_grad=True)
    d = mg.tensor(symmetric(3, 3, seed=1))
    for values in (mg.linalg.eigvalsh(x), mg.linalg.eigh(x).eigenvalues, mg.linalg.svdvals(x)):
        (g,) = mg.grad(mg.sum(values**2), [x], create_graph=True)
        np.testing.assert_allclose(g.detach().numpy(), 2 * x.detach().numpy(), atol=1e-12)
        (h,) = mg.grad(mg.sum(g * d), [x])
        np.testing.assert_allclose(h.numpy(), 2 * d.numpy(), atol=1e-11)


def test_repeated_values_have_gradients_as_long_as_nobody_asks_for_vectors() -> None:
    np.testing.assert_allclose(
        gradient(lambda x: mg.sum(mg.linalg.eigh(x).eigenvalues), np.eye(3)), np.eye(3), atol=1e-15
    )
    np.testing.assert_allclose(gradient(lambda x: mg.sum(mg.linalg.svd(x).S), np.eye(3)), np.eye(3), atol=1e-15)
    assert not np.isfinite(gradient(lambda x: mg.sum(mg.linalg.eigh(x).eigenvectors * normal(3, 3)), np.eye(3))).all()


def test_gradients_of_symmetric_arguments_are_symmetric() -> None:
    for f in (mg.linalg.cholesky, mg.linalg.eigvalsh, lambda x: mg.linalg.eigh(x).eigenvectors):
        x = symmetric(3, 3) + 9 * np.eye(3)
        g = gradient(lambda t, f=f: mg.sum(mg.cos(f(t))), x)
        np.testing.assert_allclose(g, g.T, atol=1e-15)


def test_bases_of_null_spaces_have_no_gradient() -> None:
    x = mg.tensor(normal(3, 2), requires_grad=True)
    with pytest.raises(GradError, match=r"linalg\.qr: mode is 'complete', needs 'reduced'.*\(3\).*\(2\).*null space"):
        mg.sum(mg.linalg.qr(x, mode="complete").Q).backward()
    with pytest.raises(GradError, match=r"linalg\.svd: full_matrices is True, needs False.*3 x 2.*null space"):
        mg.sum(mg.linalg.svd(x).S).backward()


# inverses


def test_pinv_of_lower_rank() -> None:
    x = of_rank(4, 2)
    p = mg.linalg.pinv(mg.tensor(x)).numpy()
    np.testing.assert_allclose(x @ p @ x, x, atol=1e-12)
    np.testing.assert_allclose(p @ x @ p, p, atol=1e-12)
    # along matrices of rank 2
    assert gradcheck(lambda a, b: mg.linalg.pinv(a @ b), [normal(4, 2), normal(2, 4, seed=1)])


def test_rank_counts_above_the_tolerance() -> None:
    x = mg.tensor(np.diag([1.0, 1e-3, 1e-20]))
    assert mg.linalg.matrix_rank(x).numpy() == 2
    assert mg.linalg.matrix_rank(x, rtol=1e-2).numpy() == 1
    assert not mg.linalg.matrix_rank(mg.tensor(np.eye(2), requires_grad=True)).requires_grad


def test_power_zero_is_the_identity() -> None:
    np.testing.assert_array_equal(
        mg.linalg.matrix_power(mg.tensor(normal(2, 3, 3)), 0).numpy(), np.broadcast_to(np.eye(3), (2, 3, 3))
    )


# norms


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(
    ("shape", "ord", "axis"),
    [
        ((3, 4), None, None),
        ((2, 3, 4), None, None),
        ((3,), 3, None),
        ((3, 4), "nuc", None),
        ((3, 4), -2, None),
        ((2, 3, 4), 1, 1),
        ((2, 3, 4), None, (0, 2)),
        ((2, 3, 4), math.inf, (2, 0)),
        ((2, 3, 4), "fro", (-1, 0)),
    ],
)
def test_norm_is_numpys(shape: tuple[int, ...], ord: Any, axis: Any, keepdims: bool) -> None:
    x = normal(*shape)
    out = mg.linalg.norm(mg.tensor(x), ord, axis, keepdims).numpy()
    expected = np.linalg.norm(x, ord, axis, keepdims)
    assert out.shape == np.shape(expected)
    np.testing.assert_allclose(out, expected, rtol=1e-13)
    assert gradcheck(lambda t: mg.linalg.norm(t, ord, axis, keepdims), [x])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3)])
def test_norms_of_empty_matrices(shape: tuple[int, ...]) -> None:
    x = mg.zeros(shape)
    for order in (1, 2, math.inf, "fro", "nuc"):
        assert mg.linalg.norm(x, order, (-2, -1)).tolist() == np.zeros(shape[:-2]).tolist()
    with pytest.raises(ShapeError, match=r"linalg\.matrix_norm: x is .* needs at least one singular value for ord -2"):
        mg.linalg.norm(x, -2, (-2, -1))


def test_norm_refuses_other_numbers_of_axes() -> None:
    with pytest.raises(ShapeError, match=r"linalg\.norm: axis is 3 axes, needs one axis for vectors, two for matrices"):
        mg.linalg.norm(mg.ones((2, 2, 2)), 2)
    with pytest.raises(ShapeError, match=r"linalg\.norm: ord is fro, needs a number for vectors"):
        mg.linalg.norm(mg.ones((2,)), "fro")


@pytest.mark.parametrize("ord", [1, 1.5, 2, 3, math.inf, -math.inf, 0, "fro"])
def test_norm_of_zero_has_gradient_zero_twice(ord: Any) -> None:
    x = mg.zeros((2, 2), dtype=mg.float64, requires_grad=True)
    f = mg.linalg.matrix_norm if ord == "fro" else mg.linalg.vector_norm
    (g,) = mg.grad(f(x, ord=ord), [x], create_graph=True)
    np.testing.assert_array_equal(g.detach().numpy(), 0)
    if g.requires_grad:
        (h,) = mg.grad(mg.sum(g * normal(2, 2)), [x])
        np.testing.assert_array_equal(h.numpy(), 0)


def test_ties_of_the_largest_share_the_gradient() -> None:
    np.testing.assert_array_equal(
        gradient(lambda x: mg.linalg.vector_norm(x, ord=math.inf), np.array([2.0, -2.0, 1.0])), [0.5, -0.5, 0.0]
    )


def test_trace_casts_first() -> None:
    out = mg.linalg.trace(mg.ones((2, 3, 3), dtype=mg.int8), dtype=mg.float64)
    assert out.dtype == mg.float64
    np.testing.assert_array_equal(out.numpy(), [3.0, 3.0])
    small = mg.linalg.trace(mg.ones((2, 2), dtype=mg.int64), dtype=mg.int32)
    assert (small.dtype, small.item()) == (mg.int32, 2)
