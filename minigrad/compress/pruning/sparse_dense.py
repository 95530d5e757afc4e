"""SparseDense: a fully connected layer that keeps and multiplies only the weights that are left."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad._core.cpu import Kernel
from minigrad.autograd import is_grad_enabled
from minigrad.backend.devices import to_numpy
from minigrad.compress.become import become
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.checks import as_tensor, number
from minigrad.nn.deferred import check_initialized
from minigrad.nn.dense import Dense
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = ["SparseDense", "sparsify"]

FASTER = 0.8  # from this sparsity on the kernel was faster than the dense layer for 32 rows and more: docs/pruning.md
kernel = Kernel("sparse", "linear")


class SparseDense(Module):
    """A `Dense` layer for inference whose zeros take neither memory nor time: ``y = activation(x @ weight + bias)``.

    The weights lie by their outputs, as compressed sparse rows of the transposed weight. float32 inputs are multiplied
    by a kernel of our own; anything else, and inputs that require grad, by the dense weight, made for the call. What
    is left out is not multiplied: a NaN or an infinity of the input that only meets zeros does not show in the output.

    Parameters
    ----------
    layer : Dense
        A layer with its shape; its zeros are left out, and the rest is copied, half weights as float32.

    Attributes
    ----------
    values : Tensor
        (weights,), buffers all of them: what is not 0, output by output.
    columns : Tensor
        (weights,), int32: the input of each.
    ends : Tensor
        (units + 1,), int32: where the weights of each output begin.
    bias : Tensor or None
        (units,).

    Raises
    ------
    TypeError
        If `layer` is no `Dense`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> layer = nn.Dense(2, in_features=3)
    >>> with mg.no_grad():
    ...     layer.weight[...] = [[0.0, 2.0], [0.0, 0.0], [3.0, 0.0]]
    >>> sparse = compress.SparseDense(layer)
    >>> sparse
    SparseDense(3 -> 2, 2 of 6 weights)
    >>> sparse(mg.tensor([[1.0, 10.0, 100.0]]))
    tensor([[300.,   2.]])
    """

    values: Tensor
    columns: Tensor
    ends: Tensor
    bias: Tensor | None

    def __init__(self, layer: Dense) -> None:
        given: Any = layer
        if not isinstance(given, Dense):
            raise TypeError(message("SparseDense", "layer", describe(given), "a Dense layer"))
        check_initialized("SparseDense", "weight", layer.weight)
        weight = to_numpy(layer.weight._array)
        if weight.dtype in dtypes.HALF:
            weight = weight.astype(np.float32)
        self.in_features, self.units = weight.shape
        self.activation = layer.activation
        table = np.ascontiguousarray(weight.T)
        outputs, columns = np.nonzero(table)
        ends = np.concatenate([[0], np.cumsum(np.bincount(outputs, minlength=self.units))])
        self.register_buffer("values", table[outputs, columns])
        self.register_buffer("columns", columns.astype(np.int32))
        self.register_buffer("ends", ends.astype(np.int32))
        bias = None if layer.bias is None else np.array(to_numpy(layer.bias._array), dtype=weight.dtype)
        self.register_buffer("bias", bias)
        self.training = layer.training

    @property
    def weight(self) -> Tensor:
        """The dense weight (in, out), made anew."""
        return ops.asarray(self._weight(), device=self.values.device)

    @property
    def sparsity(self) -> float:
        """The share of weights that are left out."""
        return 1.0 - self.values.size / float(max(self.in_features * self.units, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        x = as_tensor(x)
        if not x.ndim or x.shape[-1] != self.in_features:
            raise ShapeError(message("SparseDense", "x", x, f"{self.in_features} features on its last axis"))
        y = self._product(x)
        made: Tensor = y if self.activation is None else self.activation(y)
        return made

    project = forward  # what models whose head it is call, in place of multiplying by its weight

    def _product(self, x: Tensor) -> Tensor:
        if not (x.requires_grad and is_grad_enabled()) and x.dtype == dtypes.float32 and x.size and x.device == "cpu":
            array = np.ascontiguousarray(x._array).reshape(-1, self.in_features)
            bias = None if self.bias is None else self.bias._array
            made = kernel(array, self.values._array, self.columns._array, self.ends._array, bias)
            if made is not NotImplemented:
                product: Tensor = tape.new_tensor(made.reshape(*x.shape[:-1], self.units))
                return product
        product = ops.linear(x, self.weight, self.bias)
        return product

    def _weight(self) -> Any:
        """The dense weight (in, out)."""
        ends, columns = np.asarray(to_numpy(self.ends._array), np.int64), to_numpy(self.columns._array)
        counts, size = np.diff(ends), self.values.size
        inside = not size or (columns.min() >= 0 and columns.max() < self.in_features)
        if ends[0] != 0 or ends[-1] != size or (counts < 0).any() or not inside:
            got = "columns and ends that do not fit the values"
            raise ValueError(message("SparseDense", "the state", got, "those of a sparse matrix"))
        made = np.zeros((self.units, self.in_features), self.values.dtype)
        made[np.repeat(np.arange(self.units), counts), columns] = to_numpy(self.values._array)
        return np.ascontiguousarray(made.T)

    def to_dense(self) -> Dense:
        """The layer as a `Dense` again."""
        dtype = self.values.dtype
        made = Dense(self.units, self.activation, self.bias is not None, in_features=self.in_features, dtype=dtype)
        made.weight._array[...] = self._weight()
        if made.bias is not None and self.bias is not None:
            made.bias._array[...] = to_numpy(self.bias._array)
        return made.train(self.training)

    def extra_repr(self) -> str:
        """Features in and out, and the weights that are left."""
        return f"{self.in_features} -> {self.units}, {self.values.size:,} of {self.in_features * self.units:,} weights"


def sparsify(model: Module, above: float = FASTER) -> Module:
    """Turn every `Dense` of a model that has enough zeros into a `SparseDense`, for inference.

    Projections inside attention and feed-forward networks, and subclasses, stay as they are.

    Parameters
    ----------
    model : Module
        Changed in place, as `quantize` does it.
    above : float
        The share of zeros from which on a layer is exchanged. By default 0.8, where the kernel has been measured to be
        faster for batches of 32 rows and more; for one row it is about 0.93.

    Returns
    -------
    Module
        The model.

    Raises
    ------
    ValueError
        If `above` is no share.

    Examples
    --------
    >>> from minigrad import compress, nn
    >>> model = nn.Sequential([nn.Dense(64, "relu", in_features=64), nn.Dense(3, in_features=64)])
    >>> _ = compress.prune(model, 0.95, exclude="1", scope="layer")
    >>> compress.sparsify(model)
    Sequential(
      (0): SparseDense(64 -> 64, 205 of 4,096 weights)
      (1): Dense(64 -> 3)
    )
    """
    given: Any = model
    if not isinstance(given, Module):
        raise TypeError(message("sparsify", "model", describe(given), "a module"))
    if not 0.0 <= number("sparsify", "above", above) <= 1.0:
        raise ValueError(message("sparsify", "above", f"{above}", "a share from 0 to 1"))
    for layer in model.modules():
        if type(layer) is Dense and layer.weight.is_initialized and _zeros(layer) >= above:
            become(layer, SparseDense(layer))
    return model


def _zeros(layer: Dense) -> float:
    weight = to_numpy(layer.weight._array)
    return 1.0 - int(np.count_nonzero(weight)) / max(int(weight.size), 1)
