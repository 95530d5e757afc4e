"""Autocast: blocks and threads, the table of policies, what is cast and when, gradients, networks beside float32."""

import asyncio
import contextvars
import gc
import re
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp, dtypes, nn, ops, optim
from minigrad.errors import DTypeError
from minigrad.nn import functional as F
from minigrad.ops.registry import POLICIES, REGISTRY, op, promote

HALVES = (mg.float16, mg.bfloat16)
DOCS = Path(__file__).resolve().parent.parent / "docs" / "mixed_precision.md"

half_types = pytest.mark.parametrize("half", HALVES, ids=str)


def normal(*shape, seed=0, grad=False, dtype=np.float32):
    return mg.tensor(np.random.default_rng(seed).normal(size=shape).astype(dtype), requires_grad=grad)


# --- blocks -----------------------------------------------------------------------------------------------------------


def test_blocks_nest_and_end():
    assert amp.autocast_dtype() is None
    with amp.autocast():
        assert amp.autocast_dtype() == mg.bfloat16
        with amp.autocast(mg.float16):
            assert amp.autocast_dtype() == mg.float16
            with amp.autocast(enabled=False):
                assert amp.autocast_dtype() is None
            assert amp.autocast_dtype() == mg.float16
        assert amp.autocast_dtype() == mg.bfloat16
    assert amp.autocast_dtype() is None


@given(st.lists(st.sampled_from([None, *HALVES]), max_size=6), st.integers(0, 6))
def test_any_nesting_is_undone_also_by_an_exception(kinds, fails_at):
    def enter(depth):
        before = amp.autocast_dtype()
        if depth == fails_at:
            raise KeyError
        if depth < len(kinds):
            try:
                with amp.autocast(kinds[depth] or mg.float16, enabled=kinds[depth] is not None):
                    assert amp.autocast_dtype() == kinds[depth]
                    enter(depth + 1)
                    assert amp.autocast_dtype() == kinds[depth]
            finally:
                assert amp.autocast_dtype() == before

    try:
        enter(0)
    except KeyError:
        assert fails_at <= len(kinds)
    assert amp.autocast_dtype() is None


def test_a_block_may_be_entered_again():
    block = amp.autocast(mg.float16)
    for _ in range(2):
        with block, amp.autocast(enabled=False), block:
            assert amp.autocast_dtype() == mg.float16
    assert amp.autocast_dtype() is None


def test_decorator():
    @amp.autocast("float16")
    def product(x, fail=False):
        """Product."""
        if fail:
            raise KeyError
        return x @ x, amp.autocast_dtype()

    y, found = product(mg.ones((2, 2)))
    assert y.dtype == found == mg.float16
    assert product.__name__ == "product"
    with pytest.raises(KeyError):
        product(mg.ones((2, 2)), fail=True)
    assert amp.autocast_dtype() is None
    with pytest.raises(TypeError, match="generator"):

        @amp.autocast()
        def numbers():
            yield 1


@pytest.mark.parametrize("dtype", [mg.float32, "float64", mg.int64, "half a type", None])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(DTypeError, match=r"autocast: dtype is .*, needs float16 or bfloat16"):
        amp.autocast(dtype)


def test_threads_do_not_see_each_other():
    inside, found = threading.Barrier(3), {}

    @amp.autocast(mg.float16)
    def decorated(key):
        inside.wait()
        found[key] = amp.autocast_dtype()
        inside.wait()

    def plain(key):
        inside.wait()
        found[key] = amp.autocast_dtype()
        inside.wait()

    threads = [threading.Thread(target=f, args=(k,)) for k, f in enumerate((decorated, decorated, plain))]
    with amp.autocast(mg.bfloat16):
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert amp.autocast_dtype() == mg.bfloat16
    assert found == {0: mg.float16, 1: mg.float16, 2: None}


