"""Random tensors from a counter-based generator: every value is a function of (seed, counter, index).

A `Generator` is a seed and a counter. Each draw takes the next counter, and element i of the draw is Philox4x32-10
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) of the seed, that counter and i. So an element does
not depend on the length of the draw or on the number of threads, and a draw can be made again from its two numbers.
``minigrad/_core/philox.pyx`` has the recipe of each distribution.

The functions of this module are methods of one default generator, which the whole process shares, all threads included.
The operating system seeds it until `seed` is called. A thread or worker process that must draw the same numbers
whatever the others do takes a generator of its own from `spawn`; a forked process starts as a copy of its parent.
"""

from __future__ import annotations

import math
import operator
import os
from _thread import allocate_lock  # `threading` takes longer to import
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex, TypeAlias

import numpy as np

from minigrad import draws, dtypes
from minigrad.backend import devices, random
from minigrad.errors import DTypeError, GradError, ShapeError, describe, message
from minigrad.ops import noise
from minigrad.ops.creation import asarray, new
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

__all__ = [
    "Generator", "bernoulli", "choice", "draw_key", "exponential", "get_state", "integers", "normal", "permutation",
    "seed", "set_state", "spawn", "truncated_normal", "uniform",
]  # fmt: skip

Array: TypeAlias = "np.ndarray[Any, Any]"
Shape: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | list[int]

ALGORITHM = "philox4x32-10"
WORD = 1 << 64
LARGEST = {dtype: float(dtypes.finfo(dtype).max) for dtype in dtypes.FLOATING}


