"""NumPy's protocols, DLPack, copies, pickles and Python's own protocols."""

import copy
import math
import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import DTypeError, GradError, ShapeError

X = np.array([[0.5, -1.5, 2.0], [3.0, 0.25, -0.75]])


def leaf(values=X):
    return mg.tensor(values, dtype=mg.float64, requires_grad=True)


CALLS = [
    np.sin,
    np.exp,
    np.tanh,
    np.absolute,
    np.negative,
    np.square,
    np.sqrt,
    np.arcsin,
    np.floor,
    np.rint,
    np.sign,
    np.isnan,
    lambda t: np.add(t, 1),
    lambda t: np.power(np.abs(t), 1.5),
    lambda t: np.maximum(t, X.T.copy().T),
    lambda t: X * t,
    lambda t: X - t,
    lambda t: np.arctan2(t, 2.0),
    lambda t: np.add.reduce(t),
    lambda t: np.maximum.reduce(t, axis=1),
    lambda t: np.sum(t, axis=0),
    lambda t: np.mean(t, axis=1, keepdims=True),
    lambda t: np.var(t, ddof=1),
    lambda t: np.std(t, axis=0),
    lambda t: np.prod(t, axis=0),
    lambda t: np.concatenate([t, X], axis=1),
    lambda t: np.stack([t, X]),
    lambda t: np.vstack([t, X]),
    lambda t: np.hstack([t, X]),
    lambda t: np.reshape(t, (3, 2)),
    lambda t: np.transpose(t),
    lambda t: np.transpose(t, (1, 0)),
    lambda t: np.squeeze(t[None]),
    lambda t: np.expand_dims(t, 1),
    lambda t: np.ravel(t),
    lambda t: np.swapaxes(t, 0, 1),
    lambda t: np.moveaxis(t, 0, 1),
    lambda t: np.einsum("ij,kj->ik", t, X),
    lambda t: np.matmul(t, X.T),
    lambda t: X @ np.transpose(t),
    lambda t: np.dot(t, X.T),
    lambda t: np.tensordot(t, X, axes=((1,), (1,))),
    lambda t: np.where(X > 0, t, 0.0),
    lambda t: np.clip(t, -1, 1),
    lambda t: np.sort(t, axis=0),
    lambda t: np.argsort(t),
    lambda t: np.cumsum(t),
    lambda t: np.cumsum(t, axis=1),
    lambda t: np.cumprod(t, axis=0),
    lambda t: np.max(t, axis=0),
    lambda t: np.amin(t),
    lambda t: np.argmax(t, axis=1),
    lambda t: np.take(t, [0, 2], axis=1),
    lambda t: np.repeat(t, 2, axis=0),
    lambda t: np.tile(t, (2, 1)),
    lambda t: np.flip(t),
    lambda t: np.roll(t, 1, axis=0),
    lambda t: np.broadcast_to(t, (4, 2, 3)),
    lambda t: np.tril(t),
    lambda t: np.linalg.norm(t),
    lambda t: np.linalg.norm(t, axis=0),
    lambda t: np.linalg.inv(np.matmul(t, np.transpose(t))),
    lambda t: np.linalg.det(np.matmul(t, np.transpose(t))),
    lambda t: np.trace(t),
    lambda t: np.copy(t),
    lambda t: np.round(t, 1),
    lambda t: np.all(t > -5),
    lambda t: np.outer(t[0], t[1]),
    lambda t: np.pad(t, 1),
    lambda t: np.diagonal(t),
    lambda t: np.count_nonzero(t, axis=0),
    lambda t: np.take_along_axis(t, np.array([[0], [1]]), 1),
    lambda t: np.concatenate([t, X], 1),
    lambda t: np.concatenate([t, X], None),
    lambda t: np.stack([t, t], 1),
    lambda t: np.hstack([t[0, 0], 1.0]),
    lambda t: np.einsum("ij,kj->ik", t, X, optimize=True),
    lambda t: np.sum(t, 1, None, None, True),
    lambda t: np.max(t, 1, None, True),
    lambda t: np.mean(t, 0, None, None, True),
    lambda t: np.var(t, 0, None, None, 1, True),
    lambda t: np.argmin(t, 0, keepdims=True),
    lambda t: np.add.reduce(t, axis=1, keepdims=True),
    lambda t: np.tril(t, 1),
    lambda t: np.triu(t, k=-1),
    lambda t: np.outer(t, X),
    lambda t: np.searchsorted(np.array([0.25, 1.0]), t, "right"),
    lambda t: np.reshape(t, (3, 2), "C"),
    lambda t: np.sort(t, None),
    lambda t: np.around(t, 1),
    lambda t: np.clip(t, -1, None),
    lambda t: np.dot(t[0], np.ones((4, 3, 2))),
    lambda t: np.diff(t, 1, 0),
    lambda t: np.diff(t, 2, 1),
    lambda t: np.diff(t, prepend=0.0, append=X[:, :1]),
    lambda t: np.trace(np.stack([t, X, t]), 0, 0, 2),
    lambda t: np.trace(np.stack([t, X, t]), 1, 1, 2),
    lambda t: np.trace(np.stack([t, X, t]), -1),
    lambda t: np.trace(np.stack([t, X, t]), axis1=2, axis2=0),
    lambda t: np.linalg.svd(t, compute_uv=False),
    lambda t: np.linalg.pinv(t, rcond=1e-3),
    lambda t: np.linalg.pinv(t, 1e-3),
]


