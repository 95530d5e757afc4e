"""A model with units taken out computes, and differentiates, what it computed where nothing read them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import compress, nn
from minigrad.models import Llama, LlamaConfig

BOUNDS = {"float64": 1e-11, "float32": 3e-5}
DTYPES = st.sampled_from(["float64", "float32"])


def filled(model: Any, dtype: str, seed: int) -> Any:
    """The model with parameters and statistics drawn anew: biases, weights and moments of norms too."""
    draw = np.random.default_rng(seed)
    for _, t, _ in model.to(dtype=dtype)._tensors():
        if t.dtype.kind == "f":
            values = draw.standard_normal(t.shape) * 0.7
            t._array[...] = values if isinstance(t, nn.Parameter) else np.abs(values) + 0.5
    return model


def indexed(model: Any) -> Any:
    """A twin in which each tensor holds the places of its elements, so that it tells afterwards what was kept."""
    twin = copy.deepcopy(model)
    for _, t, _ in twin._tensors():
        t._array = np.arange(t.size, dtype=np.float64 if t.dtype.kind == "f" else np.int64).reshape(t.shape)
    return twin


def outcome(model: Any, call: Callable[[Any], Any], seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What the model gives, and its gradients under a random cotangent."""
    model.zero_grad()
    y = call(model)
    cotangent = np.random.default_rng(seed + 1).standard_normal(y.shape)
    (y * mg.tensor(cotangent, dtype=y.dtype)).sum().backward()
    grads = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    return y.detach().numpy(), grads


def check(
    model: Any,
    remove: Callable[[Any], Any],
    blind: Callable[[Any], Any],
    call: Callable[[Any], Any],
    *,
    seed: int,
    scaled: Callable[[str], float] = lambda name: 1.0,
) -> Any:
    """Hold the smaller model to the one whose readers are blind to what is gone; gives the smaller model."""
    full, small, twin = copy.deepcopy(model), copy.deepcopy(model), indexed(model)
    remove(small)
    remove(twin)
    blind(full)
    assert sum(p.size for p in small.parameters()) < sum(p.size for p in full.parameters())
    places = {name: np.rint(t._array * scaled(name)).astype(np.int64) for name, t, _ in twin._tensors()}
    for training in (False, True):
        expected, full_grads = outcome(full.train(training), call, seed)
        found, grads = outcome(small.train(training), call, seed)
        bound = BOUNDS[str(expected.dtype)]
        size = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound * size)
        assert grads
        size = max(1.0, *(np.abs(g).max() for g in full_grads.values()))  # some are small differences of large ones
        for name, g in grads.items():
            wanted = full_grads[name].reshape(-1)[places[name]] * scaled(name)
            np.testing.assert_allclose(g, wanted, rtol=0, atol=bound * size, err_msg=name)
    before = {name: t for name, t, _ in full._tensors()}
    for name, t in small.named_buffers():  # running statistics, which training has moved
        np.testing.assert_allclose(t._array, before[name]._array.reshape(-1)[places[name]], rtol=0, atol=1e-4)
    return small


