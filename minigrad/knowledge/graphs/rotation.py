"""RotatE: a relation turns the head's complex numbers to those of the tail."""

from __future__ import annotations

from minigrad import ops
from minigrad.knowledge.graphs.bilinear import conjugate, times
from minigrad.knowledge.graphs.distances import moduli
from minigrad.knowledge.graphs.model import KnowledgeModel
from minigrad.tensor import Tensor

__all__ = ["RotatE"]


class RotatE(KnowledgeModel):
    """A relation is a rotation of each complex number, ``score = -sum(|h * r - t|)`` with ``|r| = 1``.

    The halves of an entity's row are real and imaginary parts, so `features` is even; a relation's row holds angles,
    half as many. Symmetric relations turn by 0 or pi, inverse ones by opposite angles, and angles of relations that
    follow one another add up. Sun, Deng, Nie and Tang, "RotatE: knowledge graph embedding by relational rotation in
    complex space", 2019.

    Parameters
    ----------
    num_entities, num_relations, features : int
        See `KnowledgeModel`, which has the options too.

    Examples
    --------
    >>> import math
    >>> import minigrad as mg
    >>> from minigrad import knowledge
    >>> model = knowledge.RotatE(2, 1, 2)
    >>> vectors = {"entities.weight": [[1.0, 0.0], [0.0, 2.0]], "relations.weight": [[math.pi / 2]]}
    >>> _ = model.load_state_dict(vectors)
    >>> mg.round(model.score_tails([0], [0]), 3).tolist()  # i, as far from 1 as the root of 2
    [[-1.4140000343322754, -1.0]]
    """

    is_complex = True
    phases = True

    def relation_features(self, features: int) -> int:
        """An angle for each complex number."""
        return features // 2

    def interact(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """``-sum(|h * r - t|)``."""
        difference = times(h, turns(r)) - t
        k = difference.shape[-1] // 2
        return -ops.sum(ops.hypot(difference[..., :k], difference[..., k:]), axis=-1)

    def against_tails(self, h: Tensor, r: Tensor, table: Tensor) -> Tensor:
        """The distances of ``h * r``."""
        return -moduli(times(h, turns(r)), table)

    def against_heads(self, r: Tensor, t: Tensor, table: Tensor) -> Tensor:
        """The distances of ``t * conj(r)``, which a rotation leaves as they are."""
        return -moduli(times(t, conjugate(turns(r))), table)


def turns(angles: Tensor) -> Tensor:
    """The complex numbers of modulus 1 with these angles."""
    return ops.concat([ops.cos(angles), ops.sin(angles)], axis=-1)
