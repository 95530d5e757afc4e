"""Functions of the user's own, and checkpoint."""

import gc
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import GradError


class Exp(mg.Function):
    @staticmethod
    def forward(ctx, x):
        y = mg.exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class Scale(mg.Function):
    @staticmethod
    def forward(ctx, x, factor, *, plus=0.0):
        ctx.factor = factor
        return x * factor + plus

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


class Both(mg.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b, a + b, mg.astype(a, mg.int64)

    @staticmethod
    def backward(ctx, g_product, g_sum, g_int):
        assert g_int is None
        a, b = ctx.saved_tensors
        return g_product * b + g_sum, g_product * a + g_sum


def leaf(values):
    return mg.tensor(values, dtype=mg.float64, requires_grad=True)


def test_a_saved_output_is_differentiable_again():
    x = leaf([0.1, 0.2])
    (g,) = mg.grad(Exp.apply(x).sum(), [x], create_graph=True)
    (gg,) = mg.grad(g.sum(), [x], create_graph=True)
    (ggg,) = mg.grad(gg.sum(), [x])
    np.testing.assert_allclose(ggg, np.exp([0.1, 0.2]))


def test_arguments_that_are_no_tensors():
    x = leaf([1.0, 2.0])
    y = Scale.apply(x, 3.0, plus=1.0)
    assert y.tolist() == [4.0, 7.0]
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]
    assert not Scale.apply(mg.ones(2), 3.0).requires_grad
    with mg.no_grad():
        assert not Scale.apply(x, 3.0).requires_grad


def test_several_outputs_some_unused_some_integer():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    product, total, whole = Both.apply(a, b)
    assert not whole.requires_grad
    product.sum().backward(retain_graph=True)
    assert a.grad.tolist() == [3.0, 4.0]
    a.grad = None
    (product.sum() + 10 * total.sum()).backward()
    assert a.grad.tolist() == [13.0, 14.0]


def test_saving_an_output_makes_no_cycle():
    gc.disable()
    try:
        x = leaf([1.0])
        y = Exp.apply(x)
        reference = weakref.ref(y)
        del y
        assert reference() is None
    finally:
        gc.enable()


def test_in_place_change_of_a_saved_input_is_found():
    a, b = leaf([1.0, 2.0]), mg.tensor([3.0, 4.0], dtype=mg.float64)
    product, _, _ = Both.apply(a, b)
    b += 1
    with pytest.raises(GradError, match=r"Both: .*changed in place at .*test_function\.py"):
        product.sum().backward()


