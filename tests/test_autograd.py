"""backward, grad and the functional forms: values by hand, laws by Hypothesis, misuse by its error."""

import math
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import minigrad as mg
from minigrad.errors import GradError
from minigrad.ops import registry

ag = mg.autograd


def leaf(values, dtype=mg.float64):
    return mg.tensor(values, dtype=dtype, requires_grad=True)


def test_backward_accumulates_and_keeps_grad_identity():
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    assert x.grad is first
    assert x.grad.tolist() == [5.0, 7.0]
    x.grad = None
    (x * 3).sum().backward()
    assert first.tolist() == [5.0, 7.0]


def test_gradients_of_two_leaves_never_share_memory():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (a + b).sum().backward()
    a.grad[0] = 100.0
    assert b.grad.tolist() == [1.0, 1.0]
    seed = mg.tensor([1.0, 1.0], dtype=mg.float64)
    c = leaf([1.0, 2.0])
    (c + 0).backward(seed)
    c.grad[0] = 7.0
    assert seed.tolist() == [1.0, 1.0]


def test_a_leaf_used_many_times():
    x = leaf(3.0)
    y = x * x + x * x * x - x
    y.backward()
    assert x.grad.item() == 2 * 3 + 3 * 9 - 1


def test_backward_on_a_leaf_itself():
    x = leaf(3.0)
    x.backward()
    assert x.grad.item() == 1.0


def test_several_outputs_in_one_pass():
    x = leaf([1.0, 2.0])
    h = x * 2
    ag.backward([h.sum(), (h * h).sum()])
    assert x.grad.tolist() == [2 + 8.0, 2 + 16.0]
    a, b = mg.grad([(x * x).sum(), x.sum()], [x, x])
    assert a.tolist() == b.tolist() == [3.0, 5.0]


def test_grad_leaves_dot_grad_alone_and_reaches_through_intermediates():
    x = leaf([1.0, 2.0])
    h = x * 3
    y = (h * h).sum()
    gx, gh = mg.grad(y, [x, h])
    assert gh.tolist() == [6.0, 12.0]
    assert gx.tolist() == [18.0, 36.0]
    assert x.grad is None


@pytest.mark.parametrize("create_graph", [False, True])
def test_results_of_grad_share_no_memory(create_graph):
    x, y, seed = leaf([1.0, 2.0]), leaf([3.0, 4.0]), mg.tensor([1.0, 1.0], dtype=mg.float64)
    a, b, again = mg.grad(x + y, [x, y, x], seed, create_graph=create_graph)
    arrays = [t.detach().numpy() for t in (a, b, again, seed)]
    assert not any(np.shares_memory(p, q) for i, p in enumerate(arrays) for q in arrays[:i])


def test_grad_of_one_input_returns_a_tensor():
    x = leaf(2.0)
    assert isinstance(mg.grad(x * x, x), mg.Tensor)
    assert isinstance(mg.grad(x * x, (x,)), tuple)


def test_any_order():
    x = leaf(0.7)
    y = mg.sin(x)
    wanted = [math.cos, lambda v: -math.sin(v), lambda v: -math.cos(v), math.sin, math.cos]
    for f in wanted:
        y = mg.grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(f(0.7), rel=1e-14)


def test_create_graph_accumulates_a_differentiable_grad():
    x = leaf(2.0)
    (x**3).backward(create_graph=True)
    assert x.grad.item() == 12.0
    assert mg.grad(x.grad, x).item() == 12.0


def test_retain_graph_and_freed_graph():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8.0
    with pytest.raises(GradError, match="retain_graph=True"):
        y.backward()
    h = x * x
    (h * 2).backward()
    with pytest.raises(GradError, match="freed"):
        (h * 3).backward()


def test_misuse_of_backward():
    x = leaf([1.0, 2.0])
    with pytest.raises(GradError, match=r"needs a scalar or a gradient of that shape"):
        (x * 2).backward()
    with pytest.raises(GradError, match=r"the gradient has shape \(3,\), needs \(2,\)"):
        (x * 2).backward(mg.zeros(3))
    with pytest.raises(GradError, match="does not require grad"):
        mg.tensor([1.0]).sum().backward()
    with pytest.raises(GradError, match="Only floating tensors have gradients"):
        mg.tensor([1]).sum().backward()
    with pytest.raises(GradError, match=r"requires_grad: got True for a int64 tensor"):
        mg.tensor([1]).requires_grad = True
    with pytest.raises(GradError, match="True for a int64 tensor"):
        mg.tensor([1], requires_grad=True)


