"""Kernels beside the generic body: in every instruction set that the processor has, on one thread and on several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigrad import autograd, dtypes
from minigrad._core import cpu, dispatch
from minigrad.ops.conversion import new
from minigrad.testing.tolerances import RELATIVE, assert_close

__all__ = ["assert_variants", "generic", "outcome", "variant", "watched"]

Array = np.ndarray[Any, Any]
THREADS = (1, 2, 3)


@contextmanager
def generic() -> Iterator[None]:
    """Run the generic bodies and rules."""
    before = dispatch.use_kernels(False)
    try:
        yield
    finally:
        dispatch.use_kernels(before)


@contextmanager
def variant(level: str, threads: int) -> Iterator[None]:
    """Run the loops of one instruction set on a number of threads, short ones too."""
    set_before, level_before, threads_before = dispatch.use_kernels(True), cpu.use_level(level), cpu.get_threads()
    from_before = cpu.set_parallel_from(1)
    cpu.set_threads(threads)
    try:
        yield
    finally:
        cpu.set_threads(threads_before)
        cpu.set_parallel_from(from_before)
        cpu.use_level(level_before)
        dispatch.use_kernels(set_before)


def like(out: Array, values: Array) -> Array:
    """Values in the dtype and the order in memory of a result."""
    made = np.empty_like(out)
    made[...] = values
    return made


@contextmanager
def watched() -> Iterator[list[tuple[str, bool]]]:
    """Collect the calls of kernels: the name, and whether it took its arguments."""
    calls: list[tuple[str, bool]] = []
    cpu.watch(calls)
    try:
        yield calls
    finally:
        cpu.watch(None)


def is_plain(a: Array) -> bool:
    """Whether every kernel should take an array: in C order, finite, not empty."""
    finite = a.dtype not in dtypes.FLOATING or bool(np.isfinite(a).all())
    return bool(a.flags.c_contiguous and a.size and finite)


def outcome(f: Callable[..., Any], arrays: Sequence[Array], seed: int) -> tuple[list[Array], list[Array]]:
    """The values of ``f(*tensors)`` and the gradients of its floating arguments under random cotangents."""
    tensors = [new(a, requires_grad=a.dtype in dtypes.FLOATING) for a in arrays]
    outs = f(*tensors)
    outs = outs if isinstance(outs, tuple) else (outs,)
    rng = np.random.default_rng(seed)
    seeded = [out for out in outs if out.requires_grad]
    cotangents = [new(like(out.detach().numpy(), rng.uniform(0.5, 1.5, out.shape))) for out in seeded]
    wanted = [t for t in tensors if t.requires_grad]
    grads = autograd.grad(seeded, wanted, cotangents, allow_unused=True) if seeded and wanted else []
    return [out.detach().numpy() for out in outs], [g.numpy() for g in grads if g is not None]


def assert_variants(
    f: Callable[..., Any],
    *arrays: Array,
    seed: int = 0,
    factor: float = 1.0,
    floor: float = 0.1,
    each: bool = False,
    wide: bool = False,
    ran: bool | Sequence[str] | None = None,
) -> None:
    """Assert that kernels compute values and gradients of the generic body, and the same bits on 1, 2 and 3 threads.

    Where the arguments are plain, kernels must have been called, and none may leave its own to the generic body, which
    would be compared with itself.

    Parameters
    ----------
    f : callable
        A function of tensors; it returns a tensor or a tuple of them.
    arrays : array
        Its arguments. Gradients are taken for those of floating dtypes. They must stay as they are.
    seed : int
        Of the cotangents.
    factor, floor, each
        As for `assert_close`.
    wide : bool
        Compare with the generic body in float64 at the same rounded arguments, not in their own dtype.
    ran : bool or sequence of str, optional
        Whether kernels must take their arguments, or the instruction sets in which they must. By default where all
        arrays are in C order, finite and not empty.

    Raises
    ------
    AssertionError
        With the instruction set, the number of threads, and the worst element.
    """
    kept = [a.copy() for a in arrays]
    given = [a.astype(np.float64) if wide and a.dtype in dtypes.FLOATING else a for a in arrays]
    with generic():
        expected = outcome(f, given, seed)
    held = [a.dtype for a in arrays if a.dtype in RELATIVE]
    ran = all(map(is_plain, arrays)) if ran is None else ran
    demanded = cpu.levels() if ran is True else ran or ()
    for level in cpu.levels():
        first: list[bytes] = []
        for threads in THREADS:
            with variant(level, threads), watched() as calls:
                found = outcome(f, arrays, seed)
            where = f"{level}, {threads} threads"
            if level in demanded:
                left = sorted({name for name, took in calls if not took})
                assert calls, f"{where}: no kernel was called"
                assert not left, f"{where}: left to the generic body by {', '.join(left)}"
            for what, ours, theirs in zip(("value", "gradient"), found, expected, strict=True):
                for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                    assert wide or a.dtype == b.dtype, f"{what} {k} is {a.dtype} in {where} and {b.dtype} generic"
                    limit = max([*held, a.dtype], key=RELATIVE.__getitem__) if a.dtype in RELATIVE else a.dtype
                    assert_close(a, b, limit, f"{what} {k} in {where}", factor=factor, floor=floor, each=each)
            bits = [a.tobytes() for part in found for a in part]
            first = first or bits
            assert bits == first, f"{where}: other bits than on 1 thread"
    for a, b in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(a, b)