def test_an_input_handed_through_becomes_an_output():
    class Same(mg.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = leaf([1.0])
    y = Same.apply(x)
    assert y is not x
    y.sum().backward()
    assert x.grad.tolist() == [2.0]


def test_wrong_backwards():
    class Few(Scale):
        @staticmethod
        def backward(ctx, g):
            return g

    class Shape(Scale):
        @staticmethod
        def backward(ctx, g):
            return mg.ones((3,), dtype=mg.float64), None

    class Dtype(Scale):
        @staticmethod
        def backward(ctx, g):
            return g.astype(mg.float32), None

    class Thing(Scale):
        @staticmethod
        def backward(ctx, g):
            return "g", None

    x = leaf([1.0, 2.0])
    for cls, text in [
        (Few, "gave 1 gradients, needs 2"),
        (Shape, r"gradient of shape \(3,\) for an input of shape \(2,\)"),
        (Dtype, "float32 gradient for a float64 input"),
        (Thing, "needs tensors or None"),
    ]:
        with pytest.raises((GradError, TypeError, ValueError), match=text):
            cls.apply(x, 2.0).sum().backward()
    with pytest.raises(GradError, match=r"forward: result is 3, needs a tensor"):
        type("Bad", (mg.Function,), {"forward": staticmethod(lambda ctx, x: 3)}).apply(x)
    with pytest.raises(GradError, match="needs tensors or None"):
        type("Bad", (mg.Function,), {"forward": staticmethod(lambda ctx, x: ctx.save_for_backward(3))}).apply(x)


def test_checkpoint_gives_the_same_gradients_also_to_closures():
    w = leaf([[0.5, -0.3], [0.2, 0.9]])

    def block(x):
        return mg.tanh(x @ w) * x

    x = leaf([[1.0, 2.0]])
    block(block(x)).sum().backward()
    wanted = x.grad.tolist(), w.grad.tolist()
    x.grad = w.grad = None
    mg.checkpoint(block, mg.checkpoint(block, x)).sum().backward()
    np.testing.assert_allclose(x.grad, wanted[0], rtol=1e-14)
    np.testing.assert_allclose(w.grad, wanted[1], rtol=1e-14)


def test_checkpoint_by_grad_and_to_second_order():
    x = leaf([0.3, 0.6])
    y = mg.checkpoint(lambda x: mg.sin(x) * x, x).sum()
    (g,) = mg.grad(y, [x], create_graph=True)
    (gg,) = mg.grad(g.sum(), [x])
    v = x.detach().numpy()
    np.testing.assert_allclose(g.detach(), np.cos(v) * v + np.sin(v), rtol=1e-14)
    np.testing.assert_allclose(gg, 2 * np.cos(v) - np.sin(v) * v, rtol=1e-13)


def test_checkpoint_draws_the_same_dropout_mask_again():
    mg.random.seed(3)
    x = leaf(np.ones(1000))
    y = mg.checkpoint(lambda x: mg.dropout(x, 0.5) * x, x)
    after = mg.random.get_state()
    y.sum().backward()
    np.testing.assert_allclose(x.grad, 2 * y.detach())
    assert mg.random.get_state() == after


def test_checkpoint_with_several_outputs_and_nesting():
    x = leaf([1.0, 2.0])

    def inner(x):
        return x * x, x + 1

    def outer(x):
        a, b = mg.checkpoint(inner, x)
        return a * b

    a, b = mg.checkpoint(inner, x)
    (a * b).sum().backward()
    wanted = x.grad.tolist()
    x.grad = None
    mg.checkpoint(outer, x).sum().backward()
    assert x.grad.tolist() == wanted
    a, b = mg.checkpoint(inner, x)
    x.grad = None
    b.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_checkpoint_frees_the_inside():
    kept = []

    def f(x):
        h = x * 2
        kept.append(weakref.ref(h))
        return mg.exp(h)

    x = leaf([1.0])
    y = mg.checkpoint(f, x)
    assert kept[0]() is None
    y.sum().backward()
    np.testing.assert_allclose(x.grad, 2 * np.exp([2.0]))


def test_checkpoint_of_constants_and_misuse():
    assert mg.checkpoint(lambda x: x * 2, mg.ones(2)).tolist() == [2.0, 2.0]
    with mg.no_grad():
        assert not mg.checkpoint(lambda x: x * 2, leaf([1.0])).requires_grad
    with pytest.raises(GradError, match="result of f is 3"):
        mg.checkpoint(lambda: 3)


def test_in_place_change_of_a_saved_output_is_found():
    x = leaf([0.0])
    y = Exp.apply(x)
    with pytest.raises(GradError, match="shares its memory"):
        y += 1
    with mg.no_grad():
        y += 1
    with pytest.raises(GradError, match=r"Exp: .*changed in place"):
        y.sum().backward()


def test_one_output_given_twice_gets_memory_of_its_own():
    class Twice(mg.Function):
        @staticmethod
        def forward(ctx, x):
            y = x * 2
            return y, y

        @staticmethod
        def backward(ctx, a, b):
            return 2 * (a + b)

    x = leaf([1.0])
    p, q = Twice.apply(x)
    assert not np.shares_memory(p.detach().numpy(), q.detach().numpy())
    (p + 10 * q).sum().backward()
    assert x.grad.tolist() == [22.0]
    a, b = mg.checkpoint(lambda x: [x * 3] * 2, x)
    assert not np.shares_memory(a.detach().numpy(), b.detach().numpy())


def test_results_without_gradient():
    def function(result):
        return type("Result", (mg.Function,), {"forward": staticmethod(lambda ctx, x: result(x))})

    x = leaf([1.0, 2.0])
    assert not function(lambda x: x.argmax()).apply(x).requires_grad
    with pytest.raises(GradError, match="real tensors only"):
        function(lambda x: x * 1j).apply(x)
    with pytest.raises(GradError, match="at least one tensor"):
        function(lambda x: ()).apply(x)
    with pytest.raises(GradError, match="keyword arguments get no gradient"):
        Scale.apply(x, 2.0, plus=x)
    with pytest.raises(GradError, match="keyword arguments get no gradient"):
        Scale.apply(mg.ones(2, dtype=mg.float64), 2.0, plus=x)
    with mg.no_grad():
        assert Scale.apply(x, 2.0, plus=x).tolist() == [3.0, 6.0]


def test_a_backward_that_changes_its_cotangent_is_stopped():
    class Loud(Scale):
        @staticmethod
        def backward(ctx, g):
            g *= 10
            return g, None

    a, b, seed = leaf([1.0]), leaf([1.0]), mg.ones(1, dtype=mg.float64)
    with pytest.raises(ValueError, match="read-only"):
        (b * 1 + Loud.apply(a, 1.0)).backward(seed)
    assert seed.tolist() == [1.0]


def test_checkpoint_runs_the_hooks_of_its_inputs_once():
    x = leaf([1.0])
    x.register_hook(lambda g: g * 10)
    mg.checkpoint(lambda t: t * 2, x).sum().backward()
    assert x.grad.tolist() == [20.0]
    z = leaf([1.0])
    h = z * 1
    h.retain_grad()
    mg.checkpoint(lambda t: t * 2, h).sum().backward()
    assert h.grad.tolist() == [2.0]


def test_checkpoint_finds_a_second_run_that_differs():
    x, runs = leaf([1.0, 2.0]), []

    def f(x):
        runs.append(1)
        return x[: len(runs)] * 2

    with pytest.raises(GradError, match="the shapes of its first run"):
        mg.checkpoint(f, x).sum().backward()


def test_checkpoint_finds_a_changed_parameter_and_leaves_constants_alone():
    x, w = leaf([1.0]), leaf([2.0])
    y, constant = mg.checkpoint(lambda x: (x * w, mg.ones(1)), x)
    assert not constant.requires_grad
    with mg.no_grad():
        w += 1
    with pytest.raises(GradError, match=r"checkpoint: .*changed in place"):
        y.sum().backward()
