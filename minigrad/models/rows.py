"""Rows: the sequences of a batch while they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.autograd import no_grad
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.models.decoding import Decoding, Generative
from minigrad.nn.mode import evaluation
from minigrad.tensor import Tensor

__all__ = ["Prompts", "Rows", "read_prompts"]

ROOM = 256  # tokens to have memory for at first; a cache doubles what is full, so `room` may be any number
Array = np.ndarray[Any, Any]
Prompts = Tensor | Array | Sequence[int] | Sequence[Sequence[int]]


def read_prompts(prompts: Any) -> tuple[list[list[int]], bool]:
    """Prompts as lists, and whether there was one only: a flat sequence.

    Raises
    ------
    ShapeError
        If there is no prompt, or one without tokens.
    DTypeError
        If tokens are not integers.
    """
    given = prompts.tolist() if hasattr(prompts, "tolist") else list(prompts)
    alone = bool(given) and not hasattr(given[0], "__len__")
    rows = [list(row.tolist() if hasattr(row, "tolist") else row) for row in ([given] if alone else given)]
    if not rows or not all(rows):
        need = "at least one token in each prompt"
        raise ShapeError(message("generate", "prompts", "empty", need, "Begin with a token that stands for the start"))
    for row in rows:
        for token in row:
            if not isinstance(token, (int, np.integer)) or isinstance(token, bool):
                raise DTypeError(message("generate", "prompts", repr(token), "integers, the ids of tokens"))
    return [[int(token) for token in row] for row in rows], alone


class Rows:
    """The sequences of a batch, what the model has read of them, and which tokens occurred.

    Parameters
    ----------
    model : Generative
        The model; it works in evaluation mode while it reads, for this thread alone.
    prompts : list of list of int
        How the sequences begin.
    room : int
        Tokens that will be added to each, at most.
    sliding : bool
        Go on from the last half of the context where a sequence becomes longer than the model takes.
    inputs : mapping, optional
        For the model's `decoding`.
    looks_back : bool
        Whether `seen` is kept.

    Attributes
    ----------
    tokens : list of list of int
        The sequences.
    seen : numpy.ndarray or None
        (rows, vocabulary) bools, which tokens occurred; after the first `advance`.
    """

    def __init__(
        self,
        model: Generative,
        prompts: list[list[int]],
        room: int,
        *,
        sliding: bool = False,
        inputs: Mapping[str, Any] | None = None,
        looks_back: bool = False,
    ) -> None:
        if not isinstance(model, Generative):
            raise TypeError(message("generate", "model", model, "a model with a method decoding"))
        if sliding and inputs:
            raise ValueError(message("generate", "sliding", True, "False for a model that reads inputs"))
        self.model, self.inputs, self.sliding, self.looks_back = model, dict(inputs or {}), sliding, looks_back
        self.tokens = [list(prompt) for prompt in prompts]
        self.seen: Array | None = None
        self._capacity = max(map(len, prompts)) + min(room, ROOM)
        self._begin(self.tokens)

    def _begin(self, pending: list[list[int]]) -> None:
        """Start with an empty cache."""
        self._pending = pending
        self._held = np.zeros(len(pending), np.int64)
        self._decoding: Decoding | None = None

    def _fit(self, decoding: Decoding) -> Decoding:
        """The decoding, or a new one of the last half of the context, where the tokens are too many for it."""
        most = decoding.max_length
        longest = int((self._held + [len(row) for row in self._pending]).max())
        if most is None or longest <= most:
            return decoding
        if not self.sliding:
            hint = "Pass fewer tokens, or sliding=True to go on from the last half of the context"
            need = f"at most {most}, the longest that the model takes"
            raise ShapeError(message("generate", "tokens", f"{longest}", need, hint))
        half = max(most // 2, 1)
        self._begin([row[-half:] for row in self.tokens])
        return self.model.decoding(capacity=most)

    def advance(self) -> Array:
        """Read what is new; gives the logits (rows, vocabulary) of the tokens that follow."""
        with no_grad(), evaluation():
            decoding = self._decoding
            if decoding is None:
                decoding = self.model.decoding(capacity=self._capacity, **self.inputs)
            decoding = self._decoding = self._fit(decoding)
            counts = np.array([len(row) for row in self._pending])
            ids = np.zeros((len(counts), counts.max()), np.int64)
            for row, fresh in zip(ids, self._pending):
                row[: len(fresh)] = fresh
            lengths = None if (counts == counts[0]).all() else ops.asarray(counts)
            logits = decoding.advance(ops.asarray(ids), lengths).detach().numpy()
        self._held = self._held + counts
        if self.looks_back and self.seen is None:
            self.seen = np.zeros(logits.shape, np.bool_)
            for mark, row in zip(self.seen, self.tokens):
                mark[row] = True
        return logits

    def keep(self, index: Sequence[int]) -> None:
        """Make row ``index[b]`` the row b: fewer of them, or copies; every row was read."""
        chosen = np.asarray(index, np.int64)
        if np.array_equal(chosen, np.arange(len(self.tokens))):
            return
        assert self._decoding is not None
        with no_grad():
            self._decoding.reorder(chosen)
        self.tokens = [list(self.tokens[i]) for i in chosen]
        self._held = self._held[chosen]
        self.seen = None if self.seen is None else self.seen[chosen]

    def append(self, tokens: Sequence[int]) -> None:
        """Add a token to each row."""
        self._pending = [[int(token)] for token in tokens]
        for row, fresh in zip(self.tokens, self._pending):
            row.extend(fresh)
        if self.seen is not None:
            self.seen[np.arange(len(self.tokens)), np.asarray(tokens, np.int64)] = True
