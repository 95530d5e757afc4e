"""Recurrent layers agree with PyTorch's: outputs, states, gradients, packed sequences, and a trajectory of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.testing.tolerances import assert_close

torch = pytest.importorskip("torch", minversion="2.13")

Array = np.ndarray[Any, Any]
LAYERS = ["RNN", "LSTM", "GRU"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two thread pools that take turns are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pairs(ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any, bool]]:
    """Name, parameter and PyTorch's, and whether one is the other transposed."""
    for cells, suffix in ((ours.cells, ""), (ours.reverse_cells, "_reverse")):
        for k, cell in enumerate(cells):
            for name, p in cell.named_parameters():
                yield f"{name}_l{k}{suffix}", p, getattr(theirs, f"{name}_l{k}{suffix}"), p.ndim == 2


def twins(kind: str, layers: int, both: bool, **options: Any) -> tuple[Any, Any]:
    """A layer of each library with the same weights, in float64."""
    torch.manual_seed(layers + both)
    theirs = getattr(torch.nn, kind)(3, 4, layers, bidirectional=both, batch_first=True, dtype=torch.float64, **options)
    more = {"activation": options["nonlinearity"]} if options else {}
    ours = getattr(nn, kind)(4, layers, bidirectional=both, in_features=3, return_state=True, dtype="float64", **more)
    with mg.no_grad():
        for _, p, source, turned in pairs(ours, theirs):
            values = source.detach().numpy()
            p[...] = mg.tensor(values.T if turned else values)
    return ours, theirs


def flat(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


def values(t: Any) -> Array:
    return np.asarray(t.detach().numpy())


@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("lengths", [None, [5, 2, 1], [1, 4, 5]], ids=["full", "sorted", "unsorted"])
@pytest.mark.parametrize("kind", [*LAYERS, "ReLU"])
def test_values_and_gradients(kind: str, lengths: list[int] | None, layers: int, both: bool) -> None:
    options = {"nonlinearity": "relu"} if kind == "ReLU" else {}
    ours, theirs = twins("RNN" if options else kind, layers, both, **options)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 3))
    begin = [rng.normal(size=(layers * (1 + both), 3, 4)) for _ in range(2 if kind == "LSTM" else 1)]
    mine = [mg.tensor(v, requires_grad=True) for v in (x, *begin)]
    his = [torch.tensor(v, requires_grad=True) for v in (x, *begin)]
    out, last = ours(mine[0], tuple(mine[1:]) if kind == "LSTM" else mine[1], lengths=lengths)
    given = his[0]
    if lengths is not None:
        given = torch.nn.utils.rnn.pack_padded_sequence(given, lengths, batch_first=True, enforce_sorted=False)
    expected, end = theirs(given, tuple(his[1:]) if kind == "LSTM" else his[1])
    if lengths is not None:
        expected = torch.nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)[0]
    results, references = [out, *flat(last)], [expected, *flat(end)]
    for a, b in zip(results, references, strict=True):
        assert_close(values(a), values(b), mg.float64, "result")
    cotangents = [rng.normal(size=r.shape) for r in results]
    mg.autograd.backward(results, [mg.tensor(c) for c in cotangents])
    torch.autograd.backward(references, [torch.tensor(c) for c in cotangents])
    for a, b in zip(mine, his, strict=True):
        assert_close(values(a.grad), values(b.grad), mg.float64, "gradient of x or a state")
    for name, p, source, turned in pairs(ours, theirs):
        assert_close(values(p.grad), values(source.grad.T if turned else source.grad), mg.float64, name)


@pytest.mark.parametrize("kind", LAYERS)
def test_cells(kind: str) -> None:
    theirs = getattr(torch.nn, f"{kind}Cell")(3, 4, dtype=torch.float64)
    ours = getattr(nn, f"{kind}Cell")(4, in_features=3, dtype="float64")
    state = {name: values(p).T if p.ndim == 2 else values(p) for name, p in theirs.named_parameters()}
    ours.load_state_dict(state)
    rng = np.random.default_rng(1)
    x, begin = rng.normal(size=(2, 3)), [rng.normal(size=(2, 4)) for _ in range(2 if kind == "LSTM" else 1)]
    mine, his = [mg.tensor(v) for v in begin], [torch.tensor(v) for v in begin]
    found = ours(mg.tensor(x), tuple(mine) if kind == "LSTM" else mine[0])
    expected = theirs(torch.tensor(x), tuple(his) if kind == "LSTM" else his[0])
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert_close(values(a), values(b), mg.float64, "state")


@pytest.mark.parametrize("kind", LAYERS)
def test_a_trajectory_of_training(kind: str) -> None:
    """A hundred steps of Adam from the same weights give the same losses and the same weights."""
    ours, theirs = twins(kind, 2, True)
    rng = np.random.default_rng(2)
    readout = rng.normal(size=(8, 1))
    head, their_head = mg.tensor(readout), torch.tensor(readout)
    optimizer = mg.optim.Adam(ours.parameters(), lr=1e-2)
    their_optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    first = last = 0.0
    for step in range(100):
        x = rng.normal(size=(8, 6, 3))
        lengths = rng.integers(1, 7, 8)
        lengths[0] = 6
        y = (x[:, :, :1] * (np.arange(6) < lengths[:, None])[:, :, None]).sum(axis=1)
        out, _ = ours(mg.tensor(x), lengths=mg.tensor(lengths))
        loss = nn.functional.mse_loss(out.sum(axis=1) @ head, mg.tensor(y))
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.tensor(x), torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
        theirs_out = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]
        expected = torch.nn.functional.mse_loss(theirs_out.sum(dim=1) @ their_head, torch.tensor(y))
        np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-9)
        optimizer.zero_grad()
        their_optimizer.zero_grad()
        loss.backward()
        expected.backward()
        optimizer.step()
        their_optimizer.step()
        first, last = first + loss.item() * (step < 10), last + loss.item() * (step >= 90)
    assert last < 0.5 * first
    for name, p, source, turned in pairs(ours, theirs):
        other = values(source)
        np.testing.assert_allclose(values(p), other.T if turned else other, rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", LAYERS)
def test_second_derivatives(kind: str) -> None:
    ours, theirs = twins(kind, 1, False)
    rng = np.random.default_rng(3)
    x, v, u = (rng.normal(size=s) for s in ((2, 3, 3), (2, 3, 4), (2, 3, 3)))
    mine, his = mg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (dx,) = mg.grad(ours(mine)[0], [mine], mg.tensor(v), create_graph=True)
    (their_dx,) = torch.autograd.grad(theirs(his)[0], his, torch.tensor(v), create_graph=True)
    weights = [(p, source, turned) for _, p, source, turned in pairs(ours, theirs)]
    found = mg.grad(dx, [mine, *(p for p, _, _ in weights)], mg.tensor(u))
    expected = torch.autograd.grad(their_dx, [his, *(s for _, s, _ in weights)], torch.tensor(u))
    for a, b, turned in zip(found, expected, [False, *(t for _, _, t in weights)], strict=True):
        assert_close(values(a), values(b).T if turned else values(b), mg.float64, "second derivative")
