"""Batch normalization: statistics of the batch while training, running ones afterwards."""

from __future__ import annotations

import math
from typing import Any

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.errors import ShapeError, message
from minigrad.nn import init
from minigrad.nn.checks import integer
from minigrad.nn.deferred import Buffer
from minigrad.nn.normalization import Normalization
from minigrad.tensor import Tensor

__all__ = ["BatchNorm", "BatchNorm1D", "BatchNorm2D"]

_PLAIN = frozenset({dtypes.float32, dtypes.float64})  # what the array library computes in as it is


class BatchNorm(Normalization):
    """Bring each channel to mean 0 and variance 1 over the batch: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    While training mean and variance are those of the batch, and running averages of them are kept::

        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var  = (1 - momentum) * running_var  + momentum * var * n / (n - 1)

    n being the elements of a channel. In evaluation mode the running ones are used.

    S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015.

    Parameters
    ----------
    features : int, optional
        The number of channels. Left out, it is read from the first batch.
    eps : float
        Added to the variance.
    momentum : float or None
        The share of the newest batch, as in PyTorch (Keras counts the share of the old ones). None averages all batches
        alike.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        False keeps none, and uses the batch's in evaluation mode too.
    axis : int
        The axis of the channels; -1 where they come last.
    dtype : dtype, optional
        Of the parameters and the statistics; float32 by default.

    Attributes
    ----------
    weight, bias : Parameter or None
        (channels,).
    running_mean, running_var : Tensor or None
        Buffers, (channels,).
    num_batches_tracked : Tensor or None
        A buffer: how many batches there were.

    Raises
    ------
    ShapeError
        If a batch has another number of channels, other axes than the layer is for, or, while training, a single
        element a channel, whose variance tells nothing.
    DTypeError
        If the batch is complex.
    ValueError
        If `momentum` is no share.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.BatchNorm1D(momentum=0.5, affine=False)
    >>> layer(mg.tensor([[1.0], [3.0]])).tolist()
    [[-0.9999949932098389], [0.9999949932098389]]
    >>> layer.running_mean.tolist(), layer.running_var.tolist()
    ([1.0], [1.5])
    >>> layer
    BatchNorm1D(1, momentum=0.5, affine=False)
    """

    running_mean: Buffer | None
    running_var: Buffer | None
    num_batches_tracked: Buffer | None
    _vectors = ("weight", "bias", "running_mean", "running_var")
    _axes: tuple[int, ...] = ()  # how many axes x may have, empty for any number
    statistics: Any = None  # what finds those of the batch, where it is spread over processes: minigrad.parallel's

    def __init__(
        self,
        features: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        affine: bool = True,
        track_running_stats: bool = True,
        axis: int = 1,
        dtype: Any = None,
    ) -> None:
        who = type(self).__name__
        number = isinstance(momentum, (int, float)) and not isinstance(momentum, bool)
        if momentum is not None and not (number and 0 <= momentum <= 1):
            raise ValueError(message(who, "momentum", momentum, "a share, 0 <= momentum <= 1, or None"))
        self.momentum = momentum
        self.axis = integer(who, "axis", axis)
        self._setup(features, eps, weight=affine, bias=affine, dtype=dtype)
        shape = (None,)
        if track_running_stats:
            self.register_buffer("running_mean", Buffer.deferred(shape, init.zeros, dtype=dtype))
            self.register_buffer("running_var", Buffer.deferred(shape, init.ones, dtype=dtype))
            self.register_buffer("num_batches_tracked", Buffer(ops.zeros((), dtype=dtypes.int64)))
        else:
            self.running_mean = self.running_var = self.num_batches_tracked = None
        self._complete(self._given)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x, (batch, channels, ...) where `axis` is 1."""
        x = ops.asarray(x)
        who = type(self).__name__
        if self._axes and x.ndim not in self._axes:
            raise ShapeError(message(who, "x", x, f"{' or '.join(map(str, self._axes))} axes"))
        if x.ndim < 2 or not -x.ndim <= self.axis < x.ndim:
            raise ShapeError(message(who, "x", x, f"a batch, with channels on axis {self.axis}"))
        axis = self.axis % x.ndim
        mean, var = self.running_mean, self.running_var
        if self.training or mean is None or var is None:
            n = math.prod(x.shape) // max(x.shape[axis], 1)
            shared = self.statistics if self.training else None
            if shared is not None:
                n = shared.count(n)
            if self.training and n == 1:
                hint = "Leave out a last batch of one sample, or call eval()"
                raise ShapeError(message(who, "x", x, "more than one element a channel while training", hint))
            if not n and x.shape[axis]:
                raise ShapeError(message(who, "x", x, "a batch of at least one element"))
            x = self._check(x, axis)
            out: Tensor
            if shared is not None:
                out, batch_mean, batch_var = shared.normalize(x, self.weight, self.bias, self.eps, axis, n)
            else:
                out, batch_mean, batch_var = ops.batch_norm_training(x, self.weight, self.bias, self.eps, axis=axis)
            if self.training and mean is not None and var is not None:
                self._track(mean, var, batch_mean.detach(), batch_var.detach() * (n / (n - 1)))
            return out
        return ops.batch_norm(self._check(x, axis), mean, var, self.weight, self.bias, self.eps, axis=axis)

    def _track(self, mean: Buffer, var: Buffer, batch_mean: Tensor, batch_var: Tensor) -> None:
        """Move the running statistics, in place, towards those of the batch."""
        count = self.num_batches_tracked
        assert count is not None
        count._array += 1
        share = 1.0 / int(count) if self.momentum is None else self.momentum
        for running, new in ((mean, batch_mean), (var, batch_var)):
            if running.dtype in _PLAIN:
                running._array *= 1.0 - share
                running._array += new._array * share
            else:
                running._array[...] = (running * (1.0 - share) + new * share).astype(running.dtype)._array
        tape.mark_updated([mean, var, count], f"{type(self).__name__} while training")

    def extra_repr(self) -> str:
        """The channels, and what is not the default."""
        text = super().extra_repr()
        for name, value, usual in (
            ("momentum", self.momentum, 0.1),
            ("affine", self.weight is not None, True),
            ("track_running_stats", self.running_mean is not None, True),
            ("axis", self.axis, 1),
        ):
            text += "" if value == usual else f", {name}={value}"
        return text


class BatchNorm1D(BatchNorm):
    """`BatchNorm` of features, (batch, channels), or of sequences, (batch, channels, length)."""

    _axes = (2, 3)


class BatchNorm2D(BatchNorm):
    """`BatchNorm` of images, (batch, channels, height, width).

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> nn.BatchNorm2D()(mg.ones((8, 3, 4, 4))).shape
    (8, 3, 4, 4)
    """

    _axes = (4,)