def test_misuse_of_grad():
    x, other = leaf(1.0), leaf(1.0)
    with pytest.raises(GradError, match="do not depend on input 0"):
        mg.grad(x * x, other)
    assert mg.grad(x * x, [x, other], allow_unused=True)[1] is None
    with pytest.raises(GradError, match=r"input 0 .* does not require grad"):
        mg.grad(x * x, mg.tensor(1.0))
    with pytest.raises(GradError, match="needs a tensor, or a list or tuple of tensors"):
        mg.grad("loss", x)


def test_gradient_of_an_integer_result_is_refused():
    x = leaf([1.5, 2.5])
    assert not mg.astype(x, mg.int64).requires_grad
    assert not (x > 2).requires_grad


def test_complex_results_of_recorded_tensors_are_refused():
    x = leaf([1.0, 2.0])
    with pytest.raises(GradError, match="gradients are defined for real tensors"):
        x * 1j


def test_detach_and_no_grad():
    x = leaf([1.0, 2.0])
    assert not (x.detach() * 2).requires_grad
    with mg.no_grad():
        assert not (x * 2).requires_grad
        with mg.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @mg.no_grad()
    def inside():
        return x * 2

    assert not inside().requires_grad
    with mg.set_grad_enabled(False):
        assert not mg.is_grad_enabled()


def test_modes_are_restored_by_an_exception():
    with pytest.raises(ZeroDivisionError), mg.no_grad():
        raise ZeroDivisionError
    assert mg.is_grad_enabled()


def test_hooks_change_and_see_gradients():
    seen = []
    x = leaf([1.0, 2.0])
    h = x * 2
    remove = h.register_hook(seen.append)
    x.register_hook(lambda g: g * 10)
    (h * h).sum().backward()
    assert [g.tolist() for g in seen] == [[4.0, 8.0]]
    assert x.grad.tolist() == [80.0, 160.0]
    remove()
    x.register_hook(lambda g: g.sum())
    with pytest.raises(GradError, match="returned float64"):
        (x * 1).sum().backward()
    with pytest.raises(GradError, match="needs a callable"):
        x.register_hook(3)
    with pytest.raises(GradError, match="no gradient will ever reach it"):
        mg.tensor(1.0).register_hook(print)


def test_a_hook_sees_the_complete_gradient_once():
    x = leaf(2.0)
    calls = []
    x.register_hook(lambda g: calls.append(g.item()))
    (x * x + x * 3).backward()
    assert calls == [7.0]


def test_backward_inside_a_hook():
    x = leaf(2.0)
    inner = leaf(5.0)

    def hook(g):
        with mg.enable_grad():
            (inner * inner).backward()

    y = x * 3
    y.register_hook(hook)
    (y * y).backward()
    assert inner.grad.item() == 10.0
    assert x.grad.item() == 36.0


def test_retain_grad():
    x = leaf([1.0, 2.0])
    h = x * 2
    h.retain_grad()
    (h * h).sum().backward()
    assert h.grad.tolist() == [4.0, 8.0]


def test_value_and_grad():
    value, g = mg.value_and_grad(lambda x, k: (x**k).sum())(mg.tensor([1.0, 2.0]), 3)
    assert value.item() == 9.0
    assert g.tolist() == [3.0, 12.0]
    assert not value.requires_grad
    (value, aux), g = mg.value_and_grad(lambda x: (x.sum(), "aux"), has_aux=True)(mg.ones(2))
    assert aux == "aux"
    _, grads = mg.value_and_grad(lambda p: (p["w"] * p["b"][0]).sum())(
        {"w": mg.tensor([1.0, 2.0]), "b": [mg.tensor(3.0)]}
    )
    assert grads["w"].tolist() == [3.0, 3.0]
    assert grads["b"][0].item() == 3.0
    _, (ga, gb) = mg.value_and_grad(lambda a, b: a * b * b, argnums=(0, 1))(mg.tensor(2.0), mg.tensor(3.0))
    assert (ga.item(), gb.item()) == (9.0, 12.0)
    with pytest.raises(GradError, match="needs a scalar tensor from the function"):
        mg.value_and_grad(lambda x: x)(mg.ones(2))
    with pytest.raises(GradError, match="argnums is 3"):
        mg.value_and_grad(lambda x: x, argnums=3)(mg.ones(()))
    with pytest.raises(GradError, match=r"argnums is \(0, -1\), needs each place once"):
        mg.value_and_grad(lambda x: x, argnums=(0, -1))(mg.ones(()))


def test_value_and_grad_nests():
    def slope(f):
        return lambda x: mg.value_and_grad(f)(x)[1]

    x = mg.tensor(0.5, dtype=mg.float64)
    assert slope(slope(mg.exp))(x).item() == pytest.approx(math.exp(0.5), rel=1e-14)
    assert slope(slope(slope(mg.sin)))(x).item() == pytest.approx(-math.cos(0.5), rel=1e-14)


MATRIX = np.array([[0.3, -1.2, 0.7], [2.0, 0.1, -0.4]])


