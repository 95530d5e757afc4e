"""Complex numbers. Real tensors count as complex ones with an imaginary part of 0, and only they have gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.ops.registry import Array, floating, keep, op
from minigrad.ops.samples import case, unary

__all__ = ["angle", "conj", "imag", "real"]

parts = keep.but(same=False)
points = case(np.array([1 + 2j, -3.0, 0.5j]))


@op(dtype=parts, ref="numpy.real")
def real(xp: Any, x: Array, /) -> Array:
    """Elementwise real part, a copy.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.real(mg.tensor([1 + 2j, 3.0]))
    tensor([1., 3.])
    """
    return xp.real(x).copy()


real.vjp(0)(lambda xp, g: g)
real.samples(*unary(), points)


@op(dtype=parts, ref="numpy.imag")
def imag(xp: Any, x: Array, /) -> Array:
    """Elementwise imaginary part, a copy; 0 for real tensors.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.imag(mg.tensor([1 + 2j, 3.0]))
    tensor([2., 0.])
    """
    return xp.imag(x).copy()


imag.vjp(0)(lambda xp, g: xp.zeros_like(g))
imag.samples(*unary(), points)


@op(dtype=keep, ref="numpy.conj")
def conj(xp: Any, x: Array, /) -> Array:
    """Elementwise complex conjugate; a copy of real tensors.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.conj(mg.tensor([1 + 2j, 3.0]))
    tensor([1.-2.j, 3.-0.j], dtype=complex64)
    """
    return xp.conj(x) if x.dtype.kind == "c" else x.copy()


conj.vjp(0)(lambda xp, g: g)
conj.samples(*unary(), points)


@op(dtype=floating.but(same=False), ref="numpy.angle", amp="widest")
def angle(xp: Any, x: Array, /) -> Array:
    """Elementwise argument in radians; 0 or pi for real tensors, with derivative 0.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.angle(mg.tensor([1j, -1.0]))
    tensor([1.5707964, 3.1415927])
    """
    return xp.angle(x)


angle.vjp(0)(lambda xp, g: xp.zeros_like(g))
angle.samples(*unary(avoid=(0.0,)), points)
