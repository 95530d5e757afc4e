"""What the adversaries share: inputs and their gradient, norms of examples, balls, and the shift of an embedding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.autograd import enable_grad, grad, no_grad
from minigrad.errors import DTypeError, GradError, ShapeError, describe, message
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = [
    "Backward", "Compute", "Mask", "Shift", "Update", "bounded", "check_bounds", "check_mask", "check_module",
    "check_number", "check_steps", "expanded", "finite", "gradients", "input_gradient", "leaf", "loss_of",
    "project", "split", "unit", "wide",
]  # fmt: skip

Compute = Callable[[Any], Tensor]  # the loss of inputs
Backward = Callable[..., Any]  # backward(loss, weight=1.0)
Update = Callable[[], Any]
Mask = Callable[[Any], Any]  # of inputs or ids: True where they may be moved

# The gradient of an input is computed of the loss times this. The direction, all that counts, stays bit for bit the
# same, and what is float16 on the way there does not underflow.
SCALE = 1024.0


def check_number(who: str, name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """A finite number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or value == math.inf:
        need = f"a finite number of at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise ValueError(message(who, name, describe(value), need))
    return float(value)


def check_steps(who: str, name: str, value: Any, low: int = 1) -> int:
    """An int of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(message(who, name, describe(value), f"an int of at least {low}"))
    return value


def check_bounds(who: str, bounds: Any) -> tuple[float, float] | None:
    """A pair of numbers, the first less, or None."""
    if bounds is None:
        return None
    pair = isinstance(bounds, (tuple, list)) and len(bounds) == 2
    if not pair or not bounds[0] < bounds[1]:
        raise ValueError(
            message(who, "bounds", describe(bounds), "the least and the largest value of the data, or None")
        )
    return float(bounds[0]), float(bounds[1])


def check_module(who: str, name: str, value: Any) -> Module:
    """A module."""
    if not isinstance(value, Module):
        raise TypeError(message(who, name, value, "a module"))
    return value


def split(who: str, inputs: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor that is moved, the first of several inputs, and what puts another in its place."""
    if isinstance(inputs, (tuple, list)) and inputs:
        first, rest = inputs[0], list(inputs[1:])
        kind = type(inputs)
        make = getattr(kind, "_make", kind)  # that of a named tuple
        found, put = first, lambda t: make([t, *rest])
    else:
        found, put = inputs, lambda t: t
    if not isinstance(found, Tensor):
        raise TypeError(message(who, "inputs", found, "a tensor, or a tuple or list that begins with one"))
    if found.dtype not in dtypes.FLOATING:
        hint = "FreeLB, and VAT with embedding=, move what an embedding makes of ids"
        raise DTypeError(message(who, "inputs", found, "a floating dtype", hint))
    if not found.ndim:
        raise ShapeError(message(who, "inputs", found, "a batch: examples along axis 0"))
    return found.detach(), put


def wide(x: Tensor) -> Tensor:
    """Half values as float32."""
    return x.astype(dtypes.float32) if x.dtype.itemsize == 2 else x


def leaf(x: Tensor) -> Tensor:
    """A leaf with the values of x that gets a gradient."""
    return tape.new_tensor(x._array, True)  # type: ignore[no-any-return]


def loss_of(who: str, compute: Compute, inputs: Any) -> Tensor:
    """The loss, if it is one."""
    loss = compute(inputs)
    if not isinstance(loss, Tensor):
        raise TypeError(message(who, "what compute gives", loss, "a tensor, the loss"))
    if loss.shape:
        raise ShapeError(message(who, "what compute gives", loss, "a scalar, the loss of the batch"))
    return loss


