"""Modules: registration, state, modes, hooks, deferred shapes, error paths; layers, initializers and losses."""

import copy
import functools
import math
import os
import pickle
import signal
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, ops
from minigrad.errors import DeviceError, DTypeError, GradError, ShapeError, layer_path
from minigrad.nn import functional as F
from minigrad.nn import init


class Block(nn.Module):
    """Parameters, a buffer, children in a list and a dict, and a tied weight."""

    def __init__(self):
        self.scale = nn.Parameter([1.0, 2.0, 3.0])
        self.register_buffer("mean", mg.zeros((3,)))
        self.register_buffer("cache", mg.zeros((1,)), persistent=False)
        self.layers = [nn.Dense(3, in_features=3), nn.Dense(3, in_features=3, bias=False)]
        self.heads = {"a": nn.Dense(2, in_features=3)}
        self.tied = self.layers[0]
        self.note = "no part of the tree"

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.heads["a"](x * self.scale + self.mean)


def names(pairs):
    return [name for name, _ in pairs]


def test_tree():
    block = Block()
    parameters = ["scale", "layers.0.weight", "layers.0.bias", "layers.1.weight", "heads.a.weight", "heads.a.bias"]
    assert names(block.named_parameters()) == parameters
    assert [id(p) for p in block.parameters()] == [id(p) for _, p in block.named_parameters()]
    assert names(block.named_buffers()) == ["mean", "cache"]
    assert names(block.named_modules()) == ["", "layers.0", "layers.1", "heads.a"]
    assert names(block.named_children()) == ["layers.0", "layers.1", "heads.a", "tied"]
    assert list(block.state_dict()) == ["scale", "mean", *parameters[1:]]


def test_attributes_come_and_go():
    block = Block()
    block.layers.append(nn.Dense(1, in_features=3))
    assert "layers.2.weight" in names(block.named_parameters())
    del block.scale
    block.heads = None
    assert names(block.named_parameters())[0] == "layers.0.weight"
    block.mean = mg.ones((3,))
    assert names(block.named_buffers()) == ["mean", "cache"]


def test_a_parameter_is_not_overwritten_by_a_tensor():
    layer = nn.Dense(2, in_features=2)
    with pytest.raises(TypeError, match=r"Dense: weight is .*nn.Parameter\(value\)"):
        layer.weight = layer.weight * 2
    layer.bias = None
    assert names(layer.named_parameters()) == ["weight"]


def test_modules_that_refer_to_each_other():
    child, parent = nn.Identity(), nn.Identity()
    parent.child, child.parent = child, parent
    assert names(parent.named_modules()) == ["", "child"]
    assert repr(parent) == "Identity(\n  (child): Identity(\n    (parent): ...\n  )\n)"


@pytest.mark.parametrize("value", [np.ones((2, 2), np.float32), [1.0], 3.0])
def test_a_parameter_or_buffer_is_not_overwritten_by_what_is_no_tensor(value):
    layer = nn.Dense(2, in_features=2)
    layer.register_buffer("mean", None)
    with pytest.raises(TypeError, match=r"Dense: weight is .*nn.Parameter\(value\)"):
        layer.weight = value
    with pytest.raises(TypeError, match=r"Dense: mean is .*mg.tensor\(value\)"):
        layer.mean = value
    assert names(layer.named_parameters()) == ["weight", "bias"]
    layer.weight = nn.Identity()
    assert names(layer.named_children()) == ["weight"]


def test_nested_containers():
    model = nn.Identity()
    p = nn.Parameter([1.0])
    model.grid = [[nn.Dense(1, in_features=2, bias=False)], ({"a": p, "data": [1, "x"]},)]
    model.grid.append(model.grid)  # a container that contains itself
    assert names(model.named_parameters()) == ["grid.1.0.a", "grid.0.0.weight"]
    with pytest.raises(ShapeError, match=r"^grid\.0\.0: linear"):
        model.grid[0][0](mg.ones((1, 3)))


