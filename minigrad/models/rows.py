"""Rows: the sequences of a batch while they grow."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.autograd import no_grad
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.models.decoding import Decoding, Generative
from minigrad.nn.mode import evaluation
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = ["Prompts", "Rows", "read_prompts"]

TEXT = (str, bytes, bytearray, memoryview)
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
    IndexError
        If a token is negative, or larger than an int64.
    TypeError
        If it is no sequence, or one of tokens and sequences.
    """
    given = items(prompts)
    if given is None:
        hint = "Encode text with a tokenizer" if isinstance(prompts, TEXT) else "One token is a prompt too: [token]"
        need = "a sequence of ids of tokens, or a list of such sequences"
        raise TypeError(message("generate", "prompts", describe(prompts), need, hint))
    inner = [items(row) for row in given]
    alone = bool(given) and all(row is None for row in inner)
    rows = [given] if alone else [row for row in inner if row is not None]
    if not alone and len(rows) < len(given):
        raise TypeError(message("generate", "prompts", "a mixture of tokens and sequences", "one or the other"))
    if not rows or not all(rows):
        need = "at least one token in each prompt"
        raise ShapeError(message("generate", "prompts", "empty", need, "Begin with a token that stands for the start"))
    found = [[read_token("prompts", token) for token in row] for row in rows]
    for wrong in (token for row in found for token in row if not 0 <= token < 2**63):
        raise IndexError(message("generate", "prompts", f"{wrong} in one place", "ids of tokens, from 0 to 2**63 - 1"))
    return found, alone


def items(value: Any) -> list[Any] | None:
    """What a sequence or an array with axes holds; None for anything else, such as text, a set or an iterator."""
    found = value.tolist() if hasattr(value, "tolist") else value
    return list(found) if isinstance(found, Sequence) and not isinstance(value, TEXT) else None


def read_token(name: str, token: Any) -> int:
    """The id of a token; `name` is the argument that it stands in."""
    found = token.tolist() if hasattr(token, "tolist") else token
    if not isinstance(found, int) or isinstance(found, bool):
        raise DTypeError(message("generate", name, describe(found), "integers, the ids of tokens"))
    return found


def check_model(model: Any) -> None:
    """Refuse what `generate` cannot use; a class has the methods of its models, but is none."""
    if isinstance(model, type) or not isinstance(model, Generative):
        got = f"the class {model.__name__}" if isinstance(model, type) else describe(model)
        raise TypeError(message("generate", "model", got, "a model with a method decoding"))


def read_inputs(model: Generative, inputs: Any) -> dict[str, Any]:
    """The keywords for a model's `decoding`, which takes them."""
    if inputs is not None and not isinstance(inputs, Mapping):
        raise TypeError(message("generate", "inputs", describe(inputs), "a mapping of names to values"))
    given = dict(inputs or {})
    try:
        signature = inspect.signature(model.decoding)
    except (TypeError, ValueError):  # it does not say what it takes
        return given
    try:
        signature.bind(capacity=None, **given)
    except TypeError:
        own = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name != "capacity"]
        need = f"what {type(model).__name__}.decoding takes: {', '.join(map(str, own)) or 'nothing'}"
        raise TypeError(message("generate", "inputs", ", ".join(map(repr, given)) or "nothing", need)) from None
    return given


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
        check_model(model)
        if sliding and inputs:
            raise ValueError(message("generate", "sliding", True, "False for a model that reads inputs"))
        self.model, self.inputs, self.sliding, self.looks_back = model, read_inputs(model, inputs), sliding, looks_back
        self.tokens = [list(prompt) for prompt in prompts]
        self.seen: Array | None = None
        self._capacity = max(map(len, prompts)) + min(room, ROOM)
        self._begin(self.tokens)

    def _begin(self, pending: list[list[int]]) -> None:
        """Start with an empty cache."""
        self._pending = pending
        self._held = np.zeros(len(pending), np.int64)
        self._decoding: Decoding | None = None
        self._device = device_of(self.model)  # a walk over all modules takes as long as a token of a small model

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
            lengths = None if (counts == counts[0]).all() else ops.asarray(counts, device=self._device)
            logits = decoding.advance(ops.asarray(ids, device=self._device), lengths).detach().to("cpu").numpy()
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


def device_of(model: Generative) -> str | None:
    """Where the model reads its tokens."""
    parameters = model.parameters() if isinstance(model, Module) else []
    return parameters[0].device if parameters else None
