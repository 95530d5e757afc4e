"""MultiHeadAttention: queries that read from keys and values, in several heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad.autograd import no_grad
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.checks import as_tensor, extent, finite, number
from minigrad.nn.extent_ties import Tie
from minigrad.nn.kv_cache import KVCache
from minigrad.nn.module import Module
from minigrad.nn.normalization import RMSNorm
from minigrad.nn.positions import RotaryPositions, alibi_slopes
from minigrad.nn.projection import Projection, are_complete, known_extent, made_norm, weight_of
from minigrad.ops.attention import Window, read_positive, read_window
from minigrad.tensor import Tensor

__all__ = ["MultiHeadAttention"]

NAME = "MultiHeadAttention"


class MultiHeadAttention(Module):
    """Attention in several heads: ``output(attention(query(x), key(y), value(y)))``.

    Every head projects its queries, keys and values, and `scaled_dot_product_attention` computes all of them without
    holding the scores. A. Vaswani et al., "Attention is all you need", 2017; heads that share keys and values:
    N. Shazeer, 2019, and J. Ainslie et al., "GQA", 2023.

    Parameters
    ----------
    num_heads : int
        The heads of the queries.
    features : int, optional
        Features of the queries and of the output. Left out, they are read from the first batch, as `Dense` does.
    num_kv_heads : int, optional
        The heads of keys and values, a divisor of `num_heads`: 1 is multi-query attention. By default `num_heads`.
    head_dim : int, optional
        Features of a head; by default ``features / num_heads``.
    value_dim : int, optional
        Features of a head's values; by default `head_dim`.
    key_features, value_features : int, optional
        Features of the keys and values that are given; by default `features` and `key_features`, or read from the
        first batch.
    dropout : float
        The probability that a weight is dropped while training, 0 <= dropout < 1.
    bias, output_bias : bool
        Whether query, key and value have a bias, and whether the output has; `output_bias` is as `bias` by default.
    window : tuple of int or None, optional
        How many keys before and after its place a query attends; None for no bound.
    softcap : float, optional
        Bounds the scaled products to ±softcap.
    scale : float, optional
        What the products are multiplied with; by default ``1 / sqrt(head_dim)``. T5 has 1.
    alibi : bool
        Lower the scores with the distance, by the slopes of `alibi_slopes`.
    rotary : bool or RotaryPositions
        Turn queries and keys by their positions; self-attention only.
    qk_norm : bool
        Normalize the queries and keys of each head (RMSNorm), which bounds the scores. A. Henry et al., 2020.
    kernel_initializer : str or callable
        What fills the four weights.
    dtype : dtype, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    query, key, value, output : Module
        The projections, each with a `weight` (in, out) and a `bias`. A head's features lie together.

    Raises
    ------
    ShapeError
        If the numbers of heads and features do not fit together.
    ValueError
        If another option is out of range.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> layer = nn.MultiHeadAttention(4, 16, num_kv_heads=2)
    >>> x = mg.random.normal((2, 5, 16))
    >>> layer(x, is_causal=True).shape
    (2, 5, 16)
    >>> out, weights = layer(x, mg.ones((2, 7, 16)), key_lengths=mg.tensor([7, 3]), need_weights=True)
    >>> weights.shape, mg.round(weights[1, 0, 0], 2).tolist()[2:4]
    ((2, 4, 5, 7), [0.33000001311302185, 0.0])
    >>> [(name, p.shape) for name, p in layer.named_parameters()][2:4]
    [('key.weight', (16, 8)), ('key.bias', (8,))]
    """

    def __init__(
        self,
        num_heads: int,
        features: int | None = None,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        value_dim: int | None = None,
        key_features: int | None = None,
        value_features: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        output_bias: bool | None = None,
        window: Window | None = None,
        softcap: float | None = None,
        scale: float | None = None,
        alibi: bool = False,
        rotary: bool | RotaryPositions = False,
        qk_norm: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        dtype: Any = None,
    ) -> None:
        self.num_heads = extent(NAME, "num_heads", num_heads)
        self.num_kv_heads = self.num_heads if num_kv_heads is None else extent(NAME, "num_kv_heads", num_kv_heads)
        if self.num_heads % self.num_kv_heads:
            need = f"a divisor of num_heads, {self.num_heads}"
            raise ShapeError(message(NAME, "num_kv_heads", f"{num_kv_heads}", need))
        self.dropout = number(NAME, "dropout", dropout)
        if not 0 <= self.dropout < 1:
            raise ValueError(message(NAME, "dropout", dropout, "a probability, 0 <= dropout < 1"))
        self.window = read_window(window)
        self.softcap = None if softcap is None else read_positive("softcap", softcap)
        self.scale = None if scale is None else finite(NAME, "scale", scale)
        self._head_dim = None if head_dim is None else extent(NAME, "head_dim", head_dim)
        self._value_dim = None if value_dim is None else extent(NAME, "value_dim", value_dim)
        if features is not None:
            features = extent(NAME, "features", features)
            self._head_dim = self.divided(features)
        size = self._head_dim
        own = self._value_dim or size
        keys = features if key_features is None else extent(NAME, "key_features", key_features)
        values = keys if value_features is None else extent(NAME, "value_features", value_features)
        given: dict[str, Any] = {"kernel_initializer": kernel_initializer, "dtype": dtype}
        self.query: Module = Projection(features, self._times(self.num_heads, size), bias, **given)
        self.key: Module = Projection(keys, self._times(self.num_kv_heads, size), bias, **given)
        self.value: Module = Projection(values, self._times(self.num_kv_heads, own), bias, **given)
        last = bias if output_bias is None else output_bias
        self.output: Module = Projection(self._times(self.num_heads, own), features, last, **given)
        self.query_norm = made_norm(RMSNorm, size, dtype) if qk_norm else None
        self.key_norm = made_norm(RMSNorm, size, dtype) if qk_norm else None
        self.rotary = RotaryPositions() if rotary is True else rotary or None
        if self.rotary is not None and not isinstance(self.rotary, RotaryPositions):
            raise TypeError(message(NAME, "rotary", repr(rotary), "a bool or an nn.RotaryPositions"))
        self.register_buffer("slopes", alibi_slopes(self.num_heads, dtype=dtype) if alibi else None, persistent=False)
        self.slopes: Tensor | None

    @staticmethod
    def _times(heads: int, size: int | None) -> int | None:
        return None if size is None else heads * size

    def divided(self, features: int) -> int:
        """The features of a head."""
        if self._head_dim is None and features % self.num_heads:
            need = f"a multiple of num_heads, {self.num_heads}"
            raise ShapeError(message(NAME, "features", f"{features}", need, "Or pass head_dim="))
        return self._head_dim or features // self.num_heads

    def _ties(self) -> list[Tie]:
        """Features outside, those of a head, and those of its values."""
        heads, own = self.num_heads, self.num_kv_heads
        query, key, value, output = map(weight_of, (self.query, self.key, self.value, self.output))
        norms: Tie = [(weight_of(norm), 0, 1) for norm in (self.query_norm, self.key_norm)]
        return [
            [(query, 0, 1), (output, 1, 1)],
            [(query, 1, heads), (key, 1, own), *norms],
            [(value, 1, own), (output, 0, heads)],
        ]

    @property
    def features(self) -> int | None:
        """Features of the queries and of the output, None until they are known."""
        return getattr(self.query, "in_features", None)

    @property
    def head_dim(self) -> int | None:
        """Features of a head's queries and keys, None until they are known."""
        return _share(self.query, self.num_heads)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        is_causal: bool = False,
        key_lengths: Tensor | None = None,
        need_weights: bool = False,
        cache: KVCache | None = None,
    ) -> Any:
        """Attend.

        Parameters
        ----------
        query : Tensor
            (batch, queries, features). More or fewer axes of a batch are taken too, without a cache.
        key, value : Tensor, optional
            (batch, keys, key features) and (batch, keys, value features). Without `key` it is self-attention, without
            `value` the key is read.
        mask : Tensor, optional
            Bools, True = attend: (queries, keys), or four axes that broadcast to (batch, heads, queries, keys).
        bias : Tensor, optional
            What is added to the scores, of such a shape; it may require grad.
        is_causal : bool
            A query attends no key after its own place; the last query is level with the last key.
        key_lengths : Tensor, optional
            (batch,) integers: keys from there on are padding.
        need_weights : bool
            Also give the weights, before dropout. They are computed beside the result, and hold all scores.
        cache : KVCache, optional
            In self-attention the tokens are added to it, `key_lengths` counts the new ones, and the keys are all that
            it holds. With `key` it is filled by the first call, and later ones read it in place of `key` and `value`.

        Returns
        -------
        Tensor or tuple of Tensor
            (batch, queries, features); with `need_weights` also (batch, heads, queries, keys).

        Raises
        ------
        ShapeError
            If the shapes do not fit.
        ValueError
            If keys are given to a layer with rotary positions.
        """
        query = self._tokens("query", query)
        alone = key is None or (key is query and (value is None or value is query))
        own_key = query if key is None else self._tokens("key", key)
        own_value = own_key if value is None else self._tokens("value", value)
        if not alone and self.rotary is not None:
            raise ValueError(message(NAME, "key", own_key, "no key, as rotary positions are those of self-attention"))
        if cache is not None and not isinstance(cache, KVCache):
            raise TypeError(message(NAME, "cache", cache, "an nn.KVCache"))
        mask = None if mask is None else as_tensor(mask)
        bias = None if bias is None else as_tensor(bias)
        for name, x in (("mask", mask), ("bias", bias)):
            if x is not None and x.ndim not in (2, query.ndim + 1):
                need = f"2 axes (queries, keys) or {query.ndim + 1} (batch, heads, queries, keys)"
                raise ShapeError(message(NAME, name, x, need, f"{name}[:, None] serves all heads of a sequence"))
        if cache is not None and query.ndim != 3:
            raise ShapeError(message(NAME, "query", query, "shape (batch, queries, features) with a cache"))
        options: dict[str, Any] = {
            "mask": mask, "bias": bias, "is_causal": is_causal, "window": self.window, "softcap": self.softcap,
            "alibi_slopes": self.slopes, "key_lengths": key_lengths, "scale": self.scale,
        }  # fmt: skip
        self._complete(query, own_key, own_value, None if cache is not None else options)
        q = self._heads(self.query(query), self.num_heads)
        if self.query_norm is not None:
            q = self.query_norm(q)
        if cache is not None and not alone and not cache.is_empty:
            k, v = cache.read()
        else:
            k = self._heads(self.key(own_key), self.num_kv_heads)
            v = self._heads(self.value(own_value), self.num_kv_heads)
            if self.key_norm is not None:
                k = self.key_norm(k)
            if self.rotary is not None:
                offset: Any = 0 if cache is None or cache.is_empty else cache.offsets
                if not isinstance(offset, int) and (offset == offset[0]).all():
                    offset = int(offset[0])
                q, k = self.rotary(q, offset), self.rotary(k, offset)
            if cache is not None and not alone:
                k, v = cache.append(k, v)
            elif cache is not None:
                k, v = self._extend(cache, k, v, options)
        rate = self.dropout if self.training else 0.0
        out, lse = ops.scaled_dot_product_attention(q, k, v, dropout=rate, return_lse=True, **options)
        width = out.shape[-3] * out.shape[-1]
        result = self.output(ops.reshape(out.swapaxes(-2, -3), (*query.shape[:-1], width)))
        weights = ops.attention_weights(q, k, lse=lse, **options) if need_weights else None
        if cache is not None and alone and self.window is not None and self.window[0] is not None:
            # the next query sees this many; dropping late makes the copies linear in the tokens
            keep = max(self.window[0], 1)
            if cache.length > 2 * keep:
                cache.trim(keep)
        return result if weights is None else (result, weights)

    @staticmethod
    def _tokens(name: str, x: Any) -> Tensor:
        given = as_tensor(x)
        if given.ndim < 2 or not given.shape[-1]:
            raise ShapeError(message(NAME, name, given, "shape (batch, length, features)"))
        return given

    def _complete(self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any] | None) -> None:
        """Give the parameters that wait for it their shape."""
        waits = not are_complete(self.query, self.key, self.value, self.output)
        last = getattr(self.output, "out_features", None) if waits else None
        for name, x, layer in (("query", query, self.query), ("key", key, self.key), ("value", value, self.value)):
            known = getattr(layer, "in_features", None)  # a layer put in the place of a projection may not say
            if name == "query":
                known = known or last
            if known and x.shape[-1] != known:
                raise ShapeError(message(NAME, name, describe(x), f"{known} features"))
        if waits:
            features = query.shape[-1]
            size = known_extent(self.head_dim, _share(self.key, self.num_kv_heads)) or self.divided(features)
            reads = (getattr(self.output, "in_features", None) or 0) // self.num_heads
            own = known_extent(self._value_dim, _share(self.value, self.num_kv_heads), reads) or size
            if options is not None:
                self._try(query, key, value, (size, size, own), options)
            for layer, given, made in (
                (self.query, features, self.num_heads * size),
                (self.key, key.shape[-1], self.num_kv_heads * size),
                (self.value, value.shape[-1], self.num_kv_heads * own),
                (self.output, self.num_heads * own, features),
            ):
                if isinstance(layer, Projection):
                    layer.complete(given, made)

    def _try(self, query: Tensor, key: Tensor, value: Tensor, sizes: tuple[int, ...], options: dict[str, Any]) -> None:
        """Refuse, before anything is fixed, what the first call would."""
        made = []
        for x, heads, size in zip((query, key, value), (self.num_heads, *[self.num_kv_heads] * 2), sizes, strict=True):
            kind = dtypes.default_float if x.dtype in dtypes.INTEGER | dtypes.BOOL else x.dtype
            made.append(ops.zeros((*x.shape[:-2], heads, x.shape[-2], size), dtype=kind, device=x.device))
        if self.rotary is not None:
            made[:2] = map(self.rotary, made[:2])
        with no_grad():
            ops.scaled_dot_product_attention(*made, **options)

    @staticmethod
    def _heads(x: Tensor, heads: int) -> Tensor:
        """(..., length, heads * features) as (..., heads, length, features)."""
        return ops.reshape(x, (*x.shape[:-1], heads, x.shape[-1] // heads)).swapaxes(-2, -3)

    def _extend(self, cache: KVCache, key: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Add tokens to a cache; where places differ from sequence to sequence, `options` become a mask and a bias."""
        new, lengths = key.shape[2], options["key_lengths"]
        start: Any = 0 if cache.is_empty else cache.lengths
        keys, values = cache.append(key, value, lengths)
        options["key_lengths"] = None
        if not cache.is_ragged and (lengths is None or (cache.lengths - start == new).all()):
            return keys, values
        options["key_lengths"] = ops.asarray(cache.lengths, device=key.device)
        places = np.reshape(cache.lengths * 0 + start, (-1, 1, 1, 1)) + np.arange(new)[:, None]
        ahead = np.arange(cache.length) - places
        left, right = options["window"] or (None, None)
        right = 0 if options["is_causal"] else right
        seen = np.ones(ahead.shape, bool)
        if left is not None:
            seen &= ahead >= -left
        if right is not None:
            seen &= ahead <= right
        seen_by = ops.asarray(seen, device=key.device)
        options["mask"] = seen_by if options["mask"] is None else options["mask"] & seen_by
        slopes = options["alibi_slopes"]
        if slopes is not None:
            far = ops.asarray(np.abs(ahead), device=key.device).astype(slopes.dtype)
            penalty = -ops.reshape(slopes, (-1, 1, 1)) * far
            options["bias"] = penalty if options["bias"] is None else options["bias"] + penalty
        options.update(is_causal=False, window=None, alibi_slopes=None)
        return keys, values

    def extra_repr(self) -> str:
        """Heads, and what is not the default."""
        text = f"{self.features or '?'}, heads={self.num_heads}"
        if self.num_kv_heads != self.num_heads:
            text += f", kv_heads={self.num_kv_heads}"
        for name in ("dropout", "window", "softcap", "scale"):
            if getattr(self, name):
                text += f", {name}={getattr(self, name)}"
        return text if self.slopes is None else f"{text}, alibi"


def _share(layer: Module, heads: int) -> int | None:
    """Features of each head that a projection makes, None until they are known."""
    width: int | None = getattr(layer, "out_features", None)
    return width and width // heads