class Generator:
    """A stream of random numbers, which a seed and a counter determine.

    Every draw takes one counter, under a lock, so threads may share a generator: no two draws use the same counter, but
    which thread gets which is up to the scheduler. Generators can be pickled and copied.

    Parameters
    ----------
    seed : int, optional
        The key of the stream, 0 <= seed < 2**64. Without one the operating system is asked for it.

    Examples
    --------
    >>> from minigrad.random import Generator
    >>> first, second = Generator(seed=1), Generator(seed=1)
    >>> first.normal((2, 3)).tolist() == second.normal((2, 3)).tolist()
    True
    """

    __slots__ = ("__weakref__", "_counter", "_lock", "_seed")

    def __init__(self, seed: SupportsIndex | None = None) -> None:
        self._lock = allocate_lock()
        self._seed = int.from_bytes(os.urandom(8)) if seed is None else _word("random.Generator", "seed", seed)
        self._counter = 0

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, counter={self._counter})"

    @property
    def seed(self) -> int:
        """The key of the stream."""
        return self._seed

    def draw_key(self) -> tuple[int, int]:
        """Take the next counter and leave the drawing to the caller.

        What has to make the same numbers twice, as dropout does in its backward pass, keeps these two instead of them.

        Returns
        -------
        tuple of int
            The seed and the counter of this draw.

        Examples
        --------
        >>> from minigrad.random import Generator
        >>> generator = Generator(7)
        >>> generator.draw_key(), generator.draw_key()
        ((7, 0), (7, 1))
        """
        noted = draws.current.get()
        return self._next() if noted is None else noted.take(self._next)

    def _next(self) -> tuple[int, int]:
        with self._lock:
            counter = self._counter
            self._counter = (counter + 1) % WORD
            return self._seed, counter

    def get_state(self) -> dict[str, int | str]:
        """Return what `set_state` needs to go on from here: plain data that JSON can hold.

        Examples
        --------
        >>> from minigrad.random import Generator
        >>> Generator(7).get_state()
        {'algorithm': 'philox4x32-10', 'seed': 7, 'counter': 0}
        """
        with self._lock:
            return {"algorithm": ALGORITHM, "seed": self._seed, "counter": self._counter}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `get_state` returned.

        Raises
        ------
        ValueError, DTypeError
            The state is of another algorithm, or a number is missing or not in [0, 2**64).
        """
        op, algorithm = "random.set_state", state.get("algorithm")
        if algorithm != ALGORITHM:
            raise ValueError(message(op, "algorithm", algorithm, repr(ALGORITHM)))
        seed, counter = (_word(op, name, state.get(name)) for name in ("seed", "counter"))
        noted = draws.current.get()
        if noted is not None and noted.is_replay:  # the first run did it, and what follows has the keys from then
            return
        with self._lock:
            self._seed, self._counter = seed, counter

    def __getstate__(self) -> dict[str, int | str]:
        return self.get_state()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._lock = allocate_lock()
        self.set_state(state)

    def spawn(self, n: SupportsIndex) -> list[Generator]:
        """Make independent generators, for threads, workers or ranks.

        The seeds are the random bits of one draw: child i does not depend on ``n``, and the next call makes others.

        Parameters
        ----------
        n : int
            How many.

        Returns
        -------
        list of Generator

        Examples
        --------
        >>> from minigrad.random import Generator
        >>> parent = Generator(7)
        >>> len({child.seed for child in parent.spawn(4) + parent.spawn(4)})
        8
        """
        keys = self._draw("random.spawn", "bits", _count("random.spawn", "n", n), np.uint64)
        return [Generator(key) for key in keys.tolist()]

    def uniform(
        self,
        shape: Shape = (),
        low: SupportsFloat = 0.0,
        high: SupportsFloat = 1.0,
        *,
        dtype: DTypeLike | None = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Draw from the uniform distribution on [low, high).

        ``low + (high - low) * k / 2**24`` for float32 (``2**53`` for float64) with a random integer k; the half types
        are rounded from float32. What rounding would lift to ``high`` becomes the number before it.

        Parameters
        ----------
        shape : int or tuple of int, optional
            Shape of the tensor; () by default.
        low, high : float, optional
            The bounds, ``low < high``.
        dtype : dtype, optional
            float32 by default; float16, bfloat16 or float64.
        device : str, optional
            Where to put the tensor; the CPU by default.
        requires_grad : bool, optional
            Whether operations on the tensor are recorded.

        Returns
        -------
        Tensor

        Raises
        ------
        ValueError
            The bounds are not finite numbers of ``dtype`` with ``low < high``.
        DTypeError
            ``dtype`` is not floating.
        ShapeError
            ``shape`` has a negative extent.

        Examples
        --------
        >>> import minigrad as mg
        >>> mg.random.uniform((2, 3), -1.0, 1.0).shape
        (2, 3)
        """
        op = "random.uniform"
        kind = _floating(op, dtype)
        a, b = _real(op, "low", low, kind), _real(op, "high", high, kind)
        if not (a < b and kind.type(a) < kind.type(b) and b - a <= LARGEST[kind]):
            raise ValueError(message(op, "low, high", f"{a}, {b}", f"low < high, their difference finite, in {kind}"))
        below = math.inf
        if a != 0.0 or b != 1.0 or kind in dtypes.HALF:
            below = float(np.nextafter(kind.type(b), kind.type(a)))
        x = self._reals(op, "uniform", shape, kind, device, b - a, a, below)
        return new(x, requires_grad=requires_grad, device=device, who=op)

    def normal(
        self,
        shape: Shape = (),
        mean: SupportsFloat = 0.0,
        std: SupportsFloat = 1.0,
        *,
        dtype: DTypeLike | None = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Draw from the normal distribution, by the method of Box and Muller (1958).

        Parameters
        ----------
        shape, dtype, device, requires_grad : optional
            As in `uniform`.
        mean, std : float, optional
            Mean and standard deviation, ``std >= 0``.

        Returns
        -------
        Tensor

        Examples
        --------
        >>> import minigrad as mg
        >>> mg.random.normal((2, 3), std=0.02).shape
        (2, 3)
        """
        op = "random.normal"
        kind = _floating(op, dtype)
        shift, scale = _real(op, "mean", mean, kind), _real(op, "std", std, kind, least=0.0)
        x = self._reals(op, "normal", shape, kind, device, scale, shift)
        return new(x, requires_grad=requires_grad, device=device, who=op)

    def truncated_normal(
        self,
        shape: Shape = (),
        mean: SupportsFloat = 0.0,
        std: SupportsFloat = 1.0,
        low: SupportsFloat = -2.0,
        high: SupportsFloat = 2.0,
        *,
        dtype: DTypeLike | None = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Draw from the normal distribution, restricted to [mean + low * std, mean + high * std].

        The inverse of the distribution function (Wichura, algorithm AS 241, 1988) at a uniform number, in float64.

        Parameters
        ----------
        shape, dtype, device, requires_grad : optional
            As in `uniform`.
        mean, std : float, optional
            Mean and standard deviation before the restriction, ``std >= 0``.
        low, high : float, optional
            The bounds, **in standard deviations from the mean**, ``low < high``; they may be infinite.

        Returns
        -------
        Tensor

        Raises
        ------
        ValueError
            There is nothing between the bounds: they are not in order, or lie beyond 36 standard deviations.

        Examples
        --------
        >>> import minigrad as mg
        >>> bool((abs(mg.random.truncated_normal((1000,), std=0.5)) <= 1.0).all())
        True
        """
        op = "random.truncated_normal"
        kind = _floating(op, dtype)
        shift, scale = _real(op, "mean", mean, kind), _real(op, "std", std, kind, least=0.0)
        a, b = _number(op, "low", low), _number(op, "high", high)
        # in the upper tail the distribution function has no digits left: draw in the lower one, and change the sign
        side = -1.0 if a > 0 else 1.0
        p_low, p_high = sorted((_normal_cdf(side * a), _normal_cdf(side * b)))
        if not (a < b and p_low < p_high and p_high > 1e-290):
            need = "low < high and less than 36 standard deviations from the mean"
            raise ValueError(message(op, "low, high", f"{a}, {b}", need))
        x = self._draw(op, "truncated_normal", shape, np.float64, p_low, p_high)
        np.multiply(x, side, out=x)
        x = random.affine(np.clip(x, a, b, out=x), scale, shift, kind)
        return new(x, requires_grad=requires_grad, device=device, who=op)

    def exponential(
        self,
        shape: Shape = (),
        scale: SupportsFloat = 1.0,
        *,
        dtype: DTypeLike | None = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Draw from the exponential distribution: -scale * log(u) of a uniform number u in (0, 1].

        Parameters
        ----------
        shape, dtype, device, requires_grad : optional
            As in `uniform`.
        scale : float, optional
            The mean, ``scale >= 0``.

        Returns
        -------
        Tensor

        Examples
        --------
        >>> import minigrad as mg
        >>> gumbel = -mg.log(mg.random.exponential((4,)))
        >>> gumbel.shape
        (4,)
        """
        op = "random.exponential"
        kind = _floating(op, dtype)
        factor = _real(op, "scale", scale, kind, least=0.0)
        x = self._reals(op, "exponential", shape, kind, device, factor)
        return new(x, requires_grad=requires_grad, device=device, who=op)

    def integers(
        self,
        low: SupportsIndex,
        high: SupportsIndex,
        shape: Shape = (),
        *,
        dtype: DTypeLike = dtypes.int64,
        device: str | None = None,
    ) -> Tensor:
        """Draw integers of [low, high), each as likely as the others.

        An element is the high part of the product of ``high - low`` and 64 random bits, 128 from 2**32 on. Thus the
        probabilities differ by less than 2**-64: no sample shows that, and nothing has to be rejected and drawn again.

        Parameters
        ----------
        low, high : int
            The bounds, ``low < high``.
        shape, device : optional
            As in `uniform`.
        dtype : dtype, optional
            An integer dtype that holds ``low`` and ``high - 1``; int64 by default.

        Returns
        -------
        Tensor

        Raises
        ------
        ValueError
            ``low`` is not below ``high``, or ``dtype`` does not hold them.

        Examples
        --------
        >>> import minigrad as mg
        >>> dice = mg.random.integers(1, 7, (100,))
        >>> int(dice.min()) >= 1, int(dice.max()) <= 6
        (True, True)
        """
        op = "random.integers"
        limits = dtypes.iinfo(dtypes.as_dtype(dtype, op))
        a, b = _integer(op, "low", low), _integer(op, "high", high)
        if not limits.min <= a < b <= int(limits.max) + 1:
            need = f"low < high, both within {limits.min} and {int(limits.max) + 1} for {limits.dtype}"
            raise ValueError(message(op, "low, high", f"{a}, {b}", need))
        extents = _shape(op, shape)
        x = self._on(op, device, lambda backend, key: backend.below(extents, key, a, b - a))
        # modulo 2**64, as the sum is: negative numbers come out right
        return new(x.astype(limits.dtype, copy=False), device=device, who=op)

    def bernoulli(
        self,
        p: ArrayLike | Tensor = 0.5,
        shape: Shape | None = None,
        *,
        dtype: DTypeLike = dtypes.bool,
        device: str | None = None,
    ) -> Tensor:
        """Draw True with probability p.

        Parameters
        ----------
        p : float or array, optional
            One probability, or one for each element; rounded to a multiple of 2**-32.
        shape : int or tuple of int, optional
            Shape of the tensor, to which ``p`` is broadcast; by default that of ``p``.
        dtype : dtype, optional
            bool by default; any other gives 0 and 1.
        device : str, optional
            As in `uniform`.

        Returns
        -------
        Tensor

        Raises
        ------
        ValueError
            A probability is not in [0, 1].

        Examples
        --------
        >>> import minigrad as mg
        >>> mg.random.bernoulli([0.0, 1.0]).tolist()
        [False, True]
        """
        op = "random.bernoulli"
        kind = dtypes.as_dtype(dtype, op)
        chance = _real_array(op, "p", p)
        if not np.all((chance >= 0) & (chance <= 1)):
            raise ValueError(message(op, "p", f"{chance.min()} to {chance.max()}", "probabilities, 0 <= p <= 1"))
        extents = chance.shape if shape is None else _shape(op, shape)
        if not _fits(chance.shape, extents):
            raise ShapeError(message(op, "p", chance, f"a shape that broadcasts to {extents}"))
        hits = self._on(op, device, lambda backend, key: backend.hits(extents, key, chance).astype(kind, copy=False))
        return new(hits, device=device, who=op)

    def permutation(self, x: SupportsIndex | ArrayLike | Tensor) -> Tensor:
        """Shuffle the numbers 0 ... x - 1, or the first axis of ``x``.

        By the method of Fisher and Yates; every order is as likely as the others.

        Parameters
        ----------
        x : int, Tensor or array
            How many numbers, or what to shuffle; gradients go back through the shuffle.

        Returns
        -------
        Tensor
            A new tensor; int64 for a number.

        Examples
        --------
        >>> import minigrad as mg
        >>> sorted(mg.random.permutation(5).tolist())
        [0, 1, 2, 3, 4]
        """
        op = "random.permutation"
        n, source = _population(op, "x", x)
        return _pick(source, self._order(op, n, None))

    def choice(
        self,
        a: SupportsIndex | ArrayLike | Tensor,
        shape: Shape = (),
        *,
        replace: bool = True,
        p: ArrayLike | Tensor | None = None,
    ) -> Tensor:
        """Draw from the numbers 0 ... a - 1, or along the first axis of ``a``.

        With weights but without replacement, item i gets the key e / p[i] with an exponential e, and the smallest keys
        are taken (Efraimidis and Spirakis, 2006): the same distribution as drawing one by one from what is left.

        Parameters
        ----------
        a : int, Tensor or array
            How many numbers, or what to draw from.
        shape : int or tuple of int, optional
            Shape of the draw; () by default.
        replace : bool, optional
            Whether an item may be drawn more than once; True by default.
        p : array, optional
            A weight for each item, at least 0, in proportion to its probability; equal by default.

        Returns
        -------
        Tensor
            int64 for a number; else of shape ``shape + a.shape[1:]``.

        Raises
        ------
        ValueError
            There are too few items, or the weights are no weights.

        Examples
        --------
        >>> import minigrad as mg
        >>> mg.random.choice(3, (2, 4), p=[0.0, 1.0, 0.0]).tolist()
        [[1, 1, 1, 1], [1, 1, 1, 1]]
        """
        op = "random.choice"
        n, source = _population(op, "a", a)
        extents = _shape(op, shape)
        weights = None if p is None else _weights(op, p, n)
        items = n if weights is None else np.count_nonzero(weights)
        count = math.prod(extents)
        if count > items and not (replace and items):
            hint = "" if replace else "Or draw with replacement"
            raise ValueError(message(op, "shape", f"{extents}, {count} draws", f"at most {items}, the items", hint))
        if not replace:
            index = self._order(op, n, weights)[:count].reshape(extents)
        elif weights is None:
            index = self._draw(op, "below", extents, np.uint64, n)
        else:
            steps = np.cumsum(weights)
            point = self._draw(op, "uniform", extents, np.float64) * steps[-1]
            # rounding may lift a point to the end of the last step
            index = np.minimum(np.searchsorted(steps, point, side="right"), np.flatnonzero(weights)[-1])
        return _pick(source, index)

    def _draw(self, op: str, name: str, shape: Shape, dtype: DTypeLike, *arguments: float) -> Array:
        """An array of the CPU, by a function of `minigrad.backend.random`."""
        _refuse_capture(op, "cpu")
        return random.fill(name, _shape(op, shape), dtype, self.draw_key(), *arguments)

    def _on(self, op: str, device: str | None, draw: Callable[[Any, tuple[int, int]], Any]) -> Any:
        """An array on a device, by what its backend draws with the next key; each draws the same."""
        backend, place = devices.backend_of(device, op)
        _refuse_capture(op, place)
        with backend.current(place):
            return draw(backend.random, self.draw_key())

    def _reals(
        self, op: str, name: str, shape: Shape, kind: dtypes.DType, device: str | None, scale: float, *rest: float
    ) -> Any:
        extents = _shape(op, shape)
        return self._on(op, device, lambda backend, key: backend.reals(name, extents, kind, key, scale, *rest))

    def _order(self, op: str, n: int, weights: Array | None) -> Array:
        """The numbers 0 ... n - 1, those of weight 0 left out, in random order."""
        if weights is None:
            return self._draw(op, "permutation", n, np.int64)
        items = np.flatnonzero(weights)
        with np.errstate(over="ignore"):  # the key of a weight near 0 may be infinite
            keys = self._draw(op, "exponential", n, np.float64)[items] / weights[items]
        return items[np.argsort(keys, kind="stable")]


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _integer(op: str, arg: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise DTypeError(message(op, arg, describe(value), "an integer")) from None


def _count(op: str, arg: str, value: Any) -> int:
    number = _integer(op, arg, value)
    if number < 0:
        raise ValueError(message(op, arg, number, "at least 0"))
    return number


def _word(op: str, arg: str, value: Any) -> int:
    number = _count(op, arg, value)
    if number >= WORD:
        raise ValueError(message(op, arg, number, "less than 2**64"))
    return number


def _shape(op: str, shape: Shape) -> tuple[int, ...]:
    extents = tuple([_integer(op, "shape", n) for n in (shape if isinstance(shape, (tuple, list)) else (shape,))])
    if extents and min(extents) < 0:
        raise ShapeError(message(op, "shape", extents, "extents of at least 0"))
    return extents


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether one shape broadcasts to another."""
    return len(shape) <= len(wanted) and all(a in (1, b) for a, b in zip(shape[::-1], wanted[::-1]))


def _floating(op: str, dtype: DTypeLike | None) -> dtypes.DType:
    kind = dtypes.default_float if dtype is None else dtypes.as_dtype(dtype, op)
    if kind not in dtypes.FLOATING:
        raise DTypeError(message(op, "dtype", str(kind), "a floating dtype", "For integers use mg.random.integers"))
    return kind


def _number(op: str, arg: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise DTypeError(message(op, arg, describe(value), "a number")) from None


def _real(op: str, arg: str, value: Any, dtype: dtypes.DType, least: float = -math.inf) -> float:
    number = _number(op, arg, value)
    if not abs(number) <= LARGEST[dtype]:
        raise ValueError(message(op, arg, number, f"a finite number of {dtype}"))
    if number < least:
        raise ValueError(message(op, arg, number, f"at least {least}"))
    return number


def _real_array(op: str, arg: str, value: ArrayLike | Tensor) -> Array:
    array = np.asarray(value.detach() if isinstance(value, Tensor) else value)
    if array.dtype not in dtypes.FLOATING | dtypes.INTEGER | dtypes.BOOL:
        raise DTypeError(message(op, arg, array, "real numbers"))
    return array.astype(np.float64)


def _weights(op: str, p: ArrayLike | Tensor, n: int) -> Array:
    weights = _real_array(op, "p", p)
    if weights.shape != (n,):
        raise ShapeError(message(op, "p", weights, f"shape ({n},), a weight for each item"))
    if not (np.all(weights >= 0) and 0 < weights.sum() < math.inf):
        raise ValueError(message(op, "p", f"{weights}", "finite weights of at least 0, not all of them 0"))
    return weights


def _population(op: str, arg: str, x: Any) -> tuple[int, Tensor | None]:
    """How many items there are, and what holds them: None for the numbers 0 ... n - 1."""
    if hasattr(x, "__index__") and not isinstance(x, (Tensor, np.ndarray)):
        return _count(op, arg, x), None
    source = asarray(x)
    if source.ndim == 0:
        raise ShapeError(message(op, arg, x, "an int, or at least one axis"))
    return int(source.shape[0]), source


def _refuse_capture(op: str, device: str) -> None:
    """Raise where the host draws while a step is captured: every replay would have the same numbers."""
    if device == "cpu" and draws.captured.get():
        need = "one on the GPU, such as dropout's: this one would be the same in every replay"
        raise GradError(message(op, "the draw", "one on the host, while a step is captured", need))


def _pick(source: Tensor | None, index: Array) -> Tensor:
    order = new(np.asarray(index, np.int64))
    return order if source is None else source[order]


_default = Generator()

draw_key, get_state, set_state, spawn = _default.draw_key, _default.get_state, _default.set_state, _default.spawn
uniform, normal, truncated_normal = _default.uniform, _default.normal, _default.truncated_normal
exponential, integers, bernoulli = _default.exponential, _default.integers, _default.bernoulli
permutation, choice = _default.permutation, _default.choice


def seed(seed: SupportsIndex) -> None:
    """Seed the default generator and set its counter to 0.

    Parameters
    ----------
    seed : int
        0 <= seed < 2**64. Equal seeds give equal numbers, for every number of threads.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.random.seed(1)
    >>> x = mg.random.uniform(3)
    >>> mg.random.seed(1)
    >>> x.tolist() == mg.random.uniform(3).tolist()
    True
    """
    _default.set_state({"algorithm": ALGORITHM, "seed": seed, "counter": 0})


noise.bind(draw_key)  # dropout draws its keys here, and ops may not import what stands on them
