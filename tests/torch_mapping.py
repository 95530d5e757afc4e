"""The ops that PyTorch's `op_db` and minigrad both have: the name there (``name/variant``), and the function here."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch_adapters as a

import minigrad as mg

LA = mg.linalg


class Match(NamedTuple):
    """The function of minigrad for an op of PyTorch, and how its results are compared.

    Attributes
    ----------
    call : callable
        Takes what PyTorch's function takes.
    prepare : callable, optional
        Applied to the input on both sides, where not every tensor is a valid one.
    gauge : callable, optional
        Applied to the outputs on both sides, where a result is determined only up to signs or bases.
    order : int
        The highest order of derivative that is compared.
    tolerance : float
        A relative tolerance for gradients, where it is not that of the dtype.
    because : str
        Why `order` or `tolerance` is what it is.
    """

    call: Callable[..., Any]
    prepare: Callable[..., Any] | None = None
    gauge: Callable[..., Any] | None = None
    order: int = 2
    tolerance: float = 0.0
    because: str = ""


def same(*names: str) -> dict[str, Callable[..., Any]]:
    """Functions that have one name and one meaning in both libraries."""
    return {name: getattr(mg, name) for name in names}


def variants(name: str, call: Callable[..., Any], *suffixes: str) -> dict[str, Callable[..., Any]]:
    return {f"{name}/{s}" if s else name: call for s in suffixes}


def nn(**calls: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {f"nn.functional.{name}": call for name, call in calls.items()}


ELEMENTWISE = {
    **same(
        "abs", "acos", "acosh", "angle", "asin", "asinh", "atan", "atanh", "ceil", "conj", "cos", "cosh", "erf", "exp", "exp2",
        "expm1", "floor", "imag", "isfinite", "isinf", "isnan", "log", "log10", "log1p", "log2", "logical_not", "positive", "real",
        "reciprocal", "rsqrt", "sigmoid", "sign", "signbit", "sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc",
        "atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift", "copysign", "floor_divide",
        "hypot", "logaddexp", "logical_and", "logical_or", "logical_xor", "maximum", "minimum", "nextafter", "pow", "remainder",
    ),
    "neg": mg.negative,
    "bitwise_not": mg.bitwise_invert,
    "conj_physical": mg.conj,
    "resolve_conj": mg.positive,
    "resolve_neg": mg.positive,
    "sgn": mg.sign,
    "round": mg.round,
    **variants("round", mg.round, "decimals_0", "decimals_3", "decimals_neg_3"),
    "add": a.scaled(mg.add),
    "sub": a.scaled(mg.subtract),
    "rsub": a.reversed_subtract,
    "mul": mg.multiply,
    "true_divide": mg.divide,
    **variants("div", a.divide, "no_rounding_mode", "trunc_rounding", "floor_rounding"),
    "float_power": a.float_power,
    "__radd__": lambda x, y: y + x,
    "__rsub__": lambda x, y: y - x,
    "__rmul__": lambda x, y: y * x,
    "__rdiv__": lambda x, y: y / x,
    "__rmod__": lambda x, y: y % x,
    "__rpow__": lambda x, y: y**x,
    "__rmatmul__": lambda x, y: y @ x,
    "__rand__": lambda x, y: y & x,
    "__ror__": lambda x, y: y | x,
    "__rxor__": lambda x, y: y ^ x,
    "eq": mg.equal,
    "ne": mg.not_equal,
    "lt": mg.less,
    "le": mg.less_equal,
    "gt": mg.greater,
    "ge": mg.greater_equal,
    "isclose": mg.isclose,
    "allclose": mg.allclose,
    "equal": mg.array_equal,
    "max/binary": mg.maximum,
    "min/binary": mg.minimum,
    "clamp": a.clamp,
    "clamp_min": mg.clip,
    "clamp_max": lambda x, top: mg.clip(x, None, top),
    "where": lambda x, condition, y: mg.where(condition, x, y),
    "masked_fill": a.masked_fill,
}  # fmt: skip

REDUCTIONS = {
    **{
        name: a.reduction(getattr(mg, name))
        for name in ("all", "any", "count_nonzero", "logsumexp", "mean", "prod", "sum")
    },
    "amax": a.reduction(mg.max),
    "amin": a.reduction(mg.min),
    **variants("max", a.extremum(mg.max, mg.argmax), "reduction_with_dim", "reduction_no_dim"),
    **variants("min", a.extremum(mg.min, mg.argmin), "reduction_with_dim", "reduction_no_dim"),
    "argmax": a.position(mg.argmax),
    "argmin": a.position(mg.argmin),
    **variants("var", a.spread(mg.var), "", "unbiased"),
    **variants("std", a.spread(mg.std), "", "unbiased"),
    **variants("var_mean", a.spread(mg.var, mg.mean), "", "unbiased"),
    **variants("std_mean", a.spread(mg.std, mg.mean), "", "unbiased"),
    "cumsum": a.running(mg.cumulative_sum),
    "cumprod": a.running(mg.cumulative_prod),
    "diff": a.diff,
    **variants("softmax", a.softmax(mg.softmax), "", "with_dtype"),
    **variants("log_softmax", a.softmax(mg.log_softmax), "", "with_dtype"),
    **variants("nn.functional.softmin", a.softmax(lambda x, axis: mg.softmax(-x, axis=axis)), "", "with_dtype"),
}

CREATION = {
    "arange": a.arange,
    **variants("linspace", a.linspace, "", "tensor_overload"),
    "eye": a.made(a.eye),
    "ones": a.made(mg.ones),
    "zeros": a.made(mg.zeros),
    "full": a.made(mg.full),
    "ones_like": a.made(mg.ones_like),
    "zeros_like": a.made(mg.zeros_like),
    "full_like": a.made(mg.full_like),
    "scalar_tensor": a.made(mg.tensor),
    "clone": a.made(mg.copy),
    "contiguous": a.made(mg.copy),
    **variants("meshgrid", a.meshgrid, "variadic_tensors", "list_of_tensors"),
    "to": a.to_any,
    "bool": a.to(mg.bool),
    "byte": a.to(mg.uint8),
    "char": a.to(mg.int8),
    "short": a.to(mg.int16),
    "int": a.to(mg.int32),
    "long": a.to(mg.int64),
    "half": a.to(mg.float16),
    "bfloat16": a.to(mg.bfloat16),
    "float": a.to(mg.float32),
    "double": a.to(mg.float64),
    "cfloat": a.to_complex(mg.complex64),
    "cdouble": a.to_complex(mg.complex128),
}

SHAPES = {
    **variants("reshape", a.reshape, ""),
    "view": a.reshape,
    "view_copy": a.reshape,
    "reshape_as": lambda x, like: mg.reshape(x, like.shape),
    "view_as": lambda x, like: mg.reshape(x, like.shape),
    "ravel": lambda x: mg.reshape(x, (-1,)),
    "flatten": a.flatten,
    "unflatten": a.unflatten,
    "expand": a.expand,
    "expand_copy": a.expand,
    "expand_as": lambda x, like: mg.broadcast_to(x, like.shape),
    "broadcast_to": mg.broadcast_to,
    "broadcast_tensors": mg.broadcast_arrays,
    "broadcast_shapes": mg.broadcast_shapes,
    "permute": mg.permute_dims,
    "permute_copy": mg.permute_dims,
    "movedim": mg.moveaxis,
    "transpose": a.transpose,
    "transpose_copy": a.transpose,
    "t": a.reversed_axes,
    "t_copy": a.reversed_axes,
    "T": a.reversed_axes,
    "H": a.reversed_axes,
    "mT": mg.matrix_transpose,
    "mH": mg.matrix_transpose,
    "squeeze": a.squeeze,
    "squeeze/multiple": a.squeeze,
    "squeeze_copy": a.squeeze,
    "unsqueeze": mg.expand_dims,
    "unsqueeze_copy": mg.expand_dims,
    "flip": a.flip,
    "fliplr": lambda x: mg.flip(x, axis=1),
    "flipud": lambda x: mg.flip(x, axis=0),
    "roll": a.roll,
    "tril": a.triangle(mg.tril),
    "triu": a.triangle(mg.triu),
    "cat": a.cat,
    "stack": lambda xs, dim=0: mg.stack(xs, axis=dim),
    "unbind": lambda x, dim=0: mg.unstack(x, axis=dim),
    "unbind_copy": lambda x, dim=0: mg.unstack(x, axis=dim),
    "chunk": mg.chunk,
    "unsafe_chunk": mg.chunk,
    **variants("split", a.split, "", "list_args"),
    "unsafe_split": a.split,
    "split_with_sizes": a.split,
    "split_with_sizes_copy": a.split,
    "tensor_split": a.tensor_split,
    "repeat": a.repeat,
    "tile": a.repeat,
    "repeat_interleave": a.repeat_interleave,
    "constant_pad_nd": a.pad_constant,
    **variants("nn.functional.pad", a.pad_constant, "constant"),
    **variants("nn.functional.pad", a.pad_mode, "reflect", "replicate", "replicate_negative", "circular"),
}

PLACES = {
    "__getitem__": operator.getitem,
    "narrow": a.narrow,
    "narrow_copy": a.narrow,
    "slice": a.cut,
    "select": a.select,
    "select_scatter": a.select_scatter,
    "slice_scatter": a.slice_scatter,
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: mg.diagonal(x, offset, dim1, dim2),
    "diagonal_copy": lambda x, offset=0, dim1=0, dim2=1: mg.diagonal(x, offset, dim1, dim2),
    "index_select": a.take,
    "take": a.take_flat,
    "take_along_dim": a.take_along_dim,
    "gather": a.gather,
    "scatter": a.scatter,
    "scatter_add": a.scatter_add,
    **variants("scatter_reduce", a.scatter_reduce, "sum"),
    "index_add": a.index_change("add"),
    "index_copy": a.index_change("set"),
    "index_fill": a.index_change("set"),
    **variants("index_reduce", a.index_reduce, "amin", "amax"),
    "index_put": a.index_put,
    "put": a.put,
    "masked_select": a.masked_select,
    "sort": a.sort,
    "msort": lambda x: a.along(mg.sort)(x, axis=0),
    "argsort": a.argsort,
    "topk": a.topk,
    "unique": a.unique,
    "searchsorted": a.searchsorted,
    "bucketize": lambda v, bounds, **kwargs: a.searchsorted(bounds, v, **kwargs),
    "nonzero": a.nonzero,
    "argwhere": a.nonzero,
}

LINEAR_ALGEBRA = {
    "matmul": mg.matmul,
    "mm": mg.matmul,
    "bmm": mg.matmul,
    "mv": mg.matmul,
    "dot": mg.matmul,
    "vdot": mg.vecdot,
    "outer": mg.outer,
    "inner": a.inner,
    "tensordot": a.tensordot,
    "einsum": a.einsum,
    "trace": LA.trace,
    "cross": a.cross,
    "linalg.cross": a.cross,
    "linalg.vecdot": lambda x, y, dim=-1: LA.vecdot(x, y, axis=dim),
    "linalg.diagonal": lambda x, offset=0, dim1=-2, dim2=-1: mg.diagonal(x, offset, dim1, dim2),
    "linalg.matrix_power": LA.matrix_power,
    "linalg.det": LA.det,
    "linalg.slogdet": LA.slogdet,
    "linalg.inv": LA.inv,
    "linalg.solve": a.solve,
    "linalg.matrix_rank": a.matrix_rank,
    "linalg.pinv": a.pinv,
    "linalg.pinv/singular": a.low_rank_pinv,
    "pinverse": a.pinv,
    "linalg.svdvals": a.svdvals,
    "linalg.vector_norm": a.vector_norm,
    "linalg.matrix_norm": a.matrix_norm,
    "linalg.norm": a.norm,
    **variants("norm", a.old_norm, "", "nuc", "fro", "inf"),
}

NETWORKS = {
    **nn(
        relu=mg.relu,
        leaky_relu=mg.leaky_relu,
        elu=mg.elu,
        selu=mg.selu,
        silu=mg.silu,
        mish=mg.mish,
        gelu=mg.gelu,
        hardswish=mg.hardswish,
        logsigmoid=mg.log_sigmoid,
        softplus=a.softplus,
        hardtanh=a.hardtanh,
        relu6=lambda x: mg.clip(x, 0.0, 6.0),
        linear=a.linear,
        layer_norm=a.layer_norm,
        rms_norm=a.rms_norm,
        batch_norm=a.batch_norm,
        embedding=a.embedding,
        one_hot=a.one_hot,
        dropout=a.dropout,
        cross_entropy=a.cross_entropy,
        nll_loss=a.nll_loss,
        mse_loss=a.loss(mg.mse_loss),
        l1_loss=a.loss(mg.l1_loss),
        huber_loss=a.loss(mg.huber_loss),
        smooth_l1_loss=a.smooth_l1_loss,
        kl_div=a.loss(mg.kl_div),
        binary_cross_entropy_with_logits=a.bce_with_logits,
    ),
}

SPECIAL = {
    "cholesky": Match(a.cholesky, prepare=a.symmetric),
    "linalg.cholesky": Match(a.cholesky, prepare=a.symmetric),
    "linalg.eigvalsh": Match(a.eigvalsh, prepare=a.symmetric),
    "linalg.matrix_rank/hermitian": Match(a.matrix_rank, prepare=a.symmetric),
    "linalg.pinv/hermitian": Match(a.pinv, prepare=a.symmetric),
    "linalg.eigh": Match(a.eigh, prepare=a.symmetric, gauge=a.eigen_gauge),
    "linalg.svd": Match(a.svd, gauge=a.singular_gauge),
    "svd": Match(a.svd, gauge=a.old_singular_gauge),
    "linalg.qr": Match(a.qr, gauge=a.complete_qr_gauge),
    "qr": Match(a.qr, gauge=a.complete_qr_gauge),
    "linalg.norm/subgradients_at_zero": Match(
        a.norm, order=1, because="PyTorch's second derivative of a norm at 0 is NaN, ours is 0"
    ),
    "nn.functional.hardsigmoid": Match(
        mg.hardsigmoid, tolerance=1e-7, because="PyTorch's derivative is 1/6 rounded to float32, in float64 too"
    ),
}

TABLES = (ELEMENTWISE, REDUCTIONS, CREATION, SHAPES, PLACES, LINEAR_ALGEBRA, NETWORKS)
MATCHES: dict[str, Match] = {name: Match(call) for table in TABLES for name, call in table.items()} | SPECIAL

# Of a name that minigrad has, but no result to compare.
ABSENT = {
    "item": "a Python number",
    "empty": "whatever is in memory",
    "empty_like": "whatever is in memory",
    "nn.functional.silu/complex": "complex numbers",
    "nn.functional.batch_norm/without_cudnn": "a GPU",
}