def f(x):
    return mg.tanh(mg.asarray(MATRIX) @ x)


def dense(x):
    return (1 - np.tanh(MATRIX @ x) ** 2)[:, None] * MATRIX


def test_jacobian_vjp_jvp_agree():
    x = np.array([0.2, -0.5, 0.9])
    wanted = dense(x)
    t, v, u = mg.asarray(x), np.array([1.5, -0.25]), np.array([0.3, 2.0, -1.0])
    np.testing.assert_allclose(ag.jacobian(f, t), wanted, rtol=1e-13)
    out, g = ag.vjp(f, t, v)
    np.testing.assert_allclose(out, np.tanh(MATRIX @ x), rtol=1e-14)
    np.testing.assert_allclose(g, v @ wanted, rtol=1e-13)
    out, g = ag.jvp(f, t, u)
    np.testing.assert_allclose(g, wanted @ u, rtol=1e-13)
    assert not out.requires_grad
    assert not g.requires_grad


def test_functional_forms_of_several_inputs_and_outputs():
    a, b = mg.tensor([1.0, 2.0]), mg.tensor([3.0, 5.0])
    out, (ga, gb) = ag.vjp(lambda a, b: (a * b, a.sum()), (a, b), (mg.ones(2), mg.tensor(10.0)))
    assert ga.tolist() == [13.0, 15.0]
    assert gb.tolist() == [1.0, 2.0]
    assert len(out) == 2
    _, (first, second) = ag.jvp(lambda a, b: (a * b, a.sum()), (a, b), (mg.ones(2), mg.zeros(2)))
    assert first.tolist() == [3.0, 5.0]
    assert second.item() == 2.0
    ja, jb = ag.jacobian(lambda a, b: a * b, (a, b))
    assert ja.tolist() == [[3.0, 0.0], [0.0, 5.0]]
    assert jb.tolist() == [[1.0, 0.0], [0.0, 2.0]]
    h = ag.hessian(lambda a, b: (a * a * b).sum(), (a, b))
    assert h[0][0].tolist() == [[6.0, 0.0], [0.0, 10.0]]
    assert h[0][1].tolist() == h[1][0].tolist() == [[2.0, 0.0], [0.0, 4.0]]
    assert h[1][1].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_functions_that_ignore_an_input_or_are_linear():
    x = mg.tensor([1.0, 2.0])
    assert ag.jacobian(lambda x: mg.ones(3), x).tolist() == [[0.0, 0.0]] * 3
    assert ag.jvp(lambda x: mg.ones(3), x, x)[1].tolist() == [0.0] * 3
    assert ag.jvp(lambda x: x, x, mg.tensor([5.0, 6.0]))[1].tolist() == [5.0, 6.0]
    assert ag.hessian(lambda x: x.sum(), x).tolist() == [[0.0, 0.0]] * 2
    assert ag.hvp(lambda x: x.sum(), x, x)[1].tolist() == [0.0, 0.0]


def test_functional_forms_are_differentiable():
    x = leaf([0.3, -0.8])
    _, product = ag.hvp(lambda x: (x**4).sum(), x, mg.tensor([1.0, 2.0], dtype=mg.float64))
    np.testing.assert_allclose(mg.grad(product.sum(), x), 24 * x.detach() * mg.tensor([1.0, 2.0]), rtol=1e-12)


