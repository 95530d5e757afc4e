"""The weights of attention, for those who want to see them."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from minigrad import dtypes
from minigrad._core import tape
from minigrad.errors import ShapeError, message
from minigrad.ops.attention import Window, _attention, four_axes, over_scores, products, read_window, scores
from minigrad.ops.conversion import as_operand, astype
from minigrad.ops.datatypes import result_type
from minigrad.ops.exponential import exp
from minigrad.ops.manipulation import expand_dims, reshape
from minigrad.ops.searching import where
from minigrad.ops.softmax import normalized_exp

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["attention_weights"]

NAME = "attention_weights"


def attention_weights(
    query: Tensor,
    key: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    is_causal: bool = False,
    window: Window | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """What `scaled_dot_product_attention` multiplies the values with: the softmax of the scores, before dropout.

    Parameters
    ----------
    query, key, mask, bias, is_causal, window, softcap, alibi_slopes, key_lengths, scale
        As for `scaled_dot_product_attention`.
    lse : Tensor, optional
        The log-sum-exps that it returned for the same arguments; they spare a pass over the scores.

    Returns
    -------
    Tensor
        (..., heads, queries, keys), all of it in memory. The row of a query that attends no key is 0.

    Raises
    ------
    ShapeError
        If the shapes do not fit.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.nn import functional as F
    >>> x = mg.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> mg.round(F.attention_weights(x, x, is_causal=True), 3)
    tensor([[1.  , 0.  ],
            [0.33, 0.67]])
    """
    xp: Any = sys.modules["minigrad.ops"]
    query, key = as_operand(NAME, "query", query), as_operand(NAME, "key", key)
    own, shared = query.shape[-3:-2] or (1,), key.shape[-3:-2] or (1,)
    if query.shape[:-3] != key.shape[:-3] or query.shape[-1] != key.shape[-1] or own[0] % max(shared[0], 1):
        raise ShapeError(message(NAME, "key", key, f"the axes of query {query.shape}, but for heads and length"))
    whole = (*query.shape[:-1], key.shape[-2])
    query, key, bias, alibi_slopes = _attention.autocast(query, key, bias, alibi_slopes)
    floats = [x for x in (query, key, bias, alibi_slopes) if x is not None]
    result = result_type(*floats)
    if result in dtypes.HALF:
        query, key = astype(query, dtypes.float32), astype(key, dtypes.float32)
    factor = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale
    with tape.AutocastMode(None):
        s = scores(
            xp,
            products(xp, four_axes(query) * factor, four_axes(key)),
            None if mask is None else over_scores("mask", mask, whole),
            None if bias is None else over_scores("bias", bias, whole),
            alibi_slopes,
            None if key_lengths is None else reshape(key_lengths, (math.prod(query.shape[:-3]),)),
            is_causal,
            read_window(window),
            softcap,
        )
        if lse is None:
            weights = normalized_exp(xp, s, -1)
        else:
            top = reshape(lse, s.shape[:-1])
            weights = exp(s - expand_dims(where(top == -math.inf, 0.0, top), axis=-1))
    return astype(reshape(weights, whole), result, copy=False)
