"""NegativeSampler: wrong triples, made of right ones by another head or tail."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import random
from minigrad.errors import ShapeError, message
from minigrad.knowledge.graphs.ids import as_ids, check_range
from minigrad.knowledge.graphs.triples import TripleSet
from minigrad.nn.checks import extent
from minigrad.random import Generator

__all__ = ["NegativeSampler"]

Array = np.ndarray[Any, Any]
ROUNDS = 20  # of drawing again what is known, before the entities that are left are listed
STRATEGIES = ("uniform", "bernoulli")


class NegativeSampler:
    """Draws wrong triples: the head or the tail of a right one becomes another entity, each as likely.

    Parameters
    ----------
    triples : TripleSet
        What is learned from; it says how many tails a head has, and so on.
    negatives : int
        Wrong triples for each right one.
    strategy : str
        ``"uniform"``: head and tail are exchanged equally often. ``"bernoulli"``: the head with the probability ``tph /
        (tph + hpt)``, where the relation has tph tails for each head and hpt heads for each tail on average; so that
        fewer of the made triples are true (Wang, Zhang, Feng and Chen, "Knowledge graph embedding by translating on
        hyperplanes", 2014).
    filtered : bool
        Draw again what is in `triples` or in `known`.
    known : TripleSet, optional
        More triples that are true.
    generator : Generator, optional
        Of the random numbers; by default that of `minigrad.random`.

    Attributes
    ----------
    head_probability : numpy.ndarray
        ``(relations,)``: how often the head is exchanged.

    Raises
    ------
    ValueError
        Another strategy, or a graph of one entity.

    Examples
    --------
    >>> from minigrad import knowledge, random
    >>> facts = knowledge.TripleSet([[0, 0, 1], [0, 0, 2], [0, 0, 3]], 4, 1)
    >>> sampler = knowledge.NegativeSampler(facts, 5, strategy="bernoulli", filtered=True)
    >>> sampler.head_probability
    array([0.75])
    >>> wrong = sampler([[0, 0, 1], [0, 0, 2]])
    >>> wrong.shape, facts.contains(wrong).any()
    ((2, 5, 3), np.False_)
    """

    def __init__(
        self,
        triples: TripleSet,
        negatives: int = 1,
        *,
        strategy: str = "uniform",
        filtered: bool = False,
        known: TripleSet | None = None,
        generator: Generator | None = None,
    ) -> None:
        who = "NegativeSampler"
        if strategy not in STRATEGIES:
            raise ValueError(message(who, "strategy", repr(strategy), f"one of {', '.join(STRATEGIES)}"))
        if len(triples.entities) < 2:
            raise ValueError(message(who, "triples", repr(triples), "at least 2 entities, to exchange one for another"))
        self.negatives = extent(who, "negatives", negatives)
        self.strategy, self.filtered, self.generator = strategy, bool(filtered), generator
        self.known = triples if known is None else triples.union(known)
        self.num_entities, self.num_relations = len(triples.entities), len(triples.relations)
        self.head_probability = np.full(self.num_relations, 0.5)
        if strategy == "bernoulli":
            self.head_probability = bernoulli(triples)

    def __call__(self, triples: Any) -> Array:
        """Wrong triples, int64 ``(n, negatives, 3)``, for right ones ``(n, 3)``.

        Raises
        ------
        ShapeError
            There are not three columns.
        DTypeError
            They are not integers.
        IndexError
            An entity or a relation is out of range.
        ValueError
            Filtered, and all triples with the same head and relation, and with the same relation and tail, are true.
        """
        given = as_ids("NegativeSampler", "triples", triples)
        if not given.size and given.ndim < 2:
            given = given.reshape(0, 3)
        if given.ndim != 2 or given.shape[1] != 3:
            raise ShapeError(message("NegativeSampler", "triples", given, "3 columns: head, relation, tail"))
        check_range("NegativeSampler", "triples", given[:, 1], self.num_relations, "a relation")
        check_range("NegativeSampler", "triples", given[:, ::2], self.num_entities, "an entity")
        made = np.repeat(given, self.negatives, axis=0)
        heads = self._uniform(len(made)) < self.head_probability[made[:, 1]]
        column = np.where(heads, 0, 2)
        rows = np.arange(len(made))
        original = made[rows, column]
        made[rows, column] = self._others(original)
        if self.filtered:
            again = rows[self.known.contains(made)]
            for _ in range(ROUNDS):
                if not again.size:
                    break
                made[again, column[again]] = self._others(original[again])
                again = again[self.known.contains(made[again])]
            for row in again:
                made[row] = self._listed(given[row // self.negatives], int(column[row]))
        return made.reshape(len(given), self.negatives, 3)

    def _others(self, entities: Array) -> Array:
        """For each entity another one."""
        draw = random.integers if self.generator is None else self.generator.integers
        found: Array = draw(0, self.num_entities - 1, entities.shape).numpy()
        return found + (found >= entities)

    def _uniform(self, n: int) -> Array:
        draw = random.uniform if self.generator is None else self.generator.uniform
        found: Array = draw((n,), dtype=np.float64).numpy()
        return found

    def _listed(self, triple: Array, column: int) -> Array:
        """A wrong triple where nearly all are true: drawn from those that are left, or from those of the other side."""
        for side in (column, 2 - column):
            all_of_side = np.repeat(triple[None], self.num_entities, axis=0)
            all_of_side[:, side] = np.arange(self.num_entities)
            left = all_of_side[~self.known.contains(all_of_side) & (all_of_side[:, side] != triple[side])]
            if len(left):
                found: Array = left[min(int(self._uniform(1)[0] * len(left)), len(left) - 1)]
                return found
        h, r, t = (int(i) for i in triple)
        got = f"({h}, {r}, {t}), of which any other head and any other tail is true too"
        raise ValueError(message("NegativeSampler", "triples", got, "triples that can be made wrong"))


def bernoulli(triples: TripleSet) -> Array:
    """``tph / (tph + hpt)`` of each relation; 1/2 where a relation has no triples."""
    h, r, t = triples.union().triples.T
    m = len(triples.relations)
    total = np.bincount(r, minlength=m)
    heads, tails = (
        np.bincount(np.unique(np.stack([r, entity], axis=1), axis=0)[:, 0], minlength=m) for entity in (h, t)
    )
    # tph = total / heads and hpt = total / tails, so that total drops out
    shares = tails / np.maximum(heads + tails, 1)
    return np.where(total, shares, 0.5)
