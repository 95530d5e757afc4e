"""Normalization layers: laws, running statistics, deferred features, and what they refuse; the op group_norm."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, GradError, ShapeError
from minigrad.testing.variants import assert_variants

DEFERRED = [
    (nn.LayerNorm, (4, 3), 3),
    (nn.RMSNorm, (2, 4, 3), 3),
    (lambda **options: nn.GroupNorm(2, **options), (3, 6, 2), 6),
    (lambda **options: nn.InstanceNorm(affine=True, **options), (2, 3, 5), 3),
    (nn.BatchNorm1D, (4, 3), 3),
    (nn.BatchNorm2D, (2, 3, 4, 5), 3),
    (lambda **options: nn.BatchNorm(axis=-1, **options), (2, 4, 3), 3),
]


def random(*shape: int, seed: int = 0) -> mg.Tensor:
    return mg.asarray(np.random.default_rng(seed).normal(2.0, 3.0, shape))


def values(t: Any) -> np.ndarray[Any, Any]:
    return t.detach().numpy()  # type: ignore[no-any-return]


# --- deferred features ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "shape", "features"), DEFERRED)
def test_the_first_batch_says_how_many_features(make: Any, shape: tuple[int, ...], features: int) -> None:
    layer = make(dtype=mg.float64)
    assert layer.features is None
    assert "?" in repr(layer)
    with pytest.raises(ShapeError, match="state_dict: weight is uninitialized"):
        layer.state_dict()
    other = copy.deepcopy(layer)
    x = random(*shape)
    out = layer(x)
    assert layer.features == features
    assert values(layer.weight).tolist() == [1.0] * features
    assert other.load_state_dict(layer.state_dict()) == ([], [])
    assert other.features == features
    given = make(features=features, dtype=mg.float64)
    assert np.array_equal(values(given(x)), values(out))
    restored = pickle.loads(pickle.dumps(layer))
    assert np.array_equal(values(restored.eval()(x)), values(layer.eval()(x)))
    assert all(t.dtype == mg.float32 for t in layer.to(mg.float32).parameters())


@pytest.mark.parametrize(("make", "shape", "features"), DEFERRED)
def test_a_batch_that_is_refused_fixes_nothing(make: Any, shape: tuple[int, ...], features: int) -> None:
    model = nn.Sequential([make()])
    for x, kind, text in (
        (mg.tensor(1.0), ShapeError, "^0: .*: x is float32 "),
        (mg.zeros([0 if n == features else n for n in shape]), ShapeError, "^0: "),
        (mg.zeros(shape, dtype=mg.complex64), DTypeError, "^0: .*needs real numbers"),
    ):
        with pytest.raises(kind, match=text):
            model(x)
        assert model[0].features is None  # type: ignore[attr-defined]
    model(mg.ones(shape))
    wrong = mg.ones([2 * n if n == features else n for n in shape])
    with pytest.raises(ShapeError, match=f"^0: .*: x is .*, needs {features} features on axis"):
        model(wrong)


def test_part_of_a_state_completes_the_rest() -> None:
    layer = nn.BatchNorm1D()
    layer.load_state_dict({"running_mean": [1.0, 2.0]}, strict=False)
    assert layer.features == 2
    assert layer.eval()(mg.tensor([[1.0, 3.0]])).shape == (1, 2)
    assert layer.state_dict()["running_var"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm])
def test_several_axes(make: Any) -> None:
    x = random(5, 2, 3)
    layer = make((2, 3))
    flat = make(6, affine=False)
    assert (layer.features, layer.weight.shape, repr(layer)) == ((2, 3), (2, 3), f"{make.__name__}((2, 3))")
    assert np.allclose(values(layer(x)).reshape(5, 6), values(flat(mg.reshape(x, (5, 6)))), rtol=1e-12)
    with pytest.raises(ShapeError, match=r"x is float64 \(5, 3, 2\), needs \(2, 3\) features on axis -2"):
        layer(mg.permute_dims(x, (0, 2, 1)))
    with pytest.raises(ShapeError, match="needs 2 axes or more"):
        layer(mg.ones((3,)))


def test_without_weights() -> None:
    x = random(3, 6, 4)
    for layer in (
        nn.LayerNorm(affine=False),
        nn.RMSNorm(affine=False),
        nn.GroupNorm(3, affine=False),
        nn.InstanceNorm(),
        nn.BatchNorm1D(affine=False, track_running_stats=False),
    ):
        assert (layer.parameters(), layer.state_dict()) == ([], {})
        assert layer(x).shape == layer(x[:2, :3, :3]).shape[:0] + x.shape  # other features later are no harm
    bare = nn.LayerNorm(6, bias=False)
    assert [name for name, _ in bare.named_parameters()] == ["weight"]
    with pytest.raises(ShapeError, match=r"LayerNorm: x is .* needs 5 features"):
        nn.LayerNorm(5, affine=False)(x)


def test_repr() -> None:
    assert repr(nn.LayerNorm(3, bias=False)) == "LayerNorm(3, bias=False)"
    assert repr(nn.LayerNorm(3, 1e-3, affine=False)) == "LayerNorm(3, eps=0.001, affine=False)"
    assert repr(nn.RMSNorm(3, affine=False)) == "RMSNorm(3, affine=False)"
    assert repr(nn.GroupNorm(2, 4, 0.1, affine=False)) == "GroupNorm(2 groups of 4, eps=0.1, affine=False)"
    assert repr(nn.InstanceNorm(affine=True)) == "InstanceNorm(?, affine=True)"
    plain = nn.BatchNorm(3, momentum=None, track_running_stats=False, axis=-1)
    assert repr(plain) == "BatchNorm(3, momentum=None, track_running_stats=False, axis=-1)"


def test_what_the_layers_refuse() -> None:
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: nn.LayerNorm(0), ShapeError, "LayerNorm: features is 0, needs at least 1"),
        (lambda: nn.LayerNorm(()), ShapeError, "LayerNorm: features is"),
        (lambda: nn.LayerNorm("3"), TypeError, "LayerNorm: features is '3', needs an int"),
        (lambda: nn.RMSNorm(3, eps=-1.0), ValueError, "RMSNorm: eps is -1.0"),
        (lambda: nn.RMSNorm(3, eps=True), ValueError, "RMSNorm: eps is True"),
        (lambda: nn.GroupNorm(0), ShapeError, "GroupNorm: num_groups is 0"),
        (lambda: nn.GroupNorm(3, 4), ShapeError, "GroupNorm: features is 4, needs a multiple of num_groups, 3"),
        (lambda: nn.GroupNorm(3)(mg.ones((2, 4))), ShapeError, "features is 4, axis 1 of x, needs a multiple"),
        (lambda: nn.InstanceNorm()(mg.ones((2, 4))), ShapeError, "InstanceNorm: x is .*more than one element"),
        (lambda: nn.InstanceNorm()(mg.ones((2, 4, 1))), ShapeError, "InstanceNorm: x is .*more than one element"),
        (lambda: nn.BatchNorm1D(3, momentum=1.5), ValueError, "BatchNorm1D: momentum is 1.5, needs a share"),
        (lambda: nn.BatchNorm(3, axis="a"), TypeError, "BatchNorm: axis is 'a', needs an int"),
        (lambda: nn.BatchNorm1D()(mg.ones((2, 3, 4, 5))), ShapeError, "BatchNorm1D: x is .*, needs 2 or 3 axes"),
        (lambda: nn.BatchNorm2D()(mg.ones((2, 3, 4))), ShapeError, "BatchNorm2D: x is .*, needs 4 axes"),
        (lambda: nn.BatchNorm()(mg.ones((3,))), ShapeError, "BatchNorm: x is .*, needs a batch, with channels"),
        (lambda: nn.BatchNorm1D()(mg.ones((1, 3))), ShapeError, "more than one element a channel.*eval"),
        (lambda: nn.BatchNorm1D(3)(mg.ones((0, 3))), ShapeError, "needs a batch of at least one element"),
    ]
    for call, kind, text in cases:
        with pytest.raises(kind, match=text):
            call()


# --- statistics -------------------------------------------------------------------------------------------------------


@given(st.data())
def test_group_norm_is_layer_norm_of_groups(data: st.DataObject) -> None:
    groups, per, rest = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    x = random(2, groups * per, rest, seed=data.draw(st.integers(0, 99)))
    weight, bias = random(groups * per, seed=1), random(groups * per, seed=2)
    normal = mg.reshape(mg.layer_norm(mg.reshape(x, (2, groups, per * rest)), eps=0.1), x.shape)
    expected = normal * weight[:, None] + bias[:, None]
    assert np.allclose(values(mg.group_norm(x, groups, weight, bias, 0.1)), values(expected), rtol=1e-12)


@given(
    seed=st.integers(0, 99),
    shape=st.sampled_from([(1, 4), (3, 4, 1), (2, 8, 5), (2, 4, 3, 7), (1, 12, 33)]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_the_kernel_of_group_norm_is_the_generic_one(seed: int, shape: tuple[int, ...], dtype: Any) -> None:
    x = values(random(*shape, seed=seed)).astype(dtype)
    weight, bias = (values(random(shape[1], seed=seed + i)).astype(dtype) for i in (1, 2))
    for groups in (1, 2, 4):
        assert_variants(lambda t, w, b, n=groups: mg.group_norm(t, n, w, b, 0.1), x, weight, bias, seed=seed, floor=10)
        assert_variants(lambda t, n=groups: mg.group_norm(t, n, eps=0.1), x, seed=seed, floor=10)


@pytest.mark.parametrize("axis", [1, -1])
def test_batch_norm_by_hand(axis: int) -> None:
    layer = nn.BatchNorm(3, momentum=0.25, axis=axis, dtype=mg.float64)
    batches = [random(4, 3, 5, seed=i) if axis == 1 else random(4, 5, 3, seed=i) for i in range(3)]
    others = (0, 2) if axis == 1 else (0, 1)
    mean, var = np.zeros(3), np.ones(3)
    for x in batches:
        a = values(x)
        out = layer(x)
        centered = a - a.mean(axis=others, keepdims=True)
        assert np.allclose(values(out), centered / np.sqrt(a.var(axis=others, keepdims=True) + 1e-5), rtol=1e-10)
        mean = 0.75 * mean + 0.25 * a.mean(axis=others)
        var = 0.75 * var + 0.25 * a.var(axis=others, ddof=1)
    assert np.allclose(values(layer.running_mean), mean, rtol=1e-12)
    assert np.allclose(values(layer.running_var), var, rtol=1e-12)
    assert layer.num_batches_tracked is not None
    assert layer.num_batches_tracked.item() == 3
    layer.eval()
    before = {name: t.tolist() for name, t in layer.state_dict().items()}
    shape = (1, 3, 1) if axis == 1 else (3,)
    expected = (values(x) - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + 1e-5)
    assert np.allclose(values(layer(x)), expected, rtol=1e-10)
    assert {name: t.tolist() for name, t in layer.state_dict().items()} == before


def test_a_momentum_of_none_averages_all_batches() -> None:
    layer = nn.BatchNorm1D(2, momentum=None, dtype=mg.float64)
    batches = [random(6, 2, seed=i) for i in range(4)]
    for x in batches:
        layer(x)
    assert np.allclose(values(layer.running_mean), np.mean([values(x).mean(axis=0) for x in batches], axis=0))
    assert np.allclose(values(layer.running_var), np.mean([values(x).var(axis=0, ddof=1) for x in batches], axis=0))


def test_running_statistics_are_no_part_of_the_graph() -> None:
    layer = nn.BatchNorm1D(2, dtype=mg.float64)
    layer(random(4, 2))
    for t in layer.buffers():
        assert not t.requires_grad
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    buffers = [id(t) for t in layer.buffers()]
    layer(random(4, 2))
    assert [id(t) for t in layer.buffers()] == buffers
    layer.eval()
    x = random(4, 2)
    loss = (layer(x) ** 2).sum()
    layer.train()(x)  # moves the statistics that the graph above has saved
    with pytest.raises(GradError, match="changed in place"):
        loss.backward()


def test_without_running_statistics_evaluation_uses_the_batch() -> None:
    layer = nn.BatchNorm1D(3, track_running_stats=False)
    x = random(5, 3)
    assert layer.buffers() == []
    assert np.array_equal(values(layer(x)), values(layer.eval()(x)))
    assert layer(mg.ones((1, 3))).tolist() == [[0.0, 0.0, 0.0]]  # a single sample is refused while training only


def test_half_input_keeps_its_dtype() -> None:
    for layer in (nn.LayerNorm(3), nn.RMSNorm(3), nn.GroupNorm(3), nn.BatchNorm1D(3)):
        layer.to(mg.bfloat16)
        x = random(4, 3).astype(mg.bfloat16)
        out = layer(x)
        wide = type(layer)(3)(x.astype(mg.float32))
        assert out.dtype == mg.bfloat16
        assert np.allclose(values(out.astype(mg.float32)), values(wide), rtol=2**-8, atol=2**-8)


def test_half_running_statistics_move() -> None:
    layer = nn.BatchNorm1D(2, momentum=0.5).to(mg.float16)
    layer(mg.asarray(np.array([[1.0, 2.0], [3.0, 6.0]], np.float16)))
    assert (layer.running_mean.tolist(), layer.running_var.tolist()) == ([1.0, 2.0], [1.5, 4.5])  # type: ignore[union-attr]
    assert layer.running_mean.dtype == mg.float16  # type: ignore[union-attr]


def test_group_norm_is_the_same_for_every_number_of_threads() -> None:
    x, g = values(random(8, 32, 40, 40)).astype(np.float32), values(random(8, 32, 40, 40, seed=1)).astype(np.float32)
    results = []
    before = mg.get_num_threads()
    try:
        for threads in (1, 2, 3):
            mg.set_num_threads(threads)
            t, weight = mg.tensor(x, requires_grad=True), mg.tensor(x[0, :, 0, 0], requires_grad=True)
            out = mg.group_norm(t, 4, weight)
            out.backward(mg.asarray(g))
            results.append([values(out), values(t.grad), values(weight.grad)])
    finally:
        mg.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert np.array_equal(a, b)
