"""KnowledgeEmbedding: vectors of entities, added to those of the tokens that name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from minigrad import dtypes, ops
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.nn.checks import as_tensor, extent, integer
from minigrad.nn.embedding import Embedding
from minigrad.nn.module import Module
from minigrad.nn.projection import Projection
from minigrad.tensor import Tensor

__all__ = ["KnowledgeEmbedding"]

NAME = "KnowledgeEmbedding"


class KnowledgeEmbedding(Module):
    r"""Add to a token's vector that of the entity it names: ``x + project(entity)``, or ``x + gate * project(entity)``.

    The projection is linear and has no bias, and the gate is ``sigmoid(x @ W + project(entity) @ U + b)`` for each
    feature. A token without an entity stays exactly as it is. Vectors of a knowledge graph aligned to tokens:
    M. Peters et al., "Knowledge enhanced contextual word representations", 2019.

    Parameters
    ----------
    num_entities : int
        How many entities there are: 0 to ``num_entities - 1``.
    entity_features : int
        Features of an entity's vector.
    features : int
        Features of the tokens.
    gated : bool
        Whether there is a gate.
    padding_id : int, optional
        An id that stands for no entity, beside -1, which always does.
    embeddings_initializer : str or callable
        What fills the table of the entities.
    sparse : bool
        Whether the table's gradient keeps the rows that were used alone; see `minigrad.nn.Embedding`.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    entities : Embedding
        The table (num_entities, entity_features).
    projection, token_gate, entity_gate : Module
        The linear maps; without a gate the last two are None.

    Raises
    ------
    ShapeError
        If a size is not positive, or what comes does not fit.
    DTypeError
        When called with ids that are not integers.
    IndexError
        When called with an id that no entity has.
    ValueError
        If `padding_id` is no id.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.knowledge import KnowledgeEmbedding
    >>> layer = KnowledgeEmbedding(10, 4, 8, gated=True)
    >>> x = mg.ones((1, 3, 8))
    >>> y = layer(x, mg.tensor([[-1, 7, -1]]))
    >>> y.shape, (y == x).all(axis=-1).tolist()
    ((1, 3, 8), [[True, False, True]])
    """

    def __init__(
        self,
        num_entities: int,
        entity_features: int,
        features: int,
        *,
        gated: bool = False,
        padding_id: int | None = None,
        embeddings_initializer: str | Callable[..., Any] = "normal",
        sparse: bool = False,
        dtype: Any = None,
    ) -> None:
        given: dict[str, Any] = {"embeddings_initializer": embeddings_initializer, "sparse": sparse, "dtype": dtype}
        self._build(Embedding(num_entities, entity_features, **given), features, gated, padding_id, dtype)

    def _build(self, table: Embedding, features: int, gated: bool, padding_id: int | None, dtype: Any) -> None:
        self.features = extent(NAME, "features", features)
        self.padding_id = None if padding_id is None else integer(NAME, "padding_id", padding_id)
        if self.padding_id is not None and not 0 <= self.padding_id < table.num_embeddings:
            need = f"None or an id in [0, {table.num_embeddings})"
            raise ValueError(message(NAME, "padding_id", self.padding_id, need, "-1 stands for no entity too"))
        self.entities = table
        self.projection = Projection(table.features, self.features, False, dtype=dtype)
        self.token_gate = Projection(self.features, self.features, dtype=dtype) if gated else None
        self.entity_gate = Projection(self.features, self.features, False, dtype=dtype) if gated else None

    @classmethod
    def from_pretrained(
        cls,
        vectors: Any,
        features: int,
        *,
        freeze: bool = True,
        gated: bool = False,
        padding_id: int | None = None,
        sparse: bool = False,
        dtype: Any = None,
    ) -> Self:
        """Make a layer of vectors that are there, such as those of a knowledge graph.

        Parameters
        ----------
        vectors : array_like
            (num_entities, entity_features), copied.
        features : int
            Features of the tokens.
        freeze : bool
            Whether training leaves the vectors as they are; the projection learns all the same.
        gated, padding_id, sparse
            As for the class.
        dtype : dtype, optional
            Of the linear maps; that of the vectors by default.

        Examples
        --------
        >>> import minigrad as mg
        >>> from minigrad.knowledge import KnowledgeEmbedding
        >>> layer = KnowledgeEmbedding.from_pretrained(mg.random.normal((5, 4)), 8)
        >>> [name for name, p in layer.named_parameters() if p.requires_grad]
        ['projection.weight']
        """
        table = Embedding.from_pretrained(vectors, freeze=freeze, sparse=sparse)
        made = cls.__new__(cls)
        made._build(table, features, gated, padding_id, table.weight.dtype if dtype is None else dtype)
        return made

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Add the entities.

        Parameters
        ----------
        x : Tensor
            (batch, length, features), the vectors of the tokens.
        ids : Tensor
            (batch, length) integers: the entity of each token, -1 for none.

        Returns
        -------
        Tensor
            (batch, length, features).
        """
        x, ids = as_tensor(x), as_tensor(ids)
        if x.ndim != 3 or x.shape[2] != self.features:
            raise ShapeError(message(NAME, "x", x, f"shape (batch, length, {self.features})"))
        if ids.shape != x.shape[:2]:
            raise ShapeError(message(NAME, "ids", ids, f"shape {x.shape[:2]}, one for each token"))
        if ids.dtype not in dtypes.INTEGER:
            raise DTypeError(message(NAME, "ids", ids, "integers"))
        ids = ops.astype(ids, dtypes.int64, copy=False)  # unsigned integers have no -1
        there = ids != -1
        if self.padding_id is not None:
            there = there & (ids != self.padding_id)
        try:
            found = self.projection(self.entities(ops.where(there, ids, 0)))
        except IndexError:
            wrong = ids.to("cpu").numpy()
            got = f"{describe(ids)} with ids from {wrong.min()} to {wrong.max()}"
            need = f"-1 for none, or ids in [0, {self.entities.num_embeddings})"
            raise IndexError(message(NAME, "ids", got, need)) from None
        if self.token_gate is not None and self.entity_gate is not None:
            found = found * ops.sigmoid(self.token_gate(x) + self.entity_gate(found))
        return x + ops.where(there[..., None], found, 0.0)

    def extra_repr(self) -> str:
        """How the vectors come in."""
        return f"{self.features}, {'gated' if self.token_gate is not None else 'added'}"
