"""Normalization layers whose statistics are those of each sample alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minigrad import dtypes, ops
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.nn import init
from minigrad.nn.checks import extent
from minigrad.nn.deferred import Deferred
from minigrad.nn.extent_ties import Tie
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

__all__ = ["GroupNorm", "InstanceNorm", "LayerNorm", "Normalization", "RMSNorm"]


class Normalization(Module):
    """Base of the normalization layers: their parameters, completed by the first batch where they are deferred.

    Attributes
    ----------
    weight, bias : Parameter or None
        Scale, from ones, and shift, from zeros.
    """

    weight: Parameter | None
    bias: Parameter | None
    _vectors: tuple[str, ...] = ("weight", "bias")  # what has the shape of the features
    _usual_eps = 1e-5

    def _setup(self, features: Any, eps: Any, *, weight: bool, bias: bool, dtype: Any) -> None:
        """Make the parameters; `features` is an extent, a sequence of them, or None."""
        who = type(self).__name__
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
            raise ValueError(message(who, "eps", eps, "a finite number of at least 0"))
        self.eps = float(eps)
        self._given: tuple[int, ...] | None = None
        if features is not None:
            several = isinstance(features, Sequence) and not isinstance(features, str)
            self._given = tuple(extent(who, "features", n) for n in (features if several else (features,)))
            if not self._given:
                raise ShapeError(message(who, "features", "()", "at least one extent"))
        shape = self._given or (None,)
        self.weight = Parameter.deferred(shape, init.ones, dtype=dtype) if weight else None
        self.bias = Parameter.deferred(shape, init.zeros, dtype=dtype) if bias else None
        self._complete(self._given)

    def _complete(self, shape: tuple[int, ...] | None) -> None:
        """Give the tensors that wait for it their shape, if it is known."""
        for name in self._vectors:
            t = getattr(self, name, None)
            if shape is not None and isinstance(t, Deferred) and not t.is_initialized:
                t.initialize(shape)

    def _ties(self) -> list[Tie]:
        """All vectors are as long as each other."""
        return [] if self._given is not None else [[(getattr(self, name), 0, 1) for name in self._vectors]]

    def _known(self) -> tuple[int, ...] | None:
        """The extents of the features, None until they are known."""
        for name in self._vectors:
            t = getattr(self, name, None)
            if t is not None and not (isinstance(t, Deferred) and not t.is_initialized):
                return tuple(t.shape)  # which load_state_dict may have given it
        return self._given

    @property
    def features(self) -> int | tuple[int, ...] | None:
        """How many features there are (of several axes: their extents), None until it is known."""
        shape = self._known()
        return None if shape is None else shape[0] if len(shape) == 1 else shape

    def _check(self, value: Any, axis: int) -> Tensor:
        """Make a tensor whose features, from `axis` on if negative, fit; the first completes what waits."""
        known, waiting, own = self._given, False, self.__dict__
        for name in self._vectors:
            t = own.get(name)
            if t is not None:
                if getattr(t, "_fill", None) is None:
                    known = t._array.shape
                else:
                    waiting = True
        x: Tensor = value if type(value) is Tensor else ops.asarray(value)
        shape = x.shape
        found = shape[axis:] if axis < 0 else shape[axis : axis + 1]
        if waiting or found != known or x.dtype.kind == "c":
            self._admit(x, axis, found)
        return x

    def _admit(self, x: Tensor, axis: int, found: tuple[int, ...]) -> None:
        """Complete what waits with the features of x, if they fit."""
        who, known = type(self).__name__, self._known()
        if not -x.ndim <= axis < x.ndim:
            raise ShapeError(message(who, "x", x, f"{_count(-axis if axis < 0 else axis + 1)} or more"))
        if x.dtype in dtypes.COMPLEX:
            raise DTypeError(message(who, "x", x, "real numbers"))
        if known is not None and found != known:
            raise ShapeError(message(who, "x", x, f"{_text(known)} features on axis {axis}"))
        if known is None and not found[0]:
            raise ShapeError(message(who, "x", x, f"features on axis {axis}, as their number is read from it"))
        self._complete(found)

    def extra_repr(self) -> str:
        """The features, and what is not the default."""
        known = self._known()
        text = "?" if known is None else _text(known)
        return text if self.eps == self._usual_eps else f"{text}, eps={self.eps:g}"


def _count(axes: int) -> str:
    return "1 axis" if axes == 1 else f"{axes} axes"


def _text(shape: tuple[int, ...]) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)


class LayerNorm(Normalization):
    """Bring the features of each element to mean 0 and variance 1: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016.

    Parameters
    ----------
    features : int or sequence of int, optional
        The extent of the last axis, or the extents of the last few. Left out, it is that of the last axis of the first
        batch, as with `Dense`.
    eps : float
        Added to the variance.
    affine : bool
        Whether there are a weight and a bias.
    bias : bool
        False leaves out the bias alone.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    weight, bias : Parameter or None
        Of the shape of the features.

    Raises
    ------
    ShapeError
        If an extent is not positive, or a batch has other features.
    DTypeError
        If the batch is complex.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.LayerNorm(eps=0.0)
    >>> mg.round(layer(mg.tensor([[1.0, 2.0, 3.0]])).detach(), 4)
    tensor([[-1.2247,  0.    ,  1.2247]])
    >>> layer
    LayerNorm(3, eps=0)
    """

    def __init__(
        self,
        features: int | Sequence[int] | None = None,
        eps: float = 1e-5,
        *,
        affine: bool = True,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        self._setup(features, eps, weight=affine, bias=affine and bias, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., *features)."""
        axes = 1 if self._given is None else len(self._given)
        x = self._check(x, -axes)
        return ops.layer_norm(x, self.weight, self.bias, self.eps, axis=tuple(range(-axes, 0)) if axes > 1 else -1)

    def extra_repr(self) -> str:
        """The features, and what is not the default."""
        return super().extra_repr() + (
            ", affine=False" if self.weight is None else ", bias=False" if self.bias is None else ""
        )