def blinded(module: Any, gone: Any, axis: int, each: int = 1) -> None:
    """Have a module see 0 in place of some units on an axis of its input, each of so many neighbours."""

    def hide(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        mask = np.ones(x.shape[axis] // each, x.dtype)
        mask[list(gone)] = 0
        shape = [1] * x.ndim
        shape[axis] = -1
        return (x * mg.tensor(np.repeat(mask, each).reshape(shape)), *args[1:])

    module.register_forward_pre_hook(hide)


def subsets(count: int) -> st.SearchStrategy[list[int]]:
    """Some of so many units, neither none nor all."""
    return st.lists(st.integers(0, count - 1), unique=True, min_size=1, max_size=count - 1)


ACTIVATIONS = [None, "relu", "gelu", "sigmoid", "tanh", mg.softplus, nn.SiLU()]


@given(st.data())
def test_neurons_of_a_sequential(data: Any) -> None:
    dtype, seed = data.draw(DTYPES), data.draw(st.integers(0, 999))
    sizes = data.draw(st.lists(st.integers(2, 7), min_size=3, max_size=5))
    layers: list[Any] = []
    readers: dict[str, Any] = {}  # by the layer that makes the units, who reads them
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        activation = data.draw(st.sampled_from(ACTIVATIONS))
        layers.append(nn.Dense(after, activation, bias=data.draw(st.booleans()), in_features=before))
        if i < len(sizes) - 2:
            if data.draw(st.booleans()):
                layers.append(nn.BatchNorm1D(after, 0.1, affine=data.draw(st.booleans())))
            if data.draw(st.booleans()):
                layers.append(nn.Sequential([nn.Tanh(), nn.Dropout(0.0), nn.Lambda(mg.sin)]))
    model = filled(nn.Sequential(layers), dtype, seed)
    made = [(i, m) for i, m in enumerate(layers) if isinstance(m, nn.Dense)]
    gone = {}
    for (i, m), (j, _) in itertools.pairwise(made):
        if data.draw(st.booleans()) or not gone:
            gone[f"{i}"] = data.draw(subsets(m.units))
            readers[f"{i}"] = j
    x = mg.tensor(np.random.default_rng(seed).standard_normal((5, sizes[0])), dtype=dtype)
    small = check(
        model,
        lambda m: compress.remove_neurons(m, indices=gone),
        lambda m: [blinded(m[readers[name]], units, 1) for name, units in gone.items()],
        lambda m: m(x),
        seed=seed,
    )
    for name, units in gone.items():
        assert small[int(name)].units == dict(made)[int(name)].units - len(units)
        assert small[readers[name]].in_features == small[int(name)].units


@given(st.data())
def test_neurons_before_a_flatten(data: Any) -> None:
    """A Dense on the last axis of sequences, flattened: its units occur at every place."""
    dtype, seed = data.draw(DTYPES), data.draw(st.integers(0, 999))
    units, length = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4))
    last = nn.Dense(3, in_features=length * units)
    model = filled(nn.Sequential([nn.Dense(units, "sigmoid", in_features=4), nn.Flatten(), last]), dtype, seed)
    gone = data.draw(subsets(units))
    x = mg.tensor(np.random.default_rng(seed).standard_normal((5, length, 4)), dtype=dtype)
    check(
        model,
        lambda m: compress.remove_neurons(m, indices=gone),
        lambda m: blinded(m[1], gone, 2),
        lambda m: m(x),
        seed=seed,
    )