def test_two_members_of_one_name():
    model = nn.Identity()
    model.d = {1: nn.Parameter([1.0]), "1": nn.Parameter([1.0, 2.0])}
    text = r"Identity: 'd\.1' is the name of two members, float32 \(1,\) and float32 \(2,\)"
    for use in (model.state_dict, model.named_parameters, lambda: model.load_state_dict({})):
        with pytest.raises(ValueError, match=text):
            use()
    layer = nn.Identity()
    layer.c = nn.Parameter([3.0])
    model.d = {"b.c": nn.Parameter([1.0]), "b": layer}
    with pytest.raises(ValueError, match=r"'d\.b\.c' is the name of two members"):
        model.state_dict()
    model.d = {1: nn.Identity(), "1": nn.ReLU()}
    with pytest.raises(ValueError, match=r"'d\.1' is the name of two members, a Identity and a ReLU"):
        model.named_modules()
    model.d = {1: layer, "1": layer}  # one member: nothing is lost
    assert names(model.named_parameters()) == ["d.1.c"]


def test_buffer_name_is_taken():
    with pytest.raises(ValueError, match="register_buffer: name is 'bias'"):
        nn.Dense(2, in_features=2).register_buffer("bias", mg.zeros((2,)))


def test_forward_is_missing():
    with pytest.raises(NotImplementedError, match="Module: needs a method forward"):
        nn.Module()(1)


# --- state ------------------------------------------------------------------------------------------------------------


def test_state_dict_is_a_snapshot_that_loads():
    a, b = Block(), Block()
    state = a.state_dict()
    with mg.no_grad():
        a.scale += 1
    assert state["scale"].tolist() == [1.0, 2.0, 3.0]
    weight = b.layers[0].weight
    assert b.load_state_dict(state) == nn.LoadReport([], [])
    assert b.layers[0].weight is weight
    x = mg.ones((2, 3))
    a.load_state_dict(state)
    np.testing.assert_array_equal(a(x).detach().numpy(), b(x).detach().numpy())


def test_load_lists_all_that_is_wrong_and_changes_nothing():
    layer = nn.Dense(2, in_features=2)
    layer.register_buffer("count", mg.zeros((1,), dtype=mg.int64))
    before = layer.state_dict()
    state = {"weight": np.ones((3, 2)), "count": np.ones(1, np.float32), "more": 1, "bias": np.ones(2)}
    with pytest.raises(ValueError, match="the state does not fit Dense") as caught:
        layer.load_state_dict(state)
    text = str(caught.value)
    assert "unexpected: more" in text
    assert "mis-shaped: weight is (3, 2), needs (2, 2)" in text
    assert "of another kind: count is float32, needs int64" in text
    assert "missing" not in text
    assert all((layer.state_dict()[name] == before[name]).all() for name in before)


@pytest.mark.parametrize("count", [np.ones(1, complex), np.array(["3"]), np.array([None])])
def test_load_changes_nothing_where_a_cast_fails(count):
    layer = nn.Dense(2, in_features=2)
    layer.register_buffer("count", mg.zeros((1,), dtype=mg.int64))
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"of another kind: count is \S+, needs int64"):
        layer.load_state_dict({"weight": np.ones((2, 2)), "bias": np.ones(2), "count": count})
    assert all((layer.state_dict()[name] == before[name]).all() for name in before)


def test_load_of_views_of_the_same_memory():
    layer = nn.Identity()
    layer.a, layer.b = nn.Parameter([1.0]), nn.Parameter([2.0])
    layer.load_state_dict({"a": layer.b.detach(), "b": layer.a.detach()})
    assert (layer.a.item(), layer.b.item()) == (2.0, 1.0)


def test_load_does_not_need_the_fill_of_a_deferred_parameter():
    def fail(t):
        raise RuntimeError("no fill")

    layer = nn.Dense(1, kernel_initializer=fail)
    values = np.ones((2, 1), np.float32)
    layer.load_state_dict({"weight": values, "bias": [2.0]})
    values[:] = 5.0
    assert layer(mg.ones((1, 2))).tolist() == [[4.0]]


@pytest.mark.parametrize("state", [None, [("weight", 1)]])
def test_load_refuses_what_is_no_mapping(state):
    with pytest.raises(TypeError, match=r"load_state_dict: state is .*, needs a mapping"):
        nn.ReLU().load_state_dict(state)


def test_load_in_part():
    layer = nn.Dense(2, in_features=2)
    report = layer.load_state_dict({"bias": [1.0, 2.0], "more": 0}, strict=False)
    assert report == (["weight"], ["more"])
    assert layer.bias.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="mis-shaped"):
        layer.load_state_dict({"bias": [1.0]}, strict=False)


