"""Differentiation: of tensors by tensors, and of functions to any order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from minigrad import dtypes, ops
from minigrad._core import engine, tape
from minigrad.errors import GradError, describe, message

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = [
    "backward", "detect_anomaly", "enable_grad", "grad", "hessian", "hvp", "is_grad_enabled", "jacobian", "jvp",
    "no_grad", "set_grad_enabled", "value_and_grad", "vjp",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


class Decorating:
    """What lets a mode, which is for a ``with`` block, decorate a function too."""

    def again(self) -> tape.Mode:
        """Another mode of this kind: each call enters its own, so that threads do not leave each other's."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method again(self)")

    def __call__(self, function: F) -> F:
        if getattr(function, "__code__", None) and function.__code__.co_flags & (0x20 | 0x80 | 0x200):
            raise TypeError(
                f"{type(self).__name__}: {function.__name__} is a generator or a coroutine, whose body runs after the "
                "decorator is done. Put a with block inside it"
            )

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            with self.again():
                return function(*args, **kwargs)

        return inner  # type: ignore[return-value]


class _Mode(Decorating, tape.Mode):
    def again(self) -> tape.Mode:
        return tape.Mode(self.variable, self.value)


class no_grad(_Mode):
    """Do not record operations: a context manager or a decorator. It holds for this thread (or task) only.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor(1.0, requires_grad=True)
    >>> with mg.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    def __init__(self) -> None:
        super().__init__(tape.grad_mode, False)


class enable_grad(_Mode):
    """Record operations again inside `no_grad`: a context manager or a decorator.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor(1.0, requires_grad=True)
    >>> with mg.no_grad(), mg.enable_grad():
    ...     y = x * 2
    >>> y.requires_grad
    True
    """

    def __init__(self) -> None:
        super().__init__(tape.grad_mode, True)


class set_grad_enabled(_Mode):
    """Record or not, by a flag, from now on; as a context manager until the end of the block.

    Parameters
    ----------
    mode : bool
        Whether to record.

    Examples
    --------
    >>> import minigrad as mg
    >>> with mg.set_grad_enabled(False):
    ...     mg.is_grad_enabled()
    False
    >>> mg.is_grad_enabled()
    True
    """

    def __init__(self, mode: bool) -> None:
        super().__init__(tape.grad_mode, bool(mode))
        self._before = is_grad_enabled()
        tape.grad_mode.set(bool(mode))

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        tape.grad_mode.set(self._before)

    def __call__(self, function: F) -> F:
        tape.grad_mode.set(self._before)  # a decorator is about the function, not about what follows it
        return super().__call__(function)


class detect_anomaly(_Mode):
    """Find the first op, forward or backward, that makes a NaN or inf of finite operands.

    A context manager or a decorator. It checks every result, so it is slow. The error names the op, its
    operands' shapes and ranges, and the user's line.

    Examples
    --------
    >>> import minigrad as mg
    >>> with mg.detect_anomaly():
    ...     mg.log(mg.tensor([1.0, 0.0]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    minigrad.errors.GradError: detect_anomaly: log made a NaN or inf at ... x float32 (2,) from 0 to 1
    """

    def __init__(self) -> None:
        super().__init__(tape.anomaly_mode, True)

    def __enter__(self) -> Any:
        tape.count_anomaly_user(1)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        tape.count_anomaly_user(-1)

    def again(self) -> tape.Mode:
        """Another one, which counts itself."""
        return detect_anomaly()


def is_grad_enabled() -> bool:
    """Whether operations are recorded here."""
    return bool(tape.is_recording())


def backward(
    outputs: Tensor | Sequence[Tensor], gradients: Any = None, *, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Accumulate the gradient of several outputs into ``.grad`` of every leaf, in one pass.

    Parameters
    ----------
    outputs : Tensor or sequence of Tensor
        Where to start.
    gradients : array_like or sequence of array_like, optional
        Their cotangents; 1 for scalars.
    retain_graph, create_graph : bool
        As in `Tensor.backward`.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor(3.0, requires_grad=True)
    >>> mg.autograd.backward([x * x, 2 * x])
    >>> x.grad
    tensor(8.)
    """
    many, starts = _listed(outputs)
    engine.backward(many, _cotangents(gradients, many, starts, "backward"), retain_graph or create_graph, create_graph)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> Any:
    """The gradient of outputs by inputs; ``.grad`` is left alone.

    Parameters
    ----------
    outputs : Tensor or sequence of Tensor
        What to differentiate; several are added up.
    inputs : Tensor or sequence of Tensor
        By what: leaves or intermediate tensors.
    grad_outputs : array_like or sequence of array_like, optional
        Cotangents of the outputs; 1 for scalars.
    retain_graph : bool, optional
        Keep the graph; by default only with `create_graph`.
    create_graph : bool
        Record the pass, so that the result can be differentiated.
    allow_unused : bool
        Give None for an input that the outputs do not depend on, instead of raising.

    Returns
    -------
    Tensor or tuple of Tensor
        As `inputs` was given.

    Raises
    ------
    GradError
        If an input does not require grad or was not used.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor(3.0, requires_grad=True)
    >>> (dx,) = mg.grad(x**3, [x], create_graph=True)
    >>> mg.grad(dx, x)
    tensor(18.)
    """
    many, starts = _listed(outputs)
    wanted, single = _listed(inputs)
    seeds = engine.seeds_for(many, _cotangents(grad_outputs, many, starts, "grad"), "grad")
    edges = []
    for i, t in enumerate(wanted):
        edge = tape.edge(t)
        if edge is None:
            raise GradError(
                f"grad: input {i} ({describe(t)}) does not require grad. Set requires_grad=True before it is used"
            )
        edges.append(edge)
    found = engine.run_backward(
        many, seeds, edges, create_graph if retain_graph is None else retain_graph, create_graph
    )
    for i, g in enumerate(found):
        if g is None and not allow_unused:
            raise GradError(
                f"grad: the outputs do not depend on input {i} ({describe(wanted[i])}). "
                "Pass allow_unused=True to get None"
            )
    return found[0] if single else tuple(found)


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives the value of `f` and its gradient by some of its arguments.

    Parameters
    ----------
    f : callable
        Gives a scalar tensor (with `has_aux`: a pair of one and anything else).
    argnums : int or sequence of int
        Which positional arguments: floating tensors, or lists, tuples and dicts of them.
    has_aux : bool
        `f` gives ``(value, aux)``.

    Returns
    -------
    callable
        Gives ``(value, gradient)`` (``((value, aux), gradient)``); the gradient has the structure of the argument, or
        is a tuple of such. It may be differentiated again.

    Raises
    ------
    GradError
        If `f` does not give a scalar.

    Examples
    --------
    >>> import minigrad as mg
    >>> f = mg.value_and_grad(lambda x: (x**3).sum())
    >>> f(mg.tensor([1.0, 2.0]))
    (tensor(9.), tensor([ 3., 12.]))
    """
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(f)
    def inner(*args: Any, **kwargs: Any) -> Any:
        leaves: list[Tensor] = []
        given = list(args)
        for n in numbers:
            if not -len(args) <= n < len(args):
                raise GradError(
                    message(
                        "value_and_grad", "argnums", str(n), f"the place of one of {len(args)} positional arguments"
                    )
                )
            _leaves(args[n], leaves)
        if len({n % len(args) for n in numbers}) < len(numbers):
            raise GradError(message("value_and_grad", "argnums", f"{argnums}", "each place once at the most"))
        inputs = [_fresh(leaf, "value_and_grad") for leaf in leaves]
        fresh = iter(inputs)
        for n in numbers:
            given[n] = _rebuild(args[n], fresh)
        outer = is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
        with enable_grad():
            result = f(*given, **kwargs)
            value, aux = result if has_aux else (result, None)
            if getattr(value, "shape", None) != ():
                raise GradError(message("value_and_grad", None, value, "a scalar tensor from the function"))
            grads = iter(_pull([value], inputs, [None], outer))
        built = [_rebuild(args[n], grads) for n in numbers]
        value = value if outer else value.detach()
        return ((value, aux) if has_aux else value), (built[0] if isinstance(argnums, int) else tuple(built))

    return inner


def vjp(f: Callable[..., Any], inputs: Any, v: Any = None) -> tuple[Any, Any]:
    """The value of `f` and the product of a cotangent with its Jacobian, v^T J.

    Parameters
    ----------
    f : callable
        Takes the inputs, gives a tensor or a tuple of them.
    inputs : Tensor or tuple of Tensor
        Where.
    v : array_like or tuple of array_like, optional
        Cotangents, shaped like the outputs; may be left out for a scalar.

    Returns
    -------
    outputs, vjp
        The value, and the product in the structure of `inputs`. Differentiable by inputs that require grad.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.autograd.vjp(lambda x: x * x, mg.tensor([1.0, 2.0]), mg.tensor([1.0, 10.0]))
    (tensor([1., 4.]), tensor([ 2., 40.]))
    """
    fresh, single, outer = _fresh_all(inputs, "vjp")
    with enable_grad():
        outputs = f(*fresh)
        many, one = _listed(outputs)
        products = _pull(many, fresh, _cotangents(v, many, one, "vjp"), outer)
    return _outside(outputs, outer), products[0] if single else tuple(products)


def jvp(f: Callable[..., Any], inputs: Any, v: Any) -> tuple[Any, Any]:
    """The value of `f` and the product of its Jacobian with a tangent, J v.

    It is the derivative of the vjp by its cotangent (J. Townsend, "A new trick for calculating Jacobian vector
    products", 2017), so it holds for every op.

    Parameters
    ----------
    f : callable
        Takes the inputs, gives a tensor or a tuple of them.
    inputs : Tensor or tuple of Tensor
        Where.
    v : array_like or tuple of array_like
        Tangents, shaped like the inputs.

    Returns
    -------
    outputs, jvp
        The value, and the product in the structure of the outputs.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.autograd.jvp(lambda x: x * x, mg.tensor([1.0, 2.0]), mg.tensor([1.0, 10.0]))
    (tensor([1., 4.]), tensor([ 2., 40.]))
    """
    fresh, single, outer = _fresh_all(inputs, "jvp")
    tangents = _matching(v, fresh, single, "jvp", "v")
    with enable_grad():
        outputs = f(*fresh)
        many, one = _listed(outputs)
        slots = [ops.zeros_like(t).requires_grad_() for t in many]
        pulled = _pull(many, fresh, slots, True)
        pairs = [(g, t) for g, t in zip(pulled, tangents, strict=True) if g.requires_grad]
        if pairs:
            pushed = _pull([g for g, _ in pairs], slots, [t for _, t in pairs], outer)
        else:
            pushed = [ops.zeros_like(t) for t in many]
    return _outside(outputs, outer), pushed[0] if one else tuple(pushed)


def jacobian(f: Callable[..., Any], inputs: Any) -> Any:
    """The Jacobian of a function: all derivatives of its output by its inputs.

    Parameters
    ----------
    f : callable
        Takes the inputs, gives one tensor.
    inputs : Tensor or tuple of Tensor
        Where.

    Returns
    -------
    Tensor or tuple of Tensor
        For each input a tensor of shape ``output.shape + input.shape``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.autograd.jacobian(lambda x: x * x, mg.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    fresh, single, outer = _fresh_all(inputs, "jacobian")
    with enable_grad():
        output = f(*fresh)
        if not isinstance(output, tape.TensorBase):
            raise GradError(message("jacobian", None, output, "one tensor from the function"))
        flat = ops.reshape(output, (-1,))
        rows = []
        for i in range(flat.size):
            seed = ops.zeros(flat.shape, dtype=flat.dtype)
            seed[i] = 1
            rows.append(_pull([flat], fresh, [seed], outer, retain=True))
    blocks = []
    for k, x in enumerate(fresh):
        parts = [row[k] for row in rows]
        full = ops.stack(parts) if parts else ops.zeros((0, *x.shape), dtype=x.dtype)
        blocks.append(ops.reshape(full, (*output.shape, *x.shape)))
    return blocks[0] if single else tuple(blocks)


def hessian(f: Callable[..., Any], inputs: Any) -> Any:
    """The Hessian of a scalar function.

    Parameters
    ----------
    f : callable
        Takes the inputs, gives a scalar tensor.
    inputs : Tensor or tuple of Tensor
        Where.

    Returns
    -------
    Tensor or tuple of tuple of Tensor
        Block (i, j) has shape ``input_i.shape + input_j.shape``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.autograd.hessian(lambda x: (x**3).sum(), mg.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    single = isinstance(inputs, tape.TensorBase)

    def gradient(i: int) -> Callable[..., Any]:
        def inner(*xs: Any) -> Any:
            value = f(*xs)
            _scalar(value, "hessian")
            return _pull([value], [xs[i]], [None], True)[0]

        return inner

    if single:
        return jacobian(gradient(0), inputs)
    return tuple(jacobian(gradient(i), inputs) for i in range(len(inputs)))


def hvp(f: Callable[..., Any], inputs: Any, v: Any) -> tuple[Any, Any]:
    """The value of a scalar function and the product of its Hessian with a vector, H v, by two backward passes.

    Parameters
    ----------
    f : callable
        Takes the inputs, gives a scalar tensor.
    inputs : Tensor or tuple of Tensor
        Where.
    v : array_like or tuple of array_like
        Vectors, shaped like the inputs.

    Returns
    -------
    output, hvp
        The value, and the product in the structure of the inputs.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.autograd.hvp(lambda x: (x**3).sum(), mg.tensor([1.0, 2.0]), mg.tensor([1.0, 1.0]))
    (tensor(9.), tensor([ 6., 12.]))
    """
    fresh, single, outer = _fresh_all(inputs, "hvp")
    vectors = _matching(v, fresh, single, "hvp", "v")
    with enable_grad():
        value = f(*fresh)
        _scalar(value, "hvp")
        firsts = _pull([value], fresh, [None], True)
        pairs = [(g, u) for g, u in zip(firsts, vectors, strict=True) if g.requires_grad]
        if pairs:
            products = _pull([g for g, _ in pairs], fresh, [u for _, u in pairs], outer)
        else:
            products = [ops.zeros_like(x) for x in fresh]
    return _outside(value, outer), products[0] if single else tuple(products)


# --- parts ------------------------------------------------------------------------------------------------------------


def _listed(value: Any) -> tuple[list[Any], bool]:
    """A list of tensors, and whether there was just one that stood alone."""
    if isinstance(value, tape.TensorBase):
        return [value], True
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, tape.TensorBase) for v in value):
        raise GradError(message("autograd", None, value, "a tensor, or a list or tuple of tensors"))
    return list(value), False


def _cotangents(given: Any, outputs: list[Any], single: bool, who: str) -> list[Any]:
    """A cotangent for each output."""
    if given is None:
        return [None] * len(outputs)
    many = [given] if single and not (isinstance(given, (list, tuple)) and len(given) == 1) else list(given)
    if len(many) != len(outputs):
        raise GradError(message(who, "gradients", f"{len(many)} of them", f"{len(outputs)}, one for each output"))
    return many


def _matching(given: Any, inputs: list[Any], single: bool, who: str, name: str) -> list[Any]:
    """A vector for each input, of its shape and dtype."""
    many = [given] if single else list(given)
    if len(many) != len(inputs):
        raise GradError(message(who, name, f"{len(many)} of them", f"{len(inputs)}, one for each input"))
    vectors = [ops.asarray(u, dtype=x.dtype) for u, x in zip(many, inputs, strict=True)]
    for u, x in zip(vectors, inputs, strict=True):
        if u.shape != x.shape:
            raise GradError(message(who, name, u, f"shape {x.shape} like the input"))
    return vectors


def _fresh(value: Any, who: str) -> Any:
    """The input as a new point of the graph: connected to what it was made from, if anything asks for that."""
    if not isinstance(value, tape.TensorBase) or value.dtype not in dtypes.FLOATING:
        raise GradError(message(who, "input", value, "a floating tensor", "mg.tensor(values) makes one"))
    if value.requires_grad and is_grad_enabled():
        return ops.positive(value)
    return tape.new_tensor(value._array, True)


def _fresh_all(inputs: Any, who: str) -> tuple[list[Any], bool, bool]:
    """All inputs as new points; whether there was one alone; whether the result shall be differentiable."""
    many, single = _listed(inputs)
    return [_fresh(x, who) for x in many], single, is_grad_enabled() and any(x.requires_grad for x in many)


def _pull(
    outputs: list[Any], inputs: list[Any], cotangents: list[Any], create: bool, retain: bool = False
) -> list[Any]:
    """Cotangents of the inputs; zeros for what the outputs do not depend on."""
    live = [(t, g) for t, g in zip(outputs, cotangents, strict=True) if t.requires_grad]
    if not live:
        return [ops.zeros_like(x) for x in inputs]
    seeds = engine.seeds_for([t for t, _ in live], [g for _, g in live], "autograd")
    found = engine.run_backward([t for t, _ in live], seeds, [tape.edge(x) for x in inputs], create or retain, create)
    return [ops.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _scalar(value: Any, who: str) -> None:
    if getattr(value, "shape", None) != ():
        raise GradError(message(who, None, value, "a scalar tensor from the function"))


def _outside(outputs: Any, outer: bool) -> Any:
    """The outputs, cut from the inner graph unless somebody differentiates further."""
    if outer:
        return outputs
    if isinstance(outputs, (tuple, list)):
        return like(outputs, [t.detach() for t in outputs])
    return outputs.detach()


def _leaves(value: Any, found: list[Any]) -> None:
    """Add what is in an argument to a list."""
    if isinstance(value, (dict, list, tuple)):
        for v in value.values() if isinstance(value, dict) else value:
            _leaves(v, found)
    else:
        found.append(value)


def _rebuild(structure: Any, leaves: Any) -> Any:
    """Put fresh tensors, or gradients, into the structure of the argument."""
    if isinstance(structure, dict):
        return {key: _rebuild(v, leaves) for key, v in structure.items()}
    if isinstance(structure, (list, tuple)):
        return like(structure, [_rebuild(v, leaves) for v in structure])
    return next(leaves)


def like(sequence: Any, values: list[Any]) -> Any:
    """A list, tuple or named tuple of the kind of another."""
    return sequence._make(values) if hasattr(sequence, "_make") else type(sequence)(values)