@pytest.mark.parametrize("call", CALLS, ids=[getattr(c, "__name__", "f") + str(i) for i, c in enumerate(CALLS)])
def test_numpy_functions_take_tensors(call):
    with np.errstate(all="ignore"):
        wanted = call(X)
    t = leaf()
    got = call(t)
    assert isinstance(got, mg.Tensor)
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)
    assert got.requires_grad == (np.asarray(wanted).dtype == np.float64)


def test_numpy_functions_that_give_no_tensor_or_many():
    t = leaf()
    assert [a.tolist() for a in np.where(t > 1)] == [[0, 1], [2, 0]]
    assert np.size(t, (0, 1)) == 6
    assert np.size(t, 1) == 3
    assert np.result_type(t, np.float32) == np.float64
    assert np.result_type(mg.ones(2), np.float16, 1.0) == np.float32
    assert np.zeros_like(t, np.float32).dtype == np.float32
    assert np.full_like(t, 2, np.int64).tolist() == [[2, 2, 2]] * 2
    rounded = np.round(mg.tensor([14, 26]), -1)
    assert rounded.tolist() == [10, 30]
    assert rounded.dtype == np.int64
    ends = mg.tensor(0.0, dtype=mg.float64), mg.tensor(1.0, dtype=mg.float64)
    assert np.linspace(*ends, 3).dtype == np.float64


CALLS_BEYOND = {
    "numpy.sum": (lambda t, m: np.sum(t, where=m), "where="),
    "numpy.max": (lambda t, m: np.max(t, axis=0, initial=0.0), "initial="),
    "numpy.prod": (lambda t, m: np.prod(t, initial=2.0), "initial="),
    "numpy.add": (lambda t, m: np.add.reduce(t, where=m), "where="),
    "numpy.exp": (lambda t, m: np.exp(t, where=m, out=None), "where="),
    "numpy.reshape": (lambda t, m: np.reshape(t, (3, 2), order="F"), "order="),
    "numpy.stack": (lambda t, m: np.stack([t, t], dtype=np.float32), "dtype="),
    "numpy.linalg.svd": (lambda t, m: np.linalg.svd(t[:, :2], hermitian=True)[1], "hermitian="),
}


@pytest.mark.parametrize("who", CALLS_BEYOND)
def test_arguments_that_minigrad_lacks(who):
    call, argument = CALLS_BEYOND[who]
    mask = X > 0
    got, wanted = call(mg.asarray(X), mg.asarray(mask)), call(X, mask)
    place = mask if who == "numpy.exp" else ...
    np.testing.assert_allclose(got.numpy()[place], wanted[place])
    with pytest.raises(GradError, match=rf"^{who}: minigrad has no derivative .* with {argument}, .*detach"):
        call(leaf(), mask)


def test_where_may_be_a_tensor():
    out = np.zeros((2, 3))
    assert np.exp(X, where=mg.asarray(X > 0), out=out) is out
    np.testing.assert_array_equal(out, np.where(X > 0, np.exp(X), 0))


WRITES = {
    "put_along_axis": lambda t: np.put_along_axis(t, np.array([[0], [1]]), 9.0, 1),
    "copyto": lambda t: np.copyto(t, 1.0),
    "copyto by name": lambda t: np.copyto(src=mg.ones((2, 3)), dst=t),
    "put": lambda t: np.put(t, [0], 9.0),
    "add.at": lambda t: np.add.at(t, ([0, 0], mg.tensor([1, 1])), 1.0),
    "add": lambda t: np.add(t, 1.0, out=t),
    "sum": lambda t: np.sum(np.ones((4, 2, 3)), axis=0, out=t),
    "max of tensors": lambda t: np.max(mg.ones((4, 2, 3)), axis=0, out=t),
}


@pytest.mark.parametrize("how", WRITES)
def test_writes_through_numpy_are_seen(how):
    a, t = X.copy(), mg.tensor(X)
    y = leaf() * t
    WRITES[how](a)
    result = WRITES[how](t)
    assert result is None or result is t
    np.testing.assert_array_equal(t.numpy(), a)
    assert not np.array_equal(a, X)
    with pytest.raises(GradError, match=r"changed in place at .*test_protocols"):
        y.sum().backward()
    for kept in (leaf(), leaf() * 1):
        with pytest.raises(GradError, match="numpy"):
            WRITES[how](kept)
        np.testing.assert_array_equal(kept.detach().numpy(), X)
    with mg.no_grad():
        WRITES[how](kept)


