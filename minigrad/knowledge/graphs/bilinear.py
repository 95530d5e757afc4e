"""DistMult and ComplEx: scores that are linear in head, relation and tail."""

from __future__ import annotations

from minigrad import ops
from minigrad.knowledge.graphs.model import KnowledgeModel
from minigrad.tensor import Tensor

__all__ = ["ComplEx", "DistMult"]


class DistMult(KnowledgeModel):
    """A diagonal bilinear form, ``score = sum(h * r * t)``: symmetric in head and tail.

    Yang et al., "Embedding entities and relations for learning and inference in knowledge bases", 2015.

    Parameters
    ----------
    num_entities, num_relations, features : int
        See `KnowledgeModel`, which has the options too.

    Examples
    --------
    >>> from minigrad import knowledge
    >>> model = knowledge.DistMult(3, 1, 2, initializer="ones")
    >>> model.score(0, 0, [1, 2]).tolist(), model.score_tails([0], [0]).shape
    ([2.0, 2.0], (1, 3))
    """

    def interact(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """``sum(h * r * t)``."""
        return ops.sum(h * r * t, axis=-1)

    def against_tails(self, h: Tensor, r: Tensor, table: Tensor) -> Tensor:
        """``(h * r) @ table.T``."""
        return (h * r) @ table.mT

    def against_heads(self, r: Tensor, t: Tensor, table: Tensor) -> Tensor:
        """The same, of (t, r)."""
        return (t * r) @ table.mT


class ComplEx(KnowledgeModel):
    """DistMult over the complex numbers, ``score = Re(sum(h * r * conj(t)))``: relations need not be symmetric.

    The halves of a row are the real and the imaginary parts, so `features` is even. Trouillon et al., "Complex
    embeddings for simple link prediction", 2016.

    Parameters
    ----------
    num_entities, num_relations, features : int
        See `KnowledgeModel`, which has the options too.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import knowledge
    >>> model = knowledge.ComplEx(2, 1, 2)
    >>> _ = model.load_state_dict({"entities.weight": [[1.0, 0.0], [0.0, 1.0]], "relations.weight": [[0.0, 1.0]]})
    >>> model.score([0, 1], 0, [1, 0]).tolist()
    [1.0, -1.0]
    """

    is_complex = True

    def interact(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """``Re(sum(h * r * conj(t)))``."""
        return ops.sum(times(h, r) * t, axis=-1)

    def against_tails(self, h: Tensor, r: Tensor, table: Tensor) -> Tensor:
        """``Re((h * r) @ conj(table).T)``, one product of real matrices."""
        return times(h, r) @ table.mT

    def against_heads(self, r: Tensor, t: Tensor, table: Tensor) -> Tensor:
        """``Re((t * conj(r)) @ conj(table).T)``."""
        return times(t, conjugate(r)) @ table.mT


def times(a: Tensor, b: Tensor) -> Tensor:
    """The product of complex rows, of which the first half is real and the second imaginary."""
    k = a.shape[-1] // 2
    x, y, u, v = a[..., :k], a[..., k:], b[..., :k], b[..., k:]
    return ops.concat([x * u - y * v, x * v + y * u], axis=-1)


def conjugate(a: Tensor) -> Tensor:
    """The conjugate of complex rows."""
    k = a.shape[-1] // 2
    return ops.concat([a[..., :k], -a[..., k:]], axis=-1)
