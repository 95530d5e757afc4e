"""The gradients of parameters as arrays to compute with and write to: float32 for half ones, rows for row-sparse ones.

The first stages of the pipeline of docs/training_step.md, which come before an optimizer's `step`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import dtypes
from minigrad._core import tape
from minigrad._core.cpu import Kernel
from minigrad.backend.devices import kernels_of, writeable
from minigrad.backend.rows import RowSparse
from minigrad.errors import describe, message
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.optim.optimizer import Optimizer

__all__ = [
    "agreed",
    "all_finite",
    "cast",
    "is_finite",
    "kernels_for",
    "parameters_of",
    "scale",
    "unscale_",
    "values_of",
    "widen",
    "with_gradient",
    "writable",
]

Array = Any
fast = Kernel("halves", "cast")
TINY = 1e-30  # below it a factor comes near to float32's subnormal numbers, which have few digits


def unscale_(optimizer: Optimizer, inv_scale: float) -> bool | Tensor:
    """Multiply every gradient of an optimizer's parameters by `inv_scale`, and say whether all are finite.

    The step after ``backward`` on a scaled loss, ``(loss * scale).backward()``: whatever looks at gradients, such as
    clipping, penalties and the update rule, has to come later. Where one is not finite, no parameter may be updated.

    Gradients change in place. Those of half parameters become float32, before the multiplication, and stay so until
    they are dropped: in half the values that the scale kept alive would be lost. A power of two changes no digit.

    Parameters
    ----------
    optimizer : Optimizer
        Its parameters without a gradient are passed over.
    inv_scale : float
        The inverse of the loss scale.

    Returns
    -------
    bool or Tensor
        False if any gradient holds an infinity or a NaN. A tensor where gradients lie on a GPU: to ask for its truth,
        as ``if`` does, is to wait for the GPU.

    Raises
    ------
    ValueError
        If `inv_scale` is not a positive, finite number.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0])
    >>> optimizer = optim.SGD([w], lr=0.1)
    >>> ((w * w).sum() * 1024).backward()
    >>> optim.unscale_(optimizer, 1 / 1024), w.grad
    (True, tensor([6.]))
    """
    given: Any = inv_scale
    if isinstance(given, bool) or not isinstance(given, Real) or not 0.0 < float(given) < math.inf:
        raise ValueError(message("unscale_", "inv_scale", describe(given), "a positive, finite number"))
    params = with_gradient("unscale_", parameters_of(optimizer))
    kernels = kernels_for(params)
    if kernels is not None:
        finite = tape.new_tensor(kernels.scale(writable(params), float(inv_scale)))
        return agreed(optimizer, finite) if hasattr(optimizer, "agree") else finite
    found = scale(params, inv_scale)
    return agreed(optimizer, all(is_finite(values) for values in found))


def kernels_for(parameters: list[Tensor]) -> Any:
    """What works on the gradients of parameters on a GPU together, None where some lie elsewhere; see `kernels_of`."""
    if not parameters or parameters[0]._grad is None or type(parameters[0]._grad._array) is np.ndarray:
        return None
    kernels = kernels_of(parameters[0]._grad._array, "gradients")
    return (
        kernels
        if kernels is not None and kernels.takes([p._grad._array for p in parameters if p._grad is not None])
        else None
    )


def agreed(optimizer: Optimizer, finite: Any) -> bool:
    """Whether the gradients are finite, on all ranks where several hold them, of which such an optimizer knows."""
    agree = getattr(optimizer, "agree", None)
    return bool(finite) if agree is None else agree(bool(finite))


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of all groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def with_gradient(who: str, parameters: Any) -> list[Tensor]:
    """The tensors among `parameters` that have a gradient, each once.

    Parameters
    ----------
    who : str
        Who asks, for the error.
    parameters : Tensor, or iterable of Tensor or of (str, Tensor)
        A generator too.
    """
    if isinstance(parameters, (Module, Mapping)) or not isinstance(parameters, (Tensor, Iterable)):
        hint = "Pass model.parameters()" if isinstance(parameters, Module) else ""
        raise TypeError(message(who, "parameters", parameters, "a tensor or an iterable of tensors", hint))
    found: dict[int, Tensor] = {}
    for i, entry in enumerate([parameters] if isinstance(parameters, Tensor) else parameters):
        p = entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
        if not isinstance(p, Tensor):
            raise TypeError(message(who, f"parameter {i}", p, "a tensor"))
        if p._grad is not None:
            found[id(p)] = p
    return list(found.values())


def widen(g: Array) -> Array:
    """A gradient in float32 where it is a half one, else as it is."""
    if g.dtype.itemsize != 2:
        return g
    if type(g) is RowSparse:
        return RowSparse(g.shape, g.ids, cast(g.values, dtypes.float32))
    return cast(g, dtypes.float32)


def cast(x: Array, dtype: Any) -> Array:
    """An array in another dtype, a copy."""
    made = fast(x, dtype)
    if made is not NotImplemented:
        return made
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def values_of(g: Array) -> Array:
    """The elements of a gradient that may be other than 0, a half one's in float32."""
    g = widen(g)
    return g.values if type(g) is RowSparse else g


def writable(parameters: Iterable[Tensor]) -> list[Array]:
    """Arrays to change gradients in place through, each memory once; they are float32 where parameters are half.

    A gradient that is half, read-only, or recorded by ``create_graph`` is first replaced by a copy. To change one in
    place is an in-place change of a tensor, which a graph that has saved it must find out.
    """
    found: list[Array] = []
    changed: list[Tensor] = []
    seen: set[int] = set()
    for p in parameters:
        grad = p._grad
        assert grad is not None
        g = widen(grad._array)
        if type(g) is not RowSparse and (grad._node is not None or grad._leaf or not writeable(g)):
            g = g.copy()
        if g is not grad._array:
            p._grad = tape.new_tensor(g)
        elif id(g) in seen:  # one tensor was made the gradient of two parameters
            continue
        else:
            changed.append(grad)
        seen.add(id(g))
        found.append(g.values if type(g) is RowSparse else g)
    tape.mark_updated(changed, "a change of gradients in place")
    return found


def scale(parameters: Iterable[Tensor], factor: float) -> list[Array]:
    """Multiply gradients in place; returns their arrays."""
    found = writable(parameters)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for g in found:
            wide = factor < TINY and g.dtype == np.float32
            np.multiply(g, np.float64(factor) if wide else float(factor), out=g, casting="same_kind")
    return found


def is_finite(g: Array) -> bool:
    """Whether all elements are finite: their sum is then, unless it overflows, and needs no memory."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(g.sum()) or np.isfinite(g).all())


def all_finite(gradients: Iterable[Array]) -> bool:
    """Whether all elements of some gradients are finite: one pass by a BLAS, unless squares overflow."""
    found = [values_of(g) for g in gradients]
    with np.errstate(over="ignore", invalid="ignore"):
        total = sum(float(np.dot(flat, flat)) for g in found for flat in [g.reshape(-1)])
    return math.isfinite(total) or all(map(is_finite, found))
