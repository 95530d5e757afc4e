"""What stays with a smaller model, what is chosen, what is refused, what it costs and how it is saved."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import compress, nn, optim
from minigrad.io import load_weights, save_weights
from minigrad.models import (
    GPT,
    Bert,
    BertConfig,
    BertForMaskedLM,
    GPTConfig,
    Llama,
    LlamaConfig,
    Seq2Seq,
    Seq2SeqConfig,
)
from minigrad.parallel import DataParallel

SIZES: dict[str, Any] = {"features": 16, "num_layers": 3, "num_heads": 4, "hidden_features": 20, "vocab_size": 30}


def mlp(*units: int, activation: Any = "relu", **options: Any) -> nn.Sequential:
    pairs = list(itertools.pairwise(units))
    last = len(pairs) - 1
    return nn.Sequential(
        [nn.Dense(n, None if i == last else activation, in_features=m, **options) for i, (m, n) in enumerate(pairs)]
    )


# --- what stays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16, mg.float64])
def test_what_belongs_to_a_parameter_is_kept(dtype: Any) -> None:
    model = mlp(3, 5, 2, kernel_regularizer="l2", kernel_constraint=nn.MaxNorm(2.0)).to(dtype=dtype)
    p: Any = model[0].weight
    p.mask = np.arange(15).reshape(3, 5) % 4 != 0
    p.no_decay = True
    model[1].weight.mask = np.array([[True], [False], [True], [False], [True]])  # stretches over the units of the last
    model[1].weight.requires_grad = False
    model[1]._name = "1"
    seen: list[Any] = []
    p.register_hook(lambda g: seen.append(g.shape))
    mask, regularizer, values, grad = p.mask, p.regularizer, p._array, np.ones((3, 5))
    p.grad = mg.tensor(grad * np.arange(5), dtype=dtype)
    compress.remove_neurons(model, indices=[0, 3])
    kept = [1, 2, 4]
    assert model[0].weight is p
    assert p.dtype == dtype
    assert (p.regularizer, p.no_decay) == (regularizer, True)
    assert isinstance(p.constraint, nn.MaxNorm)
    np.testing.assert_array_equal(p.mask, mask[:, kept])
    np.testing.assert_array_equal(model[1].weight.mask, [[False, False], [True, True], [True, True]])
    np.testing.assert_array_equal(p._array, values[:, kept])
    np.testing.assert_array_equal(p.grad.numpy().astype(float), (grad * np.arange(5))[:, kept])
    assert not model[1].weight.requires_grad
    assert model[1]._name == "1"
    p.grad = None
    model(mg.ones((2, 3), dtype=dtype)).sum().backward()
    assert seen == [(3, 3)]
    assert p.grad.shape == (3, 3)


def test_a_graph_of_before_is_refused() -> None:
    model = mlp(3, 5, 2)
    loss = model(mg.ones((2, 3))).sum()
    compress.remove_neurons(model, indices=[0])
    with pytest.raises(mg.GradError):
        loss.backward()


@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW, optim.RMSprop, lambda p: optim.SGD(p, lr=0.1, momentum=0.9)])
def test_a_stale_optimizer_raises(make: Any) -> None:
    model = mlp(3, 5, 2)
    optimizer = make(model.parameters())

    def step(optimizer: Any) -> None:
        optimizer.zero_grad()
        model(mg.ones((2, 3))).sum().backward()
        optimizer.step()

    step(optimizer)
    compress.remove_neurons(model, indices=[0])
    with pytest.raises(mg.ShapeError, match=r"step: the state of parameter 0 is of shape .*Make the optimizer anew"):
        step(optimizer)
    step(make(model.parameters()))


def test_an_average_of_before_raises() -> None:
    model = mlp(3, 5, 2)
    average = optim.EMA(model)
    average.update()
    compress.remove_neurons(model, indices=[0])
    with pytest.raises(ValueError, match="EMA"):
        average.update()


def test_a_mask_holds_after_training_on() -> None:
    """Masks of single weights and removal of neurons go together."""
    mg.random.seed(0)
    model = mlp(6, 8, 3)
    compress.prune(model, 0.5)
    compress.remove_neurons(model, 0.25)
    zeros = [p._array == 0 for p in (model[0].weight, model[1].weight)]
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        mg.sum(mg.square(model(mg.random.normal((4, 6))))).backward()
        optimizer.step()
    assert model[0].weight.shape == (6, 6)
    for p, zero in zip((model[0].weight, model[1].weight), zeros, strict=True):
        assert zero.any()
        assert (p._array[zero] == 0).all()
        assert (p._array[~zero] != 0).all()


# --- saved -----------------------------------------------------------------------------------------------------------


def smaller(model: Any) -> None:
    compress.remove_layers(model, indices=[1])
    compress.remove_heads(model, 0.5, scope="global")
    compress.remove_neurons(model, 0.4, scope="global")
    compress.shrink_embedding(model, range(0, 30, 2))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (GPT, GPTConfig(max_length=16, **SIZES)),
        (GPT, GPTConfig(max_length=16, tied=False, **SIZES)),
        (Llama, LlamaConfig(num_kv_heads=2, **SIZES)),
        (Llama, LlamaConfig(bias=True, tied=True, **SIZES)),
        (Bert, BertConfig(max_length=16, **SIZES)),
        (BertForMaskedLM, BertConfig(max_length=16, **SIZES)),
    ],
)
@pytest.mark.parametrize("even", [True, False])
def test_smaller_models_are_saved_and_loaded(kind: Any, config: Any, even: bool, tmp_path: Any) -> None:
    model = kind(config).eval()
    for p in model.parameters():
        p._array[...] = np.random.default_rng(p.size).standard_normal(p.shape) * 0.3
    model.save_pretrained(tmp_path / "before")
    if even:
        compress.remove_heads(model, 0.5)
        compress.remove_neurons(model, 0.5)
    else:
        smaller(model)
    ids = mg.tensor([[0, 4, 9, 3], [2, 14, 1, 1]])
    expected = model(ids).detach().numpy()
    model.save_pretrained(tmp_path / "after")
    again = kind.from_pretrained(tmp_path / "after")
    assert again.config == model.config
    np.testing.assert_array_equal(again(ids).detach().numpy(), expected)
    other = kind(model.config).eval()
    assert other.load_state_dict(model.state_dict()) == ([], [])
    np.testing.assert_array_equal(other(ids).detach().numpy(), expected)
    before, after = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("before", "after"))
    assert after < 0.85 * before
    if even:  # sizes that all layers share are numbers, as other programs read them
        assert (model.config.num_heads, model.config.hidden_features, model.config.head_dim) == (2, 10, 4)
    elif kind is Llama:
        assert model.config.num_layers == 2
    if kind is GPT:
        assert (model.head is None) == config.tied


def test_the_configuration_of_untouched_sizes_is_kept() -> None:
    config = GPTConfig(vocab_size=9, max_length=8, features=8, num_layers=1, num_heads=2)
    model = GPT(config)
    compress.remove_neurons(model, 0.0)
    assert model.config is config
    compress.remove_neurons(model, 0.5)
    assert model.config == GPTConfig(
        vocab_size=9, max_length=8, features=8, num_layers=1, num_heads=2, hidden_features=16
    )


def test_padding_follows() -> None:
    model = Bert(BertConfig(max_length=8, padding_idx=4, **SIZES))
    ids = compress.shrink_embedding(model, [7, 4, 1])
    assert ids[[1, 4, 7]].tolist() == [0, 1, 2]
    assert model.token_embedding.padding_idx == model.config.padding_idx == 1


def test_a_smaller_network_makes_a_smaller_file(tmp_path: Any) -> None:
    model = mlp(64, 128, 128, 10)
    save_weights(tmp_path / "before.safetensors", model.state_dict())
    compress.remove_neurons(model, 0.5)
    save_weights(tmp_path / "after.safetensors", model.state_dict())
    before, after = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("before", "after"))
    numbers = [64 * n + n + n * n + n + n * 10 + 10 for n in (128, 64)]
    assert after / before == pytest.approx(numbers[1] / numbers[0], abs=0.02)
    made = mlp(64, 64, 64, 10)
    made.load_state_dict(load_weights(tmp_path / "after.safetensors"))
    x = mg.random.normal((5, 64))
    np.testing.assert_array_equal(made(x).detach().numpy(), model(x).detach().numpy())


def test_slopes_of_heads_that_are_kept_are_saved() -> None:
    layer = nn.MultiHeadAttention(4, 8, alibi=True)
    slopes = layer.slopes.numpy()
    assert "slopes" not in layer.state_dict()
    compress.remove_heads(layer, indices=[0, 2])
    np.testing.assert_array_equal(layer.state_dict()["slopes"].numpy(), slopes[[1, 3]])


# --- what is chosen --------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.integers(1, 9), st.sampled_from([0.0, 0.2, 0.5, 0.9]), st.integers(1, 3))
def test_amounts(seed: int, count: int, amount: float, minimum: int) -> None:
    model = mlp(3, count, 4, 2)
    draw = np.random.default_rng(seed)
    scores = {"0": draw.standard_normal(count), "1": draw.standard_normal(4)}
    each = copy.deepcopy(model)
    kept = compress.remove_neurons(each, amount, scores=scores, minimum=minimum)
    for name, n in (("0", count), ("1", 4)):
        assert len(kept[name]) == max(n - round(amount * n), min(minimum, n))
        gone = np.delete(scores[name], kept[name])
        assert not gone.size or gone.max() <= scores[name][kept[name]].min()
    kept = compress.remove_neurons(model, amount, scores=scores, minimum=minimum, scope="global")
    left = sum(map(len, kept.values()))
    least = min(minimum, count) + min(minimum, 4)
    assert left == max(count + 4 - round(amount * (count + 4)), least)
    for name, own in kept.items():
        gone = np.delete(scores[name], own)
        for other, theirs in kept.items():  # what is gone is below all that stays, where a layer may still lose some
            if gone.size and len(theirs) > minimum:
                assert gone.max() <= scores[other][theirs].min()


def test_magnitudes() -> None:
    """Means over the weights that make a unit and those that read it, here written out."""
    model = mlp(3, 4, 2)
    w, v = (m.weight._array.astype(np.float64) for m in (model[0], model[1]))
    for name, measure in (("l1", np.abs), ("l2", np.square)):
        wanted = (measure(w).sum(axis=0) + measure(v).sum(axis=1)) / 5
        kept = compress.remove_neurons(copy.deepcopy(model), 0.5, scores=name)
        assert kept == {"0": sorted(np.argsort(wanted)[2:].tolist())}
    layer = nn.MultiHeadAttention(4, 8, num_kv_heads=2)
    parts = [
        layer.query.weight._array,
        layer.key.weight._array,
        layer.value.weight._array,
        layer.output.weight._array.T,
    ]
    wanted = [sum(np.square(p.reshape(8, 2, -1)[:, i]).sum() for p in parts) for i in (0, 1)]
    assert compress.remove_heads(layer, 0.5) == {"": [int(np.argmax(wanted))]}


@pytest.mark.parametrize("what", ["neurons", "heads", "channels"])
def test_first_order_scores_are_derivatives(what: str) -> None:
    """|sum(w * g)| over the weights that read a unit is the derivative by a factor on it, here by differences."""
    draw = np.random.default_rng(3)
    if what == "heads":
        model: Any = nn.MultiHeadAttention(4, 8, dtype="float64")
        remove, reader, axis, each = compress.remove_heads, model.output, 2, 2
        x = mg.tensor(draw.standard_normal((2, 5, 8)))
    elif what == "channels":
        layers = [nn.Conv2D(4, 3, in_channels=2, activation="tanh"), nn.Flatten(), nn.Dense(3, in_features=16)]
        model = nn.Sequential(layers).to(dtype="float64")
        remove, reader, axis, each = compress.remove_channels, model[1], 1, 1
        x = mg.tensor(draw.standard_normal((3, 2, 4, 4)))
    else:
        model = mlp(5, 4, 3, activation="tanh", dtype="float64")
        remove, reader, axis, each = compress.remove_neurons, model[1], 1, 1
        x = mg.tensor(draw.standard_normal((6, 5)))
    for p in model.parameters():
        p._array[...] = draw.standard_normal(p.shape)

    def loss(unit: int, factor: float) -> Any:
        def scale(module: Any, args: Any) -> Any:
            shape = [1] * args[0].ndim
            shape[axis] = -1
            factors = np.ones(4)
            factors[unit] = factor
            return (args[0] * mg.tensor(np.repeat(factors, each).reshape(shape)), *args[1:])

        undo = reader.register_forward_pre_hook(scale)
        value = mg.sum(mg.sin(model(x)))
        undo()
        return value

    wanted = [abs(float(loss(i, 1 + 1e-5)) - float(loss(i, 1 - 1e-5))) / 2e-5 for i in range(4)]
    loss(0, 1.0).backward()
    from minigrad.compress.structured.heads import _heads
    from minigrad.compress.structured.neurons import in_chains
    from minigrad.compress.structured.structure import Tree
    from minigrad.compress.structured.unit_scores import unit_scores

    tree = Tree("test", model)
    units = [_heads(tree, "", model, "key")] if what == "heads" else in_chains(tree, lambda m: m is model[0], None, ())
    np.testing.assert_allclose(unit_scores("test", model, units, "taylor", None)[0], wanted, rtol=1e-6)
    (kept,) = remove(model, 0.5, scores="taylor").values()
    assert kept == sorted(np.argsort(wanted)[2:].tolist())


def test_activations() -> None:
    model = nn.Sequential([nn.Dense(4, in_features=3), nn.BatchNorm1D(4), nn.ReLU(), nn.Dense(2, in_features=4)])
    batches = [mg.random.normal((n, 3)) for n in (5, 2)]
    model.train()
    expected = np.concatenate([mg.relu(model[1].eval()(model[0](x))).detach().numpy() for x in batches])
    model[1].train()
    before = model[1].running_mean.numpy().copy()
    kept = compress.remove_neurons(model, 0.5, scores="activation", data=batches)
    assert kept == {"0": sorted(np.argsort(expected.mean(axis=0), kind="stable")[2:].tolist())}
    assert model[1].training
    assert model[1]._is_plain
    np.testing.assert_array_equal(model[1].running_mean.numpy(), before[kept["0"]])
    network = nn.FeedForward(6, "swiglu", features=4)
    x = mg.random.normal((2, 3, 4))
    inside = np.abs((network.gate(x) * network.hidden(x)).detach().numpy()).mean(axis=(0, 1))
    kept = compress.remove_neurons(network, 0.5, scores="activation", data=[(x,)])
    assert kept == {"": sorted(np.argsort(inside)[3:].tolist())}


def test_paths_choose() -> None:
    model = nn.TransformerEncoder(3, 2, 8, features=4)
    assert list(compress.remove_neurons(model, 0.5, layers=["layers.1"])) == ["layers.1.feed_forward"]
    names = ["layers.0.self_attention", "layers.1.self_attention"]
    assert list(compress.remove_heads(model, 0.5, exclude=["layers.2"])) == names
    assert [layer.feed_forward.hidden_features for layer in model.layers] == [8, 4, 8]
    assert [layer.self_attention.num_heads for layer in model.layers] == [1, 1, 2]
    assert nn.TransformerEncoder(3, [1, 1, 2], (8, 4, 8), features=4, head_dim=2).load_state_dict(model.state_dict())


def test_layers_by_scores() -> None:
    model = nn.TransformerEncoder(4, 2, 8, features=4)
    for i, factor in enumerate([1.0, 3.0, 0.5, 2.0]):
        for part in (model.layers[i].self_attention, model.layers[i].feed_forward):
            part.output.weight._array *= factor
    assert compress.remove_layers(copy.deepcopy(model), 0.5, scores={"": [4, 1, 2, 3]}) == {"": [0, 3]}
    assert compress.remove_layers(model, 0.25) == {"": [0, 1, 3]}
    blocks = nn.Sequential([nn.Residual(mlp(3, 4, 3)) for _ in range(3)])
    kept = blocks[0], blocks[2]
    assert compress.remove_layers(blocks, indices=[1]) == {"": [0, 2]}
    assert (blocks[0], blocks[1]) == kept
    assert blocks[1]._name == "1"


# --- what is refused -------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        self.a, self.b = nn.Dense(4, in_features=3), nn.ModuleList([nn.Dense(2, in_features=4)])

    def forward(self, x: Any) -> Any:
        return self.b[0](self.a(x))


class Odd(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return super().forward(x) + x.sum()


class OwnAttention(nn.MultiHeadAttention):
    def forward(self, *args: Any, **options: Any) -> Any:
        return super().forward(*args, **options)


class OwnNetwork(nn.FeedForward):
    def forward(self, x: Any) -> Any:
        return super().forward(x)


def tied() -> nn.Sequential:
    model = mlp(4, 4, 4, 2)
    model[1].weight = model[0].weight
    return model


def twice() -> nn.Sequential:
    layer = nn.Dense(4, in_features=4)
    return nn.Sequential([layer, nn.ReLU(), layer, nn.Dense(2, in_features=4)])


def replaced() -> nn.FeedForward:
    network = nn.FeedForward(6, features=4)
    network.output = mlp(6, 5, 4)
    return network


def normed() -> nn.FeedForward:
    network = nn.FeedForward(6, features=4)
    network.dropout = nn.LayerNorm(6)
    return network


def scaled() -> nn.MultiHeadAttention:
    layer = nn.MultiHeadAttention(2, 4, qk_norm=True)
    layer.query_norm = nn.Lambda(lambda q: q * mg.reshape(mg.tensor([1.0, 2.0]), (2, 1, 1)))
    return layer


def between(layer: Any, units: int = 4) -> nn.Sequential:
    return nn.Sequential([nn.Dense(units, in_features=3), layer, nn.Dense(2, in_features=units)])


def channels(*layers: Any) -> nn.Sequential:
    return nn.Sequential([nn.Conv2D(4, 3, in_channels=2), *layers])


REFUSED = [
    (compress.remove_neurons, Net, "layer 'a' is held by a Net, whose forward is not known"),
    (compress.remove_neurons, lambda: nn.ModuleList([nn.Dense(2, in_features=3)]), "layer '0' is held by a ModuleList"),
    (compress.remove_neurons, lambda: Odd([nn.Dense(2, in_features=3), nn.Dense(2, in_features=2)]), "held by a Odd"),
    (compress.remove_neurons, tied, "layer '0' is stopped by '0.weight': a tensor that several layers share"),
    (compress.remove_neurons, twice, "layer '0' is held in several places"),
    (compress.remove_neurons, replaced, "stopped by 'output': a Sequential in the place of a linear map"),
    (
        compress.remove_neurons,
        lambda: OwnNetwork(6, features=4),
        "a OwnNetwork, whose forward is not that",
    ),
    (
        compress.remove_neurons,
        lambda: between(nn.LayerNorm(4)),
        "'1': a LayerNorm, whose statistics are those",
    ),
    (compress.remove_neurons, lambda: between(nn.RMSNorm(4)), "layer '0' is stopped by '1': a RMSNorm"),
    (compress.remove_neurons, lambda: between(nn.Softmax()), "'1': a Softmax, which is not known to work"),
    (compress.remove_neurons, lambda: between(nn.Lambda(lambda x: x[..., ::-1])), "'1': the activation a function"),
    (
        compress.remove_neurons,
        lambda: between(nn.Lambda(lambda x: x * mg.arange(x.shape[1]))),
        "layer '0' is stopped by",
    ),
    (compress.remove_neurons, lambda: between(nn.Reshape((2, 2))), "'1': a Reshape"),
    (
        compress.remove_neurons,
        lambda: between(nn.Residual(nn.ReLU())),
        "'1': a Residual, which has parameters",
    ),
    (compress.remove_neurons, lambda: mlp(3, 4, 2, activation="softmax"), "layer '0' is the activation"),
    (compress.remove_neurons, lambda: DataParallel(mlp(3, 4, 2)), "model is wrapped in DataParallel"),
    (compress.remove_neurons, lambda: nn.Dense(3, in_features=2), "needs hidden units, of which there are none here"),
    (compress.remove_neurons, lambda: Seq2Seq(Seq2SeqConfig(9, features=8)), "model is a Seq2Seq"),
    (compress.remove_neurons, lambda: nn.Sequential([nn.Dense(4), nn.Dense(2)]), "0.weight is uninitialized"),
    (
        compress.remove_channels,
        lambda: channels(nn.GroupNorm(2, 4), nn.Conv2D(2, 3, in_channels=4)),
        "a GroupNorm, whose",
    ),
    (compress.remove_channels, lambda: channels(nn.Dense(2, in_features=4)), "a Dense, which works on the last axis"),
    (compress.remove_channels, lambda: channels(nn.Flatten(2), nn.Dense(2, in_features=4)), "a Flatten of other axes"),
    (
        compress.remove_channels,
        lambda: channels(nn.Conv2D(4, 3, groups=2, in_channels=4)),
        "a convolution in 2 groups",
    ),
    (compress.remove_channels, lambda: channels(nn.BatchNorm(axis=-1, features=4), nn.ReLU()), "of axis -1, on which"),
    (
        compress.remove_channels,
        lambda: nn.Residual(nn.Conv2D(2, 3, in_channels=2)),
        "'module' is held by a Residual",
    ),
    (
        compress.remove_channels,
        lambda: channels(nn.Flatten(), nn.Dense(2, in_features=5)),
        "of 5 features, while 4",
    ),
    (
        compress.remove_heads,
        lambda: OwnAttention(2, 4),
        "a OwnAttention, whose forward is not",
    ),
    (compress.remove_heads, scaled, "stopped by 'query_norm': a Lambda, which may treat heads differently"),
    (compress.remove_neurons, normed, "stopped by 'dropout': a LayerNorm, which has parameters"),
    (compress.remove_heads, lambda: mlp(3, 4, 2), "needs a MultiHeadAttention"),
    (compress.remove_layers, lambda: mlp(3, 4, 2), "needs a TransformerEncoder or TransformerDecoder"),
]


@pytest.mark.parametrize(("remove", "make", "text"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refused(remove: Any, make: Any, text: str) -> None:
    model = make()
    before = {name: t._array for name, t, _ in model._tensors()}
    with pytest.raises(ValueError, match=f"{remove.__name__}: .*") as caught:
        remove(model, 0.5)
    assert text in str(caught.value)
    assert all(t._array is before[name] for name, t, _ in model._tensors())


SMALL: dict[str, Any] = {"vocab_size": 11, "features": 8, "num_layers": 2, "num_heads": 2, "tied": False}


@pytest.mark.parametrize(
    ("remove", "model", "exclude", "text"),
    [
        (compress.shrink_embedding, GPT(GPTConfig(max_length=8, **SMALL)), ["decoder"], "layer 'head' is a "),
        (compress.remove_features, Llama(LlamaConfig(hidden_features=8, **SMALL)), ["decoder"], "layer 'head' is a "),
        (
            compress.remove_layers,
            GPT(GPTConfig(max_length=8, **SMALL)),
            ["decoder.layers.0", "head"],
            "stopped by 'decoder.layers.1.self_attention.output': a ",
        ),
    ],
)
def test_layers_with_weights_of_another_form_are_refused(
    remove: Any, model: Any, exclude: list[str], text: str
) -> None:
    """What such a layer shows as its weight is made anew, and to cut it would change nothing."""
    made = compress.quantize(copy.deepcopy(model), embeddings=False, exclude=exclude)
    ids = mg.tensor([[1, 2, 3]])
    before = {name: t._array for name, t, _ in made._tensors()}, made(ids).detach().numpy()
    with pytest.raises(ValueError, match=f"{remove.__name__}: .*needs units that can be followed") as caught:
        remove(made, 0.5 if remove is compress.remove_layers else [0, 1])
    assert text in str(caught.value)
    assert all(t._array is before[0][name] for name, t, _ in made._tensors())
    assert np.array_equal(made(ids).detach().numpy(), before[1])


def test_a_mask_that_does_not_fit_changes_nothing() -> None:
    model = mlp(3, 4, 2)
    model[1].weight.mask = np.ones(3)
    with pytest.raises(mg.ShapeError, match=r"remove_neurons: 1.weight: mask is \(3,\), needs \(4, 2\)"):
        compress.remove_neurons(model, 0.5)
    assert model[0].weight.shape == (3, 4)


@pytest.mark.parametrize("amount", [np.float32(0.5), np.float16(0.5), np.float64(0.5)])
def test_shares_of_numpy_are_shares(amount: Any) -> None:
    assert len(compress.remove_neurons(mlp(3, 4, 2), amount)["0"]) == 2


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({}, ValueError, "amount, indices is neither"),
        ({"amount": 0.5, "indices": [1]}, ValueError, "amount, indices is both"),
        ({"amount": 1.0}, ValueError, "amount is 1.0, needs a share"),
        ({"amount": True}, ValueError, "amount is True"),
        ({"amount": 0.5, "scope": "all"}, ValueError, "scope is 'all'"),
        ({"amount": 0.5, "scores": "size"}, ValueError, "scores is 'size', needs one of l1, l2, taylor, activation"),
        ({"amount": 0.5, "scores": "taylor"}, ValueError, "1.weight is without a gradient"),
        ({"amount": 0.5, "scores": "activation"}, ValueError, "data is None, needs batches"),
        ({"amount": 0.5, "data": []}, ValueError, "needs none without scores='activation'"),
        ({"amount": 0.5, "scores": "activation", "data": []}, ValueError, "data is without a call of '0'"),
        ({"amount": 0.5, "scores": {}}, ValueError, "scores is without '0'"),
        ({"amount": 0.5, "scores": {"0": [1.0]}}, ValueError, "needs 4 numbers"),
        ({"amount": 0.5, "minimum": 0}, ValueError, "minimum is 0"),
        ({"indices": [0, 4]}, IndexError, "is 4, needs one of 4 units"),
        ({"indices": [0, 0]}, ValueError, "needs each once"),
        ({"indices": [0, -4]}, ValueError, "needs each once"),
        ({"indices": [0.5]}, TypeError, "needs a sequence of ints"),
        ({"indices": [0, 1, 2, 3]}, ValueError, "needs at most 3, so that 1 of 4 are left"),
        ({"indices": {"1": [0]}}, ValueError, "a layer in indices is '1', needs one of '0'"),
        ({"amount": 0.5, "layers": ["7"]}, ValueError, "layers is '7', needs the path of a layer"),
        ({"amount": 0.5, "exclude": "0"}, TypeError, "exclude is '0', needs a sequence of paths"),
        ({"amount": 0.5, "exclude": None}, TypeError, "exclude is None, needs a sequence of paths"),
        ({"amount": 0.5, "scores": "activation", "data": 3}, TypeError, "data is 3, needs a list of batches"),
        ({"amount": 0.5, "layers": ["1"]}, ValueError, "the last of its Sequential, whose units are outputs"),
    ],
)
def test_arguments_are_checked(options: Any, kind: Any, text: str) -> None:
    model = mlp(3, 4, 2)
    with pytest.raises(kind) as caught:
        compress.remove_neurons(model, **options)
    assert text in str(caught.value)
    assert model[0].units == 4


@pytest.mark.parametrize("keep", [[0.5], [True, False], "0", None, 3])
def test_units_to_keep_are_ints(keep: Any) -> None:
    model, table = mlp(3, 4, 2), nn.Embedding(4, 3)
    with pytest.raises(TypeError, match=r"remove_units: keep is .*, needs a sequence of ints"):
        compress.remove_units(model[0], model[1], keep)
    with pytest.raises(TypeError, match=r"shrink_embedding: keep is .*, needs a sequence of ints"):
        compress.shrink_embedding(table, keep)
    with pytest.raises(ValueError, match="remove_units: keep is empty, needs at least one unit"):
        compress.remove_units(model[0], model[1], [])
    assert model[0].weight.shape == table.weight.mT.shape == (3, 4)


@pytest.mark.parametrize("scores", ["l1", "l2", "taylor", "activation"])
def test_units_without_a_score_are_refused(scores: str) -> None:
    """They would go, or stay, by chance."""
    model = mlp(3, 4, 2, activation="tanh")
    model(mg.ones((2, 3))).sum().backward()
    with mg.no_grad():
        for layer in model:
            layer.weight[0, 1] = np.nan
    with pytest.raises(ValueError, match="remove_neurons: scores of '0' is NaN, needs numbers"):
        compress.remove_neurons(model, 0.5, scores=scores, data=[mg.ones((2, 3))] if scores == "activation" else None)
    assert model[0].units == 4


def test_other_arguments_are_checked() -> None:
    layer = nn.MultiHeadAttention(6, 12, num_kv_heads=2)
    with pytest.raises(ValueError, match=r"leaving \[1, 3\], needs equally many left in each of 2 groups of 3"):
        compress.remove_heads(layer, indices=[0, 1], of="query")
    with pytest.raises(ValueError, match="'layer', as groups of heads lose equally many"):
        compress.remove_heads(layer, 0.5, of="query", scope="global")
    with pytest.raises(ValueError, match="of is 'value'"):
        compress.remove_heads(layer, 0.5, of="value")
    net = Net()
    for args, text in (
        ((net.a, nn.Dense(2, in_features=3), [0]), r"consumer 0.weight is of shape \(3, 2\), needs a multiple of 4"),
        ((net.a, nn.LSTM(3), [0]), "consumer 0 is a LSTM, which is no plain Dense or convolution"),
        (
            ([net.a, nn.Dense(3, in_features=3)], net.b[0], [0]),
            "producer 1 is a layer of 3 units, while",
        ),
        ((net.a, net.b[0], []), "keep is empty, needs at least one unit"),
        ((net.a, [net.b[0], net.b[0]], [0]), "one of them twice"),
        ((net.a, [], [0]), "at least one layer each"),
        ((net.a, nn.Dense(2), [0]), "consumer 0.weight is uninitialized"),
    ):
        with pytest.raises(ValueError, match=text):
            compress.remove_units(*args)
    with pytest.raises(ValueError, match="between 0 is a LayerNorm, which has not a weight for each unit by itself"):
        compress.remove_units(net.a, net.b[0], [0], between=[nn.LayerNorm(4)])
    assert net(mg.ones((2, 3))).shape == (2, 2)
    with pytest.raises(ValueError, match="the id of padding"):
        compress.shrink_embedding(nn.Embedding(4, 2, padding_idx=0), [1, 2])
    with pytest.raises(ValueError, match="needs an Embedding, GPT, Llama, Bert or BertForMaskedLM"):
        compress.shrink_embedding(net, [1, 2])
    with pytest.raises(ValueError, match="needs a Llama, which has RMSNorm alone"):
        compress.remove_features(GPT(GPTConfig(max_length=4, **SIZES)), [0])
    with pytest.raises(ValueError, match="layer '1' is a Dense: only a Residual without a shortcut"):
        compress.remove_layers(mlp(3, 3, 3), indices=[1])
    with pytest.raises(mg.ShapeError, match="num_heads is 2 numbers, needs 3, one for each layer"):
        nn.TransformerEncoder(3, [1, 2], features=4)


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_operations() -> None:
    """By the formulas, written out; a smaller model has those of its sizes."""
    conv = nn.Sequential([nn.Conv2D(4, 3, in_channels=2, stride=2), nn.Conv2DTranspose(3, 2, in_channels=4)])
    cost = compress.measure(conv, mg.ones((5, 2, 9, 9)))
    assert cost.flops == 2 * 5 * (16 * 4 * 2 * 9 + 16 * 4 * 3 * 4)
    layer = nn.TransformerDecoderLayer(4, 10, features=8, memory_features=6)
    tokens, memory = 2 * 5, 2 * 7
    expected = 4 * tokens * 8 * 8 + 2 * tokens * 5 * 8  # self-attention: four maps, scores and sums
    expected += 2 * tokens * 8 * 8 + 2 * memory * 6 * 8 + 2 * tokens * 7 * 8
    expected += 2 * tokens * 8 * 10
    assert compress.measure(layer, mg.ones((2, 5, 8)), mg.ones((2, 7, 6))).flops == 2 * expected
    model = GPT(GPTConfig(max_length=8, **SIZES)).train()
    ids = mg.tensor(np.zeros((2, 8), np.int64))
    before = compress.measure(model, ids, repeats=1)
    assert before.flops == 2 * 16 * (3 * (4 * 16 * 16 + 2 * 8 * 16 + 2 * 16 * 20) + 16 * 30)
    assert model.training
    assert model._is_plain
    compress.remove_layers(model, indices=[0])
    compress.remove_heads(model, 0.5)
    compress.remove_neurons(model, 0.5)
    after = compress.measure(model, ids, repeats=1)
    assert after.flops == 2 * 16 * (2 * (4 * 16 * 8 + 2 * 8 * 8 + 2 * 16 * 10) + 16 * 30)
    assert after.parameters == sum(p.size for p in model.parameters())
    assert after.bytes == 4 * after.parameters
    assert after.seconds > 0
    assert f"{after.flops / before.flops:.1%}" in after.beside(before)
    assert str(after).startswith(f"{after.flops / 1e6:.2f} MFLOPs")
    with pytest.raises(ValueError, match="repeats is 0"):
        compress.measure(model, ids, repeats=0)
    with pytest.raises(TypeError, match="measure: model is 'gpt', needs a module"):
        compress.measure("gpt", ids)  # type: ignore[arg-type]


def test_operations_of_quantized_and_sparse_layers() -> None:
    """Rounding saves none, zeros that are left out do."""
    model, x = mlp(32, 64, 8), mg.ones((2, 5, 32))
    compress.prune(model, 0.75, scope="layer")
    whole = 2 * 10 * (32 * 64 + 64 * 8)
    assert compress.measure(model, x, repeats=1).flops == whole
    assert compress.measure(compress.quantize(copy.deepcopy(model)), x, repeats=1).flops == whole
    assert compress.measure(compress.sparsify(model, 0.5), x, repeats=1).flops == whole // 4