def test_loading_is_found_out_by_a_graph_that_saved_the_old_values():
    layer = nn.Dense(2, in_features=2)
    loss = (layer.weight * layer.weight).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(GradError, match="changed in place"):
        loss.backward()


def test_to_keeps_the_objects():
    block = Block()
    block.register_buffer("count", mg.zeros((1,), dtype=mg.int64))
    before = block.parameters()
    block.scale.grad = mg.ones((3,))
    loss = (block.scale * block.scale).sum()
    assert block.to(mg.float64) is block
    assert [id(p) for p in block.parameters()] == [id(p) for p in before]
    assert {p.dtype for p in block.parameters()} == {mg.float64}
    assert block.mean.dtype == mg.float64
    assert block.count.dtype == mg.int64
    assert block.scale.grad.dtype == mg.float64
    with pytest.raises(GradError, match="changed in place"):
        loss.backward()
    with pytest.raises(DTypeError, match="to: dtype is int64, needs a floating dtype"):
        block.to(mg.int64)
    assert block.to("cpu") is block


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(duplicate):
    block = Block()
    block.scale.no_decay = True
    block.lazy = nn.Dense(4)
    twin = duplicate(block)
    assert twin.tied is twin.layers[0]
    assert twin.scale.no_decay
    assert type(twin.scale) is nn.Parameter
    assert twin.scale.requires_grad
    assert twin.scale is not block.scale
    twin.lazy(mg.ones((1, 3)))
    assert not block.lazy.weight.is_initialized
    with mg.no_grad():
        twin.scale += 1
    assert block.scale.tolist() == [1.0, 2.0, 3.0]


# --- parameters and deferred shapes -----------------------------------------------------------------------------------


def test_parameter():
    source = np.ones(2, np.float64)
    p = nn.Parameter(source)
    source[0] = 5
    assert p.tolist() == [1.0, 1.0]
    assert p.dtype == mg.float64
    assert p.requires_grad
    assert type(p * 2) is mg.Tensor
    assert not nn.Parameter([1.0], requires_grad=False).requires_grad
    with pytest.raises(DTypeError, match="Parameter: data is int64"):
        nn.Parameter([1, 2])


def test_deferred_dense():
    layer = nn.Dense(3)
    weight = layer.weight
    assert layer.in_features is None
    assert repr(weight) == "Parameter(shape=(?, 3), dtype=float32, uninitialized)"
    with pytest.raises(ShapeError, match=r"state_dict: weight is uninitialized, \(\?, 3\).*in_features="):
        layer.state_dict()
    assert layer(mg.ones((2, 5))).shape == (2, 3)
    assert layer.weight is weight
    assert layer.in_features == 5
    with pytest.raises(ShapeError, match="5 features"):
        layer(mg.ones((2, 4)))


def test_deferred_dense_takes_its_shape_from_a_state():
    layer = nn.Dense(3)
    with pytest.raises(ValueError, match=r"weight is \(5, 2\), needs \(\?, 3\)"):
        layer.load_state_dict({"weight": np.ones((5, 2)), "bias": np.zeros(3)})
    layer.load_state_dict({"weight": np.ones((5, 3)), "bias": np.zeros(3)})
    assert layer(mg.ones((1, 5))).tolist() == [[5.0, 5.0, 5.0]]


def test_deferred_dense_follows_to():
    layer = nn.Dense(3).to(mg.float64)
    assert layer(mg.ones((1, 2), dtype=mg.float64)).dtype == mg.float64
    with pytest.raises(ShapeError, match="features on its last axis"):
        nn.Dense(3)(mg.ones(()))


def test_deferred_memory_is_made_on_the_device(monkeypatch):
    """There is one device so far: what is asked of `empty` is what counts."""
    asked = []
    empty = ops.empty

    def noted(shape, **options):
        asked.append(options["device"])
        return empty(shape, dtype=options["dtype"])

    monkeypatch.setattr(ops, "empty", noted)
    p = nn.Parameter.deferred((None, 3), nn.init.ones, device="cuda")
    monkeypatch.setattr(type(p), "device", "cuda", raising=False)
    p.initialize((2, 3))
    assert asked == ["cuda", "cuda"]
    monkeypatch.undo()
    with pytest.raises(DeviceError, match="device is 'tpu'"):
        nn.Parameter.deferred((None, 3), nn.init.ones, device="tpu")