def test_masked_arrays_are_refused():
    masked = np.ma.masked_less(X, 0)
    for use in (
        mg.tensor, mg.asarray, mg.exp, lambda m: mg.ones((2, 3)) * m, lambda m: leaf() * m, lambda m: mg.tensor([m, m])
    ):  # fmt: skip
        with pytest.raises(DTypeError, match=r"a masked array.*filled"):
            use(masked)
    with pytest.raises(GradError):
        masked * leaf()
    np.testing.assert_array_equal(mg.asarray(np.ma.masked_array(X)).numpy(), X)
    np.testing.assert_array_equal(mg.asarray(masked.filled(0)).numpy(), np.maximum(X, 0))


def test_creation_like_a_tensor_records_nothing():
    assert not np.zeros_like(leaf()).requires_grad
    assert np.shape(leaf()) == (2, 3)


def test_numpy_functions_that_minigrad_lacks():
    assert isinstance(np.percentile(mg.asarray(X), 50), mg.Tensor)
    np.testing.assert_allclose(np.fft.fft(mg.asarray(X)).numpy(), np.fft.fft(X))
    with pytest.raises(GradError, match=r"numpy\.percentile: minigrad has no derivative"):
        np.percentile(leaf(), 50)
    with pytest.raises(GradError, match=r"numpy\.i0|no derivative"):
        np.i0(leaf())
    with mg.no_grad():
        assert isinstance(np.percentile(leaf(), 50), mg.Tensor)


def test_out_of_a_ufunc():
    a = np.zeros((2, 3))
    a += mg.asarray(X)
    np.testing.assert_array_equal(a, X)
    with pytest.raises(GradError, match=r"numpy\.add"):
        a += leaf()
    np.testing.assert_array_equal(a, X)


def test_array_conversion():
    t = mg.asarray(X)
    assert np.asarray(t) is X
    assert np.asarray(t, dtype=np.float32).dtype == np.float32
    assert np.array(t, copy=True) is not X
    with pytest.raises(GradError, match="detach"):
        np.asarray(leaf())
    with pytest.raises(ValueError, match="copy is False"):
        np.asarray(t, dtype=np.float32, copy=False)


def test_dlpack_both_ways_shares_memory():
    t = mg.asarray(X.copy())
    a = np.from_dlpack(t)
    a[0, 0] = 42
    assert t[0, 0].item() == 42
    back = mg.from_dlpack(a)
    a[0, 1] = 43
    assert back[0, 1].item() == 43
    assert t.__dlpack_device__() == (1, 0)
    with pytest.raises(GradError, match="detach"):
        np.from_dlpack(leaf())


def test_dlpack_with_torch():
    torch = pytest.importorskip("torch")
    t = mg.asarray(X.copy())
    u = torch.from_dlpack(t)
    u[0, 0] = 42
    assert t[0, 0].item() == 42
    assert mg.from_dlpack(torch.ones(2, dtype=torch.float32)).tolist() == [1.0, 1.0]


def test_array_namespace():
    t = mg.ones(2)
    xp = t.__array_namespace__()
    assert xp is mg
    assert t.__array_namespace__(api_version="2024.12") is mg
    with pytest.raises(ValueError, match="api_version is '1999'"):
        t.__array_namespace__(api_version="1999")


def test_copies_and_pickles():
    t = leaf()
    t.grad = mg.ones((2, 3), dtype=mg.float64)
    for made in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        assert made.requires_grad
        assert made.is_leaf
        np.testing.assert_array_equal(made.detach(), X)
        assert not np.shares_memory(made._array, t._array)
    assert copy.deepcopy(t).grad.tolist() == t.grad.tolist()
    twice = copy.deepcopy([t, t])
    assert twice[0] is twice[1]
    with pytest.raises(GradError, match="only leaves"):
        copy.deepcopy(t * 2)
    with pytest.raises(GradError, match="only leaves"):
        pickle.dumps(t * 2)
    half = mg.ones(2, dtype=mg.bfloat16)
    assert pickle.loads(pickle.dumps(half)).dtype == mg.bfloat16