@given(st.data())
def test_channels(data: Any) -> None:
    dtype, seed = data.draw(DTYPES), data.draw(st.integers(0, 999))
    axes = data.draw(st.sampled_from([1, 2]))
    conv, transpose = (nn.Conv1D, nn.Conv1DTranspose) if axes == 1 else (nn.Conv2D, nn.Conv2DTranspose)
    norms = [
        lambda n: nn.BatchNorm(n, eps=0.1),  # else a channel of hardly any variance magnifies rounding
        lambda n: nn.InstanceNorm(n, 0.1, affine=True),
        lambda n: nn.InstanceNorm(n, 0.1),
        lambda n: nn.GroupNorm(n, n, 0.1),
        lambda n: nn.GroupNorm(n, eps=0.1, affine=False),
        lambda n: nn.InstanceNorm(eps=0.1),  # without features, weights and statistics
        lambda n: nn.BatchNorm(eps=0.1, affine=False, track_running_stats=False),
        lambda n: nn.Identity(),
    ]
    pools = [nn.MaxPool1D, nn.AvgPool1D] if axes == 1 else [nn.MaxPool2D, nn.AvgPool2D]
    a, b = data.draw(st.integers(2, 5)), data.draw(st.integers(2, 4))
    times = data.draw(st.sampled_from([0, 1, 2]))  # a depthwise convolution with so many filters a channel
    first: list[Any] = [data.draw(st.sampled_from([conv, transpose]))(a, 3, padding=1, in_channels=2)]
    first += [data.draw(st.sampled_from(norms))(a), nn.ReLU()]
    if times:
        first.append(conv(a * times, 3, groups=a, padding=1, activation="tanh", in_channels=a))
    first.append(data.draw(st.sampled_from(pools))(2))
    second: list[Any] = [data.draw(st.sampled_from([conv, transpose]))(b, 3, padding=1, in_channels=a * max(times, 1))]
    second.append(data.draw(st.sampled_from(norms))(b))
    flat = data.draw(st.booleans())
    if flat:
        second += [nn.GELU(), nn.Flatten(), nn.BatchNorm1D(b * 3**axes, eps=0.1), nn.Dense(3, in_features=b * 3**axes)]
    else:
        second += [(nn.GlobalAvgPool1D if axes == 1 else nn.GlobalAvgPool2D)(), nn.Dense(3, in_features=b)]
    model = filled(nn.Sequential([*first, *second]), dtype, seed)
    gone = {"0": data.draw(subsets(a)), f"{len(first)}": data.draw(subsets(b))}
    x = mg.tensor(np.random.default_rng(seed).standard_normal((3, 2, *[6] * axes)), dtype=dtype)

    def blind(m: Any) -> None:
        blinded(m[len(first)], gone["0"], 1, max(times, 1))
        blinded(m[-1], gone[f"{len(first)}"], 1, 3**axes if flat else 1)

    small = check(model, lambda m: compress.remove_channels(m, indices=gone), blind, lambda m: m(x), seed=seed)
    norms_left = [m.num_groups for m in small.modules() if isinstance(m, nn.GroupNorm)]
    assert set(norms_left) <= {a - len(gone["0"]), b - len(gone[f"{len(first)}"])}
    assert small[0].filters == a - len(gone["0"])
    assert small[len(first)].in_channels == (a - len(gone["0"])) * max(times, 1)


@given(st.data())
def test_heads(data: Any) -> None:
    dtype, seed = data.draw(DTYPES), data.draw(st.integers(0, 999))
    kv, each, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3)), data.draw(st.sampled_from([2, 4]))
    of = data.draw(st.sampled_from([way for way, n in (("key", kv), ("query", each)) if n > 1] or ["none"]))
    if of == "none":
        return
    own = data.draw(st.sampled_from([size, 3]))
    options = {name: data.draw(st.booleans()) for name in ("rotary", "qk_norm", "alibi", "bias")}
    heads = kv * each
    layer = nn.MultiHeadAttention(heads, 6, num_kv_heads=kv, head_dim=size, value_dim=own, **options)
    filled(layer, dtype, seed)
    if of == "key":
        gone = data.draw(subsets(kv))
        queries = [h * each + i for h in gone for i in range(each)]
    else:
        number = data.draw(st.integers(1, each - 1))
        queries = [
            group * each + i
            for group in range(kv)
            for i in data.draw(st.lists(st.integers(0, each - 1), unique=True, min_size=number, max_size=number))
        ]
        gone = queries
    x = mg.tensor(np.random.default_rng(seed).standard_normal((2, 5, 6)), dtype=dtype)
    small = check(
        layer,
        lambda m: compress.remove_heads(m, indices=gone, of=of),
        lambda m: blinded(m.output, queries, 2, own),
        lambda m: m(x, is_causal=True),
        seed=seed,
    )
    assert small.num_heads == heads - len(queries)
    assert small.num_kv_heads == (kv - len(gone) if of == "key" else kv)
    assert small.head_dim == size
    with mg.no_grad():  # with a cache too
        cache = nn.KVCache()
        steps = [small.eval()(x[:, i : i + 1], is_causal=True, cache=cache) for i in range(5)]
        np.testing.assert_allclose(mg.concat(steps, axis=1).numpy(), small(x, is_causal=True).numpy(), atol=1e-4)


