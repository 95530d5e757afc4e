"""RelativePositionBias: what T5 adds to the scores of attention, by how far a key lies from the query."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.nn import init
from minigrad.nn.checks import extent
from minigrad.nn.embedding import Embedding
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = ["RelativePositionBias", "buckets"]

Ints = np.ndarray[Any, Any]
NAME = "RelativePositionBias"


def buckets(distances: Ints, num_buckets: int, max_distance: int, bidirectional: bool) -> Ints:
    """In which bucket a distance from query to key falls, negative where the key lies before.

    Half of the buckets are one distance each: 0, 1, 2, ...; in the others distances up to `max_distance` are spread
    evenly by their logarithm, and the last takes all that are larger. Bidirectional, half of them all are for keys that
    lie ahead; otherwise such keys count as distance 0. C. Raffel et al., "Exploring the limits of transfer learning
    with a unified text-to-text transformer", 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.models.relative_positions import buckets
    >>> buckets(np.array([0, -1, -3, -9, -1000, 1]), 8, 16, bidirectional=False)
    array([0, 1, 3, 6, 7, 0])
    """
    first = np.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        first = np.where(distances > 0, num_buckets, 0)
        distances = np.abs(distances)
    else:
        distances = np.maximum(-distances, 0)
    single = num_buckets // 2
    # the logarithm of 0 is not used; float32, in which trained models drew the borders
    ratios = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(single))
    steps = ratios / np.float32(math.log(max_distance / single)) * np.float32(num_buckets - single)
    wide = np.minimum(single + steps.astype(np.int64), num_buckets - 1)
    return first + np.where(distances < single, distances, wide)


class RelativePositionBias(Module):
    """A learned number for each head and each bucket of distances, to add to the scores of attention.

    Parameters
    ----------
    num_heads : int
        The heads of attention.
    num_buckets : int
        How many numbers a head has, see `buckets`.
    max_distance : int
        Keys from there on share a bucket.
    bidirectional : bool
        Whether keys ahead have buckets of their own; not in a decoder, which sees none of them.
    dtype : dtype, optional
        Of the weight; float32 by default.

    Attributes
    ----------
    embedding : Embedding
        With a weight (num_buckets, num_heads).

    Raises
    ------
    ShapeError
        If there are too few buckets, or `max_distance` is not larger than the buckets of single distances.

    Examples
    --------
    >>> from minigrad.models.relative_positions import RelativePositionBias
    >>> RelativePositionBias(4)(5, 7).shape
    (1, 4, 5, 7)
    """

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        *,
        bidirectional: bool = True,
        dtype: Any = None,
    ) -> None:
        self.num_buckets = extent(NAME, "num_buckets", num_buckets)
        self.max_distance = extent(NAME, "max_distance", max_distance)
        self.bidirectional = bool(bidirectional)
        single = self.num_buckets // (4 if bidirectional else 2)
        if not single:
            raise ShapeError(message(NAME, "num_buckets", f"{num_buckets}", f"at least {4 if bidirectional else 2}"))
        if self.max_distance <= single:
            raise ShapeError(message(NAME, "max_distance", f"{max_distance}", f"more than {single}"))
        heads = extent(NAME, "num_heads", num_heads)
        self.embedding = Embedding(self.num_buckets, heads, embeddings_initializer=init.zeros, dtype=dtype)

    def forward(self, queries: int, keys: int, offset: int | Ints = 0) -> Tensor:
        """The bias of so many queries and keys.

        Parameters
        ----------
        queries, keys : int
            Their numbers. The keys are at positions 0, 1, ...
        offset : int or array of int
            The position of the first query, one for all or one for each sequence.

        Returns
        -------
        Tensor
            (1 or batch, heads, queries, keys).
        """
        places = np.reshape(offset, (-1, 1, 1)) + np.arange(queries)[:, None]
        found = buckets(np.arange(keys) - places, self.num_buckets, self.max_distance, self.bidirectional)
        index = ops.asarray(found, device=self.embedding.weight.device)
        return ops.permute_dims(self.embedding(index), (0, 3, 1, 2))

    def extra_repr(self) -> str:
        """Buckets and reach."""
        text = f"{self.num_buckets} buckets up to {self.max_distance}"
        return text if self.bidirectional else f"{text}, back only"
