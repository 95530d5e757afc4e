"""Kernels of matmul and linear, and of their rules: products of stacks of matrices by cuBLAS.

Each call is brought to one form: transposes are flags, leading axes become rows or terms of the sum where they lie in
memory like those, and what is left of them is a batch. Half types are multiplied on tensor cores, summed in float32 and
rounded once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import cupy
import numpy as np

from minigrad.backend.cuda import elementwise
from minigrad.backend.cuda.blas import TYPES, Matrix, multiply
from minigrad.backend.cuda.epilogue import multiply_add
from minigrad.backend.cuda.rows import shaped
from minigrad.ops.registry import REGISTRY

__all__ = ["product"]

Array = Any
Shape = tuple[int, ...]

LAUNCHES = 8  # of one product: more are worth copies of its factors
FEW_ROWS = (
    64  # of a matrix in a stack that one matrix is multiplied with: fewer are worth a copy that makes one product
)


class Axis(NamedTuple):
    """A leading axis: its extent, and the steps of the two factors and of the result in elements."""

    extent: int
    a: int
    b: int
    c: int


# ---- from arrays to calls of cuBLAS ----------------------------------------------------------------------------------


def layout(shape: Shape, down: int, across: int) -> tuple[bool, int] | None:
    """Whether a matrix with these steps lies in memory transposed, and its leading dimension; None if it is neither."""
    rows, columns = shape
    if (columns <= 1 or across == 1) and (rows <= 1 or down >= columns):
        return False, down if rows > 1 else columns
    if (rows <= 1 or down == 1) and (columns <= 1 or across >= rows):
        return True, across if columns > 1 else rows
    return None


def steps(x: Array, n: int = 0) -> list[int]:
    """The strides in elements, of `n` axes at least: those that come first then have none."""
    own = [stride // x.itemsize for stride in x.strides]
    return [0] * (n - len(own)) + own


def turned(x: Array) -> Array:
    """The transposed matrices, a view."""
    return x.swapaxes(-1, -2)


def contiguous(x: Array) -> Array:
    """A copy without gaps, whose matrices are transposed in memory if those of `x` are."""
    down, across = x.strides[-2:]
    return turned(cupy.ascontiguousarray(turned(x))) if abs(down) < abs(across) else cupy.ascontiguousarray(x)


def readable(x: Array) -> Array:
    """`x`, or a copy where cuBLAS cannot read its matrices."""
    return x if min(x.strides) >= 0 and layout(x.shape[-2:], *steps(x)[-2:]) else contiguous(x)


def read(x: Array) -> tuple[bool, int]:
    """The layout of the matrices of what `readable` gave."""
    found = layout(x.shape[-2:], *steps(x)[-2:])
    assert found is not None
    return found


def to_copy(*arrays: Array) -> int:
    """How many elements are copied to have arrays in C order."""
    return sum(x.size for x in arrays if not x.flags.c_contiguous)


def packed(x: Array) -> Array:
    """`x`, or a copy where there are gaps between its matrices."""
    return x if x.flags.c_contiguous or turned(x).flags.c_contiguous else contiguous(x)


class Product:
    """``a @ b`` of stacks of matrices (..., m, k) and (..., k, n), summed to `shape`, as calls of cuBLAS.

    Attributes
    ----------
    m, k, n : int
        Of each matrix product, with the leading axes that became rows or terms of the sum.
    batch : list of Axis
        The leading axes that did not, from the last to the first.
    shape : tuple of int
        Of what cuBLAS writes, `summed` included.
    summed : list of int
        The axes of it that the result is to be summed over.
    """

    def __init__(self, a: Array, b: Array, shape: Shape) -> None:
        self.a, self.b = a, b
        (self.m, self.k), self.n = a.shape[-2:], b.shape[-1]
        lead = max(a.ndim, b.ndim) - 2
        *sa, self.down, self.along = steps(a, lead + 2)
        *sb, self.along_b, self.across = steps(b, lead + 2)
        self.read_a = read(a)
        self.read_b = read(b)
        self.batch: list[Axis] = []
        self.summed: list[int] = []
        ea, eb, kept = ((*(1,) * (lead + 2 - len(s)), *s[:-2]) for s in (a.shape, b.shape, shape))
        full, size = [1] * lead, self.m * self.n
        for i in range(lead - 1, -1, -1):
            axis = Axis(max(ea[i], eb[i]), sa[i] if ea[i] > 1 else 0, sb[i] if eb[i] > 1 else 0, size)
            if axis.extent == 1 or (kept[i] == 1 and self.becomes_terms(axis)):
                continue
            if kept[i] == 1:
                self.summed.append(i)
            full[i] = axis.extent
            size *= axis.extent
            if not self.batch and self.becomes_rows(axis):
                continue
            inner = self.batch[-1] if self.batch else axis
            if axis[1:] == tuple(inner.extent * step for step in inner[1:]):
                self.batch[-1] = inner._replace(extent=inner.extent * axis.extent)
            else:
                self.batch.append(axis)
        self.shape = (*full, *shape[-2:])

    def becomes_terms(self, axis: Axis) -> bool:
        """Let a leading axis that is summed be part of the sum of the product, where it lies in memory like that."""
        if self.k > 1 and (axis.a != self.k * self.along or axis.b != self.k * self.along_b):
            return False
        along, along_b = (self.along, self.along_b) if self.k > 1 else (axis.a, axis.b)
        k = self.k * axis.extent
        read_a, read_b = layout((self.m, k), self.down, along), layout((k, self.n), along_b, self.across)
        if read_a is None or read_b is None:
            return False
        self.k, self.along, self.along_b, self.read_a, self.read_b = k, along, along_b, read_a, read_b
        return True

    def becomes_rows(self, axis: Axis) -> bool:
        """Let a leading axis of the first factor alone be rows of it, where it lies in memory like that."""
        if axis.b or (self.m > 1 and axis.a != self.m * self.down):
            return False
        down, m = self.down if self.m > 1 else axis.a, self.m * axis.extent
        read_a = layout((m, self.k), down, self.along)
        if read_a is None:
            return False
        self.m, self.down, self.read_a = m, down, read_a
        return True

    @property
    def launches(self) -> int:
        """How many calls it takes: of a batch that has one axis, one."""
        return math.prod(sorted(axis.extent for axis in self.batch)[:-1])

    def compute_biased(self, out: Array, bias: Array) -> None:
        """Write the products and a bias to `out`, which is rounded once."""
        a, b = Matrix(self.a.data.ptr, *self.read_a), Matrix(self.b.data.ptr, *self.read_b)
        c, sizes = Matrix(out.data.ptr, False, self.n), (self.m, self.n, self.k)
        if self.batch or not bias.flags.c_contiguous or not multiply_add(out.dtype, *sizes, a, b, c, bias.data.ptr):
            out[...] = bias
            self.compute(out, True)

    def compute(self, out: Array, adds: bool) -> None:
        """Write the products to `out`, or add them to it."""
        axes = sorted(self.batch)
        inner = axes.pop() if axes else Axis(1, 0, 0, 0)
        factors, read_a, read_b = (self.a.dtype, out.dtype, self.m, self.n, self.k), self.read_a, self.read_b
        for place in itertools.product(*(range(axis.extent) for axis in axes)):
            a, b, c = self.a.data.ptr, self.b.data.ptr, out.data.ptr
            for index, axis in zip(place, axes, strict=True):
                a += index * axis.a * self.a.itemsize
                b += index * axis.b * self.b.itemsize
                c += index * axis.c * out.itemsize
            first, second = Matrix(a, *read_a, inner.a), Matrix(b, *read_b, inner.b)
            multiply(*factors, first, second, Matrix(c, False, self.n, inner.c), adds, inner.extent)


def product(a: Array, b: Array, shape: Shape, bias: Array | None = None, into: Array | None = None) -> Array:
    """``a @ b + bias`` of stacks of matrices (..., m, k) and (..., k, n), summed to `shape`, or added to `into`.

    Parameters
    ----------
    a, b : array
        Of one dtype of `TYPES`. Views that are transposed, sliced or broadcast are read where they lie, as long as the
        elements of a row or those of a column lie side by side.
    shape : tuple of int
        (..., m, n). Leading axes that are missing or 1 here and longer in a factor are summed over.
    bias : array, optional
        (n,), where nothing is summed over.
    into : array, optional
        Of that shape and of the dtype, in C order; it is returned.
    """
    if 0 in shape or not a.size or not b.size:  # nothing, or empty sums
        if into is not None:
            return into
        out = cupy.zeros(shape, a.dtype)
        if bias is not None:
            out[...] = bias
        return out
    a, b = readable(a), readable(b)
    found = Product(a, b, shape)
    if found.summed and len(shape) == 2 and to_copy(turned(a), b) < math.prod(found.shape):
        found = Product(turned(cupy.ascontiguousarray(turned(a))), cupy.ascontiguousarray(b), shape)  # one sum
    elif b.ndim == 2 and found.batch and not found.summed and found.m < FEW_ROWS:
        found = Product(packed(a), b, shape)
    elif found.launches > LAUNCHES:
        found = Product(packed(a), packed(b), shape)
    if found.summed:
        wide = cupy.empty(found.shape, np.float32 if a.itemsize == 2 else a.dtype)
        found.compute(wide, False)
        total = cupy.sum(wide, axis=tuple(found.summed)).reshape(shape).astype(a.dtype, copy=False)
        if into is None:
            return total
        into += total
        return into
    out = cupy.empty(shape, a.dtype) if into is None else into
    if bias is None:
        found.compute(out, into is not None)
    else:
        found.compute_biased(out, bias)
    return out


def fits(*arrays: Array) -> bool:
    """Whether arrays are of one dtype that cuBLAS multiplies."""
    kind = arrays[0].dtype
    return kind in TYPES and all(x.dtype == kind for x in arrays)


# ---- matmul ----------------------------------------------------------------------------------------------------------


def matmul(x1: Array, x2: Array) -> Array:
    """Kernel of the op ``matmul``."""
    if not x1.ndim or not x2.ndim or x1.ndim == x2.ndim == 1 or not fits(x1, x2):
        return NotImplemented  # the product of two vectors is a reduction
    a = x1 if x1.ndim > 1 else x1[None]
    b = x2 if x2.ndim > 1 else x2[:, None]
    lead = a.shape[:-2] if b.ndim == 2 else np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if a.shape[-1] != b.shape[-2]:
        return NotImplemented
    out = product(a, b, (*lead, a.shape[-2], b.shape[-1]))
    return shaped(out, (*lead, *x1.shape[-2:-1], *x2.shape[-1:] * (x2.ndim > 1)))


def matmul_vjp0(g: Array, x1_shape: Shape, x2: Array) -> Array:
    """Kernel of its rule for the first factor, ``g @ x2.mT`` summed to the shape of the factor."""
    if not fits(g, x2):
        return NotImplemented
    a, b, shape = rows_of(g, len(x1_shape), x2.ndim), x2[:, None] if x2.ndim == 1 else x2, x1_shape
    return shaped(product(a, turned(b), shape if len(shape) > 1 else (1, *shape)), shape)


def matmul_vjp1(g: Array, x1: Array, x2_shape: Shape, *, into: Array | None = None) -> Array:
    """Kernel of its rule for the second factor, ``x1.mT @ g`` summed to its shape, or added to `into`."""
    if not fits(g, x1) or (into is not None and not (fits(g, into) and into.flags.c_contiguous)):
        return NotImplemented
    a, b, shape = x1[None] if x1.ndim == 1 else x1, rows_of(g, x1.ndim, len(x2_shape)), x2_shape
    matrix = shape if len(shape) > 1 else (*shape, 1)
    out = product(turned(a), b, matrix, None, None if into is None else into.reshape(matrix))
    return shaped(out, shape) if into is None else into


def rows_of(g: Array, n1: int, n2: int) -> Array:
    """The cotangent of a product with the axes that stood for vectors, of factors with so many axes."""
    if n1 == 1:
        g = g[..., None] if n2 == 1 else g[..., None, :]
    return g[..., None] if n2 == 1 else g


def multiplied(x1: Array, x2: Array) -> Array:
    """``xp.matmul``, for bodies and rules."""
    out = matmul(x1, x2)
    return cupy.matmul(x1, x2) if out is NotImplemented else out


# ---- linear ----------------------------------------------------------------------------------------------------------


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """Kernel of the op ``linear``."""
    if not x.ndim or weight.ndim != 2 or x.shape[-1] != weight.shape[0] or not fits(x, weight):
        return NotImplemented
    if bias is not None and (bias.shape != weight.shape[1:] or not fits(x, bias)):
        return NotImplemented
    a = x if x.ndim > 1 else x[None]
    out = product(a, weight, (*a.shape[:-1], weight.shape[1]), bias)
    return shaped(out, (*x.shape[:-1], weight.shape[1]))


def linear_vjp0(g: Array, weight: Array) -> Array:
    """Kernel of its rule for x, ``g @ weight.T``."""
    return matmul(g, weight.T)


def linear_vjp1(g: Array, x: Array, weight_shape: Shape, *, into: Array | None = None) -> Array:
    """Kernel of its rule for the weight, ``x.T @ g`` of all rows, or added to `into`."""
    return matmul_vjp1(g, x, weight_shape, into=into)


def linear_relu(x: Array, weight: Array, bias: Array | None) -> Array:
    """Kernel of the op behind ``linear`` with the activation relu."""
    out = linear(x, weight, bias)
    return out if out is NotImplemented else elementwise.forward("relu", out)


def linear_relu_vjp0(g: Array, weight: Array, out: Array) -> Array:
    """Kernel of its rule for x."""
    return linear_vjp0(elementwise.backward("relu", g, out), weight) if fits(g, weight, out) else NotImplemented


def linear_relu_vjp1(g: Array, x: Array, weight_shape: Shape, out: Array, *, into: Array | None = None) -> Array:
    """Kernel of its rule for the weight."""
    if not fits(g, x, out):
        return NotImplemented
    return linear_vjp1(elementwise.backward("relu", g, out), x, weight_shape, into=into)


# ---- registration ----------------------------------------------------------------------------------------------------

KERNELS: dict[str, tuple[Callable[..., Any], ...]] = {  # the gradients of biases are in columns.py
    "matmul": (matmul, matmul_vjp0, matmul_vjp1),
    "linear": (linear, linear_vjp0, linear_vjp1),
    "linear_relu": (linear_relu, linear_relu_vjp0, linear_relu_vjp1),
}
for _name, _kernels in KERNELS.items():
    for _rule, _kernel in zip((None, 0, 1), _kernels, strict=True):
        REGISTRY[_name].kernel("cuda", *TYPES, vjp=_rule, into=_rule == 1)(_kernel)  # the gradient of a weight
