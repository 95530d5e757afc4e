"""Rows gathered and added on the GPU: right, and the same bits in whatever order threads run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cuda_arrays import LAYOUTS, placed, values
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim, train
from minigrad.backend.numpy import backend as cpu
from minigrad.errors import DTypeError, ShapeError
from minigrad.nn import functional as F
from minigrad.ops.registry import REGISTRY
from minigrad.testing.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("gpu")

FLOATS = (mg.float16, mg.bfloat16, mg.float32, mg.float64)
INTEGERS = (np.int64, np.int32, np.int16, np.uint8)
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def backend(gpu: None) -> None:
    mg.ones(1, device="cuda")  # its kernels are registered when a GPU is first asked for


def numbers(array: Any) -> Any:
    return mg.asarray(array).to("cpu").numpy()


@st.composite
def ids_for(draw: st.DrawFn, rows: int) -> Array:
    """Ids of any shape and integer dtype; the small ones are frequent, as words are."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    shape = draw(st.sampled_from([(), (0,), (1,), (9,), (3, 4), (2, 0, 3), (65,), (200,)]))
    return np.asarray(rng.random(shape) ** draw(st.sampled_from([1, 4])) * rows).astype(draw(st.sampled_from(INTEGERS)))


@given(
    shape=st.sampled_from([(1, 1), (2, 3), (5, 8), (40, 33), (100, 300)]),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS),
    data=st.data(),
)
def test_embedding_and_its_gradient(shape: tuple[int, int], dtype: Any, layout: str, data: st.DataObject) -> None:
    ids = data.draw(ids_for(shape[0]))
    padding = data.draw(st.none() | st.integers(0, shape[0] - 1))
    weight = data.draw(values(dtype, shape))
    op = REGISTRY["embedding"]
    where = placed(ids, data.draw(st.sampled_from(LAYOUTS)))
    found = op.kernels["cuda", dtype](
        placed(weight, data.draw(st.sampled_from(["C", "shifted"]))), where, padding_idx=padding
    )
    assert numbers(found).tobytes() == weight[ids].tobytes()
    g = data.draw(values(dtype, found.shape, special=(0.0, math.inf)))
    pull = op.vjps[0].kernels["cuda", dtype]
    grad = pull(placed(g, layout), shape, where, padding_idx=padding)
    want, size = np.zeros(shape), np.zeros(shape)
    for total, rows in ((want, g.astype(np.float64)), (size, np.abs(g.astype(np.float64)))):
        np.add.at(total, ids, rows)
        total[slice(0) if padding is None else padding] = 0
    assert grad.dtype == dtype
    assert_close(numbers(grad), want, dtype, "gradient", floor=size[np.isfinite(size)].max(initial=1))
    assert numbers(pull(placed(g), shape, placed(ids), padding_idx=padding)).tobytes() == numbers(grad).tobytes()


@given(
    rows=st.sampled_from([1, 2, 255, 256, 70_000, 2**31]),
    count=st.sampled_from([1, 31, 2048, 2049, 5000]),
    seed=st.integers(0, 2**31),
    power=st.sampled_from([1, 8]),
)
def test_the_sort_is_stable(rows: int, count: int, seed: int, power: int) -> None:
    from minigrad.backend.cuda import embedding

    keys = (np.random.default_rng(seed).random(count) ** power * (rows + 1)).astype(np.uint32)
    order = np.argsort(keys, kind="stable")
    found = embedding.sort(placed(keys), rows)
    np.testing.assert_array_equal(numbers(found[0]), keys[order])
    np.testing.assert_array_equal(numbers(found[1]), order)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("rows", "width", "count"), [(3, 5, 3000), (1, 8, 2100), (700, 1, 4000), (20, 40, 1500)])
def test_rows_that_are_named_often(dtype: Any, rows: int, width: int, count: int) -> None:
    """Sums that go through many pieces."""
    from minigrad.backend.cuda import embedding

    rng = np.random.default_rng(count)
    ids, g = rng.integers(0, rows, count), rng.normal(size=(count, width)).astype(dtype)
    found = embedding.scatter((rows, width), placed(ids), placed(g))
    want, size = np.zeros((rows, width)), np.zeros((rows, width))
    np.add.at(want, ids, g.astype(np.float64))
    np.add.at(size, ids, np.abs(g.astype(np.float64)))
    assert_close(numbers(found), want, dtype, "sum", floor=0.1 * size.max())
    again = embedding.scatter((rows, width), placed(ids), placed(g))
    assert numbers(again).tobytes() == numbers(found).tobytes()