def gradients(who: str, loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """The gradients of a loss by leaves, and by nothing else, times a constant."""
    if not loss.requires_grad:
        raise GradError(message(who, "the loss", "without a graph to its inputs", "a loss computed from them"))
    found = grad(loss, leaves, ops.full((), SCALE, dtype=loss.dtype), allow_unused=True)
    return [ops.zeros_like(t) if g is None else g.detach() for t, g in zip(leaves, found, strict=True)]


def finite(g: Tensor) -> Tensor:
    """A gradient in float32 at least, with 0 in place of NaN and large numbers of infinities."""
    g = wide(g.detach())
    big = 2.0**60  # its square is a float32 too
    return ops.clip(ops.where(ops.isnan(g), 0.0, g), -big, big)


def norms(x: Tensor) -> Tensor:
    """The Euclidean norm of each example, with all axes kept."""
    axes = tuple(range(1, x.ndim))
    top = ops.max(ops.abs(x), axis=axes, keepdims=True) if axes and x.size else ops.abs(x)
    safe = ops.where(top == 0, 1.0, top)  # the squares of tiny gradients would underflow
    total = ops.sum(ops.square(x / safe), axis=axes, keepdims=True) if axes else ops.square(x / safe)
    return safe * ops.sqrt(total)


def unit(x: Tensor) -> Tensor:
    """Each example divided by its norm; 0 stays 0."""
    size = norms(x)
    return x / ops.where(size == 0, 1.0, size)


def project(x: Tensor, radius: float) -> Tensor:
    """Each example brought back onto the Euclidean ball, where it lies outside."""
    size = norms(x)
    outside = size > radius
    return ops.where(outside, x * (radius / ops.where(outside, size, 1.0)), x)


def bounded(x: Tensor, start: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """Within the range of the data; what started outside goes no farther out."""
    if bounds is None:
        return x
    return ops.minimum(ops.maximum(x, ops.minimum(start, bounds[0])), ops.maximum(start, bounds[1]))


def check_mask(who: str, mask: Any) -> Any:
    """What says what may be moved: a function of the inputs, or None."""
    if mask is not None and not callable(mask):
        raise TypeError(message(who, "mask", describe(mask), "a function of the inputs, or None"))
    return mask


def expanded(who: str, mask: Any, x: Tensor) -> Tensor:
    """A mask of the first axes of x, stretched to the others, as factors 0 and 1."""
    found = ops.asarray(mask)
    if found.dtype != dtypes.bool:
        raise DTypeError(message(who, "what mask gives", found, "bools, True for what may be moved"))
    if found.ndim > x.ndim or any(n not in (1, m) for n, m in zip(found.shape, x.shape, strict=False)):
        raise ShapeError(message(who, "what mask gives", found, f"the first axes of {tuple(x.shape)}"))
    stretched = ops.reshape(found, (*found.shape, *(1,) * (x.ndim - found.ndim)))
    return stretched.astype(wide(x).dtype)


class Shift:
    """A hook on a layer that adds something to each of its outputs: `move` holds it while a block runs.

    Parameters
    ----------
    who : str
        The adversary.
    layer : Module
        Whose output is moved.
    mask : callable, optional
        Takes the layer's input; by default ids other than the layer's ``padding_idx``, if it has one.

    Attributes
    ----------
    deltas : list of Tensor
        What is added, for each call of the layer in one pass.
    keeps : list
        For each call the positions that may be moved, as factors (batch, length, 1), or None for all.
    """

    def __init__(self, who: str, layer: Module, mask: Mask | None) -> None:
        self.who, self.layer, self.mask = who, layer, check_mask(who, mask)
        self.deltas: list[Tensor] = []
        self.keeps: list[Tensor | None] = []
        self._calls = 0

    @contextmanager
    def move(self, start: Callable[[Tensor, Tensor | None], Tensor]) -> Iterator[Shift]:
        """Hold the hook. In the first pass ``start(output, keep)`` says what is added to an output.

        Yields
        ------
        Shift
            Itself; call `begin` before each pass.
        """

        def hook(module: Module, args: tuple[Any, ...], output: Any) -> Any:
            if not isinstance(output, Tensor) or output.dtype not in dtypes.FLOATING or output.ndim < 2:
                need = "a floating tensor, a batch of vectors"
                raise DTypeError(message(self.who, "what the embedding gives", output, need))
            i = self._calls
            self._calls += 1
            if i == len(self.deltas):
                with no_grad():
                    keep = self._keep(args, output)
                    self.keeps.append(keep)
                    self.deltas.append(start(output.detach(), keep))
            delta = self.deltas[i]
            if delta.shape != output.shape:
                got = f"of shape {tuple(output.shape)}"
                need = f"{tuple(delta.shape)}, as in the pass before"
                raise ShapeError(message(self.who, "what the embedding gives", got, need))
            return output + delta.astype(output.dtype)

        remove = self.layer.register_forward_hook(hook)
        try:
            yield self
        finally:
            remove()

    def begin(self) -> None:
        """A pass begins: the layer's next call is its first."""
        self._calls = 0

    def check(self) -> None:
        """Raise where the layer has not been called."""
        if not self._calls:
            hint = "Is it a part of the model, and called as a layer?"
            raise GradError(message(self.who, "embedding", "not called by compute", "a layer that is", hint))

    def _keep(self, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        given = args[0] if args else None
        padding = getattr(self.layer, "padding_idx", None)
        if self.mask is not None:
            return expanded(self.who, self.mask(given), output)
        return None if padding is None else expanded(self.who, ops.asarray(given) != padding, output)


def input_gradient(who: str, compute: Compute, put: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """The gradient of the loss by an input, `finite`."""
    point = leaf(x)
    with enable_grad():
        loss = loss_of(who, compute, put(point))
    return finite(gradients(who, loss, [point])[0])