def test_a_decorated_function_may_be_left_in_another_order_than_entered():
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    after = {}

    @amp.autocast(mg.float16)
    def wait(name):
        if name == "first":
            first_in.set()
            second_in.wait(10)
        else:
            second_in.set()
            first_out.wait(10)

    def run(name):
        if name == "second":
            first_in.wait(10)
        wait(name)
        after[name] = amp.autocast_dtype()
        first_out.set()

    threads = [threading.Thread(target=run, args=(name,)) for name in ("first", "second")]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert after == {"first": None, "second": None}


def test_a_copied_context_keeps_its_block():
    x = mg.ones((2, 2))
    with amp.autocast(mg.float16):
        context = contextvars.copy_context()
    assert (x @ x).dtype == mg.float32
    assert context.run(lambda: (x @ x).dtype) == mg.float16

    async def product():
        await asyncio.sleep(0)
        return (x @ x).dtype

    async def both():
        with amp.autocast(mg.bfloat16):
            task = asyncio.ensure_future(product())
        return await asyncio.gather(task, product())

    assert asyncio.run(both()) == [mg.bfloat16, mg.float32]


# --- policies ---------------------------------------------------------------------------------------------------------


def test_the_table_of_the_docs_is_the_registry():
    listed = dict(re.findall(r"^\| (\w+) \| ((?:`[\w.]+`(?:, )?)+) \|$", DOCS.read_text(), re.MULTILINE))
    assert listed.keys() == POLICIES.keys()
    for policy, names in listed.items():
        expected = sorted(name for name, record in REGISTRY.items() if record.amp == policy)
        assert re.findall(r"`([\w.]+)`", names) == expected, policy


def test_an_op_must_have_a_policy():
    with pytest.raises(TypeError, match="op 'planted': it rounds its results, so it must say amp=, one of half"):

        @op(dtype=promote)
        def planted(xp, x, /):
            return x

    with pytest.raises(ValueError, match="op 'planted': amp is 'double', needs one of half, float32, widest, keep"):

        @op(dtype=promote, amp="double")
        def planted(xp, x, /):
            return x

    assert "planted" not in REGISTRY


def test_the_operators_that_take_the_short_way_cast_nothing():
    assert {record.amp for record in REGISTRY.values() if record.code} == {"widest"}


X, Y, IMAGES, KERNEL = normal(4, 4), normal(4, 4, seed=1), normal(1, 2, 4, 4), normal(3, 2, 3, 3)
SEQUENCE, HEADS = normal(2, 3, 4), normal(2, 2, 3, 4)
STATES = [normal(4, 8, seed=2), normal(2, 8, seed=3), normal(8), normal(8), normal(2, 2)]
HALF = {
    "operator": lambda: X @ Y,
    "linear": lambda: F.linear(X, Y, Y[0]),
    "linear_relu": lambda: ops.linear_relu(X, Y, Y[0]),
    "einsum": lambda: mg.einsum("ij,jk->ik", X, Y),
    "tensordot": lambda: mg.tensordot(X, Y, axes=1),
    "conv2d": lambda: F.conv2d(IMAGES, KERNEL),
    "attention": lambda: F.scaled_dot_product_attention(HEADS, HEADS, HEADS, bias=normal(3, 3), is_causal=True),
    "attention with slopes": lambda: F.scaled_dot_product_attention(HEADS, HEADS, HEADS, alibi_slopes=mg.ones(2)),
    "flex_attention": lambda: F.flex_attention(HEADS, HEADS, HEADS, score_mod=lambda s, *at: s * 2),
    "attention_weights": lambda: F.attention_weights(HEADS, HEADS, bias=normal(3, 3)),
    "rnn": lambda: F.rnn(SEQUENCE, X, Y)[0],
    "lstm": lambda: F.lstm(SEQUENCE, *STATES[:2])[1],
    "lstm with states": lambda: F.lstm(SEQUENCE, *STATES, normal(2, 2))[2],
    "gru": lambda: F.gru(SEQUENCE, STATES[0][:, :6], STATES[1][:, :6], lengths=mg.asarray([2, 3]))[0],
    "array": lambda: mg.matmul(X, Y.numpy()),
    "list": lambda: mg.matmul(X, [[1.0]] * 4),
}
WIDE = {
    "softmax": lambda x: mg.softmax(x),
    "log_softmax": lambda x: mg.log_softmax(x),
    "layer_norm": lambda x: F.layer_norm(x, mg.ones(4), mg.zeros(4)),
    "rms_norm": lambda x: F.rms_norm(x, mg.ones(4)),
    "batch_norm": lambda x: nn.BatchNorm()(x),
    "group_norm": lambda x: F.group_norm(x, 2),
    "cross_entropy": lambda x: F.cross_entropy(x, mg.asarray([0, 1, 2, 3])),
    "mse_loss": lambda x: F.mse_loss(x, x + 1),
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(axis=0),
    "var": lambda x: x.var(),
    "cumulative_sum": lambda x: mg.cumulative_sum(x, axis=0),
    "exp": lambda x: x.exp(),
    "power": lambda x: x**2,
    "norm": lambda x: mg.linalg.vector_norm(x),
    "linear_cross_entropy": lambda x: F.linear_cross_entropy(x, Y, mg.asarray([0, 1, 2, 3])),
}
ALIKE = {
    "relu": lambda x: mg.relu(x),
    "tanh": lambda x: mg.tanh(x),
    "number": lambda x: 2.5 * x + 1,
    "sum of two": lambda x: x + x,
    "reshape": lambda x: x.reshape(2, 8),
    "index": lambda x: x[1:],
    "maximum": lambda x: mg.maximum(x, 0.0),
    "stack": lambda x: mg.stack([x, x]),
    "dropout": lambda x: F.dropout(x, 0.5),
    "max": lambda x: x.max(axis=0),
}


