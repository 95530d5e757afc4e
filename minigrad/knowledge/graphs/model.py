"""KnowledgeModel: entities and relations as vectors, and a score for each triple of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.knowledge.graphs.queries import QueryBatch
from minigrad.nn import init
from minigrad.nn.checks import as_tensor, extent, finite
from minigrad.nn.dropout import Dropout
from minigrad.nn.embedding import Embedding
from minigrad.nn.module import Module
from minigrad.nn.regularizers import Regularizer
from minigrad.tensor import Tensor

__all__ = ["KnowledgeModel"]


class KnowledgeModel(Module):
    """Base of the models of a knowledge graph: ``score(h, r, t)`` is high where the triple is likely.

    Entities and relations are rows of two tables. A subclass says in `relation_features` how long a relation's row is,
    in `interact` how the rows of a triple are scored, and in `against_tails` and `against_heads` how this is done for
    all entities at once; where the scores of heads are no other ones than those of tails, with the roles of rows
    exchanged, it may do without the latter.

    Parameters
    ----------
    num_entities, num_relations : int
        How many there are.
    features : int
        Real numbers in the vector of an entity.
    reciprocal : bool
        Give each relation a second row, for its inverse: ``score_heads(r, t)`` is then the score of tails for (t,
        inverse of r), and no more that of `score`. Lacroix, Usunier and Obozinski, "Canonical tensor decomposition for
        knowledge base completion", 2018; Kazemi and Poole, "SimplE embedding", 2018.
    dropout : float
        Of the rows of a query's entity and relation, while training.
    initializer : str or callable, optional
        Of the entities; of the relations too, except where they are angles. By default what the model's paper says, or
        the usual choice.
    entity_regularizer, relation_regularizer : Regularizer or str, optional
        As for `nn.Embedding`; see also `penalty`.
    entity_constraint, relation_constraint : callable or str, optional
        Such as ``nn.UnitNorm(axis=1)``.
    sparse : bool
        Row-sparse gradients: a step on a batch of triples touches the rows that it uses. Scores against all entities
        use every row.
    dtype : dtype, optional
        float32 by default.

    Attributes
    ----------
    entities, relations : Embedding
        Of `num_entities` rows, and of `num_relations` (with `reciprocal`, of twice as many, the inverses behind).
    """

    is_complex = False  # whether the halves of a row are real and imaginary parts
    phases = False  # whether the rows of relations are angles
    default: Callable[..., Any] | str = "xavier_normal"

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        features: int,
        *,
        reciprocal: bool = False,
        dropout: float = 0.0,
        initializer: str | Callable[..., Any] | None = None,
        entity_regularizer: str | Regularizer | None = None,
        relation_regularizer: str | Regularizer | None = None,
        entity_constraint: str | Callable[[Any], Any] | None = None,
        relation_constraint: str | Callable[[Any], Any] | None = None,
        sparse: bool = False,
        dtype: Any = None,
    ) -> None:
        who = type(self).__name__
        self.num_entities = extent(who, "num_entities", num_entities)
        self.num_relations = extent(who, "num_relations", num_relations)
        self.features = extent(who, "features", features)
        if self.is_complex and self.features % 2:
            raise ShapeError(message(who, "features", f"{features}", "an even number: real and imaginary parts"))
        self.reciprocal = bool(reciprocal)
        fill = self.default if initializer is None else initializer
        self.entities = Embedding(
            self.num_entities,
            self.features,
            embeddings_initializer=fill,
            embeddings_regularizer=entity_regularizer,
            embeddings_constraint=entity_constraint,
            dtype=dtype,
            sparse=sparse,
        )
        self.relations = Embedding(
            self.num_relations * (2 if self.reciprocal else 1),
            self.relation_features(self.features),
            embeddings_initializer=angles if self.phases else fill,
            embeddings_regularizer=relation_regularizer,
            embeddings_constraint=relation_constraint,
            dtype=dtype,
            sparse=sparse,
        )
        self.dropout = Dropout(dropout)

    def relation_features(self, features: int) -> int:
        """The length of a relation's row."""
        return features

    def interact(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Scores ``(...)`` of rows ``(..., features)``."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method interact(self, h, r, t)")

    def against_tails(self, h: Tensor, r: Tensor, table: Tensor) -> Tensor:
        """Scores (n, N) of n rows of heads and relations with each of N rows of tails."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method against_tails(self, h, r, table)")

    def against_heads(self, r: Tensor, t: Tensor, table: Tensor) -> Tensor:
        """Scores (n, N) of n rows of relations and tails with each of N rows of heads."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method against_heads(self, r, t, table)")

    def score(self, h: Any, r: Any, t: Any) -> Tensor:
        """The scores of triples.

        Parameters
        ----------
        h, r, t : array_like of int
            Ids, of shapes that broadcast.

        Returns
        -------
        Tensor
            Of the common shape.
        """
        head, relation, tail = self._entity("h", h), self._relation("r", r), self._entity("t", t)
        rows = self.dropout(self.entities(head)), self.dropout(self.relations(relation)), self.entities(tail)
        return self.interact(*rows)

    def score_tails(self, h: Any, r: Any) -> Tensor:
        """The scores of (h, r, t) for each entity t: ids ``(n,)`` give ``(n, num_entities)``."""
        head, relation = self._pair("h", self._entity("h", h), "r", self._relation("r", r))
        return self._tails(head, relation)

    def score_heads(self, r: Any, t: Any) -> Tensor:
        """The scores of (h, r, t) for each entity h: ids ``(n,)`` give ``(n, num_entities)``."""
        tail, relation = self._pair("t", self._entity("t", t), "r", self._relation("r", r))
        return self._heads(relation, tail)

    def score_queries(self, queries: Any) -> Tensor:
        """The scores of all entities as answers to queries.

        Parameters
        ----------
        queries : array_like of int
            ``(n, 2)``: an entity and a relation, whose tails are asked for; the relation plus `num_relations` asks for
            heads, as in `Queries`.

        Returns
        -------
        Tensor
            ``(n, num_entities)``.
        """
        given = np.asarray(queries.to("cpu").numpy() if isinstance(queries, Tensor) else queries)
        if given.ndim != 2 or given.shape[1] != 2:
            raise ShapeError(message(type(self).__name__, "queries", given, "2 columns: an entity and a relation"))
        entity = self._entity("queries", given[:, 0])
        relation = _ids(
            type(self).__name__, "queries", given[:, 1], 2 * self.num_relations, "a relation or its inverse"
        )
        backward = given[:, 1] >= self.num_relations
        if not backward.any():
            return self._tails(entity, relation)
        if backward.all():
            return self._heads(relation - self.num_relations, entity)
        if self.reciprocal:
            return self._tails(entity, relation)
        order = np.argsort(backward, kind="stable")
        cut = len(given) - int(np.count_nonzero(backward))
        first, last = given[order[:cut]], given[order[cut:]]
        scores = ops.concat(
            [
                self._tails(ops.asarray(first[:, 0]), ops.asarray(first[:, 1])),
                self._heads(ops.asarray(last[:, 1] - self.num_relations), ops.asarray(last[:, 0])),
            ]
        )
        if (np.diff(order) == 1).all():
            return scores
        return scores[np.argsort(order)]

    def forward(self, ids: Any) -> Tensor:
        """`score` of the columns of ``(..., 3)``, `score_queries` of ``(n, 2)``."""
        given = as_tensor(ids)
        if given.ndim and given.shape[-1] == 3:
            return self.score(given[..., 0], given[..., 1], given[..., 2])
        return self.score_queries(given)

    def penalty(self, batch: QueryBatch, power: float = 3.0) -> Tensor:
        """The mean over triples of ``sum(|h|**power + |r|**power + |t|**power)``, of the rows that they use.

        With the power 3 that is N3, the nuclear 3-norm of a tensor's decomposition: of complex rows the moduli count
        (Lacroix, Usunier and Obozinski, 2018). With 2 it is the usual one. Angles have no size and are left out.

        Parameters
        ----------
        batch : QueryBatch
            The triples, as queries and answers.
        power : float
            At least 1.

        Returns
        -------
        Tensor
            A scalar, to be added to the loss, times a factor.
        """
        p = finite(type(self).__name__, "power", power)
        if p < 1:
            raise ValueError(message(type(self).__name__, "power", f"{p}", "a number of at least 1"))
        weight = ops.asarray(batch.counts.astype(self.entities.weight.dtype))
        relation = batch.queries[:, 1] if self.reciprocal else batch.queries[:, 1] % self.num_relations
        sizes = self._sizes(self.entities(batch.queries[:, 0]), self.is_complex, p)
        if not self.phases:
            sizes = sizes + self._sizes(self.relations(relation), self.is_complex, p)
        answers = self._sizes(self.entities(batch.answers), self.is_complex, p)
        return (ops.sum(sizes * weight) + ops.sum(answers)) / max(1, len(batch.answers))

    @staticmethod
    def _sizes(x: Tensor, is_complex: bool, power: float) -> Tensor:
        half = x.shape[-1] // 2
        size = ops.hypot(x[..., :half], x[..., half:]) if is_complex else ops.abs(x)
        return ops.sum(size * size * size if power == 3.0 else size**power, axis=-1)

    def _tails(self, h: Tensor, r: Tensor) -> Tensor:
        rows = self.dropout(self.entities(h)), self.dropout(self.relations(r))
        return self.against_tails(*rows, self.entities.weight)

    def _heads(self, r: Tensor, t: Tensor) -> Tensor:
        if self.reciprocal:
            return self._tails(t, r + self.num_relations)
        rows = self.dropout(self.relations(r)), self.dropout(self.entities(t))
        return self.against_heads(*rows, self.entities.weight)

    def _entity(self, name: str, given: Any) -> Tensor:
        return _ids(type(self).__name__, name, given, self.num_entities, "an entity")

    def _relation(self, name: str, given: Any) -> Tensor:
        return _ids(type(self).__name__, name, given, self.num_relations, "a relation")

    def _pair(self, first: str, a: Tensor, second: str, b: Tensor) -> tuple[Tensor, Tensor]:
        if a.ndim != 1:
            raise ShapeError(message(type(self).__name__, first, a, "one axis of ids"))
        if b.shape != a.shape:
            raise ShapeError(message(type(self).__name__, second, b, f"shape {a.shape}, that of {first}"))
        return a, b

    def extra_repr(self) -> str:
        """The sizes."""
        text = f"{self.num_entities} entities, {self.num_relations} relations, {self.features} features"
        return f"{text}, reciprocal=True" if self.reciprocal else text


def angles(t: Tensor) -> Tensor:
    """Fill with angles, from -pi to pi."""
    return init.uniform(t, -np.pi, np.pi)


def _ids(who: str, name: str, given: Any, count: int, what: str) -> Tensor:
    ids = as_tensor(given)
    if ids.dtype not in dtypes.INTEGER:
        raise DTypeError(message(who, name, ids, f"integers, each {what}"))
    array = ids.to("cpu").numpy()
    if array.size and (array.min() < 0 or array.max() >= count):
        wrong = array[(array < 0) | (array >= count)]
        raise IndexError(message(who, name, f"{int(wrong[0])}", f"{what} in [0, {count})"))
    return ops.astype(ids, dtypes.int64, copy=False)  # a narrow type may not hold the id of an inverse
