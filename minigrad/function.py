"""Function: a user's own operation with its own backward; and checkpoint, which recomputes instead of saving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from minigrad import dtypes, ops
from minigrad._core import engine, tape
from minigrad.autograd import enable_grad, like, no_grad
from minigrad.draws import Draws
from minigrad.errors import GradError, describe, message
from minigrad.ops.registry import POLICIES

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["Context", "Function", "checkpoint"]


class Context:
    """What the forward of a `Function` keeps for its backward; any other attribute may be set on it too.

    Attributes
    ----------
    needs_input_grad : tuple of bool
        Which arguments of forward want a gradient.
    saved_tensors : tuple of Tensor
        What `save_for_backward` was given.
    """

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._saved: tuple[Any, ...] = ()
        self._outputs: list[tuple[int, int]] = []  # (place among the saved, which output it is)
        self._node: Any = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors (inputs, outputs or others) for backward; a later in-place change of one is found out."""
        for t in tensors:
            if t is not None and not isinstance(t, tape.TensorBase):
                raise GradError(
                    message(
                        "save_for_backward", "tensors", t, "tensors or None", "Set other things as attributes of ctx"
                    )
                )
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` was given, each at its place in the graph."""
        saved = list(self._saved)
        for place, output in self._outputs:
            saved[place] = tape.reopen(self._node(), output, saved[place])
        return tuple(saved)


class Function:
    """Base of operations with a backward of their own.

    Write ``forward(ctx, *args)``, which computes on tensors without recording, and ``backward(ctx, *gradients)``, which
    gives one gradient (or None) for each argument of forward. Backward is made of ordinary operations, so with
    ``create_graph=True`` it is recorded and can be differentiated again. Call ``MyFunction.apply(*args)``.

    Under `minigrad.amp.autocast` a Function is an op like the others: its tensors are cast by the class attribute
    ``amp``, one of ``"half"``, ``"float32"``, ``"widest"`` and ``"keep"`` (docs/mixed_precision.md), and the operations
    in forward and backward are left alone.

    Attributes
    ----------
    amp : str
        What autocast does with the tensors that `apply` is given by position; ``"keep"`` by default.

    Examples
    --------
    >>> import minigrad as mg
    >>> class Cube(mg.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return g * 3 * x * x
    >>> x = mg.tensor(2.0, requires_grad=True)
    >>> (dx,) = mg.grad(Cube.apply(x), [x], create_graph=True)
    >>> dx, mg.grad(dx, x)
    (tensor(12., grad_fn=<multiply>), tensor(12.))
    """

    amp = "keep"

    @staticmethod
    def forward(ctx: Context, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs, a tensor or a tuple of tensors; arguments may be anything."""
        raise TypeError("Function: a subclass needs a static method forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Context, *gradients: Any) -> Any:
        """Give a gradient or None for each positional argument of forward."""
        raise TypeError("Function: a subclass needs a static method backward(ctx, *gradients)")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward, and record the operation where an argument requires grad."""
        if tape.autocast_dtype() is not None:
            args = cls._cast(args)
        edges = tuple(tape.edge(a) if isinstance(a, tape.TensorBase) and tape.is_recording() else None for a in args)
        ctx = Context(tuple(edge is not None for edge in edges))
        for name, value in kwargs.items():
            if tape.is_recording() and getattr(value, "requires_grad", False):
                hint = "Pass it by position"
                need = "no tensor that requires grad: keyword arguments get no gradient"
                raise GradError(message(f"{cls.__name__}.apply", name, describe(value), need, hint))
        with no_grad(), tape.AutocastMode(None):
            result = cls.forward(ctx, *args, **kwargs)
        many = result if isinstance(result, tuple) else (result,)
        for t in many:
            if not isinstance(t, tape.TensorBase):
                raise GradError(message(f"{cls.__name__}.forward", "result", t, "a tensor or a tuple of tensors"))
        if not any(ctx.needs_input_grad):
            return result
        if not many:
            raise GradError(message(f"{cls.__name__}.forward", "result", "an empty tuple", "at least one tensor"))
        # an output must not be held by its own node: keep its memory, and which output it is
        places = {id(t): k for k, t in enumerate(many) if all(t is not a for a in args)}
        ctx._outputs = [(i, places[id(t)]) for i, t in enumerate(ctx._saved) if id(t) in places]
        ctx._saved = tuple(t.detach() if id(t) in places else t for t in ctx._saved)
        arrays = _separate(many, args)
        rule = tape.PyRule(cls.__name__, cls._pull)
        outputs = tape.record(rule, edges, arrays, (ctx, ctx._saved))
        for made, t in zip(outputs, many, strict=True):
            if made._array is t._array:
                tape.join_memory(made, t)
        for made in outputs:
            if made.requires_grad:
                ctx._node = tape.node_reference(made)
        return tuple(outputs) if isinstance(result, tuple) else outputs[0]

    @classmethod
    def _cast(cls, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as autocast has them."""
        if cls.amp not in POLICIES:
            raise ValueError(message(cls.__name__, "amp", repr(cls.amp), f"one of {', '.join(POLICIES)}"))
        wanted = tape.autocast_dtype() if cls.amp == "half" else dtypes.float32
        floats = [a for a in args if isinstance(a, tape.TensorBase) and a.dtype in dtypes.FLOATING]
        if cls.amp == "keep" or not floats:
            return args
        if cls.amp == "widest":
            wanted = ops.result_type(*floats)
        changed = {id(a) for a in floats if a.dtype != dtypes.float64 or cls.amp == "widest"}
        return tuple(ops.astype(a, wanted, copy=False) if id(a) in changed else a for a in args)

    @classmethod
    def _pull(cls, node: tape.Node, cotangent: Any, create: bool) -> list[Any]:
        """Call backward and check what it gives."""
        ctx = node.saved[0]
        parents = node.parents
        cotangents = cotangent if isinstance(cotangent, tuple) else (cotangent,)
        given = cls.backward(ctx, *(g if create or g is None else engine.wrapped(g) for g in cotangents))
        gradients = list(given) if isinstance(given, tuple) else [given]
        if len(gradients) != len(parents):
            raise GradError(
                f"{cls.__name__}.backward: gave {len(gradients)} gradients, needs {len(parents)}, one for each "
                "argument of forward. Give None for what has no gradient"
            )
        for g in gradients:
            if g is not None and not isinstance(g, tape.TensorBase):
                raise GradError(message(f"{cls.__name__}.backward", "result", g, "tensors or None"))
        return gradients


def _separate(tensors: Sequence[Any], inputs: Sequence[Any]) -> tuple[Any, ...]:
    """The arrays of outputs; an input handed through, and one output given twice, get memory of their own."""
    return tuple(
        t._array.copy() if any(t is other for other in (*inputs, *tensors[:i])) else t._array
        for i, t in enumerate(tensors)
    )


def checkpoint(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run `f` without keeping what its backward needs; backward runs it again.

    Memory for the inside of `f` is held only while it runs and while its backward runs, for about a third more time.
    The second run gets the random numbers that the first one drew from generators of `minigrad.random`, so dropout has
    the same masks, also where the first run completed the shapes of layers; `amp.autocast` is what it was. Statistics
    of `BatchNorm` count the batch twice here, and once with `minigrad.nn.checkpointed`. Gradients reach the arguments
    and everything else that `f` uses (parameters, closures), by ``backward`` and by ``grad``, to any order.

    Parameters
    ----------
    f : callable
        Gives a tensor, or a tuple or list of tensors; must compute the same when called twice.
    *args, **kwargs
        Passed to `f`.

    Returns
    -------
    Tensor or tuple or list of Tensor
        What `f` gives.

    Raises
    ------
    GradError
        If `f` gives something else; in backward, if the second run gives other shapes or draws more or fewer times.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> mg.checkpoint(lambda x: (x * x).exp(), x).sum().backward()
    >>> x.grad  # doctest: +ELLIPSIS
    tensor([  5.43..., 218.39...])
    """
    if not tape.is_recording():
        return f(*args, **kwargs)
    draws, region = Draws(), tape.autocast_dtype()
    since = tape.clock()
    with draws.record():
        result = f(*args, **kwargs)
    many = list(result) if isinstance(result, (tuple, list)) else [result]
    for t in many:
        if not isinstance(t, tape.TensorBase):
            raise GradError(message("checkpoint", "result of f", t, "a tensor, or a tuple or list of tensors"))
    recorded = [i for i, t in enumerate(many) if t.requires_grad]
    shapes = [t.shape for t in many]
    edges = tuple(tape.frontier(many, since))
    if not edges:
        return result

    def pull(node: tape.Node, cotangent: Any, create: bool) -> list[Any]:
        with draws.replay(), enable_grad(), tape.AutocastMode(region):
            again = f(*args, **kwargs)
        outputs = list(again) if isinstance(again, (tuple, list)) else [again]
        if [t.shape for t in outputs] != shapes:
            got = f"outputs of shapes {[t.shape for t in outputs]}"
            raise GradError(
                message("checkpoint", "f", got, f"the shapes of its first run, {shapes}, when it runs again")
            )
        cotangents = cotangent if isinstance(cotangent, tuple) else (cotangent,)
        live = [
            (outputs[i], g if create else engine.wrapped(g))
            for i, g in zip(recorded, cotangents, strict=True)
            if g is not None and outputs[i].requires_grad
        ]
        return engine.run_backward([t for t, _ in live], [g for _, g in live], list(edges), create, create, True)

    rule = tape.PyRule("checkpoint", pull)
    guarded = tuple(a for a in (*args, *edges) if isinstance(a, tape.TensorBase))
    made = tape.record(rule, edges, _separate([many[i] for i in recorded], args), guarded)
    outputs = [t.detach() for t in many]
    for i, t in zip(recorded, made, strict=True):
        outputs[i] = t
    return like(result, outputs) if isinstance(result, (tuple, list)) else outputs[0]
