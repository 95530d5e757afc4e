"""EMA and SWA: against weighted sums and PyTorch, buffers, masks, half parameters, swapping, state."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim
from minigrad.errors import GradError, ShapeError

MAKE = {
    "ema": lambda model: optim.EMA(model, 0.9),
    "warmup": lambda model: optim.EMA(model, 0.9, warmup=True),
    "bias": lambda model: optim.EMA(model, 0.9, bias_correction=True),
    "swa": optim.SWA,
}


def values(count, seed=0, shape=(3, 2)):
    return np.random.default_rng(seed).normal(size=(count, *shape))


def put(t, value):
    """Write values, as a training step would."""
    with mg.no_grad():
        t[...] = value


def averaged(make, sequence, dtype=mg.float64):
    """The average after each of a sequence of weights, read through `average`."""
    model = nn.Dense(sequence.shape[2], bias=False, in_features=sequence.shape[1], dtype=dtype)
    average, found = make(model), []
    for value in sequence:
        put(model.weight, value)
        average.update()
        with average.average() as same:
            assert same is model
            found.append(model.weight.detach().numpy().copy())
        np.testing.assert_array_equal(model.weight.detach().numpy(), value.astype(dtype))
    return found


def weights_of(name, count):
    """What each of so many weights counts in the average: products of decays, written out."""
    if name == "swa":
        return np.full(count, 1 / count)
    if name == "bias":
        raw = 0.1 * 0.9 ** np.arange(count)[::-1]
        return raw / raw.sum()
    decays = [0.0] + [min(0.9, (1 + t) / (10 + t)) if name == "warmup" else 0.9 for t in range(1, count)]
    return np.array([(1 - decays[i]) * math.prod(decays[i + 1 :]) for i in range(count)])


@pytest.mark.parametrize("name", MAKE)
def test_an_average_is_a_weighted_sum(name):
    sequence = values(30)
    for n, found in enumerate(averaged(MAKE[name], sequence), 1):
        shares = weights_of(name, n)
        assert shares.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(found, np.tensordot(shares, sequence[:n], 1), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_an_average_is_that_of_pytorch(name):
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    def layer():
        return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))

    theirs = layer().double()
    other = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.9)) if name == "ema" else AveragedModel(theirs)
    model = nn.Sequential(nn.Dense(2, in_features=3, dtype=mg.float64), nn.BatchNorm1D(2, dtype=mg.float64))
    average, rng = MAKE[name](model), np.random.default_rng(0)
    for _ in range(20):
        weight, bias, mean, var = rng.normal(size=(3, 2)), *rng.uniform(size=(3, 2))
        for t, value in ((model[0].weight, weight), (model[0].bias, bias)):
            put(t, value)
        for t, value in ((model[1].running_mean, mean), (model[1].running_var, var)):
            put(t, value)
        with torch.no_grad():
            theirs[0].weight.copy_(torch.tensor(weight.T))
            theirs[0].bias.copy_(torch.tensor(bias))
            theirs[1].running_mean.copy_(torch.tensor(mean))
            theirs[1].running_var.copy_(torch.tensor(var))
        average.update()
        other.update_parameters(theirs)
    copied = nn.Sequential(nn.Dense(2, in_features=3, dtype=mg.float64), nn.BatchNorm1D(2, dtype=mg.float64))
    average.copy_to(copied)
    inner = other.module
    for ours, expected in [
        (copied[0].weight, inner[0].weight.T),
        (copied[0].bias, inner[0].bias),
        (copied[1].running_mean, inner[1].running_mean),
        (copied[1].running_var, inner[1].running_var),
    ]:
        np.testing.assert_allclose(ours.detach().numpy(), expected.detach().numpy(), rtol=1e-13)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), name=st.sampled_from(sorted(MAKE)))
def test_an_average_stays_between_the_weights(seed, count, name):
    sequence = values(count, seed)
    found = averaged(MAKE[name], sequence)[-1]
    assert (found <= sequence.max(0) + 1e-12).all()
    assert (found >= sequence.min(0) - 1e-12).all()


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
def test_half_parameters_are_averaged_in_float32(dtype):
    model = nn.Dense(1, bias=False, in_features=1, dtype=dtype)
    ema = optim.EMA(model, 0.999)
    put(model.weight, 1.0)
    ema.update()
    put(model.weight, 2.0)
    for _ in range(200):  # a step of 0.001 is lost in a half number near 1
        ema.update()
    kept = ema.state_dict()["weights"]["weight"]
    assert kept.dtype == mg.float32
    assert kept.item() == pytest.approx(2 - 0.999**200, rel=1e-5)
    with ema.average():
        assert model.weight.dtype == dtype
        assert model.weight.item() == kept.astype(dtype).item()


class Tied(nn.Module):
    """A weight that two layers share, and a mask."""

    def __init__(self):
        self.a, self.b = nn.Dense(2, bias=False, in_features=2), nn.Dense(2, bias=False, in_features=2)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1D(2)

    def forward(self, x):
        return self.norm(self.b(self.a(x)))


@pytest.mark.parametrize("mask", [np.array([[True, False], [True, True]]), mg.tensor([[True, False], [True, True]])])
def test_shared_parameters_count_once_and_masked_weights_stay_zero(mask):
    model = Tied()
    ema = optim.EMA(model, 0.5)
    put(model.a.weight, 1.0)
    ema.update()
    model.a.weight.mask = mask
    put(model.a.weight, [[3.0, 0.0], [3.0, 3.0]])
    ema.update()
    assert sorted(ema.state_dict()["weights"]) == ["a.weight", "norm.bias", "norm.weight"]
    with ema.average():
        assert model.b.weight.tolist() == [[2.0, 0.0], [2.0, 2.0]]


def test_buffers_are_copied_and_what_update_bn_computes_stays_with_the_average():
    mg.random.seed(0)
    model = Tied()
    x = mg.random.normal((64, 2))
    model(x)
    swa = optim.SWA(model)
    swa.update()
    before = {name: t.tolist() for name, t in model.state_dict().items()}
    put(model.a.weight, model.a.weight.detach() * 3)
    swa.update()
    with swa.average():
        assert {n: t.tolist() for n, t in model.state_dict().items() if "running" in n} == {
            n: v for n, v in before.items() if "running" in n
        }
        optim.update_bn(model, [(x[:32], "labels"), [x[32:]]])
        hidden = [model.b(model.a(part)).detach().numpy() for part in (x[:32], x[32:])]
        mean = np.mean([h.mean(0) for h in hidden], 0)
        var = np.mean([h.var(0, ddof=1) for h in hidden], 0)
    training = {name: t.tolist() for name, t in model.state_dict().items()}
    assert training["norm.running_mean"] == before["norm.running_mean"]
    assert training["norm.num_batches_tracked"] == 1
    with swa.average():
        np.testing.assert_allclose(model.norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.norm.running_var.numpy(), var, rtol=1e-5)
        assert model.norm.num_batches_tracked.item() == 2


def test_update_bn_puts_modes_and_momenta_back():
    model = nn.Sequential(nn.Dense(2, in_features=2), nn.BatchNorm1D(momentum=0.3), nn.Dropout(0.5)).eval()
    model[2].train()
    put(model[0].weight, [[1.0, 0.0], [0.0, 1.0]])
    x = mg.random.normal((8, 2))
    optim.update_bn(model, [x])
    assert [m.training for m in model] == [False, False, True]
    assert model[1].momentum == 0.3
    np.testing.assert_allclose(model[1].running_mean.numpy(), x.numpy().mean(0), rtol=1e-5, atol=1e-6)
    put(model[1].running_mean, math.inf)
    put(model[1].running_var, math.nan)
    with pytest.raises(ZeroDivisionError):
        optim.update_bn(model, (x if i else 1 / i for i in (1, 0)))
    assert [m.training for m in model] == [False, False, True]
    assert model[1].momentum == 0.3
    optim.update_bn(model, [x])
    assert np.isfinite(model[1].running_mean.numpy()).all()
    assert np.isfinite(model[1].running_var.numpy()).all()
    optim.update_bn(nn.Dense(2), [x])  # nothing to do


def test_weights_come_back_bit_for_bit_whatever_happens():
    model = Tied()
    model(mg.random.normal((8, 2)))
    ema = optim.EMA(model, 0.5)
    ema.update()
    put(model.a.weight, [[math.nan, -0.0], [math.inf, 1e-40]])
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    before = {name: t.numpy().tobytes() for name, t in model.state_dict().items()}
    objects = [id(p) for p in model.parameters()]

    def fail():
        with ema.average():
            put(model.a.weight, 7.0)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert {name: t.numpy().tobytes() for name, t in model.state_dict().items()} == before
    assert [id(p) for p in model.parameters()] == objects == [id(p) for p in optimizer.param_groups[0]["params"]]
    with ema.average():
        assert model.a.weight.tolist() != [[7.0, 7.0], [7.0, 7.0]]


def test_a_graph_that_saved_a_weight_finds_out():
    model = nn.Dense(1, bias=False, in_features=1)
    ema = optim.EMA(model)
    ema.update()
    x = mg.ones((1, 1), requires_grad=True)
    loss = model(x).sum()
    with ema.average():
        pass
    with pytest.raises(GradError, match="was changed in place"):
        loss.backward()


@pytest.mark.parametrize("name", MAKE)
def test_an_average_goes_on_exactly(name):
    sequence = values(10).astype(np.float32)
    whole, first = (nn.Sequential(nn.Dense(2, bias=False, in_features=3)) for _ in range(2))
    a, b = MAKE[name](whole), MAKE[name](first)
    for i, value in enumerate(sequence):
        put(whole[0].weight, value)
        put(first[0].weight, value)
        a.update()
        b.update()
        state = b.state_dict()
        b = MAKE[name](first)
        b.load_state_dict(
            copy.deepcopy(state) if i % 2 else {**state, "weights": {"0.weight": state["weights"]["0.weight"].numpy()}}
        )
    assert a.updates == b.updates == 10
    np.testing.assert_array_equal(
        a.state_dict()["weights"]["0.weight"].numpy(), b.state_dict()["weights"]["0.weight"].numpy()
    )
    fresh = MAKE[name](first)
    fresh.load_state_dict(MAKE[name](first).state_dict())
    assert fresh.updates == 0
    assert repr(a) == f"{type(a).__name__}(Sequential, updates=10)"


def test_the_average_of_a_noisy_run_is_nearer():
    """What averaging is for: least squares with noisy gradients."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4, 1)).astype(np.float32)
    model = nn.Dense(1, bias=False, in_features=4)
    optimizer, ema = optim.SGD(model.parameters(), lr=0.1), optim.EMA(model, 0.98, warmup=True)
    for _ in range(400):
        x = rng.normal(size=(4, 4)).astype(np.float32)
        y = x @ truth + rng.normal(size=(4, 1)).astype(np.float32)
        optimizer.zero_grad()
        mg.mse_loss(model(mg.asarray(x)), mg.asarray(y)).backward()
        optimizer.step()
        ema.update()
    last = abs(model.weight.detach().numpy() - truth).max()
    with ema.average():
        assert abs(model.weight.detach().numpy() - truth).max() < last / 2


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: optim.EMA(3), TypeError, "EMA: model is 3, needs a module"),
        (lambda: optim.EMA(Tied(), 1.5), ValueError, "EMA: decay is 1.5, needs a number from 0 to 1"),
        (lambda: optim.EMA(Tied(), True), ValueError, "EMA: decay is True"),
        (lambda: optim.EMA(Tied(), warmup=True, bias_correction=True), ValueError, "True, needs warmup=False"),
        (lambda: optim.EMA(nn.Dense(3)).update(), ShapeError, r"EMA: weight is uninitialized, \(\?, 3\)"),
        (lambda: optim.SWA(Tied()).copy_to(Tied()), ValueError, r"SWA\.copy_to: updates is 0, needs at least one"),
        (lambda: optim.SWA(Tied()).load_state_dict(None), TypeError, "state is None"),
        (lambda: optim.SWA(Tied()).load_state_dict({}), ValueError, r"keys of the state is \[\], needs"),
        (lambda: optim.SWA(Tied()).load_state_dict(optim.EMA(Tied()).state_dict()), ValueError, "needs 'SWA'"),
        (lambda: optim.update_bn(3, []), TypeError, "update_bn: model is 3"),
        (lambda: optim.averages.Average(Tied()).share(1), NotImplementedError, "needs a method share"),
    ],
)  # fmt: skip
def test_refused(make, kind, text):
    with pytest.raises(kind, match=text):
        make()


