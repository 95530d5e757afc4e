"""TransE and TransH: a relation moves the head to the tail."""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.errors import message
from minigrad.knowledge.graphs.distances import manhattan, root, squares
from minigrad.knowledge.graphs.model import KnowledgeModel
from minigrad.nn import init
from minigrad.tensor import Tensor

__all__ = ["TransE", "TransH"]


def spread(t: Tensor) -> Tensor:
    """Fill from U(-6 / sqrt(d), 6 / sqrt(d)) (Bordes et al., 2013)."""
    bound = 6.0 / math.sqrt(t.shape[-1])
    return init.uniform(t, -bound, bound)


class TransE(KnowledgeModel):
    """A relation is a translation, ``score = -norm(h + r - t)``.

    Bordes et al., "Translating embeddings for modeling multi-relational data", 2013. The paper holds the entities to
    norm 1: ``entity_constraint=nn.UnitNorm(axis=1)``.

    Parameters
    ----------
    num_entities, num_relations, features : int
        See `KnowledgeModel`.
    p : int
        The norm: 1, the sum of absolute values, or 2, the Euclidean one. Against all entities the latter is a product
        of matrices; the former holds a block of differences at a time.
    **options
        Those of `KnowledgeModel`.

    Raises
    ------
    ValueError
        For another norm.

    Examples
    --------
    >>> from minigrad import knowledge
    >>> model = knowledge.TransE(2, 1, 2, p=1)
    >>> _ = model.load_state_dict({"entities.weight": [[0.0, 0.0], [1.0, 2.0]], "relations.weight": [[1.0, 1.0]]})
    >>> model.score_tails([0], [0]).tolist(), model.score(0, 0, 1).item()
    ([[-2.0, -1.0]], -1.0)
    """

    default = staticmethod(spread)

    def __init__(self, num_entities: int, num_relations: int, features: int, *, p: int = 2, **options: Any) -> None:
        if isinstance(p, bool) or p not in (1, 2):
            raise ValueError(message("TransE", "p", repr(p), "1 or 2"))
        self.p = int(p)
        super().__init__(num_entities, num_relations, features, **options)

    def interact(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """``-norm(h + r - t)``."""
        difference = h + r - t
        if self.p == 1:
            return -ops.sum(ops.abs(difference), axis=-1)
        return -root(ops.sum(difference * difference, axis=-1))

    def against_tails(self, h: Tensor, r: Tensor, table: Tensor) -> Tensor:
        """The distances of ``h + r``."""
        return self._far(h + r, table)

    def against_heads(self, r: Tensor, t: Tensor, table: Tensor) -> Tensor:
        """The distances of ``t - r``."""
        return self._far(t - r, table)

    def _far(self, q: Tensor, table: Tensor) -> Tensor:
        return -manhattan(q, table) if self.p == 1 else -root(squares(q, table))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}"


class TransH(KnowledgeModel):
    """A translation between projections on the hyperplane of the relation.

    ::

        score = -|h' + d - t'|**2        x' = x - (w . x) w,  |w| = 1

    So entities may differ along w and still agree for the relation: one head may have many tails. A relation's row is d
    and then w, which is scaled to norm 1 where it is used. Wang, Zhang, Feng and Chen, "Knowledge graph embedding by
    translating on hyperplanes", 2014; their soft constraint, that d lies in the hyperplane, is left to the data.

    Parameters
    ----------
    num_entities, num_relations, features : int
        See `KnowledgeModel`, which has the options too.

    Examples
    --------
    >>> from minigrad import knowledge
    >>> model = knowledge.TransH(2, 1, 2)
    >>> vectors = {"entities.weight": [[0.0, 5.0], [1.0, 7.0]], "relations.weight": [[1.0, 0.0, 0.0, 3.0]]}
    >>> _ = model.load_state_dict(vectors)
    >>> abs(model.score(0, 0, [0, 1])).tolist()
    [1.0, 0.0]
    """

    default = staticmethod(spread)

    def relation_features(self, features: int) -> int:
        """A translation and a normal."""
        return 2 * features

    def interact(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """``-|h' + d - t'|**2``."""
        d, w = parts(r)
        difference = project(h, w) + d - project(t, w)
        return -ops.sum(difference * difference, axis=-1)

    def against_tails(self, h: Tensor, r: Tensor, table: Tensor) -> Tensor:
        """The distances of ``h' + d``."""
        d, w = parts(r)
        return self._far(project(h, w) + d, w, table)

    def against_heads(self, r: Tensor, t: Tensor, table: Tensor) -> Tensor:
        """The distances of ``t' - d``."""
        d, w = parts(r)
        return self._far(project(t, w) - d, w, table)

    @staticmethod
    def _far(q: Tensor, w: Tensor, table: Tensor) -> Tensor:
        """``-|q - e'|**2`` of each e in the table: with a = w . e that is |q - e|**2 + 2 a (w . q) - a**2."""
        a = w @ table.mT
        return a * a - 2.0 * a * ops.sum(w * q, axis=-1, keepdims=True) - squares(q, table)


def parts(r: Tensor) -> tuple[Tensor, Tensor]:
    """The translation, and the normal scaled to norm 1."""
    k = r.shape[-1] // 2
    w = r[..., k:]
    return r[..., :k], w / root(ops.sum(w * w, axis=-1, keepdims=True))


def project(x: Tensor, w: Tensor) -> Tensor:
    """What of x lies in the hyperplane with the normal w."""
    return x - ops.sum(w * x, axis=-1, keepdims=True) * w
