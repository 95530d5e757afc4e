"""KVCache: the keys and values of the tokens that a decoder has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.autograd import is_grad_enabled, no_grad
from minigrad.errors import DTypeError, GradError, ShapeError, message
from minigrad.nn.checks import extent
from minigrad.tensor import Tensor

__all__ = ["DecoderCache", "KVCache", "LayerCache"]

Ints = np.ndarray[Any, Any]
FIRST_CAPACITY = 32


class KVCache:
    """Keys and values of the tokens that were seen, for one attention layer.

    The memory is allocated ahead and doubled when it is full, so n appends of one token copy O(n) tokens in all. The
    sequences of a batch may have different lengths; each lies at the start of its row.

    Decode under ``mg.no_grad()``: a cache records nothing.

    Parameters
    ----------
    capacity : int, optional
        Tokens to allocate for at first.

    Attributes
    ----------
    lengths : numpy.ndarray
        (batch,), how many tokens of each sequence are held.
    offsets : numpy.ndarray
        (batch,), the position that the next token of each sequence has, that is `lengths` and what `trim` dropped.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> cache = nn.KVCache()
    >>> for step in range(3):
    ...     keys, values = cache.append(mg.ones((2, 1, 1, 4)), mg.zeros((2, 1, 1, 4)))
    >>> keys.shape, cache.lengths.tolist()
    ((2, 1, 3, 4), [3, 3])
    """

    def __init__(self, capacity: int | None = None) -> None:
        self._first = FIRST_CAPACITY if capacity is None else extent("KVCache", "capacity", capacity)
        self.reset()

    def reset(self) -> None:
        """Forget every token, and the batch too: the next append may bring another one."""
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self.lengths: Ints = np.zeros(0, np.int64)
        self.offsets: Ints = np.zeros(0, np.int64)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was appended since the start or the last reset."""
        return self._keys is None

    @property
    def length(self) -> int:
        """Tokens held of the longest sequence."""
        return max(self.lengths.tolist(), default=0)  # a batch is small: faster than NumPy's reductions

    @property
    def is_ragged(self) -> bool:
        """Whether sequences have different lengths."""
        return len(set(self.lengths.tolist())) > 1

    @property
    def capacity(self) -> int:
        """Tokens of a sequence that the memory has room for."""
        return self._first if self._keys is None else self._keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return sum(t.nbytes for t in (self._keys, self._values) if t is not None)

    def append(self, key: Tensor, value: Tensor, lengths: Any = None) -> tuple[Tensor, Tensor]:
        """Add the tokens that follow; gives the keys and values of all.

        Parameters
        ----------
        key, value : Tensor
            (batch, key heads, new tokens, features).
        lengths : array_like of int, optional
            (batch,), how many of the new tokens of each sequence count; those behind are padding. All by default.

        Returns
        -------
        tuple of Tensor
            (batch, key heads, length, features) each, views of the memory. Where lengths differ, what lies behind
            `lengths` of a sequence is padding.

        Raises
        ------
        ShapeError, DTypeError
            If the new ones do not fit to each other or to those before.
        GradError
            If a gradient would be lost.
        """
        if is_grad_enabled() and (key.requires_grad or value.requires_grad):
            got = "with a graph that leads to weights or inputs"
            raise GradError(message("KVCache", "key or value", got, "no graph", "Decode under mg.no_grad()"))
        if key.ndim != 4 or value.ndim != 4 or key.shape[:3] != value.shape[:3]:
            need = "key and value of shape (batch, key heads, new tokens, features)"
            raise ShapeError(message("KVCache", None, f"key {key.shape}, value {value.shape}", need))
        batch, _, new, _ = key.shape
        counts = None if lengths is None else _counts(lengths, batch, new)
        if self._keys is None:
            self._allocate(key, value, batch, max(self._first, new))
            self.lengths = self.offsets = np.zeros(batch, np.int64)
        keys, values = self._checked(key, value)
        held = self.lengths.tolist()
        at = max(held, default=0)
        needed = at + new if counts is None else int((self.lengths + counts).max(initial=0))
        if needed > keys.shape[2]:
            keys, values = self._moved(np.arange(batch), max(needed, 2 * keys.shape[2]))
        even = len(set(held)) < 2 and (counts is None or bool((counts == new).all()))
        # into the memory itself: what was given out before ends where the new tokens begin
        for own, given in ((keys._array, key._array), (values._array, value._array)):
            if even:
                own[:, :, at : at + new] = given
                continue
            each = [new] * batch if counts is None else counts.tolist()
            for row, (start, count) in enumerate(zip(held, each)):
                own[row, :, start : start + count] = given[row, :, :count]
        added = new if counts is None else counts
        self.lengths, self.offsets = self.lengths + added, self.offsets + added
        return self.read()

    def read(self) -> tuple[Tensor, Tensor]:
        """The keys and values that are held, (batch, key heads, length, features) each, views of the memory."""
        if self._keys is None or self._values is None:
            raise ShapeError(message("KVCache", None, "nothing so far", "an append before"))
        length = self.length
        keys, values = self._keys, self._values
        return tape.share(keys, keys._array[:, :, :length]), tape.share(values, values._array[:, :, :length])

    def reorder(self, index: Any) -> None:
        """Make sequence ``index[b]`` the sequence b, for beam search; the batch may become smaller or larger.

        Parameters
        ----------
        index : array_like of int
            (new batch,), where each sequence comes from.

        Raises
        ------
        IndexError
            If there is no such sequence.
        """
        chosen = _integers("index", index)
        if self._keys is None:
            raise ShapeError(message("KVCache", None, "nothing so far", "an append before a reorder"))
        wrong = chosen[(chosen < 0) | (chosen >= len(self.lengths))]
        if wrong.size:
            need = f"sequences in [0, {len(self.lengths)}), the batch"
            raise IndexError(message("KVCache", "index", f"{wrong[0]} in one place", need))
        if np.array_equal(chosen, np.arange(len(self.lengths))):
            return
        self._moved(chosen, self.capacity)
        self.lengths, self.offsets = self.lengths[chosen], self.offsets[chosen]

    def trim(self, keep: int) -> None:
        """Drop the oldest tokens of each sequence so that at most `keep` are left, as a sliding window allows.

        Positions stay those of the whole sequences.
        """
        keep = extent("KVCache", "keep", keep)
        if self._keys is None or self._values is None or self.length <= keep:
            return
        dropped = np.maximum(self.lengths - keep, 0)
        with no_grad():
            for t in (self._keys, self._values):
                # a copy comes between, since the two places overlap
                if (dropped == dropped[0]).all():
                    t[:, :, :keep] = t[:, :, dropped[0] : dropped[0] + keep].clone()
                else:
                    for row, (start, length) in enumerate(zip(dropped.tolist(), self.lengths.tolist())):
                        t[row, :, : length - start] = t[row, :, start:length].clone()
        self.lengths = self.lengths - dropped

    def _allocate(self, key: Tensor, value: Tensor, batch: int, capacity: int) -> tuple[Tensor, Tensor]:
        """Memory for tokens such as these; zeros, since padding is multiplied by weights of 0 and may not be NaN."""
        shapes = [(batch, t.shape[1], capacity, t.shape[3]) for t in (key, value)]
        self._keys = ops.zeros(shapes[0], dtype=key.dtype, device=key.device)
        self._values = ops.zeros(shapes[1], dtype=value.dtype, device=value.device)
        return self._keys, self._values

    def _checked(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The memory, which the new tokens fit."""
        assert self._keys is not None
        assert self._values is not None
        for name, new, held in (("key", key, self._keys), ("value", value, self._values)):
            if (*new.shape[:2], new.shape[3]) != (*held.shape[:2], held.shape[3]):
                need = f"shape ({held.shape[0]}, {held.shape[1]}, new tokens, {held.shape[3]}), as those before"
                raise ShapeError(message("KVCache", name, new, need, "reset() starts anew"))
            if new.dtype != held.dtype:
                raise DTypeError(message("KVCache", name, new, f"{held.dtype}, as those before"))
        return self._keys, self._values

    def _moved(self, chosen: Ints, capacity: int) -> tuple[Tensor, Tensor]:
        """New memory with chosen sequences of the old."""
        old, length = self.read(), self.length
        new = self._allocate(*old, len(chosen), capacity)
        whole = np.array_equal(chosen, np.arange(len(self.lengths)))
        index = ops.asarray(chosen, device=old[0].device)
        with no_grad():
            for target, source in zip(new, old):
                target[:, :, :length] = source if whole else ops.take(source, index, axis=0)
        return new

    def __repr__(self) -> str:
        return f"KVCache(lengths={self.lengths.tolist()}, capacity={self.capacity})"


class LayerCache(NamedTuple):
    """What one decoder layer keeps: the tokens so far, and the keys and values of the encoder's output."""

    self_attention: KVCache
    cross_attention: KVCache


class DecoderCache:
    """What a decoder keeps from step to step: a `LayerCache` for each layer.

    Parameters
    ----------
    num_layers : int
        The layers.
    capacity : int, optional
        Tokens to allocate for at first.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> decoder = nn.TransformerDecoder(2, num_heads=2, hidden_features=8, cross_attention=False).eval()
    >>> x, cache = mg.random.normal((1, 3, 4)), nn.DecoderCache(2)
    >>> with mg.no_grad():
    ...     whole = decoder(x)
    ...     steps = mg.concat([decoder(x[:, i : i + 1], cache=cache) for i in range(3)], axis=1)
    >>> bool((abs(whole - steps) < 1e-5).all()), cache.offsets.tolist()
    (True, [3])
    """

    def __init__(self, num_layers: int, capacity: int | None = None) -> None:
        count = extent("DecoderCache", "num_layers", num_layers)
        self.layers = [LayerCache(KVCache(capacity), KVCache(1)) for _ in range(count)]

    @property
    def lengths(self) -> Ints:
        """How many tokens of each sequence are held."""
        return self.layers[0].self_attention.lengths

    @property
    def offsets(self) -> Ints:
        """The position that the next token of each sequence has: what layers that add positions take as offset."""
        return self.layers[0].self_attention.offsets

    def reorder(self, index: Sequence[int] | Tensor | Ints) -> None:
        """Make sequence ``index[b]`` the sequence b in every layer, for beam search."""
        for layer in self.layers:
            for cache in layer:
                if not cache.is_empty:
                    cache.reorder(index)

    def reset(self) -> None:
        """Forget everything."""
        for layer in self.layers:
            for cache in layer:
                cache.reset()


def _integers(name: str, value: Any) -> Ints:
    found = np.asarray(value.to("cpu").numpy() if isinstance(value, Tensor) else value)
    if found.dtype not in dtypes.INTEGER or found.ndim != 1:
        raise DTypeError(message("KVCache", name, value, "integers, one a sequence"))
    return found.astype(np.int64)


def _counts(lengths: Any, batch: int, new: int) -> Ints:
    counts = _integers("lengths", lengths)
    if counts.shape != (batch,):
        raise ShapeError(message("KVCache", "lengths", f"{counts.shape}", f"shape ({batch},), one length a sequence"))
    wrong = counts[(counts < 0) | (counts > new)]
    if wrong.size:
        raise ValueError(message("KVCache", "lengths", f"{wrong[0]} in one place", f"lengths from 0 to {new}"))
    return counts
