"""Ranking: where a model puts the right answers among all entities."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.autograd import no_grad
from minigrad.errors import ShapeError, message
from minigrad.knowledge.graphs.ids import as_ids, check_range
from minigrad.knowledge.graphs.queries import SIDES, Queries
from minigrad.knowledge.graphs.triples import TripleSet
from minigrad.nn.checks import extent
from minigrad.nn.mode import evaluation
from minigrad.tensor import Tensor

__all__ = ["Ranking", "evaluate", "ranks"]

Array = np.ndarray[Any, Any]
TIES = ("realistic", "optimistic", "pessimistic")
SCORES = 2**24  # at a time, unless the caller says how many queries


def ranks(scores: Any, targets: Any, known: tuple[Any, Any] | None = None, *, ties: str = "realistic") -> Array:
    """The rank of one entity in each row of scores, from 1, the best.

    ::

        optimistic = 1 + #(others with a higher score)
        pessimistic = 1 + #(others with a higher or an equal score)
        realistic = (optimistic + pessimistic) / 2

    The realistic rank is the mean over all orders of those that tie (Berrendorf et al., "On the ambiguity of rank-based
    evaluation of entity alignment or link prediction methods", 2020); a model that gives every entity the same score
    gets 1 for each from the optimistic one.

    Parameters
    ----------
    scores : array_like
        ``(n, entities)``, higher is better.
    targets : array_like of int
        ``(n,)``, the entity whose rank is wanted.
    known : tuple of array_like of int, optional
        ``(rows, entities)``: right answers of these rows, each once, which do not count as others (Bordes et al., 2013:
        filtered). The target itself may be among them.
    ties : str
        ``"realistic"``, ``"optimistic"`` or ``"pessimistic"``.

    Returns
    -------
    numpy.ndarray
        float64 ``(n,)``.

    Raises
    ------
    ShapeError
        The shapes do not fit.
    DTypeError, IndexError
        Targets or known answers are not integers, or out of range.
    ValueError
        Another name of a tie, or a score that is NaN.

    Examples
    --------
    >>> from minigrad.knowledge import ranks
    >>> scores = [[0.3, 0.9, 0.3, 0.1]]
    >>> ranks(scores, [2]), ranks(scores, [2], ([0], [1])), ranks(scores, [2], ties="optimistic")
    (array([2.5]), array([1.5]), array([2.]))
    """
    if ties not in TIES:
        raise ValueError(message("ranks", "ties", repr(ties), f"one of {', '.join(TIES)}"))
    s = np.asarray(scores.detach().to("cpu").numpy() if isinstance(scores, Tensor) else scores)
    target = as_ids("ranks", "targets", targets)
    if s.ndim != 2:
        raise ShapeError(message("ranks", "scores", s, "a matrix (queries, entities)"))
    if target.shape != s.shape[:1]:
        raise ShapeError(message("ranks", "targets", target, f"shape {s.shape[:1]}, an entity for each row of scores"))
    check_range("ranks", "targets", target, s.shape[1], "an entity")
    if np.isnan(s).any():
        raise ValueError(message("ranks", "scores", "NaN in places", "numbers, as NaN has no rank"))
    own = np.take_along_axis(s, target[:, None], axis=1)
    higher, equal = np.count_nonzero(s > own, axis=1), np.count_nonzero(s == own, axis=1) - 1
    if known is not None:
        rows, entities = (as_ids("ranks", "known", part) for part in known)
        if rows.ndim != 1 or entities.shape != rows.shape:
            raise ShapeError(message("ranks", "known", entities, f"entities of the shape of rows, {rows.shape}"))
        check_range("ranks", "known", rows, len(s), "a row")
        check_range("ranks", "known", entities, s.shape[1], "an entity")
        others = entities != target[rows]
        rows, entities = rows[others], entities[others]
        found, at = s[rows, entities], own[rows, 0]
        higher -= np.bincount(rows[found > at], minlength=len(s))
        equal -= np.bincount(rows[found == at], minlength=len(s))
    share = {"optimistic": 0.0, "realistic": 0.5, "pessimistic": 1.0}[ties]
    found_ranks: Array = 1.0 + higher + share * equal
    return found_ranks


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Ranks of right answers, and what is said of them.

    Attributes
    ----------
    tail, head : numpy.ndarray
        The rank of the tail and of the head of each triple, in their order; empty where a side was not asked for.
    """

    tail: Array
    head: Array

    @property
    def ranks(self) -> Array:
        """Those of both sides."""
        return np.concatenate([self.tail, self.head])

    @property
    def mrr(self) -> float:
        """Mean of 1 / rank."""
        return float(np.mean(1.0 / self.ranks))

    @property
    def mean_rank(self) -> float:
        """Mean of the ranks."""
        return float(np.mean(self.ranks))

    def hits(self, k: int) -> float:
        """The share of ranks of at most k."""
        return float(np.mean(self.ranks <= k))

    def __str__(self) -> str:
        hits = ", ".join(f"Hits@{k} {self.hits(k):.3f}" for k in (1, 3, 10))
        return f"MRR {self.mrr:.3f}, {hits}, mean rank {self.mean_rank:.1f}"


def evaluate(
    model: Any,
    triples: TripleSet,
    known: TripleSet | Sequence[TripleSet] | None = None,
    *,
    sides: str = "both",
    ties: str = "realistic",
    batch_size: int | None = None,
) -> Ranking:
    """Rank the tail of each triple among all entities for (head, relation), and its head for (relation, tail).

    No more scores than those of one batch exist at a time.

    Parameters
    ----------
    model : KnowledgeModel
        Or any object with `score_queries`; modules work in evaluation mode.
    triples : TripleSet
        What is to be found.
    known : TripleSet or sequence of TripleSet, optional
        What is true besides, most often `Graph.known`: such answers do not count against the one that is ranked (the
        filtered setting; Bordes et al., 2013). Without it the ranks are raw.
    sides : str
        ``"both"``, ``"tail"`` or ``"head"``.
    ties : str
        ``"realistic"``, ``"optimistic"`` or ``"pessimistic"``, as for `ranks`.
    batch_size : int, optional
        Queries at a time; by default so many that they have about 16 million scores.

    Returns
    -------
    Ranking

    Raises
    ------
    ShapeError
        The model has not as many entities or relations as there are names.
    ValueError
        There are no triples, names differ, scores are NaN, or another name of sides or ties.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import knowledge
    >>> mg.random.seed(0)
    >>> facts = knowledge.TripleSet([[0, 0, 1], [1, 0, 2]], 3, 1)
    >>> found = knowledge.evaluate(knowledge.DistMult(3, 1, 2, initializer="zeros"), facts, facts)
    >>> found.ranks.tolist(), found.hits(3), found.mrr
    ([2.0, 2.0, 2.0, 2.0], 1.0, 0.5)
    """
    if sides not in SIDES:
        raise ValueError(message("evaluate", "sides", repr(sides), f"one of {', '.join(SIDES)}"))
    if not len(triples):
        raise ValueError(message("evaluate", "triples", repr(triples), "at least one triple"))
    filters = [known] if isinstance(known, TripleSet) else list(known or ())
    answers = Queries(triples.union(*filters), sides) if filters else None
    n, m = len(triples.entities), len(triples.relations)
    for name, count in (("entities", n), ("relations", m)):  # of another number, r + m would be another question
        if (own := getattr(model, f"num_{name}", count)) != count:
            raise ShapeError(message("evaluate", "model", f"of {own} {name}", f"{count}, as triples name"))
    size = max(1, SCORES // n) if batch_size is None else extent("evaluate", "batch_size", batch_size)
    h, r, t = triples.triples.T
    found = {"tail": np.empty(0), "head": np.empty(0)}
    with evaluation(), no_grad():
        for side, entity, relation, target in (("tail", h, r, t), ("head", t, r + m, h)):
            if sides not in ("both", side):
                continue
            queries = np.stack([entity, relation], axis=1)
            parts = []
            for start in range(0, len(queries), size):
                at = slice(start, start + size)
                scores = model.score_queries(queries[at]).to("cpu").numpy()
                parts.append(
                    ranks(scores, target[at], None if answers is None else answers.find(queries[at]), ties=ties)
                )
            found[side] = np.concatenate(parts)
    return Ranking(**found)