def test_functional_misuse():
    with pytest.raises(GradError, match="needs a floating tensor"):
        ag.jacobian(lambda x: x, mg.tensor([1]))
    with pytest.raises(GradError, match="v is float32"):
        ag.jvp(lambda x: x, mg.ones(2), mg.ones(3))
    with pytest.raises(GradError, match="needs a scalar tensor from the function"):
        ag.hessian(lambda x: x, mg.ones(2))


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_hessian_is_symmetric_and_hvp_is_its_product(values, seed):
    rng = np.random.default_rng(seed)
    m = mg.asarray(rng.standard_normal((len(values), len(values))))
    x = mg.tensor(values, dtype=mg.float64)
    v = rng.standard_normal(len(values))

    def g(x):
        return mg.sum(mg.sin(m @ x) * mg.exp(x * 0.3))

    h = ag.hessian(g, x).numpy()
    np.testing.assert_allclose(h, h.T, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(ag.hvp(g, x, v)[1], h @ v, rtol=1e-9, atol=1e-11)


def test_anomaly_names_the_forward_op_and_the_line():
    x = leaf([1.0, 0.0])
    with (
        mg.detect_anomaly(),
        pytest.raises(GradError, match=r"log made a NaN or inf at .*test_autograd\.py:\d+.*from 0 to 1"),
    ):
        mg.log(x)
    assert mg.log(x).tolist()[1] == -math.inf


def test_anomaly_names_the_backward_op_and_where_it_was_recorded():
    x = leaf([1.0, 0.0])
    with mg.detect_anomaly():
        y = mg.sqrt(x).sum()
        with pytest.raises(GradError, match=r"the backward of sqrt, recorded at .*test_autograd\.py:\d+"):
            y.backward()


def test_anomaly_sees_gradients_without_axes():
    x = leaf([1.0, 2.0])
    with mg.detect_anomaly():
        y = mg.sqrt((x * 0.0).sum())
        with pytest.raises(GradError, match=r"the backward of sqrt, recorded at .*test_autograd\.py:\d+"):
            y.backward()


def test_anomaly_does_not_blame_an_op_for_the_inf_it_was_given():
    with mg.detect_anomaly():
        scores = mg.where(mg.tensor([True, False]), mg.tensor([1.0, 2.0]), -math.inf)
        assert mg.softmax(scores).tolist() == [1.0, 0.0]


def test_anomaly_as_decorator_and_for_this_context_only():
    @mg.detect_anomaly()
    def bad():
        return mg.log(mg.zeros(1))

    with pytest.raises(GradError):
        bad()
    assert mg.log(mg.zeros(1)).item() == -math.inf


def test_hooks_are_removed_by_what_registered_them():
    x = leaf([1.0])
    calls = []

    def count(g):
        calls.append(1)

    first, _ = x.register_hook(count), x.register_hook(count)
    first()
    first()
    (x * 1).sum().backward()
    assert len(calls) == 1
    h = x * 1
    h.retain_grad()
    h.retain_grad()
    h.sum().backward()
    assert h.grad.tolist() == [1.0]


def test_a_hook_cannot_change_the_gradient_of_others():
    a, b, seed = leaf([1.0]), leaf([1.0]), mg.ones(1, dtype=mg.float64)
    a.register_hook(lambda g: g.__imul__(0.1))
    with pytest.raises(ValueError, match="read-only"):
        (a + b).backward(seed)
    assert seed.tolist() == [1.0]


@pytest.mark.parametrize("mode", [mg.no_grad, mg.detect_anomaly, lambda: mg.set_grad_enabled(False)])
def test_threads_may_leave_a_decorated_function_in_any_order(mode):
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    after = {}

    @mode()
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
        after[name] = mg.is_grad_enabled()
        first_out.set()

    threads = [threading.Thread(target=run, args=(name,)) for name in ("first", "second")]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert after == {"first": True, "second": True}


def test_no_grad_refuses_what_it_cannot_decorate():
    def generator():
        yield 1

    async def coroutine():
        return 1

    for function in (generator, coroutine):
        with pytest.raises(TypeError, match="Put a with block inside it"):
            mg.no_grad()(function)


def test_set_grad_enabled_acts_at_once():
    try:
        mg.set_grad_enabled(False)
        assert not mg.is_grad_enabled()
    finally:
        mg.set_grad_enabled(True)

    @mg.set_grad_enabled(False)
    def inside():
        return mg.is_grad_enabled()

    assert mg.is_grad_enabled()
    assert inside() is False
    assert mg.is_grad_enabled()


def test_operands_in_another_byte_order():
    x = mg.tensor([1.0, 2.0, 3.0], dtype=mg.float64)
    a = np.array([1.0, 2.0, 3.0], ">f8")
    assert (x * a).tolist() == (a * x).tolist() == [1.0, 4.0, 9.0]
    assert (x + a).tolist() == [2.0, 4.0, 6.0]
    assert mg.add(a, a).tolist() == [2.0, 4.0, 6.0]
    assert (x * np.array(3.0, ">f8")).tolist() == [3.0, 6.0, 9.0]


def test_too_many_positional_arguments():
    with pytest.raises(TypeError, match=r"negative.. takes at most 1 positional arguments, got 2"):
        mg.negative(mg.ones(3), 1)
    with pytest.raises(TypeError, match=r"needs mg\.tensor"):
        mg.Tensor([1.0, 2.0])


@pytest.mark.parametrize(("answer", "text"), [((1.0,), "gave 1, needs a tuple of 2"), (None, "gave NoneType")])
def test_a_joint_rule_must_answer_for_every_input(answer, text):
    @registry.op(name="planted_sum", amp="widest")
    def planted(xp, x, y, /):
        return x + y

    del registry.REGISTRY["planted_sum"]
    planted.vjp()(lambda xp, g: answer)
    with pytest.raises(GradError, match=text):
        planted(leaf([1.0]), leaf([1.0])).sum().backward()


def test_internals_cannot_be_emptied():
    assert isinstance(mg.add.vjps, tuple)
    first, _ = mg.split(leaf([1.0, 2.0]) * 1, [1])
    assert isinstance(first.grad_fn.parents[0].outputs, tuple)
    assert not hasattr(mg.ones(1), "__setstate_cython__")