def test_a_model_that_does_not_fit_changes_nothing():
    model, other = nn.Sequential(nn.Dense(2, in_features=2)), nn.Sequential(nn.Dense(2, in_features=3))
    ema = optim.EMA(model)
    ema.update()
    before = other.state_dict()["0.weight"].tolist()
    with pytest.raises(ValueError, match=r"EMA\.copy_to: shape of '0\.weight' is \(3, 2\), needs \(2, 2\)"):
        ema.copy_to(other)
    assert other.state_dict()["0.weight"].tolist() == before
    model.add(nn.Dense(1, in_features=2))
    with pytest.raises(
        ValueError, match=r"EMA\.update: shape of '1\.weight' is \(2, 1\), needs no tensor of this name"
    ):
        ema.update()
    with pytest.raises(ValueError, match=r"load_state_dict: shape of '1\.weight' is missing"):
        ema.load_state_dict(ema.state_dict())


def test_numbers_in_a_mask_count_as_whether_they_are_zero():
    layer = nn.Dense(2, bias=False, in_features=1)
    with mg.no_grad():
        layer.weight[...] = mg.tensor([[1.0, 3.0]])
    ema = optim.EMA(layer, 0.5)
    ema.update()
    layer.weight.mask = np.array([2, 0])
    ema._weights["weight"][0, 1] = np.nan  # nothing of it is left either
    ema.update()
    ema.update()
    assert ema.state_dict()["weights"]["weight"].tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("loader", [[], iter(()), [mg.ones((3, 5, 2, 2, 2))], [mg.ones((4, 2)), "text"], None, 3])
