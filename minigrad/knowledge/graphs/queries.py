"""Queries: the questions (head, relation, ?) of a set of triples, each once, with all its answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from minigrad import random
from minigrad.errors import ShapeError, message
from minigrad.knowledge.graphs.ids import as_ids, check_range
from minigrad.knowledge.graphs.triples import TripleSet
from minigrad.nn.checks import extent
from minigrad.random import Generator

__all__ = ["Queries", "QueryBatch"]

Array = np.ndarray[Any, Any]
SIDES = ("both", "tail", "head")


@dataclasses.dataclass(frozen=True)
class QueryBatch:
    """Some queries and their answers.

    Attributes
    ----------
    queries : numpy.ndarray
        ``(n, 2)``: the entity and the relation; the relation plus the number of relations asks for heads.
    rows, answers : numpy.ndarray
        ``(m,)``: entity ``answers[j]`` answers query ``rows[j]``; sorted by row.
    counts : numpy.ndarray
        ``(n,)``: how many answers each has.
    """

    queries: Array
    rows: Array
    answers: Array
    counts: Array


class Queries:
    """What is asked of a graph.

    A triple (h, r, t) asks for the tails of (h, r), of which t is one, and for the heads of (t, r). The latter question
    is written as (t, r + number of relations).

    Parameters
    ----------
    triples : TripleSet
        What is true; a triple that occurs twice counts once.
    sides : str
        ``"both"``, ``"tail"`` or ``"head"``: which questions to ask.

    Attributes
    ----------
    queries : numpy.ndarray
        int64 ``(n, 2)``, sorted.
    counts : numpy.ndarray
        How many answers each has.

    Raises
    ------
    ValueError
        There are no triples, or other `sides`.

    Examples
    --------
    >>> from minigrad.knowledge import Queries, TripleSet
    >>> asked = Queries(TripleSet([[0, 0, 1], [0, 0, 2]], 3, 1))
    >>> asked.queries.tolist()
    [[0, 0], [1, 1], [2, 1]]
    >>> batch = asked.batch([0, 2])
    >>> batch.rows.tolist(), batch.answers.tolist()
    ([0, 0, 1], [1, 2, 0])
    """

    def __init__(self, triples: TripleSet, sides: str = "both") -> None:
        if sides not in SIDES:
            raise ValueError(message("Queries", "sides", repr(sides), f"one of {', '.join(SIDES)}"))
        self.num_relations = len(triples.relations)
        h, r, t = triples.union().triples.T
        if not len(triples):
            raise ValueError(message("Queries", "triples", repr(triples), "at least one triple"))
        asked = []
        if sides != "head":
            asked.append((h, r, t))
        if sides != "tail":
            asked.append((t, r + self.num_relations, h))
        entity, relation, answer = (np.concatenate(part) for part in zip(*asked, strict=True))
        width = 2 * self.num_relations
        keys = entity * width + relation
        order = np.lexsort((answer, keys))
        self.keys, self.starts, self.counts = np.unique(keys[order], return_index=True, return_counts=True)
        self.answers: Array = answer[order]
        self.queries: Array = np.stack(np.divmod(self.keys, width), axis=1)

    def __len__(self) -> int:
        return len(self.queries)

    def batch(self, indices: Any) -> QueryBatch:
        """The queries of some indices, ``(n,)``."""
        at = as_ids("Queries.batch", "indices", indices)
        if at.ndim != 1:
            raise ShapeError(message("Queries.batch", "indices", at, "one axis of indices"))
        check_range("Queries.batch", "indices", at, len(self), "an index")
        rows, answers = self._spread(self.starts[at], self.counts[at])
        return QueryBatch(self.queries[at], rows, answers, self.counts[at])

    def batches(self, size: int, *, shuffle: bool = True, generator: Generator | None = None) -> Iterator[QueryBatch]:
        """All queries once, `size` at a time; in each batch those that ask for tails come first.

        Parameters
        ----------
        size : int
            Queries of a batch; the last has the rest.
        shuffle : bool
            Whether the order is a random one.
        generator : Generator, optional
            Of the order; by default that of `minigrad.random`.
        """
        size = extent("Queries.batches", "size", size)
        draw = random.permutation if generator is None else generator.permutation
        order = draw(len(self)).numpy() if shuffle else np.arange(len(self))
        for start in range(0, len(order), size):
            at = order[start : start + size]
            inverse = self.queries[at, 1] >= self.num_relations
            yield self.batch(at[np.argsort(inverse, kind="stable")])

    def find(self, queries: Any) -> tuple[Array, Array]:
        """The answers of any queries ``(n, 2)``, as `rows` and `answers`; one that nobody asked has none."""
        wanted = np.asarray(queries, np.int64)
        keys = wanted[:, 0] * (2 * self.num_relations) + wanted[:, 1]
        at = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
        return self._spread(self.starts[at], np.where(self.keys[at] == keys, self.counts[at], 0))

    def _spread(self, starts: Array, counts: Array) -> tuple[Array, Array]:
        rows = np.repeat(np.arange(len(starts)), counts)
        inside = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.answers[np.repeat(starts, counts) + inside]