def test_a_first_batch_that_fails_fixes_nothing():
    layer = nn.Dense(3)
    for bad in (None, mg.ones((2, 5), dtype=mg.complex64), "text"):
        with pytest.raises((TypeError, ValueError, GradError)):
            layer(bad)
        assert layer.in_features is None
    assert layer([[1.0, 2.0]]).shape == (1, 3)
    assert layer.in_features == 2


def test_an_initializer_may_build_layers():
    def fill(t):
        t[...] = nn.Dense(t.shape[1], in_features=t.shape[0]).weight.detach()

    weights = []
    thread = threading.Thread(target=lambda: weights.append(nn.Dense(2, in_features=3, kernel_initializer=fill).weight))
    thread.daemon = True  # a deadlock shall fail the test, not hang it
    thread.start()
    thread.join(30)
    assert weights
    assert weights[0].shape == (3, 2)


@pytest.mark.parametrize("result", [lambda t: mg.ones(t.shape), lambda t: 1.0])
def test_an_initializer_that_returns_something_else(result):
    with pytest.raises(TypeError, match=r"the result of the initializer is .*, needs None, or the tensor"):
        nn.Dense(2, in_features=2, kernel_initializer=result)
    layer = nn.Dense(2, kernel_initializer=result)
    with pytest.raises(TypeError, match="the result of the initializer"):
        layer(mg.ones((1, 2)))
    assert not layer.weight.is_initialized


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_during_a_fill_makes_layers():
    filling, done = threading.Event(), threading.Event()

    def fill(t):
        filling.set()
        done.wait(60)

    thread = threading.Thread(target=lambda: nn.Dense(1, in_features=1, kernel_initializer=fill))
    thread.start()
    assert filling.wait(30)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)  # a deadlock ends by a signal
            nn.Dense(1, in_features=1, kernel_initializer="ones")
            os._exit(0)
        finally:
            os._exit(1)
    try:
        assert os.waitpid(child, 0)[1] == 0
    finally:
        done.set()
        thread.join()


def test_dense_hints_at_the_order_of_other_libraries():
    with pytest.raises(TypeError, match=r"Dense: activation is 10, needs .*in_features= is a keyword"):
        nn.Dense(784, 10)
    with pytest.raises(TypeError, match=r"activation: value is 1\.5, needs a name, a function"):
        nn.activations.get(1.5)


@pytest.mark.parametrize(("units", "kind"), [(0, ShapeError), (-1, ShapeError), (2.5, TypeError)])
def test_dense_refuses_sizes(units, kind):
    with pytest.raises(kind, match="Dense: units is"):
        nn.Dense(units)


# --- calls ------------------------------------------------------------------------------------------------------------


def test_errors_name_the_layer():
    model = nn.Module()
    model.encoder = nn.Sequential([nn.Dense(4, in_features=2), nn.Sequential(nn.Dense(2, in_features=3))])
    model.forward = lambda x: model.encoder(x)
    with pytest.raises(ShapeError, match=r"^encoder\.1\.0: linear: x is float32 \(5, 4\), needs 3 features"):
        model(mg.ones((5, 2)))
    assert layer_path.get() == ""
    block = Block()
    with pytest.raises(ShapeError, match=r"^layers\.0: linear"):
        block.layers[0](mg.ones((1, 2)))
    with pytest.raises(ShapeError, match=r"^1: linear"):
        nn.Sequential(nn.ReLU(), nn.Dense(2, in_features=3))[1:](mg.ones((1, 2)))


def test_hooks():
    layer = nn.Identity()
    seen = []
    undo = [
        layer.register_forward_pre_hook(lambda module, args: seen.append(args)),
        layer.register_forward_pre_hook(lambda module, args: args[0] + 1),
        layer.register_forward_hook(lambda module, args, output: seen.append(output)),
        layer.register_forward_hook(lambda module, args, output: output * 10),
    ]
    assert layer(1) == 20
    assert seen == [(1,), 2]
    for remove in undo:
        remove()
    assert layer(1) == 1


