"""KBert: BERT over sentences with facts as branches."""

from __future__ import annotations

from typing import Any

from minigrad import dtypes, ops
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.models.bert import Bert
from minigrad.tensor import Tensor

__all__ = ["KBert"]


class KBert(Bert):
    """`Bert` with soft positions and a visible matrix; without them it is BERT, whose weights it loads.

    Information of a branch reaches the rest of the sentence through its entity alone, from the second layer on.
    W. Liu et al., "K-BERT: enabling language representation with knowledge graph", 2020.

    Parameters
    ----------
    config, pooler, dtype
        As for `Bert`.

    Examples
    --------
    >>> from minigrad.knowledge import KBert, pad_trees, sentence_tree
    >>> from minigrad.models import BertConfig
    >>> sizes = {"vocab_size": 20, "features": 8, "num_layers": 2, "num_heads": 2, "hidden_features": 16}
    >>> model = KBert(BertConfig(**sizes)).eval()
    >>> ids, positions, visible = pad_trees([sentence_tree([5, 6], [(0, 1, [8, 9])]), sentence_tree([7])])
    >>> model(ids, positions=positions, visible=visible).shape
    (2, 4, 8)
    """

    def forward(
        self,
        ids: Tensor,
        *,
        token_types: Tensor | None = None,
        lengths: Tensor | None = None,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Encode.

        Parameters
        ----------
        ids : Tensor
            (batch, length) integers.
        token_types : Tensor, optional
            (batch, length), the segment of each token; all 0 by default.
        lengths : Tensor, optional
            (batch,), how many tokens count; what `pad_trees` gave needs none.
        positions : Tensor, optional
            (batch, length) integers, the position of each token; 0, 1, 2, ... by default.
        visible : Tensor, optional
            (batch, 1, length, length) bools, True = attend.

        Returns
        -------
        Tensor
            (batch, length, features).

        Raises
        ------
        ShapeError
            If shapes do not fit, or a position is beyond those that the model learned.
        """
        ids = ops.asarray(ids)
        if ids.ndim != 2:
            raise ShapeError(message("KBert", "ids", ids, "shape (batch, length)"))
        kinds: Any = self.type_embedding.weight[0] if token_types is None else self.type_embedding(token_types)
        x = self.token_embedding(ids) + kinds
        if positions is None:
            x = self.position_embedding(x)
        else:
            x = x + self._at(ops.asarray(positions), ids.shape)
        if visible is not None:
            visible = ops.asarray(visible)
            need = (ids.shape[0], 1, ids.shape[1], ids.shape[1])
            if visible.shape != need:
                raise ShapeError(message("KBert", "visible", visible, f"shape {need}"))
        return self.encoder(self.dropout(self.norm(x)), mask=visible, key_lengths=lengths)  # type: ignore[no-any-return]

    def _at(self, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The vectors of positions."""
        if positions.shape != shape:
            raise ShapeError(message("KBert", "positions", positions, f"shape {shape}, one for each token"))
        if positions.dtype not in dtypes.INTEGER:
            raise DTypeError(message("KBert", "positions", positions, "integers"))
        values = positions.to("cpu").numpy()
        if values.size and not 0 <= values.min() <= values.max() < self.config.max_length:
            got = f"{positions.dtype} {shape} from {values.min()} to {values.max()}"
            raise ShapeError(message("KBert", "positions", got, f"positions in [0, {self.config.max_length})"))
        return ops.embedding(positions, self.position_embedding.weight)
