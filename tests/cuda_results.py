"""What tests of CUDA kernels share: results on a GPU, held equal to the generic bodies in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import autograd, dtypes
from minigrad.backend.devices import backend_of
from minigrad.ops.conversion import new
from minigrad.ops.registry import REGISTRY
from minigrad.testing.tolerances import RELATIVE, assert_close
from minigrad.testing.variants import generic

Array = np.ndarray[Any, Any]
FLOATS = (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16)


def results(f: Callable[..., Any], arrays: list[Any], device: str, seed: int, wide: bool) -> list[Array]:
    """The value of ``f(*tensors)``, and the gradients of its floating arguments under a random cotangent."""
    floating = [a.dtype in dtypes.FLOATING for a in arrays]
    given = [a.astype(np.float64) if wide and real else a for a, real in zip(arrays, floating, strict=True)]
    tensors = [new(a).to(device).detach() for a in given]
    leaves = [t for t, real in zip(tensors, floating, strict=True) if real]
    for leaf in leaves:
        leaf.requires_grad = True
    out = f(*tensors)
    coarse = min((a.dtype for a in arrays if a.dtype in RELATIVE), key=lambda d: (d.itemsize, str(d)))
    g = np.random.default_rng(seed).uniform(0.5, 1.5, out.shape).astype(coarse).astype(out.dtype)
    grads = autograd.grad([out], leaves, [new(g).to(device)], allow_unused=True)
    return [t.detach().to("cpu").numpy() for t in (out, *grads) if t is not None]


@contextmanager
def counted(*names: str, kinds: list[Any] | None = None) -> Iterator[list[bool]]:
    """Note of each call of the ops' CUDA kernels in the block whether it took them; in `kinds` for which dtype."""
    calls: list[bool] = []

    def noting(kernel: Callable[..., Any], dtype: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            out = kernel(*args, **kwargs)
            calls.append(out is not NotImplemented)
            if kinds is not None:
                kinds.append(dtype)
            return out

        return call

    backend_of("cuda", "tests")  # registers the kernels
    tables = []
    for name in names:
        op = REGISTRY[name]
        tables += [op.kernels, *(rule.kernels for rule in (*op.vjps, op.joint) if rule is not None)]
    before = [dict(table) for table in tables]
    for table in tables:
        table |= {key: noting(kernel, key[1]) for key, kernel in table.items() if key[0] == "cuda"}
    try:
        yield calls
    finally:
        for table, kept in zip(tables, before, strict=True):
            table.clear()
            table |= kept


def assert_gpu(
    f: Callable[..., Any], *arrays: Any, names: tuple[str, ...], calls: int = 2, seed: int = 0, **options: Any
) -> None:
    """Assert that kernels of the named ops compute the values and gradients of the generic bodies.

    They must take at least so many calls, and leave none to the generic body, nor to a kernel of another dtype.
    """
    with generic():
        expected = results(f, list(arrays), "cpu", seed, wide=True)
    kinds: list[Any] = []
    with counted(*names, kinds=kinds) as took:
        found = results(f, list(arrays), "cuda", seed, wide=False)
    assert all(took), "a kernel left its arguments to the generic body"
    assert len(took) >= calls, f"kernels were called {len(took)} times"
    dtype = max((a.dtype for a in arrays if a.dtype in RELATIVE), key=RELATIVE.__getitem__)
    assert {*kinds} <= {a.dtype for a in arrays}, f"kernels ran for {kinds}"
    value = f(*map(new, arrays)).dtype  # float32 where results of half types are not rounded
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == (dtype if k else value)
        assert_close(a.astype(np.float64), b, a.dtype, "the value" if k == 0 else f"gradient {k}", **options)


def shifted(x: Array) -> Any:
    """A tensor on the GPU whose memory begins 1 element behind a multiple of 16 bytes."""
    flat = new(np.concatenate([np.zeros(1, x.dtype), x.ravel()])).to("cuda")
    return mg.reshape(flat[1:], x.shape)
