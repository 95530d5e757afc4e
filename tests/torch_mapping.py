"""The ops that PyTorch's `op_db` and minigrad both have: the name there (``name/variant``), and the function here."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch_adapters as adapters
import torch_matrices as matrices
import torch_places as places

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
        "abs", "acos", "acosh", "angle", "asin", "asinh", "atan", "atanh", "ceil", "conj", "cos", "cosh", "erf",
        "exp", "exp2", "expm1", "floor", "imag", "isfinite", "isinf", "isnan", "log", "log10", "log1p", "log2",
        "logical_not", "positive", "real", "reciprocal", "rsqrt", "sigmoid", "sign", "signbit", "sin", "sinh", "sqrt",
        "square", "tan", "tanh", "trunc", "atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift",
        "bitwise_right_shift", "copysign", "floor_divide", "hypot", "logaddexp", "logical_and", "logical_or",
        "logical_xor", "maximum", "minimum", "nextafter", "pow", "remainder",
    ),
    "neg": mg.negative,
    "bitwise_not": mg.bitwise_invert,
    "conj_physical": mg.conj,
    "resolve_conj": mg.positive,
    "resolve_neg": mg.positive,
    "sgn": mg.sign,
    "round": mg.round,
    **variants("round", mg.round, "decimals_0", "decimals_3", "decimals_neg_3"),
    "add": adapters.scaled(mg.add),
    "sub": adapters.scaled(mg.subtract),
    "rsub": adapters.reversed_subtract,
    "mul": mg.multiply,
    "true_divide": mg.divide,
    **variants("div", adapters.divide, "no_rounding_mode", "trunc_rounding", "floor_rounding"),
    "float_power": adapters.float_power,
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
    "clamp": matrices.clamp,
    "clamp_min": mg.clip,
    "clamp_max": lambda x, top: mg.clip(x, None, top),
    "where": lambda x, condition, y: mg.where(condition, x, y),
    "masked_fill": matrices.masked_fill,
}  # fmt: skip

REDUCTIONS = {
    **{
        name: adapters.reduction(getattr(mg, name))
        for name in ("all", "any", "count_nonzero", "logsumexp", "mean", "prod", "sum")
    },
    "amax": adapters.reduction(mg.max),
    "amin": adapters.reduction(mg.min),
    **variants("max", adapters.extremum(mg.max, mg.argmax), "reduction_with_dim", "reduction_no_dim"),
    **variants("min", adapters.extremum(mg.min, mg.argmin), "reduction_with_dim", "reduction_no_dim"),
    "argmax": adapters.position(mg.argmax),
    "argmin": adapters.position(mg.argmin),
    **variants("var", adapters.spread(mg.var), "", "unbiased"),
    **variants("std", adapters.spread(mg.std), "", "unbiased"),
    **variants("var_mean", adapters.spread(mg.var, mg.mean), "", "unbiased"),
    **variants("std_mean", adapters.spread(mg.std, mg.mean), "", "unbiased"),
    "cumsum": adapters.running(mg.cumulative_sum),
    "cumprod": adapters.running(mg.cumulative_prod),
    "diff": adapters.diff,
    **variants("softmax", adapters.softmax(mg.softmax), "", "with_dtype"),
    **variants("log_softmax", adapters.softmax(mg.log_softmax), "", "with_dtype"),
    **variants("nn.functional.softmin", adapters.softmax(lambda x, axis: mg.softmax(-x, axis=axis)), "", "with_dtype"),
}

CREATION = {
    "arange": adapters.arange,
    **variants("linspace", adapters.linspace, "", "tensor_overload"),
    "eye": adapters.made(adapters.eye),
    "ones": adapters.made(mg.ones),
    "zeros": adapters.made(mg.zeros),
    "full": adapters.made(mg.full),
    "ones_like": adapters.made(mg.ones_like),
    "zeros_like": adapters.made(mg.zeros_like),
    "full_like": adapters.made(mg.full_like),
    "scalar_tensor": adapters.made(mg.tensor),
    "clone": adapters.made(mg.copy),
    "contiguous": adapters.made(mg.copy),
    **variants("meshgrid", adapters.meshgrid, "variadic_tensors", "list_of_tensors"),
    "to": adapters.to_any,
    "bool": adapters.to(mg.bool),
    "byte": adapters.to(mg.uint8),
    "char": adapters.to(mg.int8),
    "short": adapters.to(mg.int16),
    "int": adapters.to(mg.int32),
    "long": adapters.to(mg.int64),
    "half": adapters.to(mg.float16),
    "bfloat16": adapters.to(mg.bfloat16),
    "float": adapters.to(mg.float32),
    "double": adapters.to(mg.float64),
    "cfloat": adapters.to_complex(mg.complex64),
    "cdouble": adapters.to_complex(mg.complex128),
}

SHAPES = {
    **variants("reshape", places.reshape, ""),
    "view": places.reshape,
    "view_copy": places.reshape,
    "reshape_as": lambda x, like: mg.reshape(x, like.shape),
    "view_as": lambda x, like: mg.reshape(x, like.shape),
    "ravel": lambda x: mg.reshape(x, (-1,)),
    "flatten": places.flatten,
    "unflatten": places.unflatten,
    "expand": places.expand,
    "expand_copy": places.expand,
    "expand_as": lambda x, like: mg.broadcast_to(x, like.shape),
    "broadcast_to": mg.broadcast_to,
    "broadcast_tensors": mg.broadcast_arrays,
    "broadcast_shapes": mg.broadcast_shapes,
    "permute": mg.permute_dims,
    "permute_copy": mg.permute_dims,
    "movedim": mg.moveaxis,
    "transpose": places.transpose,
    "transpose_copy": places.transpose,
    "t": places.reversed_axes,
    "t_copy": places.reversed_axes,
    "T": places.reversed_axes,
    "H": places.reversed_axes,
    "mT": mg.matrix_transpose,
    "mH": mg.matrix_transpose,
    "squeeze": places.squeeze,
    "squeeze/multiple": places.squeeze,
    "squeeze_copy": places.squeeze,
    "unsqueeze": mg.expand_dims,
    "unsqueeze_copy": mg.expand_dims,
    "flip": places.flip,
    "fliplr": lambda x: mg.flip(x, axis=1),
    "flipud": lambda x: mg.flip(x, axis=0),
    "roll": places.roll,
    "tril": places.triangle(mg.tril),
    "triu": places.triangle(mg.triu),
    "cat": places.cat,
    "stack": lambda xs, dim=0: mg.stack(xs, axis=dim),
    "unbind": lambda x, dim=0: mg.unstack(x, axis=dim),
    "unbind_copy": lambda x, dim=0: mg.unstack(x, axis=dim),
    "chunk": mg.chunk,
    "unsafe_chunk": mg.chunk,
    **variants("split", places.split, "", "list_args"),
    "unsafe_split": places.split,
    "split_with_sizes": places.split,
    "split_with_sizes_copy": places.split,
    "tensor_split": places.tensor_split,
    "repeat": places.repeat,
    "tile": places.repeat,
    "repeat_interleave": places.repeat_interleave,
    "constant_pad_nd": places.pad_constant,
    **variants("nn.functional.pad", places.pad_constant, "constant"),
    **variants("nn.functional.pad", places.pad_mode, "reflect", "replicate", "replicate_negative", "circular"),
}

PLACES = {
    "__getitem__": operator.getitem,
    "narrow": places.narrow,
    "narrow_copy": places.narrow,
    "slice": places.cut,
    "select": places.select,
    "select_scatter": places.select_scatter,
    "slice_scatter": places.slice_scatter,
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: mg.diagonal(x, offset, dim1, dim2),
    "diagonal_copy": lambda x, offset=0, dim1=0, dim2=1: mg.diagonal(x, offset, dim1, dim2),
    "index_select": places.take,
    "take": places.take_flat,
    "take_along_dim": places.take_along_dim,
    "gather": places.gather,
    "scatter": places.scatter,
    "scatter_add": places.scatter_add,
    **variants("scatter_reduce", places.scatter_reduce, "sum"),
    "index_add": places.index_change("add"),
    "index_copy": places.index_change("set"),
    "index_fill": places.index_change("set"),
    **variants("index_reduce", places.index_reduce, "amin", "amax"),
    "index_put": places.index_put,
    "put": places.put,
    "masked_select": places.masked_select,
    "sort": places.sort,
    "msort": lambda x: adapters.along(mg.sort)(x, axis=0),
    "argsort": places.argsort,
    "topk": places.topk,
    "unique": places.unique,
    "searchsorted": places.searchsorted,
    "bucketize": lambda v, bounds, **kwargs: places.searchsorted(bounds, v, **kwargs),
    "nonzero": places.nonzero,
    "argwhere": places.nonzero,
}

LINEAR_ALGEBRA = {
    "matmul": mg.matmul,
    "mm": mg.matmul,
    "bmm": mg.matmul,
    "mv": mg.matmul,
    "dot": mg.matmul,
    "vdot": mg.vecdot,
    "outer": mg.outer,
    "inner": matrices.inner,
    "tensordot": matrices.tensordot,
    "einsum": matrices.einsum,
    "trace": LA.trace,
    "cross": matrices.cross,
    "linalg.cross": matrices.cross,
    "linalg.vecdot": lambda x, y, dim=-1: LA.vecdot(x, y, axis=dim),
    "linalg.diagonal": lambda x, offset=0, dim1=-2, dim2=-1: mg.diagonal(x, offset, dim1, dim2),
    "linalg.matrix_power": LA.matrix_power,
    "linalg.det": LA.det,
    "linalg.slogdet": LA.slogdet,
    "linalg.inv": LA.inv,
    "linalg.solve": matrices.solve,
    "linalg.matrix_rank": matrices.matrix_rank,
    "linalg.pinv": matrices.pinv,
    "linalg.pinv/singular": matrices.low_rank_pinv,
    "pinverse": matrices.pinv,
    "linalg.svdvals": matrices.svdvals,
    "linalg.vector_norm": matrices.vector_norm,
    "linalg.matrix_norm": matrices.matrix_norm,
    "linalg.norm": matrices.norm,
    **variants("norm", matrices.old_norm, "", "nuc", "fro", "inf"),
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
        softplus=matrices.softplus,
        hardtanh=matrices.hardtanh,
        relu6=lambda x: mg.clip(x, 0.0, 6.0),
        linear=matrices.linear,
        layer_norm=matrices.layer_norm,
        rms_norm=matrices.rms_norm,
        group_norm=mg.group_norm,
        batch_norm=matrices.batch_norm,
        embedding=matrices.embedding,
        one_hot=matrices.one_hot,
        dropout=matrices.dropout,
        cross_entropy=matrices.cross_entropy,
        nll_loss=matrices.nll_loss,
        mse_loss=matrices.loss(mg.mse_loss),
        l1_loss=matrices.loss(mg.l1_loss),
        huber_loss=matrices.loss(mg.huber_loss),
        smooth_l1_loss=matrices.smooth_l1_loss,
        kl_div=matrices.loss(mg.kl_div),
        binary_cross_entropy_with_logits=matrices.bce_with_logits,
    ),
}

SPECIAL = {
    "cholesky": Match(matrices.cholesky, prepare=matrices.symmetric),
    "linalg.cholesky": Match(matrices.cholesky, prepare=matrices.symmetric),
    "linalg.eigvalsh": Match(matrices.eigvalsh, prepare=matrices.symmetric),
    "linalg.matrix_rank/hermitian": Match(matrices.matrix_rank, prepare=matrices.symmetric),
    "linalg.pinv/hermitian": Match(matrices.pinv, prepare=matrices.symmetric),
    "linalg.eigh": Match(matrices.eigh, prepare=matrices.symmetric, gauge=matrices.eigen_gauge),
    "linalg.svd": Match(matrices.svd, gauge=matrices.singular_gauge),
    "svd": Match(matrices.svd, gauge=matrices.old_singular_gauge),
    "linalg.qr": Match(matrices.qr, gauge=matrices.complete_qr_gauge),
    "qr": Match(matrices.qr, gauge=matrices.complete_qr_gauge),
    "linalg.norm/subgradients_at_zero": Match(
        matrices.norm, order=1, because="PyTorch's second derivative of a norm at 0 is NaN, ours is 0"
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
    "nn.functional.scaled_dot_product_attention": "other arguments, and another alignment of the causal mask",
    "nn.functional.linear_cross_entropy": "other arguments",
    "nn.functional.linear_cross_entropy/chunked": "other arguments",
    "nn.functional.linear_cross_entropy/chunked_none": "other arguments",
    **{
        f"nn.functional.{name}": f"options of its own; see tests/test_torch_{where}.py"
        for where, names in {
            "convolution": (
                "adaptive_avg_pool1d adaptive_avg_pool2d avg_pool1d avg_pool2d conv1d conv2d conv_transpose1d "
                "conv_transpose2d max_pool1d max_pool2d"
            ),
            "losses": ("binary_cross_entropy cosine_embedding_loss ctc_loss margin_ranking_loss triplet_margin_loss"),
        }.items()
        for name in names.split()
    },
}
