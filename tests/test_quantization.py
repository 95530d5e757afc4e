"""Models with int8 weights: formulas and bounds, what is swapped, what is refused, files, copies, dtypes."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import compress, nn
from minigrad.compress import QuantizedDense, QuantizedEmbedding, dequantize_array, quantize_array
from minigrad.compress.quantization import int8
from minigrad.errors import DeviceError, DTypeError, GradError, ShapeError
from minigrad.io import load_weights, save_weights
from minigrad.models import GPT, GPTConfig, Llama, LlamaConfig, Seq2Seq, Seq2SeqConfig, generate
from minigrad.models.bert import Bert, BertConfig, BertForMaskedLM
from minigrad.testing.samples import relayout
from minigrad.testing.strategies import layouts
from minigrad.testing.variants import generic

Array = np.ndarray[Any, Any]

finite = st.floats(-(2.0**100), 2.0**100, width=32)
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6), elements=finite)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def made(*shape: int, **options: Any) -> QuantizedDense:
    return QuantizedDense(normal(0, *shape), normal(1, shape[1]), **options).eval()


# ---- formulas --------------------------------------------------------------------------------------------------------


@given(x=matrices, axis=st.sampled_from([None, 0, 1]))
def test_no_value_is_further_than_half_a_step(x: Array, axis: int | None) -> None:
    q, scale = quantize_array(x, axis)
    assert (q.dtype, scale.dtype) == (np.int8, np.float32)
    assert q.min() >= -127
    step = np.broadcast_to(np.maximum(scale, 0), x.shape).astype(np.float64)
    wide = q.astype(np.float64) * step
    # the quotient is rounded to float32 before it is rounded to an integer; without a scale nothing is left
    limit = np.where(step > 0, step / 2 * (1 + 2.0**-16), 127 * 2.0**-126)
    assert np.all(np.abs(wide - x) <= limit)


@given(x=matrices, axis=st.sampled_from([None, 0, 1]))
def test_quantizing_again_changes_nothing(x: Array, axis: int | None) -> None:
    q, scale = quantize_array(x, axis)
    again, scale_again = quantize_array(dequantize_array(q, scale), axis)
    np.testing.assert_array_equal(again, q)
    np.testing.assert_allclose(scale_again, scale, rtol=2.0**-22)


@given(x=matrices)
def test_scales_of_channels_are_at_most_that_of_all(x: Array) -> None:
    """So is the bound of each error; and the largest of the scales is that of all."""
    single, each = quantize_array(x)[1], quantize_array(x, 0)[1]
    assert np.all(each <= single)
    assert each.max() == single


def test_channels_of_several_sizes_gain_by_scales_of_their_own() -> None:
    w = normal(0, 64, 48) * np.logspace(-3, 0, 48, dtype=np.float32)
    error = {axis: np.linalg.norm(dequantize_array(*quantize_array(w, axis)) - w, axis=0) for axis in (None, 0)}
    assert np.all(error[0] <= error[None] * 1.05)
    assert error[0][0] < 0.02 * error[None][0]


@given(
    m=st.integers(1, 5), k=st.integers(1, 40), n=st.integers(1, 20), seed=st.integers(0, 999),
    per_channel=st.booleans(), spread=st.sampled_from([0.0, 3.0]), bits=st.integers(8, 12),
)  # fmt: skip
def test_a_product_keeps_its_bound(
    m: int, k: int, n: int, seed: int, per_channel: bool, spread: float, bits: int
) -> None:
    """|y - x @ w| <= s_w / 2 * |x|_1 + s_x / 2 * |w^|_1, of the bits behind the comma a little more."""
    rng, levels = np.random.default_rng(seed), 2 ** (bits - 1) - 1
    x = (rng.normal(size=(m, k)) * np.exp(spread * rng.normal(size=(m, k)))).astype(np.float32)
    w = (rng.normal(size=(k, n)) * np.exp(spread * rng.normal(size=(k, n)))).astype(np.float32)
    layer = QuantizedDense(w, per_channel=per_channel, input_bits=bits).eval()
    y = layer(mg.asarray(x)).numpy().astype(np.float64)
    w_hat = np.abs(layer.int8_weight.numpy() * layer.scale.numpy().astype(np.float64))
    row_scale = np.abs(x).max(1, keepdims=True).astype(np.float64) / levels
    wide = np.abs(x.astype(np.float64))
    bound = layer.scale.numpy() / 2 * wide.sum(1, keepdims=True) + row_scale / 2 * w_hat.sum(0)
    assert np.all(np.abs(y - x.astype(np.float64) @ w) <= bound * (1 + levels * 2.0**-22) + np.abs(y) * 2.0**-22)
    # weights alone: the first term
    only = QuantizedDense(w, per_channel=per_channel, dynamic=False).eval()(mg.asarray(x)).numpy()
    rounding = wide @ w_hat * (k + 3) * 2.0**-24
    first = layer.scale.numpy() / 2 * wide.sum(1, keepdims=True) * (1 + 2.0**-16)
    assert np.all(np.abs(only - x.astype(np.float64) @ w) <= first + rounding)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="quantize_array: values is float32 with NaN or inf, needs finite float32"):
        quantize_array(np.array([1.0, value], np.float32))


def test_values_that_are_not_floating_are_refused() -> None:
    with pytest.raises(DTypeError, match=r"values is int64 \(2,\), needs a floating dtype"):
        quantize_array(np.array([1, 2]))


# ---- the layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_dense_by_its_formula(dynamic: bool, activation: str | None) -> None:
    layer = made(30, 20, activation=activation, dynamic=dynamic)
    x = normal(2, 5, 30)
    rounded = dequantize_array(*quantize_array(x, 1)) if dynamic else x
    y = nn.functional.linear(mg.asarray(rounded), layer.weight, layer.bias)
    expected = nn.activations.get(activation)(y) if activation else y
    np.testing.assert_allclose(layer(mg.asarray(x)).numpy(), expected.numpy(), atol=2e-5)


@pytest.mark.parametrize("dynamic", [True, False])
@given(data=st.data(), lead=st.sampled_from([(), (1,), (3,), (2, 3), (0,), (2, 0, 3), (1, 2, 1, 2)]))
def test_any_axes_and_layouts(dynamic: bool, data: st.DataObject, lead: tuple[int, ...]) -> None:
    layer = made(9, 5, dynamic=dynamic)
    x = normal(3, *lead, 9)
    found = layer(mg.asarray(relayout(x, data.draw(layouts()))))
    assert found.shape == (*lead, 5)
    rows = [layer(mg.asarray(row)).numpy() for row in x.reshape(-1, 9)]
    np.testing.assert_array_equal(found.numpy().reshape(-1, 5), np.array(rows, np.float32).reshape(-1, 5))


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16, mg.float64, mg.int64])
def test_results_have_the_dtype_of_the_input(dynamic: bool, dtype: Any) -> None:
    layer = made(12, 7, dynamic=dynamic)
    x = mg.asarray(np.round(4 * normal(2, 3, 12))).astype(dtype)
    wide = layer(x.astype(mg.float32))
    found = layer(x)
    assert found.dtype == (mg.float32 if dtype == mg.int64 else dtype)
    np.testing.assert_array_equal(found.numpy(), wide.astype(found.dtype).numpy())


def test_more_bits_of_the_input_come_close_to_weights_alone() -> None:
    x, w = normal(2, 20, 256), normal(0, 256, 40)
    exact = x.astype(np.float64) @ w
    errors = [
        np.linalg.norm(QuantizedDense(w, **options).eval()(mg.asarray(x)).numpy() - exact)
        for options in ({"input_bits": 8}, {"input_bits": 10}, {"input_bits": 12}, {"dynamic": False})
    ]
    assert errors[0] > 1.2 * errors[1] > 1.2 * errors[3]
    assert abs(errors[2] / errors[3] - 1) < 0.02


def test_rows_are_independent() -> None:
    layer = made(12, 7)
    x = normal(2, 4, 12)
    expected = layer(mg.asarray(x)).numpy().copy()
    x[2, 3] = np.nan
    x[1] = 0
    found = layer(mg.asarray(x)).numpy()
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[1], layer.bias.numpy())
    np.testing.assert_array_equal(found[[0, 3]], expected[[0, 3]])


def test_the_layer_without_kernels_gives_the_same() -> None:
    layer, x = made(33, 18, activation="relu"), mg.asarray(normal(2, 4, 33))
    found = layer(x).numpy()
    with generic():
        np.testing.assert_array_equal(layer(x).numpy(), found)


def test_autocast_changes_nothing() -> None:
    layer, x = made(33, 18), mg.asarray(normal(2, 4, 33))
    expected = layer(x).numpy()
    with mg.amp.autocast(mg.bfloat16):
        np.testing.assert_array_equal(layer(x).numpy(), expected)


def test_errors_of_the_layer() -> None:
    layer = made(3, 2)
    with pytest.raises(ShapeError, match=r"QuantizedDense: x is float32 \(2, 4\), needs 3 features on its last axis"):
        layer(mg.ones((2, 4)))
    with pytest.raises(ShapeError, match="3 features"):
        layer(mg.tensor(1.0))
    with pytest.raises(DTypeError, match="needs a real dtype"):
        layer(mg.ones((2, 3), dtype=mg.complex64))
    with pytest.raises(ShapeError, match=r"weight is float32 \(2,\), needs a matrix"):
        QuantizedDense([1.0, 2.0])
    with pytest.raises(ShapeError, match=r"needs at most 132104 input features: int32 adds up no more$"):
        QuantizedDense(np.ones((132105, 1), np.float32))
    with pytest.raises(ShapeError, match=r"needs at most 8196 input features.*Take fewer input_bits"):
        QuantizedDense(np.ones((8197, 1), np.float32), input_bits=12)
    for bits in (7, 13):
        with pytest.raises(ValueError, match=f"input_bits is {bits}, needs an int from 8 to 12"):
            QuantizedDense(np.ones((1, 1), np.float32), input_bits=bits)
    with pytest.raises(ShapeError, match=r"bias is float32 \(1,\), needs shape \(2,\)"):
        QuantizedDense(np.ones((3, 2), np.float32), [1.0])


def test_other_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(3, 2)
    monkeypatch.setattr(mg.Tensor, "device", property(lambda self: "cuda:0"))
    with pytest.raises(DeviceError, match=r'a tensor on cuda:0, needs one on the CPU.*Call to\("cpu"\)'):
        layer(mg.ones((1, 3)))


def test_training_and_gradients_are_refused() -> None:
    model = compress.quantize(nn.Sequential([nn.Dense(2, in_features=3)]))
    x = mg.ones((1, 3), requires_grad=True)
    with pytest.raises(GradError, match=r"0: QuantizedDense: x is a tensor that requires grad, needs one without"):
        model(x)
    with mg.no_grad():
        model(x)
    assert not model(x.detach()).requires_grad
    model.train()
    with pytest.raises(GradError, match=r"0: QuantizedDense: training is True, needs evaluation mode.*Call eval\(\)"):
        model(mg.ones((1, 3)))
    table = QuantizedEmbedding(np.ones((3, 2), np.float32))
    with pytest.raises(GradError, match="QuantizedEmbedding: training is True"):
        table(mg.tensor([1]))


# ---- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_row", [True, False])
def test_embedding(per_row: bool) -> None:
    table = normal(0, 6, 5) * np.array([[1], [10], [0], [0.1], [1], [2]], np.float32)
    layer = QuantizedEmbedding(table, per_row=per_row).eval()
    ids = np.array([[5, 0], [2, 1]])
    expected = dequantize_array(*quantize_array(table, 1 if per_row else None))
    np.testing.assert_array_equal(layer.weight.numpy(), expected)
    np.testing.assert_array_equal(layer(mg.asarray(ids)).numpy(), expected[ids])
    assert layer(mg.zeros((0, 2), dtype=mg.int32)).shape == (0, 2, 5)
    with pytest.raises(IndexError, match=r"needs integers in \[0, 6\)"):
        layer(mg.tensor([6]))
    with pytest.raises(DTypeError, match="needs integers"):
        layer(mg.tensor([1.0]))


@pytest.mark.parametrize("dynamic", [True, False])
def test_embedding_as_a_head(dynamic: bool) -> None:
    layer = QuantizedEmbedding(normal(0, 21, 8), dynamic=dynamic).eval()
    x = normal(1, 2, 3, 8)
    rounded = dequantize_array(*quantize_array(x, 2)) if dynamic else x
    found = layer.project(mg.asarray(x))
    np.testing.assert_allclose(found.numpy(), rounded @ layer.weight.numpy().T, atol=1e-5)
    assert layer._packed is not None
    packed = layer._packed[1][0]
    layer.project(mg.asarray(x))
    assert layer._packed[1][0] is packed  # it is packed once
    with pytest.raises(ShapeError, match="needs 8 features"):
        layer.project(mg.ones((2, 7)))


# ---- models ----------------------------------------------------------------------------------------------------------


def gpt(tied: bool = True) -> GPT:
    mg.random.seed(0)
    return GPT(GPTConfig(vocab_size=60, max_length=16, features=64, num_layers=2, num_heads=4, tied=tied)).eval()


def bert() -> Bert:
    mg.random.seed(0)
    config = BertConfig(vocab_size=70, features=32, num_layers=2, num_heads=4, hidden_features=64, max_length=16)
    return Bert(config).eval()


IDS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def relative(a: mg.Tensor, b: mg.Tensor) -> float:
    x, y = a.detach().numpy(), b.detach().numpy()
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"input_bits": 12}, {"dynamic": False}, {"per_channel": False}, {"embeddings": False}]
)
def test_gpt(tied: bool, options: dict[str, Any]) -> None:
    model = gpt(tied)
    expected = model(mg.asarray(IDS))
    small = compress.quantize(copy.deepcopy(model), **options)
    found = small(mg.asarray(IDS))
    assert 0 < relative(found, expected) < 0.03
    kinds = {type(m) for m in small.modules()}
    assert nn.Dense not in kinds
    assert nn.projection.Projection not in kinds
    assert (nn.Embedding in kinds) == (not options.get("embeddings", True))
    targets = mg.asarray(np.roll(IDS, -1, 1))
    assert abs(float(small(mg.asarray(IDS), targets)) - float(model(mg.asarray(IDS), targets))) < 0.05
    assert np.array(generate(small, IDS, max_new_tokens=4)).shape == (2, 4)


def test_tied_logits_come_from_the_packed_table(monkeypatch: pytest.MonkeyPatch) -> None:
    small = compress.quantize(gpt())
    made: list[int] = []
    monkeypatch.setattr(int8, "dequantize_array", lambda *given: made.append(1) or dequantize_array(*given))
    small(mg.asarray(IDS))
    assert made == []
    small.output_weight()
    assert made == [1]


def test_llama() -> None:
    mg.random.seed(0)
    sizes = {"features": 32, "num_layers": 2, "num_heads": 4, "hidden_features": 48}
    model = Llama(LlamaConfig(vocab_size=60, **sizes)).eval()
    expected = model(mg.asarray(IDS))
    small = compress.quantize(model)
    assert type(small.decoder.layers[0].feed_forward.gate) is QuantizedDense
    assert 0 < relative(small(mg.asarray(IDS)), expected) < 0.05


@pytest.mark.parametrize("scaled", [False, True])
def test_encoder_and_decoder_with_a_shared_table(scaled: bool) -> None:
    mg.random.seed(0)
    config = Seq2SeqConfig(30, features=32, num_heads=4, hidden_features=48, max_length=16, scaled_output=scaled)
    model = Seq2Seq(config).eval()
    expected = model(mg.asarray(IDS), mg.asarray(IDS[:, :3]))
    small = compress.quantize(model)
    assert 0 < relative(small(mg.asarray(IDS), mg.asarray(IDS[:, :3])), expected) < 0.05


def test_masked_words_of_bert() -> None:
    mg.random.seed(0)
    config = BertConfig(vocab_size=70, features=32, num_layers=2, num_heads=4, hidden_features=64, max_length=16)
    model = BertForMaskedLM(config).eval()
    expected = model(mg.asarray(IDS))
    small = compress.quantize(model)
    assert 0 < relative(small(mg.asarray(IDS)), expected) < 0.05


def test_decoding_with_a_cache_is_decoding_without() -> None:
    small = compress.quantize(gpt(), dynamic=False)
    cache = small.make_cache()
    with mg.no_grad():
        small(mg.asarray(IDS[:, :3]), cache=cache)
        found = small(mg.asarray(IDS[:, 3:]), cache=cache)
        np.testing.assert_allclose(found.numpy(), small(mg.asarray(IDS)).numpy()[:, 3:], atol=1e-4)


def test_bert_and_its_vectors() -> None:
    model = bert()
    expected = model.embed(mg.asarray(IDS))
    small = compress.quantize(copy.deepcopy(model))
    found = small.embed(mg.asarray(IDS), lengths=mg.tensor([5, 3]))
    assert relative(found, model.embed(mg.asarray(IDS), lengths=mg.tensor([5, 3]))) < 0.05
    assert relative(small.embed(mg.asarray(IDS)), expected) < 0.05


def test_attention_and_transformers() -> None:
    mg.random.seed(0)
    model = nn.Transformer(2, 4, 32, features=16).eval()
    source, target = mg.asarray(normal(0, 2, 5, 16)), mg.asarray(normal(1, 2, 4, 16))
    expected = model(source, target)
    small = compress.quantize(copy.deepcopy(model))
    assert relative(small(source, target), expected) < 0.05
    counts = [sum(type(m) is kind for m in small.modules()) for kind in (QuantizedDense, nn.projection.Projection)]
    assert counts[0] > 10
    assert counts[1] == 0


def test_names_hooks_and_shared_layers_stay() -> None:
    shared = nn.Dense(4, in_features=4)
    model = nn.Sequential([shared, nn.ReLU(), shared, nn.Dense(2, in_features=4)])
    seen: list[str] = []
    shared.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    compress.quantize(model)
    model(mg.ones((1, 4)))
    assert seen == ["QuantizedDense", "QuantizedDense"]
    assert model[0] is shared
    assert [name for name, _ in model.named_buffers()][:2] == ["0.int8_weight", "0.scale"]
    with pytest.raises(ShapeError, match=r"^3: QuantizedDense"):
        model[3](mg.ones((1, 3)))


def test_a_single_layer() -> None:
    layer = nn.Dense(2, "relu", in_features=3)
    assert compress.quantize(layer) is layer
    assert repr(layer) == "QuantizedDense(3 -> 2, activation=relu)"
    assert compress.quantize(layer) is layer  # once more changes nothing
    assert not isinstance(layer, nn.Dense)


def test_what_is_excluded_stays() -> None:
    model = compress.quantize(gpt(), exclude=["decoder.layers.0", "tokens"])
    names = {name for name, m in model.named_modules() if isinstance(m, (QuantizedDense, QuantizedEmbedding))}
    assert names
    assert all(name.startswith("decoder.layers.1.") for name in names)
    with pytest.raises(ValueError, match=r"exclude is 'decoder\.layers\.7', needs the path of a module"):
        compress.quantize(gpt(), exclude=["decoder.layers.7"])
    with pytest.raises(TypeError, match="needs a list of paths"):
        compress.quantize(gpt(), exclude="tokens")


def test_errors_leave_the_model_as_it_was() -> None:
    model = nn.Sequential([nn.Dense(3, in_features=2), nn.Dense(2)])
    with pytest.raises(ShapeError, match=r"quantize: 1.weight is uninitialized, \(\?, 2\), needs its full shape"):
        compress.quantize(model)
    model(mg.ones((1, 2)))
    with mg.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"^1: quantize_array: values is float32 with NaN or inf"):
        compress.quantize(model)
    assert [type(m) for m in model.children()] == [nn.Dense, nn.Dense]
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "options", "error", "text"),
    [
        (nn.Sequential([nn.ReLU()]), {}, ValueError, "a Sequential without layers to quantize"),
        (nn.Embedding(3, 2), {"embeddings": False}, ValueError, "an Embedding, that is not excluded"),
        (nn.Dense(2, in_features=2), {"dtype": "int4"}, ValueError, "dtype is 'int4', needs 'int8'"),
        (nn.Dense(2, in_features=2), {"exclude": None}, TypeError, "exclude is None, needs a list of paths"),
        (np.ones(3), {}, TypeError, r"model is float64 \(3,\), needs a Module"),
    ],
)
def test_what_quantize_refuses(model: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        compress.quantize(model, **options)


# ---- state -----------------------------------------------------------------------------------------------------------


def test_a_file_is_a_quarter_and_loads_into_a_fresh_model(tmp_path: Path) -> None:
    model = GPT(GPTConfig(vocab_size=500, max_length=16, features=128, num_layers=2, num_heads=4)).eval()
    save_weights(tmp_path / "whole.safetensors", model.state_dict())
    small = compress.quantize(model)
    save_weights(tmp_path / "small.safetensors", small.state_dict())
    whole, part = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "small"))
    assert 3.6 < whole / part < 4
    mg.random.seed(5)
    fresh = compress.quantize(GPT(GPTConfig(vocab_size=500, max_length=16, features=128, num_layers=2, num_heads=4)))
    expected = small(mg.asarray(IDS)).numpy()
    assert np.abs(fresh(mg.asarray(IDS)).numpy() - expected).max() > 0.01  # and what was packed for this call
    fresh.load_state_dict(load_weights(tmp_path / "small.safetensors"))
    np.testing.assert_array_equal(fresh(mg.asarray(IDS)).numpy(), expected)


def test_states_of_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="missing: int8_weight, scale"):
        made(3, 2).load_state_dict(nn.Dense(2, in_features=3).state_dict())
    with pytest.raises(ValueError, match=r"mis-shaped: scale is \(1,\), needs \(2,\)"):
        made(3, 2).load_state_dict(made(3, 2, per_channel=False).state_dict())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(copied: Any) -> None:
    small = compress.quantize(gpt())
    expected = small(mg.asarray(IDS)).numpy().copy()
    other = copied(small)
    np.testing.assert_array_equal(other(mg.asarray(IDS)).numpy(), expected)
    assert type(other.tokens) is QuantizedEmbedding


def test_a_copy_does_not_carry_what_was_packed() -> None:
    layer = made(200, 300)
    layer(mg.ones((1, 200)))
    assert len(pickle.dumps(layer)) < 200 * 300 + 8 * 300 + 3000
    assert pickle.loads(pickle.dumps(layer)).scale.keeps_dtype


@pytest.mark.parametrize("name", ["int8_weight", "scale", "bias"])
def test_what_is_written_counts_in_the_next_call(name: str) -> None:
    layer = made(6, 4)
    x = mg.ones((2, 6))
    before = layer(x).numpy().copy()
    values = layer.state_dict()
    values[name] = values[name] * 0 + 1
    layer.load_state_dict(values)
    after = layer(x).numpy().copy()
    assert not np.array_equal(before, after)
    t = getattr(layer, name)
    t[...] = t * 0
    assert not np.array_equal(layer(x).numpy(), after)


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16, mg.float64])
def test_to_leaves_scales_alone(dtype: Any) -> None:
    small = compress.quantize(gpt())
    scales = {name: t.numpy().copy() for name, t in small.named_buffers() if name.endswith("scale")}
    expected = small(mg.asarray(IDS))
    assert expected.dtype == mg.float32
    small.to(dtype)
    found = small(mg.asarray(IDS))
    assert found.dtype == dtype
    assert relative(found.astype(mg.float32), expected) < 0.03
    for name, t in small.named_buffers():
        if name in scales:
            np.testing.assert_array_equal(t.numpy(), scales[name])
    assert small.to("cpu") is small


def test_half_models_are_quantized() -> None:
    model = gpt().to(mg.float16)
    small = compress.quantize(copy.deepcopy(model))
    found = small(mg.asarray(IDS))
    assert found.dtype == mg.float16
    assert relative(found.astype(mg.float32), model(mg.asarray(IDS)).astype(mg.float32)) < 0.03


def test_pruned_weights_stay_0() -> None:
    layer = nn.Dense(8, in_features=9)
    with mg.no_grad():
        layer.weight[layer.weight.detach() > 0] = 0.0
    zeros = layer.weight.detach().numpy() == 0
    assert 0 < zeros.sum() < zeros.size
    compress.quantize(layer)
    assert not layer.int8_weight.numpy()[zeros].any()


def test_against_pytorch() -> None:
    """PyTorch rounds the inputs of a batch with one scale and a zero point; both stay close to float32."""
    torch = pytest.importorskip("torch")
    w, b, x = normal(0, 64, 32), normal(1, 32), normal(2, 10, 64)
    theirs = torch.nn.Sequential(torch.nn.Linear(64, 32))
    with torch.no_grad():
        theirs[0].weight.copy_(torch.from_numpy(w.T.copy()))
        theirs[0].bias.copy_(torch.from_numpy(b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        small = torch.ao.quantization.quantize_dynamic(theirs, {torch.nn.Linear}, dtype=torch.qint8)
    exact = x @ w + b
    errors = [
        np.linalg.norm(y - exact) / np.linalg.norm(exact)
        for y in (QuantizedDense(w, b).eval()(mg.asarray(x)).numpy(), small(torch.from_numpy(x)).numpy())
    ]
    assert errors[0] <= errors[1]
    assert errors[1] < 0.05
