"""Kernels of the recurrent ops equal their generic bodies, in every instruction set, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.nn import functional as F
from minigrad.ops.recurrent import _gru, _lstm, _rnn
from minigrad.testing.variants import assert_variants, generic

GATES: dict[str, int] = {"rnn": 1, "lstm": 4, "gru": 3}
# steps, batch, features, units: narrow and wide products, inner extents of more than one part, blocks that are not full
SIZES = [(3, 1, 2, 1), (4, 7, 3, 5), (3, 17, 4, 20), (2, 40, 3, 48), (2, 9, 2, 137), (2, 130, 2, 16)]


def arrays(name: str, size: tuple[int, ...], dtype: str, states: bool = True) -> list[Any]:
    steps, batch, features, units = size
    rng = np.random.default_rng(sum(size))
    width = GATES[name] * units
    shapes = [(batch, steps, features), (features, width), (units, width), (width,), (width,)]
    shapes += [(batch, units)] * ((2 if name == "lstm" else 1) if states else 0)
    return [(rng.uniform(-1, 1, s) / (units**0.5 if s[0] == units else 1)).astype(dtype) for s in shapes]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", GATES)
def test_equal(name: str, size: tuple[int, ...], padded: bool, reverse: bool) -> None:
    dtype = ("float32", "float64")[(sum(size) + padded + reverse) % 2]
    lengths = np.random.default_rng(1).integers(0, size[0] + 1, size[1]) if padded else None
    f = getattr(F, name)
    given = arrays(name, size, dtype)
    ran = size[-1] > 1  # products with a vector are NumPy's
    assert_variants(lambda *a: f(*a, lengths=lengths, reverse=reverse), *given, factor=4.0, ran=ran)


@pytest.mark.parametrize("size", SIZES[1:4], ids=str)
def test_relu(size: tuple[int, ...]) -> None:
    assert_variants(lambda *a: F.rnn(*a, activation="relu"), *arrays("rnn", size, "float32"), factor=4.0)


@pytest.mark.parametrize("name", GATES)
def test_without_biases_and_states(name: str) -> None:
    f = getattr(F, name)
    assert_variants(f, *arrays(name, SIZES[2], "float32", states=False)[:3], factor=4.0)


@pytest.mark.parametrize(("op", "name"), [(_rnn, "rnn"), (_lstm, "lstm"), (_gru, "gru")])
def test_kernels_are_used(op: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither body nor rule runs, where a kernel takes the arrays."""
    x, *rest = (mg.tensor(a, requires_grad=True) for a in arrays(name, SIZES[2], "float32"))
    f: Callable[..., Any] = getattr(F, name)

    def run() -> list[Any]:
        out = f(x, *rest)
        return list(mg.grad(out[0], [x, *rest], mg.ones(out[0].shape), allow_unused=True))

    before = run()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the generic body was called")

    monkeypatch.setattr(mg.ops.recurrent, "order", fail)
    for a, b in zip(before, run(), strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a.numpy(), b.numpy())
    with generic(), pytest.raises(AssertionError, match="the generic body was called"):
        run()


@pytest.mark.parametrize("name", GATES)
def test_not_a_number_stays_with_its_sequence(name: str) -> None:
    given = arrays(name, SIZES[2], "float32")
    given[0][3, 1] = np.nan
    f = getattr(F, name)
    out = f(*given)[0].numpy()
    assert np.isnan(out[3, 1:]).all()
    assert np.isfinite(np.delete(out, 3, axis=0)).all()
    assert np.isfinite(out[3, 0]).all()