class RMSNorm(Normalization):
    """Bring the features of each element to mean square 1: ``x / sqrt(mean(x**2) + eps) * weight``.

    B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019.

    Parameters
    ----------
    features : int or sequence of int, optional
        As for `LayerNorm`.
    eps : float
        Added to the mean square.
    affine : bool
        Whether there is a weight.
    dtype : dtype, optional
        Of the weight; float32 by default.

    Attributes
    ----------
    weight : Parameter or None
        Of the shape of the features.

    Raises
    ------
    ShapeError
        If an extent is not positive, or a batch has other features.
    DTypeError
        If the batch is complex.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> mg.round(nn.RMSNorm(2)(mg.tensor([3.0, 4.0])).detach(), 4)
    tensor([0.8485, 1.1314])
    """

    _usual_eps = 1e-6

    def __init__(
        self,
        features: int | Sequence[int] | None = None,
        eps: float = 1e-6,
        *,
        affine: bool = True,
        dtype: Any = None,
    ) -> None:
        self._setup(features, eps, weight=affine, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., *features)."""
        axes = 1 if self._given is None else len(self._given)
        x = self._check(x, -axes)
        return ops.rms_norm(x, self.weight, self.eps, axis=tuple(range(-axes, 0)) if axes > 1 else -1)

    def extra_repr(self) -> str:
        """The features, and what is not the default."""
        return super().extra_repr() + (", affine=False" if self.weight is None else "")


class GroupNorm(Normalization):
    """Bring groups of channels to mean 0 and variance 1, for each sample alone; see `minigrad.group_norm`.

    Y. Wu, K. He, "Group normalization", 2018.

    Parameters
    ----------
    num_groups : int
        Into how many groups of neighbours the channels are divided.
    features : int, optional
        The number of channels. Left out, it is read from the first batch.
    eps : float
        Added to the variance.
    affine : bool
        Whether there are a weight and a bias.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    weight, bias : Parameter or None
        (channels,).

    Raises
    ------
    ShapeError
        If the groups do not divide the channels, or a batch has another number of channels.
    DTypeError
        If the batch is complex.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.GroupNorm(2)
    >>> layer(mg.ones((8, 6, 4, 4))).shape, layer
    ((8, 6, 4, 4), GroupNorm(2 groups of 6))
    """

    def __init__(
        self, num_groups: int, features: int | None = None, eps: float = 1e-5, *, affine: bool = True, dtype: Any = None
    ) -> None:
        self.num_groups = extent("GroupNorm", "num_groups", num_groups)
        if features is not None:
            self._check_groups(f"{features}", extent("GroupNorm", "features", features))
        self._setup(features, eps, weight=affine, bias=affine, dtype=dtype)

    def _check_groups(self, got: str, channels: int) -> None:
        if channels % self.num_groups:
            raise ShapeError(message("GroupNorm", "features", got, f"a multiple of num_groups, {self.num_groups}"))

    def _ties(self) -> list[Tie]:
        """All vectors are as long as each other, so many groups."""
        return [[(getattr(self, name), 0, self.num_groups) for name in self._vectors]]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (batch, channels, ...)."""
        if self._known() is None and getattr(x, "ndim", 0) > 1:
            self._check_groups(f"{x.shape[1]}, axis 1 of x", x.shape[1])
        return ops.group_norm(self._check(x, 1), self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Groups and channels, and what is not the default."""
        text = f"{self.num_groups} groups of {super().extra_repr()}"
        return text if self.weight is not None else f"{text}, affine=False"


class InstanceNorm(Normalization):
    """Bring each channel of each sample to mean 0 and variance 1: `GroupNorm` with a group for every channel.

    D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance normalization: the missing ingredient for fast stylization", 2016.

    Parameters
    ----------
    features, eps, dtype
        As for `GroupNorm`.
    affine : bool
        Whether there are a weight and a bias; as in PyTorch there are none by default.

    Attributes
    ----------
    weight, bias : Parameter or None
        (channels,).

    Raises
    ------
    ShapeError
        If a batch has another number of channels, or only one element a channel, which would become 0.
    DTypeError
        If the batch is complex.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.InstanceNorm(eps=0.0)(mg.tensor([[[1.0, 3.0], [0.0, 8.0]]]))
    tensor([[[-1.,  1.],
             [-1.,  1.]]])
    """

    def __init__(
        self, features: int | None = None, eps: float = 1e-5, *, affine: bool = False, dtype: Any = None
    ) -> None:
        self._setup(features, eps, weight=affine, bias=affine, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (batch, channels, ...)."""
        x = ops.asarray(x)
        if x.ndim < 3 or math.prod(x.shape[2:]) == 1:
            raise ShapeError(message("InstanceNorm", "x", x, "more than one element a channel, (N, C, ...)"))
        return ops.group_norm(self._check(x, 1), x.shape[1], self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The channels, and what is not the default."""
        return super().extra_repr() + (", affine=True" if self.weight is not None else "")