def test_few_rows_are_added_one_after_the_other() -> None:
    from minigrad.backend.cuda import embedding

    rng = np.random.default_rng(0)
    ids, g = rng.integers(0, 4, 32), rng.normal(size=(32, 9)).astype(np.float32)
    want = np.zeros((4, 9), np.float32)
    np.add.at(want, ids, g)
    assert numbers(embedding.scatter((4, 9), placed(ids), placed(g))).tobytes() == want.tobytes()


def test_half_gradients_are_summed_in_float32() -> None:
    weight = mg.ones((2, 3), dtype=mg.bfloat16, device="cuda", requires_grad=True)
    F.embedding(mg.zeros(300, dtype=mg.int64, device="cuda"), weight).sum().backward()
    assert weight.grad.tolist() == [[300.0] * 3, [0.0] * 3]
    assert weight.grad.dtype == mg.bfloat16


def test_ids_without_a_row_give_nan_and_get_nothing() -> None:
    weight = mg.ones((2, 3), device="cuda", requires_grad=True)
    out = F.embedding(mg.tensor([1, 2, -1, 0], device="cuda"), weight)
    assert np.isnan(numbers(out.detach())).all(axis=1).tolist() == [False, True, True, False]
    out.sum().backward()
    assert weight.grad.tolist() == [[1.0] * 3] * 2
    with mg.detect_anomaly(), pytest.raises(mg.errors.GradError, match="embedding made a NaN"):
        F.embedding(mg.tensor([2], device="cuda"), weight)


def test_what_is_no_embedding_is_refused_as_on_the_cpu() -> None:
    weight, ids = mg.ones((2, 3), device="cuda"), mg.tensor([1], device="cuda")
    with pytest.raises(ShapeError, match="weight is float32"):
        F.embedding(ids, weight[0])
    with pytest.raises(DTypeError, match="needs integers"):
        F.embedding(ids.astype(mg.float32), weight)
    with pytest.raises(ValueError, match="padding_idx is 2"):
        F.embedding(ids, weight, padding_idx=2)


def test_gradients_of_second_order() -> None:
    grads = []
    for device in ("cpu", "cuda"):
        weight = nn.Parameter(np.arange(6.0).reshape(3, 2)).to(device).detach()
        weight.requires_grad = True
        ids = mg.tensor([2, 1, 2, 0], device=device)
        (grad,) = mg.grad((F.embedding(ids, weight, padding_idx=2) ** 3).sum(), [weight], create_graph=True)
        (second,) = mg.grad((grad**2).sum(), [weight])
        grads.append([grad.tolist(), second.tolist()])
    assert grads[0] == grads[1]


A = np.array
INDICES: list[tuple[tuple[int, ...], Any]] = [
    ((4,), A([3, 0, 3])),
    ((4, 3), (A([[-1, 0], [0, -4]]), ...)),
    ((4, 3), (slice(None), A([2, -1, 0, 2]))),
    ((4, 3, 2), (slice(1, None, 2), A([[2, -1], [0, 2]]))),
    ((4, 3, 2), (slice(None), slice(None), A([0, 0, 1]))),
    ((4, 3), (A([[0], [-1]]), A([0, 2, 2]))),
    ((3, 4, 2), (A([0, 0, 1]), -2)),
    ((3, 4, 2), (1, A([0, 0, 1]))),
    ((3, 2, 4), (A([0, 2, 2]), slice(None), A([1, 1, 1]))),
    ((2, 3), (A([[True, False, True], [False, False, True]]),)),
    ((2, 3), (A([True, False]), A([1, 1]))),
    ((4, 3), (slice(1, 3),)),
    ((4, 3), (-1, None, 2)),
    ((2, 3), (..., A([1, 1, 0]))),
    ((3, 0), (A([1, 1]),)),
    ((3, 2), (A([], np.int64),)),
]


@pytest.mark.parametrize("number", range(len(INDICES)))
@pytest.mark.parametrize("dtype", [*FLOATS, mg.complex64, mg.int64, mg.int16, mg.uint8, mg.uint64, mg.bool], ids=str)
def test_values_are_added_at_any_index(number: int, dtype: Any) -> None:
    from minigrad.backend.cuda import index_add

    shape, index = INDICES[number]
    rng = np.random.default_rng(number)
    named = np.zeros(shape)[index].shape
    for extents in {named, named[1:]}:  # which is broadcast
        x = np.asarray(
            rng.integers(-5 if dtype.kind in "ifVc" else 0, 5, extents) * (1 + 2j if dtype == mg.complex64 else 1)
        ).astype(dtype)
        found = index_add(shape, index, placed(x))
        want = cpu.namespace.index_add(shape, index, x)
        assert (found.dtype, found.shape) == (want.dtype, shape)
        np.testing.assert_array_equal(numbers(found), want)


