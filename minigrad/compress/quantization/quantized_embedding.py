"""QuantizedEmbedding: a table of vectors in int8."""

from __future__ import annotations

from typing import Any, Self

from minigrad import ops
from minigrad.compress.quantization import int8
from minigrad.compress.quantization.quantized_dense import (
    check_inference,
    checked_bits,
    constant,
    like_input,
    memory_of,
    multiply,
    rows_of,
)
from minigrad.errors import ShapeError, message
from minigrad.nn.checks import as_tensor
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = ["QuantizedEmbedding"]

NAME = "QuantizedEmbedding"


class QuantizedEmbedding(Module):
    """Rows of a table of int8, ``int8_weight[ids] * scale[ids]``, for inference.

    `compress.quantize` makes these layers of those of a model.

    Parameters
    ----------
    weight : array_like
        (num_embeddings, features), floating.
    per_row : bool
        A scale for each row, or one for all.
    dynamic, input_bits : bool, int
        How `project` multiplies, as for `QuantizedDense`.

    Attributes
    ----------
    int8_weight : Tensor
        (num_embeddings, features), int8.
    scale : Tensor
        (num_embeddings,), or (1,) where there is one for all; float32.

    Raises
    ------
    ShapeError
        If the table is no matrix.
    ValueError
        If it is not finite.
    GradError
        When called in training mode.
    IndexError, DTypeError
        When called with ids that have no row, or are not integers.

    Notes
    -----
    Vectors have the dtype of the table, which `Module.to` changes.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress
    >>> layer = compress.QuantizedEmbedding([[0.0, 0.0], [1.0, 2.0], [-0.5, 0.25]]).eval()
    >>> layer, layer.int8_weight.tolist()
    (QuantizedEmbedding(3 -> 2), [[0, 0], [64, 127], [-127, 64]])
    >>> mg.round(layer(mg.tensor([2, 1])), 2).tolist()[1]
    [1.0099999904632568, 2.0]
    """

    int8_weight: Tensor
    scale: Tensor
    _like: Tensor
    _packed: tuple[Any, ...] | None = None

    def __init__(self, weight: Any, *, per_row: bool = True, dynamic: bool = True, input_bits: int = 8) -> None:
        values = memory_of(weight)
        if values.ndim != 2 or not values.size:
            raise ShapeError(message(NAME, "weight", values, "a matrix (num_embeddings, features) with elements"))
        self.dynamic, self.input_bits = bool(dynamic), checked_bits(NAME, input_bits)
        quantized, scale = int8.quantize_array(values, axis=1 if per_row else None)
        self.register_buffer("int8_weight", constant(quantized))
        self.register_buffer("scale", constant(scale.reshape(-1)))
        # `Module.to` casts it: the dtype of the vectors
        self.register_buffer("_like", ops.zeros((0,), dtype=values.dtype), persistent=False)

    @property
    def num_embeddings(self) -> int:
        """How many ids there are."""
        return self.int8_weight.shape[0]

    @property
    def features(self) -> int:
        """The length of a vector."""
        return self.int8_weight.shape[1]

    @property
    def weight(self) -> Tensor:
        """The table that the int8 one stands for, made anew."""
        scale = memory_of(self.scale)[:, None]
        return ops.asarray(int8.dequantize_array(memory_of(self.int8_weight), scale)).astype(self._like.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors of ids of any shape, along a last axis more."""
        check_inference(self)
        ids = ops.asarray(ids)
        rows = ops.embedding(ids, self.int8_weight).astype("float32")
        scale = self.scale if self.scale.size == 1 else ops.expand_dims(self.scale[ids], axis=-1)
        return (rows * scale).astype(self._like.dtype)

    def project(self, x: Tensor) -> Tensor:
        """``x @ table.T`` of x (..., features): the logits of a model that shares the table with its head."""
        x = as_tensor(x)
        check_inference(self, x)
        return like_input(multiply(self, rows_of(NAME, x, self.features), x.shape[:-1], transposed=True), x)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_packed"}

    def extra_repr(self) -> str:
        """The sizes, and what is not the default."""
        text = f"{self.num_embeddings} -> {self.features}"
        return text if self.scale.size == self.num_embeddings else f"{text}, per_row=False"

    @classmethod
    def of(cls, layer: Any, *, per_channel: bool = True, **options: Any) -> Self:
        """Make one of an `nn.Embedding`."""
        return cls(layer.weight, per_row=per_channel, **options)
