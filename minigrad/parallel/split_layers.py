"""Layers whose weights are split over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from minigrad import dtypes, ops
from minigrad.errors import ShapeError, message
from minigrad.nn.dense import Dense
from minigrad.nn.embedding import Embedding
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.parallel.arrays import is_here
from minigrad.parallel.communicator import Communicator, bounds
from minigrad.parallel.split_functions import copy_in, gather_out, part, slice_in, sum_out
from minigrad.parallel.start import init
from minigrad.tensor import Tensor

__all__ = ["ColumnDense", "RowDense", "VocabularyEmbedding", "split"]


def split(p: Parameter, communicator: Communicator, axis: int) -> Parameter:
    """The part that this rank has, along an axis, of the values of rank 0; what an optimizer reads goes with it."""
    if p.constraint is not None:
        need = "none: it may look at the whole weight, of which a rank has a part"
        raise ValueError(message("parallel", "constraint", p.constraint, need))
    if p.shape[axis] < communicator.size:
        need = f"at least {communicator.size}, one for each rank"
        raise ShapeError(message("parallel", f"axis {axis} of a weight of shape {p.shape}", f"{p.shape[axis]}", need))
    made = Parameter(part(communicator.broadcast(p._array), communicator, axis), p.requires_grad)
    made.regularizer = p.regularizer
    if p.mask is not None:
        made.mask = part(np.broadcast_to(np.asarray(p.mask), p.shape), communicator, axis)
    return made


def same(p: Parameter | None, communicator: Communicator) -> Parameter | None:
    """A parameter of all ranks, with the values that rank 0 has."""
    if p is not None:
        p._array[...] = communicator.broadcast(p._array)
    return p


class _SplitDense(Module):
    """What `ColumnDense` and `RowDense` share: both are made of a whole layer, of which they take a part."""

    splits: ClassVar[dict[str, int]]
    in_features: int
    units: int

    def __init__(
        self,
        units: int,
        activation: str | Callable[[Tensor], Any] | None = None,
        bias: bool = True,
        *,
        in_features: int,
        communicator: Communicator | None = None,
        **options: Any,
    ) -> None:
        whole = Dense(units, activation, bias, in_features=in_features, **options)
        self._take(whole, init() if communicator is None else communicator)

    @classmethod
    def of(cls, layer: Any, communicator: Communicator, **flags: bool) -> Self:
        """Make one of a `Dense`, whose values on rank 0 count."""
        made = cls.__new__(cls)
        made._take(layer, communicator)
        for name, value in flags.items():
            setattr(made, name, value)
        return made

    def _take(self, layer: Any, communicator: Communicator) -> None:
        self.communicator, self.activation = communicator, layer.activation
        self.in_features, self.units = layer.weight.shape
        self.weight = split(layer.weight, communicator, self.splits["weight"])
        bias = layer.bias
        if bias is not None:
            bias = split(bias, communicator, 0) if "bias" in self.splits else same(bias, communicator)
        self.bias: Parameter | None = bias

    @property
    def out_features(self) -> int:
        """Features of the whole output."""
        return self.units

    def extra_repr(self) -> str:
        """Features in and out of the whole layer, and the ranks."""
        return f"{self.in_features} -> {self.units}, rank {self.communicator.rank} of {self.communicator.size}"


class ColumnDense(_SplitDense):
    """A `Dense` whose units are split over ranks: ``y_r = activation(x @ weight[:, r] + bias[r])``.

    Every rank takes the same x and gives the features of its own units, which `RowDense` takes. M. Shoeybi et al.,
    "Megatron-LM", 2019.

    Parameters
    ----------
    units : int
        Features of the output, of all ranks together.
    activation, bias, in_features, **options
        As for `Dense`. The values at the start are those of rank 0.
    communicator : Communicator, optional
        The ranks; by default those of `init`.
    gather : bool
        Give the features of all ranks.

    Attributes
    ----------
    weight : Parameter
        (in, out of this rank).
    bias : Parameter or None
        (out of this rank,).

    Raises
    ------
    ShapeError
        If there are fewer units than ranks.
    ValueError
        If a parameter has a constraint.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import parallel
    >>> layer = parallel.ColumnDense(4, "relu", in_features=3)
    >>> layer(mg.ones((2, 3))).shape, layer
    ((2, 4), ColumnDense(3 -> 4, rank 0 of 1))
    """

    splits: ClassVar[dict[str, int]] = {"weight": 1, "bias": 0}
    copies = True  # False where what is around it has called `copy_in`
    gather = False

    def __init__(self, units: int, *args: Any, gather: bool = False, **options: Any) -> None:
        super().__init__(units, *args, **options)
        self.gather = gather

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        if self.copies:
            x = copy_in(ops.asarray(x), self.communicator)
        y = ops.linear(x, self.weight, self.bias)
        if self.activation is not None:
            y = self.activation(y)
        return gather_out(y, self.communicator) if self.gather else y


class RowDense(_SplitDense):
    """A `Dense` whose input is split over ranks: ``y = activation(sum(x_r @ weight[r] for all ranks r) + bias)``.

    Every rank takes its part of the features, as `ColumnDense` gives them, and gives the same y. M. Shoeybi et al.,
    "Megatron-LM", 2019.

    Parameters
    ----------
    units : int
        Features of the output.
    activation, bias, in_features, **options
        As for `Dense`; `in_features` are those of all ranks. The values at the start are those of rank 0.
    communicator : Communicator, optional
        The ranks; by default those of `init`.
    cut : bool
        Take all features, and cut out those of this rank.

    Attributes
    ----------
    weight : Parameter
        (in of this rank, out).
    bias : Parameter or None
        (out,).

    Raises
    ------
    ShapeError
        If there are fewer features than ranks.
    ValueError
        If a parameter has a constraint.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import parallel
    >>> parallel.RowDense(4, in_features=3)(mg.ones((2, 3))).shape
    (2, 4)
    """

    splits: ClassVar[dict[str, int]] = {"weight": 0}
    cut = False

    def __init__(self, units: int, *args: Any, cut: bool = False, **options: Any) -> None:
        super().__init__(units, *args, **options)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features of this rank)."""
        if self.cut:
            x = slice_in(ops.asarray(x), self.communicator)
        y = sum_out(ops.linear(x, self.weight), self.communicator)
        if self.bias is not None:
            y = y + self.bias
        made: Tensor = y if self.activation is None else self.activation(y)
        return made


