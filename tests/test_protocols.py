"""NumPy's protocols, DLPack, copies, pickles and Python's own protocols."""

import copy
import math
import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import GradError, ShapeError

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
