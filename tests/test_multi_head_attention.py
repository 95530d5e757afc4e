"""Multi-head attention and positions: the formula written out, and the laws that follow from it."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, ShapeError
from minigrad.nn import functional as F
from minigrad.testing import gradcheck
from minigrad.testing.tolerances import assert_close

Array = np.ndarray[Any, Any]
FEATURES = 6
ROTARY = [False, True, "interleaved", "partial"]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def tensor(*shape: int, seed: int = 0, grad: bool = False) -> mg.Tensor:
    return mg.tensor(normal(*shape, seed=seed), requires_grad=grad)


def rotary_of(kind: bool | str) -> bool | nn.RotaryPositions:
    if kind == "interleaved":
        return nn.RotaryPositions(base=100.0, interleaved=True)
    return nn.RotaryPositions(rotary_dim=2, scaling=2.0) if kind == "partial" else bool(kind)


def make(heads: int = 2, *, rotary: bool | str = False, seed: int = 0, **options: Any) -> nn.MultiHeadAttention:
    """A layer in float64 whose parameters are all random, its biases too."""
    layer = nn.MultiHeadAttention(heads, FEATURES, dtype=mg.float64, rotary=rotary_of(rotary), **options)
    for i, p in enumerate(layer.parameters()):
        nn.init.normal(p, std=0.6, generator=mg.random.Generator(100 * seed + i))
    return layer


@st.composite
def layers(draw: st.DrawFn, *, cross: bool = False, positions: bool = True) -> nn.MultiHeadAttention:
    """A layer with any of its options."""
    shared = draw(st.sampled_from([1, 2]))
    options: dict[str, Any] = {
        "num_kv_heads": shared,
        "head_dim": draw(st.sampled_from([2, 4])),
        "value_dim": draw(st.sampled_from([None, 3])),
        "softcap": draw(st.sampled_from([None, 1.5])),
        "bias": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
    }
    if positions:
        options["window"] = draw(st.sampled_from([None, (2, None), (1, 1), (0, 2)]))
        options["alibi"] = draw(st.booleans())
        options["rotary"] = False if cross else draw(st.sampled_from(ROTARY))
    return make(shared * draw(st.sampled_from([1, 2])), **options)


def turned(x: Array, rotary: nn.RotaryPositions) -> Array:
    """(heads, length, features) turned pair by pair."""
    out = x.copy()
    n = rotary.rotary_dim or x.shape[-1]
    for p in range(x.shape[1]):
        for i in range(n // 2):
            angle = p / rotary.scaling * rotary.base ** (-2 * i / n)
            a, b = (2 * i, 2 * i + 1) if rotary.interleaved else (i, i + n // 2)
            first, second = x[:, p, a], x[:, p, b]
            out[:, p, a] = first * math.cos(angle) - second * math.sin(angle)
            out[:, p, b] = second * math.cos(angle) + first * math.sin(angle)
    return out


def written_out(
    layer: nn.MultiHeadAttention,
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | bool = True,
    bias: Array | float = 0.0,
    is_causal: bool = False,
    key_lengths: Array | None = None,
) -> tuple[Array, Array]:
    """Head by head and query by query in NumPy: the result and the weights."""
    heads, shared = layer.num_heads, layer.num_kv_heads
    batch, n, m = len(query), query.shape[1], key.shape[1]
    seen = np.broadcast_to(mask, (batch, heads, n, m))
    added = np.broadcast_to(bias, (batch, heads, n, m))
    weights = np.zeros((batch, heads, n, m))
    out = []

    def projected(part: Any, x: Array, count: int) -> Array:
        y = x @ part.weight.detach().numpy() + (0 if part.bias is None else part.bias.detach().numpy())
        return y.reshape(len(x), count, -1).swapaxes(0, 1)

    def normed(norm: Any, x: Array) -> Array:
        if norm is None:
            return x
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.eps) * norm.weight.detach().numpy()

    for b in range(batch):
        q = normed(layer.query_norm, projected(layer.query, query[b], heads))
        k = normed(layer.key_norm, projected(layer.key, key[b], shared))
        v = projected(layer.value, value[b], shared)
        if layer.rotary is not None:
            q, k = turned(q, layer.rotary), turned(k, layer.rotary)
        rows = []
        for i in range(n):
            place, parts = i + m - n, []
            for h in range(heads):
                own = h // (heads // shared)
                left, right = layer.window or (None, None)
                js = [
                    j
                    for j in range(m)
                    if seen[b, h, i, j]
                    and not (is_causal and j > place)
                    and (key_lengths is None or j < key_lengths[b])
                    and (left is None or j >= place - left)
                    and (right is None or j <= place + right)
                ]
                s = np.array([q[h, i] @ k[own, j] / math.sqrt(q.shape[-1]) for j in js])
                s = s if layer.softcap is None else layer.softcap * np.tanh(s / layer.softcap)
                s = s + added[b, h, i, js]
                if layer.slopes is not None:
                    s = s - layer.slopes.numpy()[h] * np.abs(place - np.array(js))
                if js:
                    weights[b, h, i, js] = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
                parts.append(weights[b, h, i] @ v[own])
            rows.append(np.concatenate(parts))
        out.append(np.stack(rows))
    last = layer.output
    result = np.stack(out) @ last.weight.detach().numpy()
    return result + (0 if last.bias is None else last.bias.detach().numpy()), weights


@given(layer=layers(), causal=st.booleans(), padded=st.booleans(), masked=st.booleans(), seed=st.integers(0, 99))
def test_self_attention_is_the_formula(
    layer: nn.MultiHeadAttention, causal: bool, padded: bool, masked: bool, seed: int
) -> None:
    x = normal(2, 4, FEATURES, seed=seed)
    rng = np.random.default_rng(seed)
    plain: dict[str, Any] = {"is_causal": causal}
    if padded:
        plain["key_lengths"] = rng.integers(0, 5, 2)
    if masked:
        plain["mask"] = rng.random((2, layer.num_heads, 4, 4)) < 0.7
        plain["bias"] = rng.normal(size=(2, 1, 4, 4))
    given_to = {n: a if n == "is_causal" else mg.asarray(a) for n, a in plain.items()}
    out, weights = layer(mg.asarray(x), need_weights=True, **given_to)
    expected = written_out(layer, x, x, x, **plain)
    assert_close(out.detach().numpy(), expected[0], mg.float64, "out", factor=4)
    assert_close(weights.detach().numpy(), expected[1], mg.float64, "weights", factor=4)
    assert layer(mg.asarray(x), **given_to).tolist() == out.tolist()


@given(layer=layers(cross=True), causal=st.booleans(), seed=st.integers(0, 99))
def test_cross_attention_is_the_formula(layer: nn.MultiHeadAttention, causal: bool, seed: int) -> None:
    query, key, value = (normal(2, n, FEATURES, seed=3 * seed + i) for i, n in enumerate((3, 5, 5)))
    out, weights = layer(*map(mg.asarray, (query, key, value)), is_causal=causal, need_weights=True)
    expected = written_out(layer, query, key, value, is_causal=causal)
    assert_close(out.detach().numpy(), expected[0], mg.float64, "out", factor=4)
    assert_close(weights.detach().numpy(), expected[1], mg.float64, "weights", factor=4)
    only_key, _ = written_out(layer, query, key, key, is_causal=causal)
    assert_close(
        layer(mg.asarray(query), mg.asarray(key), is_causal=causal).detach().numpy(), only_key, mg.float64, "", factor=4
    )


@pytest.mark.parametrize("rotary", ROTARY)
def test_derivatives_of_two_orders(rotary: bool | str) -> None:
    layer = make(2, num_kv_heads=1, head_dim=2, softcap=2.0, alibi=True, window=(1, 0), rotary=rotary, qk_norm=True)
    names = [f"{part}.{leaf}" for part in ("query", "key", "value", "output") for leaf in ("weight", "bias")]
    state = layer.state_dict()
    weights = [mg.tensor(state[name], requires_grad=True) for name in names]
    seed = mg.asarray(normal(1, 3, FEATURES, seed=9))

    def run(x: mg.Tensor, bias: mg.Tensor, *values: mg.Tensor) -> mg.Tensor:
        for name, value in zip(names, values, strict=True):
            part, leaf = name.split(".")
            vars(getattr(layer, part))[leaf] = value
        out, shown = layer(x, bias=bias, need_weights=True)
        return (out * seed).sum() + (shown * shown).sum()

    bias = mg.tensor(normal(3, 3, seed=8), requires_grad=True)
    assert gradcheck(run, [tensor(1, 3, FEATURES, grad=True), bias, *weights], order=2)


# --- laws -------------------------------------------------------------------------------------------------------------


@given(layer=layers(), seed=st.integers(0, 99), at=st.integers(1, 4))
def test_the_future_never_changes_the_past(layer: nn.MultiHeadAttention, seed: int, at: int) -> None:
    x = normal(2, 5, FEATURES, seed=seed)
    other = x.copy()
    other[:, at:] = normal(2, 5 - at, FEATURES, seed=seed + 1)
    first, second = (layer(mg.asarray(a), is_causal=True).detach().numpy() for a in (x, other))
    assert (first[:, :at] == second[:, :at]).all()
    assert (first[:, at:] != second[:, at:]).any()


@given(layer=layers(positions=False), order=st.permutations(range(5)), seed=st.integers(0, 99))
def test_without_positions_the_order_does_not_matter(layer: nn.MultiHeadAttention, order: list[int], seed: int) -> None:
    x = normal(2, 5, FEATURES, seed=seed)
    plain = layer(mg.asarray(x)).detach().numpy()
    permuted = layer(mg.asarray(x[:, order])).detach().numpy()
    assert_close(permuted, plain[:, order], mg.float64, "permuted", factor=4)


@given(layer=layers(), seed=st.integers(0, 99), length=st.integers(1, 4), causal=st.booleans())
def test_padding_changes_nothing(layer: nn.MultiHeadAttention, seed: int, length: int, causal: bool) -> None:
    """Neither its values nor its presence; the gradient of padding is 0."""
    x = normal(1, length, FEATURES, seed=seed)
    alone = layer(mg.asarray(x), is_causal=causal).detach().numpy()
    padded = mg.tensor(np.concatenate((x, 9 * normal(1, 2, FEATURES, seed=seed + 1)), 1), requires_grad=True)
    out = layer(padded, is_causal=causal, key_lengths=mg.tensor([length]))[:, :length]
    assert_close(out.detach().numpy(), alone, mg.float64, "unpadded part", factor=4)
    out.backward(mg.asarray(normal(*out.shape, seed=seed + 2)))
    assert not padded.grad.numpy()[:, length:].any()


@given(seed=st.integers(0, 99), shared=st.sampled_from([1, 2]), rotary=st.sampled_from(ROTARY))
def test_grouped_heads_are_repeated_heads(seed: int, shared: int, rotary: bool | str) -> None:
    grouped = make(4, num_kv_heads=shared, head_dim=4, rotary=rotary, seed=seed)
    full = make(4, head_dim=4, rotary=rotary)
    state = {name: t.numpy() for name, t in grouped.state_dict().items()}
    for part in ("key", "value"):
        for leaf in ("weight", "bias"):
            a = state[f"{part}.{leaf}"]
            split = a.reshape(*a.shape[:-1], shared, 4)
            state[f"{part}.{leaf}"] = np.repeat(split, 4 // shared, axis=-2).reshape(*a.shape[:-1], 16)
    full.load_state_dict(state)
    x = mg.asarray(normal(2, 5, FEATURES, seed=seed))
    expected = full(x, is_causal=True).detach().numpy()
    assert_close(grouped(x, is_causal=True).detach().numpy(), expected, mg.float64, "grouped", factor=4)


@given(layer=layers(), seed=st.integers(0, 99), row=st.integers(0, 3))
def test_a_row_that_sees_nothing_is_zero(layer: nn.MultiHeadAttention, seed: int, row: int) -> None:
    mask = np.ones((4, 4), bool)
    mask[row] = False
    x = tensor(2, 4, FEATURES, seed=seed, grad=True)
    out, weights = layer(x, mask=mg.asarray(mask), need_weights=True)
    nothing = 0.0 if layer.output.bias is None else layer.output.bias.detach().numpy()
    assert (out.detach().numpy()[:, row] == nothing).all()
    assert not weights.detach().numpy()[:, :, row].any()
    mg.sum(out * mg.asarray(normal(*out.shape, seed=seed))).backward()
    for t in (x, *layer.parameters()):
        assert np.isfinite(t.grad.numpy()).all()


def test_an_alibi_of_the_layer_is_that_bias() -> None:
    layer, plain = make(2, alibi=True), make(2)
    x = tensor(1, 4, FEATURES)
    far = np.abs(np.arange(4) - np.arange(4)[:, None])
    bias = -mg.asarray(np.array([2.0**-4, 2.0**-8])[:, None, None] * far)[None]
    assert_close(layer(x).detach().numpy(), plain(x, bias=bias).detach().numpy(), mg.float64, "alibi")
    assert "slopes" not in layer.state_dict()


# --- positions --------------------------------------------------------------------------------------------------------


@given(
    start=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    shift=st.integers(0, 10_000),
    kind=st.sampled_from(ROTARY[1:]),
    seed=st.integers(0, 99),
)
def test_rotary_products_depend_on_the_distance(
    start: tuple[int, int], shift: int, kind: str | bool, seed: int
) -> None:
    rotary = nn.RotaryPositions() if kind is True else rotary_of(kind)
    query, key = tensor(2, 1, 3, 4, seed=seed), tensor(2, 1, 3, 4, seed=seed + 1)
    near, far = (
        rotary(query, start[0] + by).numpy() @ rotary(key, start[1] + by).numpy().swapaxes(-1, -2) for by in (0, shift)
    )
    # an angle of 10,000 radians is known to 2e-12
    np.testing.assert_allclose(near, far, rtol=0, atol=1e-10)


@given(pairs=st.integers(1, 4), rest=st.integers(0, 2), offset=st.integers(0, 30), seed=st.integers(0, 99))
def test_both_pairings_are_one_up_to_the_order_of_features(pairs: int, rest: int, offset: int, seed: int) -> None:
    x = normal(2, 3, 2 * pairs + rest, seed=seed)
    order = [*range(0, 2 * pairs, 2), *range(1, 2 * pairs, 2), *range(2 * pairs, 2 * pairs + rest)]
    halves, neighbours = (nn.RotaryPositions(rotary_dim=2 * pairs, interleaved=i) for i in (False, True))
    expected = neighbours(mg.asarray(x), offset).numpy()[..., order]
    assert_close(halves(mg.asarray(x[..., order]), offset).numpy(), expected, mg.float64, "halves")


@given(offset=st.lists(st.integers(0, 200), min_size=2, max_size=2), seed=st.integers(0, 99))
def test_offsets(offset: list[int], seed: int) -> None:
    """A part of a sequence gets what it has in the whole, with one offset or one for each sequence."""
    rotary, waves, learned = nn.RotaryPositions(), nn.SinusoidalPositions(), nn.LearnedPositions(203, dtype=mg.float64)
    x = normal(2, 203, 4, seed=seed)
    parts = mg.asarray(np.stack([x[b, p : p + 3] for b, p in enumerate(offset)]))
    for layer in (waves, learned):
        whole = layer(mg.asarray(x)).detach().numpy()
        expected = np.stack([whole[b, p : p + 3] for b, p in enumerate(offset)])
        for given_as in (offset, np.array(offset), mg.tensor(offset)):
            np.testing.assert_array_equal(layer(parts, given_as).detach().numpy(), expected)
        np.testing.assert_array_equal(layer(parts[:1], offset[0]).detach().numpy(), expected[:1])
    heads = np.stack((x, 2 * x), axis=1)  # a power of 2, so that roundings are the same
    whole = rotary(mg.asarray(heads)).numpy()
    expected = np.stack([whole[b, :, p : p + 3] for b, p in enumerate(offset)])
    parts = mg.asarray(np.stack([heads[b, :, p : p + 3] for b, p in enumerate(offset)]))
    assert_close(rotary(parts, offset).numpy(), expected, mg.float64, "rotary")


def test_sinusoids_are_the_formula() -> None:
    table = nn.SinusoidalPositions()(mg.zeros((70, 5), dtype=mg.float64)).numpy()
    for p, i in ((0, 0), (3, 1), (69, 4), (69, 3)):
        wave = math.cos if i % 2 else math.sin
        assert math.isclose(table[p, i], wave(p / 10_000 ** (2 * (i // 2) / 5)), rel_tol=1e-12, abs_tol=1e-12)


def test_angles_stay_right_at_large_positions() -> None:
    """Float32 holds 1,000,003 but not its products with frequencies."""
    x = np.zeros((1, 1, 8), np.float32)
    x[..., :4] = 1
    got = nn.RotaryPositions()(mg.asarray(x), 1_000_003).numpy()[0, 0]
    angles = 1_000_003 * 10_000 ** -(np.arange(4) / 4)
    np.testing.assert_allclose(got, np.concatenate((np.cos(angles), np.sin(angles))), atol=1e-7)


def test_positions_behind_the_tables_are_computed() -> None:
    x = mg.zeros((2, 3, 4), dtype=mg.float64)
    late = [(1 << 16) - 1, 7]
    together = nn.SinusoidalPositions()(x, late).numpy()
    for row, offset in enumerate(late):
        assert_close(together[row], nn.SinusoidalPositions()(x[:1], offset).numpy()[0], mg.float64, "rows")


def test_frequencies_replace_the_base() -> None:
    x = tensor(1, 2, 6)
    given_ones = nn.RotaryPositions(frequencies=[0.5, 0.25])
    assert given_ones.rotary_dim == 4
    out = given_ones(x).numpy()[0, 1]
    first, second = x.numpy()[0, 1, 1], x.numpy()[0, 1, 3]
    assert math.isclose(out[1], first * math.cos(0.25) - second * math.sin(0.25), rel_tol=1e-12)
    assert out[4:].tolist() == x.numpy()[0, 1, 4:].tolist()


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12])
def test_alibi_slopes(heads: int) -> None:
    slopes = nn.alibi_slopes(heads, dtype=mg.float64).numpy()
    assert len(slopes) == len(set(slopes.tolist())) == heads
    power = 2 ** math.floor(math.log2(heads))
    assert slopes[:power].tolist() == [2 ** (-8 * h / power) for h in range(1, power + 1)]
    # those that are left are among the slopes of twice as many heads
    assert set(slopes[power:]) <= {2 ** (-8 * h / (2 * power)) for h in range(1, 2 * power, 2)}


def test_half_types_are_turned_in_float32() -> None:
    x = normal(1, 40, 8).astype(mg.bfloat16)
    got = nn.RotaryPositions()(mg.asarray(x))
    exact = nn.RotaryPositions()(mg.asarray(x.astype(np.float32))).numpy().astype(mg.bfloat16)
    assert got.dtype == mg.bfloat16
    assert (got.numpy() == exact).all()


# --- the layer --------------------------------------------------------------------------------------------------------


def test_dropout_works_in_training_only() -> None:
    layer = make(2, dropout=0.5)
    x = tensor(2, 5, FEATURES)
    plain = make(2)(x)
    assert layer.eval()(x).tolist() == plain.tolist()
    layer.train()
    mg.random.seed(3)
    first, weights = layer(x, need_weights=True)
    second = layer(x)
    mg.random.seed(3)
    assert layer(x).tolist() == first.tolist()
    assert first.tolist() != second.tolist() != plain.tolist()
    assert_close(weights.sum(-1).detach().numpy(), np.ones((2, 2, 5)), mg.float64, "weights are shown before dropout")


def test_dropout_keeps_the_mean() -> None:
    layer = make(2, dropout=0.3)
    x = mg.asarray(np.broadcast_to(normal(1, 3, FEATURES), (20_000, 3, FEATURES)))
    mean = layer(x).detach().numpy().mean(0)
    error = layer(x).detach().numpy().std(0) / math.sqrt(20_000)
    assert (abs(mean - layer.eval()(x[:1]).detach().numpy()[0]) < 6 * error).all()


def test_deferred_features_end_where_given_ones_start() -> None:
    mg.random.seed(1)
    lazy = nn.MultiHeadAttention(2, key_features=5, value_features=6)
    with pytest.raises(ShapeError, match=r"query\.weight is uninitialized"):
        lazy.state_dict()
    assert repr(lazy).startswith("MultiHeadAttention(?, heads=2")
    lazy(mg.ones((1, 3, 8)), mg.ones((1, 4, 5)), mg.ones((1, 4, 6)))
    eager = nn.MultiHeadAttention(2, 8, key_features=5, value_features=6)
    shapes = [(name, p.shape) for name, p in eager.named_parameters()]
    assert [(name, p.shape) for name, p in lazy.named_parameters()] == shapes
    assert dict(shapes)["value.weight"] == (6, 8)
    loaded = nn.MultiHeadAttention(2)
    loaded.load_state_dict(lazy.state_dict())
    x = (mg.ones((1, 3, 8)), mg.ones((1, 4, 5)), mg.ones((1, 4, 6)))
    assert loaded(*x).tolist() == lazy(*x).tolist()
    assert (loaded.features, loaded.head_dim) == (8, 4)
    assert lazy.query.bias.tolist() == [0.0] * 8


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16, mg.float32])
def test_dtypes(dtype: Any) -> None:
    layer = nn.MultiHeadAttention(2, 8, alibi=True, rotary=True, qk_norm=True, dtype=dtype)
    out, weights = layer(mg.ones((1, 3, 8), dtype=dtype), need_weights=True)
    assert out.dtype == weights.dtype == dtype
    out.backward(mg.ones_like(out))
    assert {p.grad.dtype for p in layer.parameters()} == {np.dtype(dtype)}


def test_other_axes_of_a_batch() -> None:
    layer = make(2, rotary=True, head_dim=4)
    x = tensor(2, 3, 4, FEATURES)
    flat = layer(x.reshape((6, 4, FEATURES)), is_causal=True).reshape(x.shape)
    assert_close(layer(x, is_causal=True).detach().numpy(), flat.detach().numpy(), mg.float64, "five axes")
    assert_close(layer(x[0, 0], is_causal=True).detach().numpy(), flat[0, 0].detach().numpy(), mg.float64, "two axes")


def test_copies_and_pickles() -> None:
    layer = make(2, rotary=True, alibi=True, head_dim=4)
    x = tensor(1, 3, FEATURES)
    out = layer(x).tolist()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other(x).tolist() == out
        nn.init.zeros(other.value.weight)
        assert layer(x).tolist() == out


def test_projections_are_called_as_layers() -> None:
    layer = make(2)
    shapes = []
    layer.query.register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    layer(tensor(1, 3, FEATURES))
    assert shapes == [(1, 3, FEATURES)]


def test_other_layers_in_the_place_of_projections() -> None:
    layer = make(2)
    x = tensor(1, 3, FEATURES)
    expected = layer(x).tolist()
    for part in ("query", "key", "value", "output"):
        projection = getattr(layer, part)
        dense = nn.Dense(FEATURES, in_features=FEATURES, dtype=mg.float64)
        dense.load_state_dict(projection.state_dict())
        setattr(layer, part, nn.Sequential([dense, nn.Identity()]))
    assert layer(x).tolist() == expected
    assert layer.features is layer.head_dim is None


ERRORS: list[tuple[type[Exception], str, Any]] = [
    (ShapeError, "num_heads is 0, needs at least 1", lambda: nn.MultiHeadAttention(0)),
    (TypeError, r"num_heads is 2\.5, needs an int", lambda: nn.MultiHeadAttention(2.5)),
    (ShapeError, "num_kv_heads is 3, needs a divisor", lambda: nn.MultiHeadAttention(4, num_kv_heads=3)),
    (ShapeError, "features is 6, needs a multiple of num_heads, 4", lambda: nn.MultiHeadAttention(4, 6)),
    (ShapeError, "features is 6, needs a multiple", lambda: nn.MultiHeadAttention(4)(mg.ones((1, 2, 6)))),
    (ValueError, "dropout is 1, needs", lambda: nn.MultiHeadAttention(4, dropout=1)),
    (ValueError, "window", lambda: nn.MultiHeadAttention(4, window=(-1, 0))),
    (ValueError, "softcap", lambda: nn.MultiHeadAttention(4, softcap=0.0)),
    (ValueError, "scale is nan, needs a finite number", lambda: nn.MultiHeadAttention(4, scale=mg.nan)),
    (TypeError, "scale is 'a', needs a number", lambda: nn.MultiHeadAttention(4, scale="a")),
    (TypeError, "rotary is 'yes', needs a bool or", lambda: nn.MultiHeadAttention(4, rotary="yes")),
    (ShapeError, r"query is float64 \(1, 2, 5\), needs 6 features", lambda: make()(tensor(1, 2, 5))),
    (ShapeError, "key is .*, needs 6 features", lambda: make()(tensor(1, 2, 6), tensor(1, 2, 7))),
    (ShapeError, r"query is float64 \(6,\), needs shape", lambda: make()(tensor(6))),
    (
        ShapeError,
        r"mask is bool \(1, 2, 2\), needs 2 axes .* mask\[:, None\] serves",
        lambda: make()(tensor(1, 2, 6), mask=mg.ones((1, 2, 2), dtype=mg.bool)),
    ),
    (DTypeError, "mask is float64", lambda: make()(tensor(1, 2, 6), mask=tensor(2, 2))),
    (ValueError, "needs no key, as rotary", lambda: make(head_dim=2, rotary=True)(tensor(1, 2, 6), tensor(1, 3, 6))),
    (ShapeError, "alibi_slopes: num_heads is 0", lambda: nn.alibi_slopes(0)),
    (ShapeError, "features of x is 3, needs an even", lambda: nn.RotaryPositions()(tensor(2, 3))),
    (ShapeError, "rotary_dim is 3, needs an even", lambda: nn.RotaryPositions(rotary_dim=3)),
    (ShapeError, "rotary_dim is 4, needs 2, two", lambda: nn.RotaryPositions(rotary_dim=4, frequencies=[1.0])),
    (ValueError, "base is 0.0, needs a positive", lambda: nn.RotaryPositions(base=0)),
    (TypeError, "scaling is None, needs a number", lambda: nn.RotaryPositions(scaling=None)),
    (ShapeError, r"x is float64 \(3,\), needs shape", lambda: nn.SinusoidalPositions()(tensor(3))),
    (ValueError, "offset is -1, needs a position", lambda: nn.SinusoidalPositions()(tensor(2, 3), -1)),
    (TypeError, r"offset is 1\.5, needs an integer", lambda: nn.SinusoidalPositions()(tensor(2, 3), 1.5)),
    (
        ShapeError,
        r"LearnedPositions: x is .* \(2, 0\), needs shape \(\.\.\., length, features\)",
        lambda: nn.LearnedPositions(4)(tensor(2, 0)),
    ),
    (
        ShapeError,
        r"LearnedPositions: x is .* \(2, 3\), needs shape \(\.\.\., length, 5\)",
        lambda: nn.LearnedPositions(4, 5)(tensor(2, 3)),
    ),
    (
        ShapeError,
        r"positions: offset is 3 integers, needs one integer, or one for each sequence of x float64 \(2, 3, 4\)",
        lambda: nn.SinusoidalPositions()(tensor(2, 3, 4), [1, 2, 3]),
    ),
    (ShapeError, "positions: offset is 3 integers", lambda: nn.RotaryPositions()(tensor(2, 1, 3, 4), [1, 2, 3])),
    (ShapeError, "positions: offset is 3 integers", lambda: nn.LearnedPositions(9)(tensor(2, 3, 4), [1, 2, 3])),
    (TypeError, "MultiHeadAttention: cache is 3, needs an nn.KVCache", lambda: make()(tensor(1, 2, 6), cache=3)),
    (
        TypeError,
        "TransformerDecoder: cache is 3, needs an nn.DecoderCache",
        lambda: nn.TransformerDecoder(1, 2, cross_attention=False)(tensor(1, 2, 6), cache=3),
    ),
    (ShapeError, r"mask is int64 \(\), needs 2 axes", lambda: make()(tensor(1, 2, 6), mask=3)),
    (ShapeError, "up to position 4, needs at most 4", lambda: nn.LearnedPositions(4)(tensor(2, 3), 3)),
]


def test_masks_and_biases_may_be_lists() -> None:
    layer, x = make(), tensor(1, 2, 6)
    expected = layer(x, mask=mg.tensor([[True, False], [True, True]]), bias=mg.tensor([[0.0, 1.0], [2.0, 3.0]]))
    found = layer(x, mask=[[True, False], [True, True]], bias=[[0.0, 1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(found.detach().numpy(), expected.detach().numpy())


@pytest.mark.parametrize(("kind", "text", "wrong"), ERRORS, ids=[text[:30] for _, text, _ in ERRORS])
def test_errors_say_what_is_needed(kind: type[Exception], text: str, wrong: Any) -> None:
    with pytest.raises(kind, match=text):
        wrong()


def test_weights_without_the_log_sum_exp() -> None:
    query, key = tensor(2, 4, 3, 2), tensor(2, 2, 5, 2, seed=1)
    options: dict[str, Any] = {"is_causal": True, "key_lengths": mg.tensor([5, 0]), "softcap": 2.0}
    _, lse = F.scaled_dot_product_attention(query, key, key, return_lse=True, **options)
    weights = F.attention_weights(query, key, **options)
    assert_close(F.attention_weights(query, key, lse=lse, **options).numpy(), weights.numpy(), mg.float64, "weights")
    assert weights.numpy()[0].sum() == pytest.approx(12)
    assert not weights.numpy()[1].any()
    with pytest.raises(ShapeError, match="attention_weights: key is"):
        F.attention_weights(query, tensor(2, 3, 5, 2))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (0, 0, 4)], ids=str)
def test_nothing_to_attend(shape: tuple[int, ...]) -> None:
    layer = nn.MultiHeadAttention(2, 4)
    out, weights = layer(mg.zeros(shape), need_weights=True)
    assert (out.shape, weights.shape) == (shape, (shape[0], 2, shape[1], shape[1]))