@given(st.data())
def test_feed_forward(data: Any) -> None:
    dtype, seed = data.draw(DTYPES), data.draw(st.integers(0, 999))
    size = data.draw(st.integers(2, 9))
    activation = data.draw(st.sampled_from(["gelu", "relu", "sigmoid", "swiglu", "reglu", "geglu_tanh"]))
    network = nn.FeedForward(size, activation, features=4, bias=data.draw(st.booleans()))
    model = filled(nn.ModuleDict({"a": network, "b": nn.Residual(network)}), dtype, seed)  # one network, two places
    gone = data.draw(subsets(size))
    x = mg.tensor(np.random.default_rng(seed).standard_normal((2, 3, 4)), dtype=dtype)
    small = check(
        model,
        lambda m: compress.remove_neurons(m, indices=gone),
        lambda m: blinded(m["a"].output, gone, 2),
        lambda m: m["b"](m["a"](x)),
        seed=seed,
    )
    assert small["a"].hidden_features == size - len(gone)


@given(st.data())
def test_layers(data: Any) -> None:
    """With the normalization first a layer that is gone is one that writes nothing; last, one that is left out."""
    dtype, seed = data.draw(DTYPES), data.draw(st.integers(0, 999))
    count, norm = data.draw(st.integers(2, 4)), data.draw(st.sampled_from(["pre", "post"]))
    stack: Any = nn.TransformerEncoder if data.draw(st.booleans()) else nn.TransformerDecoder
    model = filled(stack(count, 2, 5, features=4, norm=norm), dtype, seed)
    gone = data.draw(subsets(count))
    draw = np.random.default_rng(seed)
    x, memory = (mg.tensor(draw.standard_normal((2, 3, 4)), dtype=dtype) for _ in range(2))

    def blind(m: Any) -> None:
        for i in gone:
            if norm == "post":
                m.layers[i].forward = lambda x, *args, **options: x
                continue
            for part in ("self_attention", "cross_attention", "feed_forward"):
                if getattr(m.layers[i], part, None) is not None:
                    for p in getattr(m.layers[i], part).output.parameters():
                        p._array[...] = 0

    def renamed(m: Any) -> None:  # the grads of kept layers, by their old names
        kept = compress.remove_layers(m, indices=gone)
        assert kept == {"": sorted(set(range(count)) - set(gone))}
        m.layers = {f"{i}": layer for i, layer in zip(kept[""], m.layers)}
        call = type(m).forward

        def forward(*args: Any, **options: Any) -> Any:
            held, m.layers = m.layers, list(m.layers.values())
            try:
                return call(m, *args, **options)
            finally:
                m.layers = held

        m.forward = forward

    given = (x,) if stack is nn.TransformerEncoder else (x, memory)
    check(model, renamed, blind, lambda m: m(*given), seed=seed)


@given(st.data())
def test_vocabulary(data: Any) -> None:
    dtype, seed, tied = data.draw(DTYPES), data.draw(st.integers(0, 999)), data.draw(st.booleans())
    sizes = {"features": 8, "num_layers": 1, "num_heads": 2, "hidden_features": 6}
    model = filled(Llama(LlamaConfig(vocab_size=9, tied=tied, **sizes)), dtype, seed)
    keep = data.draw(subsets(9))
    old = np.random.default_rng(seed).choice(keep, (2, 4))
    ids: list[Any] = []

    def call(m: Any) -> Any:
        if m.config.vocab_size == 9:
            return m(mg.tensor(old))[..., mg.tensor(sorted(keep))]
        return m(mg.tensor(ids[0][old]))

    small = check(model, lambda m: ids.append(compress.shrink_embedding(m, keep)), lambda m: None, call, seed=seed)
    assert small.config.vocab_size == len(keep)
    assert (ids[0] >= 0).sum() == len(keep)
    assert small.output_weight().shape == (8, len(keep))
    assert (small.head is None) == tied