@half_types
@pytest.mark.parametrize("name", HALF)
def test_products_are_half(name, half):
    with amp.autocast(half):
        assert HALF[name]().dtype == half
    assert HALF[name]().dtype == mg.float32


@half_types
@pytest.mark.parametrize("name", WIDE)
def test_losses_norms_and_sums_are_float32(name, half):
    with amp.autocast(half):
        assert WIDE[name](X.astype(half)).dtype == mg.float32


@half_types
@pytest.mark.parametrize("name", ALIKE)
def test_other_ops_are_left_alone(name, half):
    with amp.autocast(half):
        assert ALIKE[name](X.astype(half)).dtype == half
        assert ALIKE[name](X).dtype == mg.float32


@half_types
def test_the_widest_wins(half):
    other = HALVES[half == HALVES[0]]
    narrow, other = X.astype(half), X.astype(other)
    with amp.autocast(half):
        assert (narrow + X).dtype == (other * narrow).dtype == mg.concat([narrow, X]).dtype == mg.float32
        assert mg.where(X > 0, narrow, X).dtype == mg.float32
        assert (other @ other).dtype == half


def test_what_is_not_cast():
    wide, ids = normal(4, 4, dtype=np.float64), mg.asarray([[0, 1], [2, 3]])
    with amp.autocast(mg.float16):
        assert (wide @ wide).dtype == (wide @ X).dtype == mg.float64
        assert (ids @ ids).dtype == mg.int64
        assert mg.sum(X.astype(mg.float16), dtype=mg.float16).dtype == mg.float16
        assert F.embedding(ids, X).dtype == mg.float32  # rows are only selected
        assert mg.asarray([1.0]).dtype == mg.float32


def test_attention_and_its_weights_agree():
    with amp.autocast(mg.float16):
        out = F.scaled_dot_product_attention(HEADS, HEADS, HEADS)
        weights = F.attention_weights(HEADS, HEADS)
    np.testing.assert_allclose((weights.astype(mg.float32) @ HEADS).numpy(), out.numpy(), rtol=0, atol=4e-3)