def test_python_numbers():
    t = mg.tensor([[2.5]])
    assert float(t) == 2.5
    assert int(t) == 2
    assert complex(t) == 2.5
    assert bool(t)
    assert t.item() == 2.5
    assert f"{t.sum():.2f}" == "2.50"
    assert math.sqrt(mg.tensor(4.0)) == 2.0
    assert [10, 20, 30][mg.tensor(1)] == 20
    assert round(mg.tensor(2.6)).item() == 3
    assert divmod(mg.tensor(7), 2)[1].item() == 1
    with pytest.raises(TypeError, match="needs an integer tensor with 0 axes"):
        [1][mg.tensor(0.0)]
    with pytest.raises(ShapeError, match="exactly one element"):
        bool(mg.ones(2))
    with pytest.raises(ShapeError, match="exactly one element"):
        mg.ones(0).item()


def test_sequences():
    t = mg.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert len(t) == 2
    _, b = t
    assert b.tolist() == [3.0, 4.0]
    assert 3.0 in t
    assert 5 not in t
    with pytest.raises(TypeError, match="0 axes"):
        iter(mg.tensor(1.0))
    with pytest.raises(TypeError, match="0 axes"):
        len(mg.tensor(1.0))


def test_equality_is_elementwise_and_hash_is_identity():
    t = mg.tensor([1.0, 2.0])
    assert (t == t).tolist() == [True, True]
    assert (t != 1).tolist() == [False, True]
    assert (t == None) is False  # noqa: E711
    assert (t == "x") is False
    assert {t: 1}[t] == 1


def test_repr():
    assert repr(mg.tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert repr(mg.tensor(1, dtype=mg.int8)) == "tensor(1, dtype=int8)"
    assert repr(mg.zeros((0, 3))) == "tensor([], shape=(0, 3))"
    assert repr(leaf([1.0]) * 2) == "tensor([2.], dtype=float64, grad_fn=<multiply>)"
    assert repr(mg.tensor(True)) == "tensor(True)"
    assert "bfloat16" in repr(mg.ones(2, dtype=mg.bfloat16))


def test_reflected_operators_keep_the_graph():
    t = leaf([1.0, 2.0])
    for result in (
        2 - t,
        2 / t,
        2**t,
        7 % t,
        7 // t,
        np.float64(2) * t,
        np.ones(2) + t,
        [1.0, 2.0] * t,
        np.ones((2, 2)) @ t,
    ):
        assert isinstance(result, mg.Tensor)
        assert result.shape == (2,)
        assert result.requires_grad
    assert (np.float64(2) * mg.ones(2)).dtype == mg.float32


def test_unknown_operands():
    for bad in ("a", object(), {}):
        with pytest.raises(TypeError):
            mg.ones(2) + bad
        with pytest.raises(TypeError, match=r"add: x2 is"):
            mg.add(mg.ones(2), bad)


FOREIGN = {
    "cumulative_sum": lambda: mg.cumulative_sum("a"),
    "cumulative_prod": lambda: mg.cumulative_prod("a", 0),
    "diff": lambda: mg.diff(object()),
    "diff of end": lambda: mg.diff(mg.ones(3), append="a"),
    "diff of n": lambda: mg.diff(mg.ones(3), n="a"),
    "diagonal": lambda: mg.diagonal("a"),
    "take": lambda: mg.take("a", [0]),
    "put_along_axis": lambda: mg.put_along_axis("a", [0], 1),
    "put_along_axis of indices": lambda: mg.put_along_axis(mg.ones(3), "a", 1.0),
    "put_along_axis of values": lambda: mg.put_along_axis(mg.ones(3), [0], "a"),
    "scatter_add": lambda: mg.scatter_add("a", [0], 1),
    "scatter_add of values": lambda: mg.scatter_add(mg.ones(3), [0], "a"),
    "linalg.norm": lambda: mg.linalg.norm("a", 2),
    "arange": lambda: mg.arange(mg.float32),
    "arange of type": lambda: mg.arange(np.float32),
    "full": lambda: mg.full(2, mg.float32),
}


@pytest.mark.parametrize("who", FOREIGN)
def test_what_is_no_array_is_named(who):
    with pytest.raises(DTypeError, match=rf"^{who.split()[0]}: \w+ is .*, needs a"):
        FOREIGN[who]()


def test_errors_of_bodies_are_told_once():
    with pytest.raises(ValueError, match=r"^pow: x2 is a negative exponent of integers, needs floats") as caught:
        mg.tensor([2, 3]) ** -1
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match=r"^huber_loss: delta is 0, needs a positive number$") as caught:
        mg.huber_loss(mg.ones(2), mg.ones(2), delta=0)
    assert type(caught.value) is ValueError
    for reduce in (mg.var, mg.std, mg.mean):
        with pytest.raises(mg.errors.AxisError, match=rf"^{reduce.__name__}: .*axis -1 is out of bounds"):
            reduce(1.5, -1)
    for reduce in (mg.sum, mg.prod, mg.max, mg.logsumexp):  # as in NumPy
        x = leaf(1.5)
        reduce(x, -1).backward()
        assert x.grad.item() == 1.0