def test_modes():
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    x = mg.ones((64,))
    assert model.eval()(x) is x
    assert not any(m.training for m in model.modules())
    assert bool((model.train()(x) == 0).any())
    model.requires_grad_(False)
    visited = []
    model.apply(visited.append)
    assert visited[-1] is model
    assert len(visited) == 4


def test_freeze_and_zero_grad():
    layer = nn.Dense(2, in_features=2)
    layer(mg.ones((1, 2))).sum().backward()
    layer.zero_grad(set_to_none=False)
    assert layer.bias.grad.tolist() == [0.0, 0.0]
    layer.zero_grad()
    assert layer.bias.grad is None
    layer.requires_grad_(False)
    assert not layer(mg.ones((1, 2))).requires_grad


def test_sequential():
    a, b, c = nn.ReLU(), nn.Identity(), nn.Tanh()
    model = nn.Sequential(a, b)
    assert list(nn.Sequential([a, b])) == list(nn.Sequential(x for x in (a, b))) == [a, b]
    model.add(c)
    model[1] = nn.Sigmoid()
    assert len(model) == 3
    assert list(model[1:])[1] is c
    assert repr(model) == "Sequential(\n  (0): ReLU()\n  (1): Sigmoid()\n  (2): Tanh()\n)"
    assert len(nn.Sequential()) == 0
    with pytest.raises(TypeError, match=r"Sequential: layer 1 is the class ReLU.*ReLU\(\.\.\.\)"):
        nn.Sequential(a, nn.ReLU)
    with pytest.raises(TypeError, match="Sequential: layer 0 is 3"):
        nn.Sequential(3)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_dense_values():
    layer = nn.Dense(
        2,
        "relu",
        in_features=3,
        kernel_initializer="ones",
        bias_initializer=functools.partial(init.constant, value=-4.0),
    )
    assert layer(mg.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])).tolist() == [[0.0, 0.0], [2.0, 2.0]]
    assert nn.Dense(2, nn.Tanh(), in_features=3)(mg.zeros((4, 5, 3))).shape == (4, 5, 2)


MODULES = [
    (nn.ReLU(), F.relu), (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2)), (nn.ELU(2.0), lambda x: F.elu(x, 2.0)),
    (nn.SELU(), F.selu), (nn.GELU(), F.gelu), (nn.GELU("tanh"), lambda x: F.gelu(x, "tanh")), (nn.SiLU(), F.silu),
    (nn.Mish(), F.mish), (nn.Sigmoid(), F.sigmoid), (nn.LogSigmoid(), F.log_sigmoid), (nn.Tanh(), F.tanh),
    (nn.Softplus(), F.softplus), (nn.Softmax(0), lambda x: F.softmax(x, 0)), (nn.LogSoftmax(), F.log_softmax),
]  # fmt: skip


@pytest.mark.parametrize(("module", "function"), MODULES, ids=lambda v: repr(v) if isinstance(v, nn.Module) else "")
def test_activation_modules(module, function):
    x = mg.asarray(np.linspace(-3, 3, 6).reshape(2, 3))
    np.testing.assert_array_equal(module(x).numpy(), function(x).numpy())


def test_activation_names():
    assert nn.Dense(1, "linear").activation is None
    with pytest.raises(ValueError, match="activation: name is 'rellu', needs one of elu, gelu"):
        nn.Dense(1, "rellu")
    with pytest.raises(ValueError, match="the class ReLU"):
        nn.Dense(1, nn.ReLU)