def test_statistics_stay_where_they_cannot_be_computed(loader):
    model = nn.Sequential([nn.BatchNorm1D(2)])
    model(mg.random.normal((8, 2)))
    before = [t.tolist() for t in model.buffers()]
    with pytest.raises((TypeError, ValueError)):
        optim.update_bn(model.eval(), loader)
    assert [t.tolist() for t in model.buffers()] == before
    assert not model[0].training
    assert model[0].momentum is not None


def test_masks_of_another_model_leave_the_averages_alone():
    """What is copied into a masked model is 0 there, and nowhere else."""
    layer, pruned, plain = (nn.Dense(2, bias=False, in_features=1) for _ in range(3))
    put(layer.weight, mg.tensor([[1.0, 3.0]]))
    ema = optim.EMA(layer, 0.5)
    ema.update()
    pruned.weight.mask = np.array([True, False])
    ema.copy_to(pruned)
    assert pruned.weight.tolist() == [[1.0, 0.0]]
    ema.copy_to(plain)
    assert plain.weight.tolist() == [[1.0, 3.0]]


def test_masks_of_the_model_hold_in_every_copy():
    layer, plain = (nn.Dense(2, bias=False, in_features=1) for _ in range(2))
    put(layer.weight, mg.tensor([[1.0, 3.0]]))
    ema = optim.EMA(layer, 0.5)
    ema.update()
    layer.weight.mask = np.array([False, True])  # after the last update
    ema.copy_to(plain)
    assert plain.weight.tolist() == [[0.0, 3.0]]
