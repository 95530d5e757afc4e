"""QuantizedDense: the fully connected layer with an int8 weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.autograd import is_grad_enabled
from minigrad.compress.quantization import int8
from minigrad.errors import DeviceError, DTypeError, GradError, ShapeError, message
from minigrad.nn import activations
from minigrad.nn.checks import as_tensor, integer
from minigrad.nn.deferred import Buffer
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = [
    "QuantizedDense", "check_inference", "checked_bits", "constant", "like_input", "memory_of", "multiply", "operands",
    "rows_of",
]  # fmt: skip

NAME = "QuantizedDense"


class QuantizedDense(Module):
    """``y = activation(x @ weight + bias)`` with a weight of int8, for inference.

    Dynamic, each row of x is rounded to int8 too, with a scale of its own, and the product is one of integers:
    ``y = sums * scale[column] * row_scale[row] + bias``. The scales of rows and columns are the vector-wise ones of T.
    Dettmers et al., "LLM.int8()", 2022. Otherwise x stays as it is, and the weight becomes float32 in registers.

    `compress.quantize` makes these layers of those of a model.

    Parameters
    ----------
    weight : array_like
        (in, out), floating.
    bias : array_like, optional
        (out,), kept as float32.
    activation : str or callable, optional
        As for `nn.Dense`.
    per_channel : bool
        A scale for each output feature, or one for all.
    dynamic : bool
        Round the rows of x to integers.
    input_bits : int
        How many bits these have, 8 to 12. The kernels widen all factors to int16, so that more cost no time.

    Attributes
    ----------
    int8_weight : Tensor
        (in, out), int8.
    scale : Tensor
        (out,), or (1,) where there is one for all; float32, also after `Module.to`.
    bias : Tensor or None
        (out,), float32.

    Raises
    ------
    ShapeError
        If the weight is no matrix, has more than 132,104 input features (8,196 where `input_bits` is 12), or the bias
        or an x does not fit it.
    ValueError
        If the weight is not finite, or `input_bits` out of range.
    GradError
        When called in training mode, or with an x whose gradient is recorded.
    DeviceError
        When called on another device than the CPU.

    Notes
    -----
    The result has the dtype of x, and is computed in float32. Rows of x with NaN or inf give NaN where the layer is
    dynamic. Beside the weight lies a copy in the order in which the kernel reads it: 2 bytes a weight in memory, 1 in
    a file.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress
    >>> layer = compress.QuantizedDense([[1.0, 0.5], [-1.0, 0.25]], bias=[0.0, 1.0]).eval()
    >>> layer
    QuantizedDense(2 -> 2)
    >>> layer.int8_weight.tolist()
    [[127, 127], [-127, 64]]
    >>> mg.round(layer(mg.tensor([2.0, 1.0])), 2)
    tensor([0.99, 2.25])
    """

    int8_weight: Tensor
    scale: Tensor
    bias: Tensor | None
    _packed: tuple[Any, ...] | None = None

    def __init__(
        self,
        weight: Any,
        bias: Any = None,
        activation: str | Callable[[Tensor], Any] | None = None,
        *,
        per_channel: bool = True,
        dynamic: bool = True,
        input_bits: int = 8,
    ) -> None:
        values = memory_of(weight)
        self.dynamic, self.input_bits = bool(dynamic), checked_bits(NAME, input_bits)
        int8.check_inner(NAME, values, 2 ** (self.input_bits - 1) - 1)
        self.activation = activations.get(activation)
        quantized, scale = int8.quantize_array(values, axis=0 if per_channel else None)
        self.register_buffer("int8_weight", constant(quantized))
        self.register_buffer("scale", constant(scale.reshape(-1)))
        self.register_buffer("bias", None if bias is None else constant(memory_of(bias).astype(np.float32)))
        if self.bias is not None and self.bias.shape != values.shape[1:]:
            raise ShapeError(message(NAME, "bias", self.bias, f"shape {values.shape[1:]}"))

    @property
    def in_features(self) -> int:
        """Features of the input."""
        return self.int8_weight.shape[0]

    @property
    def units(self) -> int:
        """Features of the output."""
        return self.int8_weight.shape[1]

    @property
    def out_features(self) -> int:
        """Features of the output."""
        return self.int8_weight.shape[1]

    @property
    def weight(self) -> Tensor:
        """The weight (in, out) that the int8 one stands for, made anew in float32."""
        return ops.asarray(int8.dequantize_array(memory_of(self.int8_weight), memory_of(self.scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        x = as_tensor(x)
        check_inference(self, x)
        relu = self.activation is ops.relu
        y = multiply(self, rows_of(NAME, x, self.in_features), x.shape[:-1], relu)
        if self.activation is not None and not relu:
            y = self.activation(y)
        return like_input(y, x)

    project = forward  # what models whose head it is call, in place of multiplying by its weight

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_packed"}

    def extra_repr(self) -> str:
        """Features in and out, and what is not the default."""
        text = f"{self.in_features} -> {self.units}"
        if self.activation is not None and not isinstance(self.activation, Module):
            text += f", activation={getattr(self.activation, '__name__', 'a function')}"
        if self.bias is None:
            text += ", bias=False"
        if self.scale.size != self.units:
            text += ", per_channel=False"
        if not self.dynamic:
            return f"{text}, dynamic=False"
        return text if self.input_bits == 8 else f"{text}, input_bits={self.input_bits}"

    @classmethod
    def of(cls, layer: Any, **options: Any) -> Self:
        """Make one of a `Dense`, or of the projections inside other layers."""
        return cls(layer.weight, layer.bias, layer.activation, **options)


def operands(layer: Any, *, transposed: bool = False) -> tuple[Any, ...]:
    """The packed weight of a layer, its scale and its bias as arrays (out,); kept until one of them is changed."""
    tensors = (layer.int8_weight, layer.scale, getattr(layer, "bias", None))
    state = [None if t is None else (t._array, t._version.value if t._version else 0) for t in tensors]
    made = layer._packed
    if made is None or not all(map(_same, made[0], state)):
        weight = memory_of(layer.int8_weight).T if transposed else memory_of(layer.int8_weight)
        scale = np.ascontiguousarray(np.broadcast_to(memory_of(layer.scale), weight.shape[1:]))
        bias = None if tensors[2] is None else memory_of(tensors[2])
        made = layer._packed = (state, (int8.pack(weight, 2 if layer.dynamic else 1), scale, bias))
    return made[1]  # type: ignore[no-any-return]


def multiply(layer: Any, rows: Any, lead: tuple[int, ...], relu: bool = False, *, transposed: bool = False) -> Tensor:
    """Rows times the weight of a layer, and its bias, by its way of multiplying."""
    packed, scale, bias = operands(layer, transposed=transposed)
    if layer.dynamic:
        y = int8.dynamic_linear(rows, packed, scale, bias, relu, (1 << layer.input_bits - 1) - 1)
    else:
        y = int8.weight_only_linear(rows, packed, scale, bias, relu)
    return tape.new_tensor(y.reshape(*lead, len(scale)))  # type: ignore[no-any-return]


def like_input(y: Any, x: Tensor) -> Tensor:
    """A float32 result in the dtype of the input, where that is floating."""
    return y if x.dtype == y.dtype or x.dtype not in dtypes.FLOATING else y.astype(x.dtype)  # type: ignore[no-any-return]


def checked_bits(who: str, bits: Any) -> int:
    """The bits of integers that inputs are rounded to."""
    found = integer(who, "input_bits", bits)
    if not 8 <= found <= 12:
        raise ValueError(message(who, "input_bits", f"{found}", "an int from 8 to 12"))
    return found


def _same(a: Any, b: Any) -> bool:
    return a is b if a is None or b is None else a[0] is b[0] and a[1] == b[1]


def rows_of(who: str, x: Tensor, inner: int) -> Any:
    """The vectors of x (..., inner) as the rows of a float32 matrix in C order."""
    if not x.ndim or x.shape[-1] != inner:
        raise ShapeError(message(who, "x", x, f"{inner} features on its last axis"))
    if x.dtype in dtypes.COMPLEX:
        raise DTypeError(message(who, "x", x, "a real dtype"))
    array = x._array
    if type(array) is not np.ndarray or array.dtype != np.float32:
        array = memory_of(x.detach().astype(np.float32))
    return np.ascontiguousarray(array).reshape(-1, inner)


def constant(values: Any) -> Buffer:
    """A buffer that keeps its dtype."""
    made = Buffer(values)
    made.keeps_dtype = True
    return made


def memory_of(values: Any) -> Any:
    """What is array-like as an array of NumPy's."""
    t = as_tensor(values)
    if t.device != "cpu":
        need = "one on the CPU, where the kernels of int8 are"
        raise DeviceError(message(NAME, None, f"a tensor on {t.device}", need, 'Call to("cpu")'))
    return t.detach().numpy()


def check_inference(layer: Module, x: Tensor | None = None) -> None:
    """Raise where a layer without gradients is called to be trained."""
    name = type(layer).__name__
    if layer.training:
        hint = "Call eval() first; train the model before it is quantized"
        raise GradError(message(name, "training", "True", "evaluation mode, as int8 weights have no gradient", hint))
    if x is not None and x.requires_grad and is_grad_enabled():
        hint = "Call it under mg.no_grad(), or with x.detach()"
        raise GradError(
            message(name, "x", "a tensor that requires grad", "one without: rounding has no gradient", hint)
        )