@pytest.mark.parametrize("number", range(len(INDICES)))
@pytest.mark.parametrize("dtype", [*FLOATS, mg.int64, mg.int16, mg.uint8, mg.uint64, mg.bool], ids=str)
def test_values_are_put_and_compared_at_any_index(number: int, dtype: Any) -> None:
    """Of values for one place the last is put, and all are compared."""
    from minigrad.backend.cuda import index_extremum, index_put

    shape, index = INDICES[number]
    rng = np.random.default_rng(number)
    low = -5 if dtype.kind in "ifV" else 0
    x = rng.integers(low, 9, shape).astype(dtype)
    named = x[index].shape
    for extents in {named, named[1:], ()}:
        values = np.asarray(rng.integers(low, 9, extents)).astype(dtype)
        pairs = [(index_put(placed(x), placed(values), index), cpu.namespace.index_put(x, values, index))]
        for largest in (True, False):
            found = index_extremum(placed(x), placed(values), index, largest)
            pairs.append((found, cpu.namespace.index_extremum(x, values, index, largest)))
        for found, want in pairs:
            assert (found.dtype, found.shape) == (dtype, shape)
            np.testing.assert_array_equal(numbers(found), want)


def test_the_last_value_is_put_and_gets_the_gradient() -> None:
    x = mg.zeros((4, 2), device="cuda")
    ids = mg.tensor(np.random.default_rng(0).integers(0, 3, 500), device="cuda")
    values = mg.random.normal((500, 2), device="cuda", requires_grad=True)
    out = x.at[ids].set(values)
    out.backward(mg.ones((4, 2), device="cuda"))
    last = [int(np.flatnonzero(numbers(ids) == i)[-1]) for i in range(3)]
    assert out.tolist() == [*numbers(values.detach())[last].tolist(), [0.0, 0.0]]
    assert numbers(values.grad).sum(axis=1).nonzero()[0].tolist() == sorted(last)


def test_the_last_value_is_assigned() -> None:
    x = mg.zeros((3, 2), device="cuda")
    ids = np.random.default_rng(0).integers(0, 2, 300)
    for index in (mg.tensor(ids, device="cuda"), ids):
        values = np.random.default_rng(1).normal(size=(300, 2)).astype(np.float32)
        x[index] = mg.tensor(values, device="cuda")
        assert numbers(x)[:2].tolist() == [values[np.flatnonzero(ids == i)[-1]].tolist() for i in (0, 1)]
    x[mg.tensor([2, 0], device="cuda"), 1] = 7.0
    assert numbers(x)[:, 1].tolist() == [7.0, values[np.flatnonzero(ids == 1)[-1]][1], 7.0]


def test_gradients_of_indexing() -> None:
    for make in (
        lambda x, i: x[i],
        lambda x, i: x[:, i],
        lambda x, i: mg.take(x, i, axis=1),
        lambda x, i: mg.take_along_axis(x, mg.stack([i, i]), axis=0),
        lambda x, i: x[i, i],
    ):
        grads = []
        for device in ("cpu", "cuda"):
            x = mg.tensor(np.random.default_rng(0).normal(size=(3, 3)), device=device, requires_grad=True)
            y = make(x, mg.tensor([2, 0, 2], device=device))
            y.backward(mg.tensor(np.random.default_rng(1).normal(size=y.shape), device=device))
            grads.append(x.grad.tolist())
        np.testing.assert_allclose(grads[1], grads[0], rtol=1e-14)


def test_a_captured_step_is_the_step() -> None:
    """Embedding, dropout, rotary positions, draws and indexing, launched again by a graph."""
    outcomes = []
    for graphed in (False, True):
        mg.random.seed(11)
        table, positions = nn.Embedding(9, 4).to("cuda"), nn.RotaryPositions()
        sgd = optim.SGD(table.parameters(), lr=0.1)
        columns = mg.tensor([0, 3, 0], device="cuda")

        def step(
            ids: Any, table: Any = table, positions: Any = positions, sgd: Any = sgd, columns: Any = columns
        ) -> Any:
            sgd.zero_grad()
            x = mg.dropout(mg.gelu(positions(table(ids))), 0.25) + mg.random.normal((40, 4), device="cuda") * 0.1
            loss = (x[:, columns] ** 2).mean()
            loss.backward()
            sgd.step()
            return loss

        run = train.GraphedStep(step, table, sgd, warmup=1) if graphed else step
        rng = np.random.default_rng(0)
        losses = [run(mg.tensor(rng.integers(0, 9, 40), device="cuda")).item() for _ in range(5)]
        outcomes.append([losses, table.weight.tolist()])
    assert outcomes[0] == outcomes[1]
    assert len(set(outcomes[0][0])) == 5