def test_flex_attention_is_one_op():
    """Its forward and its backward, which computes the blocks again when autocast is over, are of one precision."""
    q, k, v = (normal(1, 2, 6, 4, seed=s, grad=True) for s in range(3))
    slope = mg.tensor(0.3, requires_grad=True)

    def scores(s, batch, head, i, j):
        return s - slope * mg.abs(i - j)

    g = normal(1, 2, 6, 4, seed=9)
    with amp.autocast(mg.float16):
        out = F.flex_attention(q, k, v, score_mod=scores, block_size=4)
    (out.astype(mg.float32) * g).sum().backward()
    found = [t.grad for t in (q, k, v, slope)]
    twins = [t.detach().astype(mg.float16).requires_grad_() for t in (q, k, v)]
    slope.grad = None
    expected = F.flex_attention(*twins, score_mod=scores, block_size=4)
    (expected.astype(mg.float32) * g).sum().backward()
    assert out.tolist() == expected.tolist()
    for a, b in zip(found, [*(t.grad for t in twins), slope.grad], strict=True):
        assert a.dtype == mg.float32
        assert a.tolist() == b.tolist()


# --- gradients --------------------------------------------------------------------------------------------------------


def network(x, w1, w2):
    return mg.square(mg.softmax(mg.tanh(x @ w1) @ w2)).sum()


@half_types
def test_backward_may_run_inside_or_outside(half):
    x, w1, w2 = normal(3, 4), normal(4, 5, seed=1, grad=True), normal(5, 2, seed=2, grad=True)
    with amp.autocast(half):
        loss = network(x, w1, w2)
        inside = mg.grad(loss, [w1, w2], retain_graph=True)
    outside = mg.grad(loss, [w1, w2])
    for a, b in zip(inside, outside, strict=True):
        assert a.dtype == b.dtype == mg.float32
        assert a.tolist() == b.tolist()


@half_types
@pytest.mark.parametrize("inside", [True, False])
def test_second_order(half, inside):
    """The gradient of the squared norm of the gradient, beside float32."""
    x, values = normal(3, 4), [normal(4, 5, seed=1).numpy(), normal(5, 2, seed=2).numpy()]

    def second(enabled):
        weights = [mg.tensor(v, requires_grad=True) for v in values]
        with amp.autocast(half, enabled=enabled):
            loss = network(x, *weights)
            if inside:
                firsts = mg.grad(loss, weights, create_graph=True)
                penalty = sum((g * g).sum() for g in firsts)
        if not inside:
            firsts = mg.grad(loss, weights, create_graph=True)
            penalty = sum((g * g).sum() for g in firsts)
        return mg.grad(penalty, weights)

    # on the longest path 12 values are rounded to half: 4 forward, 4 in the first backward, 4 in the second
    bound = 12**0.5 * mg.finfo(half).eps
    for found, expected in zip(second(True), second(False), strict=True):
        assert found.dtype == mg.float32
        assert distance(found, expected) < bound