def test_losses_are_their_functions():
    logits, index = mg.asarray(np.linspace(-1, 1, 6).reshape(2, 3)), mg.tensor([0, 2])
    target = mg.asarray(np.linspace(0.1, 0.9, 6).reshape(2, 3))
    weight = mg.tensor([1.0, 2.0, 3.0], dtype=mg.float64)
    smooth = {"weight": weight, "label_smoothing": 0.1}
    pairs = [
        (nn.CrossEntropyLoss(**smooth)(logits, index), F.cross_entropy(logits, index, **smooth)),
        (nn.NLLLoss(reduction="sum")(logits, index), F.nll_loss(logits, index, reduction="sum")),
        (
            nn.BCEWithLogitsLoss(pos_weight=weight)(logits, target),
            F.binary_cross_entropy_with_logits(logits, target, None, weight),
        ),
        (nn.MSELoss()(logits, target), F.mse_loss(logits, target)),
        (nn.L1Loss()(logits, target), F.l1_loss(logits, target)),
        (nn.HuberLoss(delta=0.5)(logits, target), F.huber_loss(logits, target, delta=0.5)),
        (nn.SmoothL1Loss(beta=0.5)(logits, target), F.smooth_l1_loss(logits, target, beta=0.5)),
        (nn.KLDivLoss(reduction="batchmean")(logits, target), F.kl_div(logits, target, reduction="batchmean")),
    ]  # fmt: skip
    for module, function in pairs:
        assert module.item() == function.item()
    assert nn.CrossEntropyLoss(weight=weight).state_dict()["weight"].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="MSELoss: reduction is 'avg'"):
        nn.MSELoss(reduction="avg")
    for value in (0.0, -1, math.nan):
        with pytest.raises(ValueError, match="HuberLoss: delta is"):
            nn.HuberLoss(delta=value)
        with pytest.raises(ValueError, match="SmoothL1Loss: beta is"):
            nn.SmoothL1Loss(beta=value)
    with pytest.raises(ShapeError, match="do not broadcast"):
        nn.MSELoss()(mg.ones((3,)), mg.ones((3, 1)))


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_dropout_refuses(rate):
    with pytest.raises(ValueError, match="Dropout: rate is"):
        nn.Dropout(rate)
    with pytest.raises(TypeError, match="Dropout: rate is None, needs a number"):
        nn.Dropout(None)


# --- initializers -----------------------------------------------------------------------------------------------------

FAN_IN, FAN_OUT = 200, 300
SPREADS = {
    init.glorot_uniform: math.sqrt(2 / (FAN_IN + FAN_OUT)),
    init.glorot_normal: math.sqrt(2 / (FAN_IN + FAN_OUT)),
    init.he_uniform: math.sqrt(2 / FAN_IN),
    init.he_normal: math.sqrt(2 / FAN_IN),
    init.lecun_uniform: math.sqrt(1 / FAN_IN),
    init.lecun_normal: math.sqrt(1 / FAN_IN),
}


@pytest.mark.parametrize("fill", SPREADS, ids=lambda f: f.__name__)
def test_spread(fill):
    values = fill(mg.zeros((FAN_IN, FAN_OUT)), generator=mg.random.Generator(1)).numpy()
    # the deviation of 60,000 samples is known to 0.3 %: 2 % is six times that
    assert abs(values.std() / SPREADS[fill] - 1) < 0.02
    assert abs(values.mean()) < 0.02 * SPREADS[fill]
    limit = {"uniform": math.sqrt(3), "lecun_normal": 2 / 0.8796}
    for word, bound in limit.items():
        if word in fill.__name__:
            assert abs(values).max() <= bound * SPREADS[fill] * 1.0001


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), window=st.sampled_from([(), (2,)]))
def test_orthogonal(rows, columns, window):
    q = init.orthogonal(
        mg.zeros((*window, rows, columns), dtype=mg.float64), 2.0, generator=mg.random.Generator(3)
    ).numpy()
    q = q.reshape(-1, columns)
    gram = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
    np.testing.assert_allclose(gram, 4 * np.eye(min(q.shape)), atol=1e-12)


def test_initializers_fill_in_place_and_record_nothing():
    p = nn.Parameter(np.zeros((3, 2), np.float32))
    memory = p._array
    for fill in (init.zeros, init.ones, init.uniform, init.normal, init.truncated_normal, init.orthogonal, *SPREADS):
        assert fill(p) is p
        assert p._array is memory
        assert p.is_leaf
    with pytest.raises(ShapeError, match="at least two axes"):
        init.he_normal(mg.zeros((3,)))
    with pytest.raises(ValueError, match=r"init\.get: initializer is 'glorot', needs"):
        nn.Dense(2, kernel_initializer="glorot")


def test_default_initialization_is_glorot_uniform_and_reproducible():
    mg.random.seed(5)
    lazy = nn.Dense(4)
    lazy(mg.ones((1, 3)))
    mg.random.seed(5)
    eager = nn.Dense(4, in_features=3)
    expected = init.glorot_uniform(mg.zeros((3, 4)), generator=mg.random.Generator(5))
    assert lazy.weight.tolist() == eager.weight.tolist() == expected.tolist()
    assert eager.bias.tolist() == [0.0] * 4