class VocabularyEmbedding(Embedding):
    """An `Embedding` whose ids are split over ranks: a rank looks up those it has, and the vectors are added.

    Parameters
    ----------
    num_embeddings, features, padding_idx, **options
        As for `Embedding`. The values at the start are those of rank 0.
    communicator : Communicator, optional
        The ranks; by default those of `init`.

    Attributes
    ----------
    weight : Parameter
        (ids of this rank, features).

    Raises
    ------
    ShapeError
        If there are fewer ids than ranks.
    ValueError
        With `sparse`, or a constraint.
    IndexError
        When called with an id that is negative or has no row; on a GPU, which would have to be waited for, its vector
        is NaN then.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import parallel
    >>> parallel.VocabularyEmbedding(10, 3)(mg.tensor([4, 9])).shape
    (2, 3)
    """

    splits: ClassVar[dict[str, int]] = {"weight": 0}

    def __init__(
        self, num_embeddings: int, features: int, *, communicator: Communicator | None = None, **options: Any
    ) -> None:
        super().__init__(num_embeddings, features, **options)
        self._take(init() if communicator is None else communicator)

    def _take(self, communicator: Communicator) -> None:
        """Keep the part of this rank."""
        if self.sparse:
            raise ValueError(message("VocabularyEmbedding", "sparse", True, "False"))
        self.communicator, self._rows = communicator, self.weight.shape[0]
        self.weight = split(self.weight, communicator, 0)

    @property
    def num_embeddings(self) -> int:
        """How many ids there are, on all ranks."""
        return self._rows

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors of ids of any shape, along a last axis more."""
        ids = ops.asarray(ids)
        ids = ops.astype(ids, dtypes.int64) if ids.dtype in dtypes.INTEGER else ids
        known = (ids >= 0) & (ids < self._rows)
        if is_here(ids._array) and not known._array.all():
            wrong = ids._array[~known._array]
            raise IndexError(f"VocabularyEmbedding: ids holds {int(wrong[0])}, and there are {self._rows}")
        start = int(bounds(self._rows, self.communicator.size)[self.communicator.rank])
        own = ids - start
        inside = (own >= 0) & (own < len(self.weight))
        row = None if self.padding_idx is None else self.padding_idx - start
        row = row if row is not None and 0 <= row < len(self.weight) else None
        y = ops.embedding(ops.where(inside, own, 0), self.weight, padding_idx=row)
        y = ops.where(inside[..., None], y, 0.0)
        return sum_out(ops.where(known[..., None], y, math.nan), self.communicator)