def distance(found, expected):
    """Relative to the length of what is expected."""
    found, expected = (np.asarray(t.detach().numpy(), np.float64) for t in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# --- what is kept in a block ------------------------------------------------------------------------------------------


def test_gradients_of_many_uses_are_added_up_in_float32():
    w = mg.tensor([[1.0]], requires_grad=True)
    with amp.autocast(mg.float16):
        total = sum((mg.ones((1, 1)) @ w).astype(mg.float32) for _ in range(2100))
    total.sum().backward()
    assert w.grad.item() == 2100  # in float16 2048 + 1 is 2048


def test_a_changed_parameter_is_cast_again():
    layer = nn.Dense(1, bias=False, in_features=1)
    optimizer, x = optim.SGD(layer.parameters(), lr=1.0), mg.ones((1, 1))
    with amp.autocast(mg.float16):
        for value in (1.0, 2.0):
            layer.load_state_dict({"weight": mg.full((1, 1), value)})
            assert layer(x).item() == value
        layer(x).sum().backward()
        optimizer.step()
        assert layer(x).item() == 1.0
        with mg.no_grad():
            layer.weight += 4.0
        assert layer(x).item() == 5.0
        layer.to(mg.float64).to(mg.float32)
        with mg.no_grad():
            layer.weight[0] = 3.0
        assert layer(x).item() == 3.0


def test_what_was_cast_without_recording_is_recorded_later():
    w, x = normal(3, 3, grad=True), normal(2, 3)
    with amp.autocast(mg.bfloat16):
        with mg.no_grad():
            assert not (x @ w).requires_grad
        for _ in range(2):  # a backward between two uses frees a graph
            (x @ w).sum().backward()
    rounded = x.astype(mg.bfloat16).astype(mg.float32).sum(axis=0, keepdims=True).astype(mg.bfloat16)
    assert w.grad.tolist() == mg.broadcast_to(2 * rounded.mT, (3, 3)).astype(mg.float32).tolist()


@half_types
def test_products_of_one_activation_share_its_cast(half):
    """Values and gradients are those of casts of their own, and half the memory is saved for backward once."""
    x, w, v = normal(4, 3, grad=True), normal(3, 2, grad=True), normal(3, 2, grad=True)
    found = []
    for apart in (False, True):
        for t in (x, w, v):
            t.grad = None
        with amp.autocast(half):
            h = x * 2.0
            first, second = (mg.linear(h if not apart else x * 2.0, weight) for weight in (w, v))
        casts = [node.parents[0] for node in (first._node, second._node)]
        assert casts[0] is not casts[1]
        saved = [next(t._array for t in y._node.saved if getattr(t, "shape", 0) == (4, 3)) for y in (first, second)]
        assert (saved[0] is saved[1]) == (not apart)
        (first.astype(mg.float32) + 3.0 * second.astype(mg.float32)).sum().backward()
        found.append([first, second, x.grad, w.grad, v.grad])
    for a, b in zip(*found, strict=True):
        assert a.astype(mg.float64).tolist() == b.astype(mg.float64).tolist()


def test_an_activation_that_was_changed_is_cast_again():
    w = normal(3, 2, grad=True)
    with amp.autocast(mg.bfloat16):
        h = mg.ones((1, 3)) * w[:, 0]
        before = mg.linear(h, w)
        h += 1.0
        after = mg.linear(h, w)
        with mg.no_grad():
            assert not mg.linear(h, w).requires_grad
        del h
        h = mg.zeros((1, 3)) * w[:, 0]
        assert mg.linear(h, w).tolist() == [[0.0, 0.0]]
    assert before.tolist() != after.tolist()


def test_a_block_lets_go_of_what_it_kept():
    gc.disable()
    try:
        w = normal(3, 3, grad=True)
        with amp.autocast():
            y = X[:3, :3] @ w
        reference = weakref.ref(w)
        del w, y
        assert reference() is None
    finally:
        gc.enable()


def test_two_parameters_at_one_address():
    """A parameter that is gone must not lend its values to a new one."""
    x = mg.ones((1, 1))
    with amp.autocast(mg.float16):
        for value in range(20):
            w = mg.tensor([[float(value)]], requires_grad=True)
            assert (x @ w).item() == value
            del w


# --- checkpoint and Function ------------------------------------------------------------------------------------------


@half_types
@pytest.mark.parametrize("outer", [None, *HALVES], ids=str)
def test_checkpoint_runs_again_under_the_same_autocast(half, outer):
    x, w1, w2 = normal(3, 4), normal(4, 5, seed=1, grad=True), normal(5, 2, seed=2, grad=True)
    seen = []

    def f(x):
        seen.append(amp.autocast_dtype())
        return mg.tanh(x @ w1) @ w2

    with amp.autocast(half):
        plain = f(x)
        again = mg.checkpoint(f, x)
    g = normal(3, 2, seed=5)
    with amp.autocast(outer or mg.float16, enabled=outer is not None):
        grads = [mg.grad((y.astype(mg.float32) * g).sum(), [w1, w2]) for y in (plain, again)]
    assert seen == [half] * 3
    assert plain.tolist() == again.tolist()
    for a, b in zip(*grads, strict=True):
        assert a.dtype == mg.float32
        assert a.tolist() == b.tolist()


def make_function(policy):
    seen = []

    class Product(mg.Function):
        amp = policy

        @staticmethod
        def forward(ctx, x, w, times):
            seen.extend([x.dtype, w.dtype, amp.autocast_dtype()])
            ctx.save_for_backward(x, w)
            ctx.times = times
            return (x @ w) * times

        @staticmethod
        def backward(ctx, g):
            seen.append(amp.autocast_dtype())
            x, w = ctx.saved_tensors
            return (g @ w.mT * ctx.times).astype(x.dtype), (x.mT @ g * ctx.times).astype(w.dtype), None

    return Product, seen


@half_types
@pytest.mark.parametrize(
    ("policy", "wanted"), [("half", ("half", "half")), ("float32", ("float32",) * 2), ("widest", ("float32",) * 2),
                           ("keep", ("half", "float32"))],
)  # fmt: skip
def test_functions_are_cast_by_their_policy(policy, wanted, half):
    function, seen = make_function(policy)
    expected = [half if kind == "half" else mg.float32 for kind in wanted]
    x, w = normal(3, 4).astype(half).requires_grad_(), normal(4, 2, seed=1, grad=True)
    with amp.autocast(half):
        y = function.apply(x, w, 2.0)
        y.sum().backward()
    assert seen == [*expected, None, None]
    assert y.dtype == dtypes.promote(expected)
    assert (x.grad.dtype, w.grad.dtype) == (half, mg.float32)
    before = len(seen)
    assert function.apply(x.detach(), w.detach(), 2.0).dtype == mg.float32
    assert seen[before:] == [half, mg.float32, None]


def test_a_function_leaves_float64_and_refuses_other_policies():
    function, seen = make_function("half")
    with amp.autocast():
        assert function.apply(normal(2, 2, dtype=np.float64), normal(2, 2), 1).dtype == mg.float64
    assert seen[:2] == [mg.float64, mg.bfloat16]
    function.amp = "all"
    with amp.autocast(), pytest.raises(ValueError, match="Product: amp is 'all', needs one of half, float32, widest"):
        function.apply(X, X, 1)


# --- networks ---------------------------------------------------------------------------------------------------------


class Perceptron(nn.Module):
    """What each part gives is noted in `seen`."""

    roundings = 8  # to half, on the longest path: products and activations forward, their cotangents backward

    def __init__(self):
        self.first, self.norm, self.last = nn.Dense(16, activation="gelu"), nn.LayerNorm(), nn.Dense(3)

    def forward(self, x, seen):
        h = self.first(x)
        z = self.norm(h)
        y = self.last(z)
        seen.update(first=h.dtype, norm=z.dtype, last=y.dtype)
        return y

    data = staticmethod(lambda: normal(12, 6, seed=7))


class Attention(nn.Module):
    roundings = 20

    def __init__(self):
        self.block = nn.TransformerEncoder(1, 2, 16, dropout=0.0)
        self.last = nn.Dense(3)

    def forward(self, x, seen):
        h = self.block(x)
        y = self.last(h.mean(axis=1))
        seen.update(last=y.dtype)
        return y

    data = staticmethod(lambda: normal(12, 5, 8, seed=7))


class Convolution(nn.Module):
    roundings = 12

    def __init__(self):
        self.first, self.norm = nn.Conv2D(4, 3, activation="gelu"), nn.BatchNorm2D()  # smooth, and so is the pooling
        self.second, self.pool, self.last = nn.Conv2D(6, 3), nn.AvgPool2D(2), nn.Dense(3)

    def forward(self, x, seen):
        h = self.first(x)
        z = self.norm(h)
        p = self.pool(self.second(z))
        y = self.last(p.reshape(len(p), -1))
        seen.update(first=h.dtype, norm=z.dtype, second=p.dtype, last=y.dtype)
        return y

    data = staticmethod(lambda: normal(12, 2, 8, 8, seed=7))


class Recurrent(nn.Module):
    roundings = 10

    def __init__(self):
        self.lstm, self.last = nn.LSTM(8), nn.Dense(3)

    def forward(self, x, seen):
        h = self.lstm(x)
        h = h[0] if isinstance(h, tuple) else h
        y = self.last(h[:, -1])
        seen.update(first=h.dtype, last=y.dtype)
        return y

    data = staticmethod(lambda: normal(12, 5, 4, seed=7))


@half_types
@pytest.mark.parametrize("kind", [Perceptron, Attention, Convolution, Recurrent])
def test_networks(kind, half):
    """Parameters, loss and gradients stay float32, activations are half, and all is near float32."""
    mg.random.seed(0)
    model, x = kind(), kind.data()
    labels = mg.asarray(np.arange(12) % 3)
    model(x, {})
    results = []
    for enabled in (False, True):
        model.zero_grad()
        seen = {}
        with amp.autocast(half, enabled=enabled):
            loss = F.cross_entropy(model(x, seen), labels)
        loss.backward()
        results.append((loss, {name: p.grad for name, p in model.named_parameters()}))
        assert loss.dtype == mg.float32
        for name, p in model.named_parameters():
            assert p.dtype == p.grad.dtype == mg.float32, name
        for name, found in seen.items():
            assert found == (half if enabled and name != "norm" else mg.float32), name
    (loss, grads), (near, near_grads) = results
    bound = kind.roundings**0.5 * mg.finfo(half).eps  # independent errors of at most half an eps each
    assert 0 < abs(near.item() - loss.item()) < bound
    everything = [mg.concat([g.reshape(-1) for g in found.values()]) for found in (near_grads, grads)]
    assert distance(*everything) < bound


def test_a_cast_next_to_the_kernel_is_what_the_kernel_gets():
    """bfloat16 products go through the kernel for it, where the processor has one, or through float32: one result."""
    with amp.autocast(mg.bfloat16):
        found = X @ Y
    expected = X.astype(mg.bfloat16) @ Y.astype(mg.bfloat16)
    assert found.tolist() == expected.tolist()


@half_types
def test_beside_torch(half):
    """The same network, half types in the same places, and gradients as near to float32's as PyTorch's are."""
    torch = pytest.importorskip("torch")
    theirs_half = torch.bfloat16 if half == mg.bfloat16 else torch.float16
    x, w1, w2 = (normal(*shape, seed=s).numpy() for s, shape in enumerate([(12, 6), (6, 16), (16, 3)]))
    labels = np.arange(12) % 3

    def ours(enabled):
        a, b = mg.tensor(w1, requires_grad=True), mg.tensor(w2, requires_grad=True)
        with amp.autocast(half, enabled=enabled):
            h = mg.gelu(mg.asarray(x) @ a)
            z = F.layer_norm(h, mg.ones(16), mg.zeros(16))
            y = z @ b
            loss = F.cross_entropy(y, mg.asarray(labels))
        loss.backward()
        return [str(t.dtype) for t in (h, y, loss, a.grad)], [a.grad.numpy(), b.grad.numpy()]

    def theirs():
        a, b = torch.tensor(w1, requires_grad=True), torch.tensor(w2, requires_grad=True)
        with torch.autocast("cpu", dtype=theirs_half):
            h = torch.nn.functional.gelu(torch.tensor(x) @ a)
            z = torch.nn.functional.layer_norm(h, (16,))
            y = z @ b
            loss = torch.nn.functional.cross_entropy(y.float(), torch.tensor(labels))
        loss.backward()
        kinds = [str(t.dtype).removeprefix("torch.") for t in (h, y, loss, a.grad)]
        return kinds, [a.grad.numpy(), b.grad.numpy()]

    (kinds, found), (their_kinds, their_found), (_, truth) = ours(True), theirs(), ours(False)
    assert kinds == their_kinds == [str(half), str(half), "float32", "float32"]
    for mine, other, expected in zip(found, their_found, truth, strict=True):
        error, their_error = (np.linalg.norm(g - expected) / np.linalg.norm(expected) for g in (mine, other))
        assert error < 8**0.5 * mg.finfo(half).eps
        assert error < 1.5 * their_error  # theirs rounds the norm to half too