@given(st.data())
def test_width(data: Any) -> None:
    """RMSNorm over features of which some are 0 is RMSNorm over the others, with another eps and other weights."""
    dtype, seed, tied = data.draw(DTYPES), data.draw(st.integers(0, 999)), data.draw(st.booleans())
    sizes = {"features": 8, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_features": 6}
    model = filled(Llama(LlamaConfig(vocab_size=9, tied=tied, norm_eps=0.01, bias=True, **sizes)), dtype, seed)
    gone = data.draw(subsets(8))
    ratio = 8 / (8 - len(gone))

    def blind(m: Any) -> None:
        m.tokens.weight._array[:, gone] = 0
        for layer in m.decoder.layers:
            for part in (layer.self_attention, layer.feed_forward):
                part.output.weight._array[:, gone] = 0
                part.output.bias._array[gone] = 0

    ids = mg.tensor(np.random.default_rng(seed).integers(0, 9, (2, 5)))
    small = check(
        model,
        lambda m: compress.remove_features(m, gone),
        blind,
        lambda m: m(ids),
        seed=seed,
        scaled=lambda name: ratio**-0.5 if "norm" in name else 1.0,
    )
    assert small.config.features == 8 - len(gone)
    made = Llama(small.config)
    assert made.to(dtype=dtype).load_state_dict(small.state_dict()) == ([], [])
    np.testing.assert_allclose(made(ids).detach().numpy(), small(ids).detach().numpy(), atol=1e-6)


class Own(nn.Module):
    """A forward of one's own: two layers whose results are multiplied, read by two others."""

    def __init__(self) -> None:
        self.a, self.b = nn.Dense(6, in_features=4), nn.Dense(6, "sigmoid", in_features=4)
        self.norm = nn.BatchNorm1D(6)
        self.c, self.d = nn.Dense(3, in_features=6), nn.Dense(3, bias=False, in_features=6)

    def forward(self, x: Any) -> Any:
        h = self.norm(mg.sin(self.a(x) * self.b(x)))
        return self.c(h) * self.d(h)


@given(st.data())
def test_units_of_an_own_forward(data: Any) -> None:
    dtype, seed, gone = data.draw(DTYPES), data.draw(st.integers(0, 999)), data.draw(subsets(6))
    model = filled(Own(), dtype, seed)
    keep = sorted(set(range(6)) - set(gone))
    x = mg.tensor(np.random.default_rng(seed).standard_normal((5, 4)), dtype=dtype)
    check(
        model,
        lambda m: compress.remove_units([m.a, m.b], [m.c, m.d], keep, between=[m.norm]),
        lambda m: [blinded(reader, gone, 1) for reader in (m.c, m.d)],
        lambda m: m(x),
        seed=seed,
    )


def test_a_wrong_cut_would_be_found() -> None:
    """The law fails where a reader loses other rows than those of the units."""
    model = filled(nn.Sequential([nn.Dense(4, "tanh", in_features=3), nn.Dense(2, in_features=4)]), "float64", 0)
    x = mg.tensor(np.random.default_rng(0).standard_normal((5, 3)))

    def wrong(m: Any) -> None:
        compress.remove_neurons(m, indices=[1])
        m[1].weight._array = m[1].weight._array[::-1].copy()

    def right(m: Any) -> Any:
        return compress.remove_neurons(m, indices=[1])

    check(model, right, lambda m: blinded(m[1], [1], 1), lambda m: m(x), seed=0)
    with pytest.raises(AssertionError):
        check(model, wrong, lambda m: blinded(m[1], [1], 1), lambda m: m(x), seed=0)
    with pytest.raises(AssertionError):
        check(model, right, lambda m: blinded(m[1], [2], 1), lambda m: m(x), seed=0)
