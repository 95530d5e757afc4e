"""Embedding: the layer that gives each id a row of a table."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.nn import init
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

__all__ = ["Embedding"]


class Embedding(Module):
    """Rows of a table; see `minigrad.nn.functional.embedding`."""

    def __init__(self, num_embeddings: int, features: int, *, dtype: Any = None) -> None:
        self.weight = Parameter.deferred((num_embeddings, features), init.normal, dtype=dtype)
        self.weight.initialize((num_embeddings, features))

    def forward(self, ids: Tensor) -> Tensor:
        """Rows for ids of any shape."""
        return ops.embedding(ids, self.weight)
