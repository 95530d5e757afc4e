"""Gradients on the GPU: scaled, looked at and measured many at a time, with nothing read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from minigrad.backend.cuda.modules import kernel
from minigrad.backend.cuda.tables import THREADS, Table, table, uploaded

__all__ = ["adapt", "clip", "norm", "scale", "state_of_scale", "takes", "unscale"]

Array = Any
BY, BY_INVERSE, TO_NORM = range(3)  # as in gradients.cu
NAMES = ("float32", "float64")


def takes(gradients: Sequence[Array]) -> bool:
    """Whether the kernels do: floating arrays of one GPU without gaps."""
    return all(
        type(g) is cupy.ndarray
        and g.device.id == gradients[0].device.id
        and str(g.dtype) in (*NAMES, "float16", "bfloat16")
        and (g.flags.c_contiguous or g.flags.f_contiguous)
        for g in gradients
    )


def tables(gradients: Sequence[Array], names: Sequence[str]) -> list[tuple[str, Table]]:
    """A table for each dtype that there is."""
    made = []
    for name in names:
        own = [g for g in gradients if g.size and str(g.dtype) == name]
        if own:
            made.append((name, table([[g.data.ptr, g.size] for g in own], [g.size for g in own])))
    return made


def multiply(gradients: Sequence[Array], how: int, value: float, number: Array | None, finite: Array | None) -> None:
    """Multiply float32 and float64 gradients in place; 8 bytes a float32 element, none where the factor is 1."""
    pointers = [np.intp(0) if a is None else a for a in (number, finite)]
    for name, own in tables(gradients, NAMES):
        arguments = (own.array, np.int32(own.rows), np.int32(how), np.float64(value), *pointers)
        kernel("gradients", f"scale_{name}")((own.chunks,), (THREADS,), arguments)


def scale(gradients: Sequence[Array], factor: float) -> Array:
    """Multiply by a number, and say whether all products are finite: a bool on the GPU."""
    with gradients[0].device:
        finite = cupy.ones((), np.bool_)
        multiply(gradients, BY, factor, None, finite)
    return finite


def unscale(gradients: Sequence[Array], others: Sequence[Array], state: Array) -> Array:
    """Divide by the loss scale that a state holds, and say whether all are finite, `others`, too, which stay."""
    with state.device:
        finite = cupy.ones((), np.bool_)
        multiply(gradients, BY_INVERSE, 0.0, state, finite)
        multiply(others, BY, 1.0, None, finite)
    return finite


def norm(gradients: Sequence[Array], power: float) -> Array:
    """The norm of all as one vector, float64 on the GPU: that of the norms of the arrays, which are those of chunks."""
    with gradients[0].device:
        found = []
        for name, own in tables(gradients, (*NAMES, "float16", "bfloat16")):
            values = cupy.empty(own.chunks, np.float64)
            arguments = (own.array, np.int32(own.rows), np.float64(power), values)
            kernel("gradients", f"norms_{name}")((own.chunks,), (THREADS,), arguments)
            found.append(_folded(values, own.ends, power))
        if not found:
            return cupy.zeros((), np.float64)
        values = found[0] if len(found) == 1 else cupy.concatenate(found)
        return _folded(values, np.array([values.size], np.int64), power).reshape(())


def _folded(values: Array, ends: np.ndarray[Any, Any], power: float) -> Array:
    """The norm of the values up to each end."""
    out = cupy.empty(len(ends), np.float64)
    kernel("gradients", "fold")((len(ends),), (THREADS,), (values, uploaded(ends), np.float64(power), out))
    return out


def clip(gradients: Sequence[Array], total: Array, max_norm: float) -> None:
    """Bring a norm of `total` down to `max_norm`."""
    with total.device:
        multiply(gradients, TO_NORM, max_norm, total, None)


def state_of_scale(scale: float, steps: int) -> Array:
    """A loss scale, and how many steps in a row were finite, on the current GPU."""
    return cupy.asarray(np.array([scale, steps], np.float64))


def adapt(
    state: Array, finite: Array, growth: float, backoff: float, interval: int, least: float, largest: float
) -> None:
    """Let the loss scale follow, as `amp.GradScaler.update` does."""
    numbers = map(np.float64, (growth, backoff, interval, least, largest))
    kernel("gradients", "adapt")((1,), (1,), (state, finite, *numbers))
