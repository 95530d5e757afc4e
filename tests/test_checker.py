"""The tests of the tests: `gradcheck` and the checks of the contract must find every fault that is planted here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import minigrad as mg
from minigrad import autograd, dtypes
from minigrad._core import cpu, tape
from minigrad.errors import ShapeError
from minigrad.ops.conversion import new
from minigrad.ops.registry import REGISTRY, DTypeRule, Op, op
from minigrad.ops.samples import A, case, error
from minigrad.testing import GradcheckError, contract, gradcheck, strategies
from minigrad.testing import samples as drawing
from minigrad.testing.tolerances import assert_close
from minigrad.testing.variants import assert_variants

X = np.array([[0.3, -1.2, 0.8], [1.4, 0.6, -0.5]])


def function(forward: Callable[[Any], Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A Function of one tensor: ``backward(g, x, y)`` is its rule."""

    class Planted(mg.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            y = forward(x)
            ctx.save_for_backward(x, y)
            return y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return backward(g, *ctx.saved_tensors)

    return Planted.apply


def squared(x: Any) -> Any:
    return x * x


def softmax(x: Any) -> Any:
    e = mg.exp(x)
    return e / mg.sum(e, axis=-1, keepdims=True)


# --- gradcheck --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"atol": np.nan}, {"rtol": -1.0}, {"atol": np.inf}, {"step": 0.0}, {"step": np.nan}])
def test_tolerances_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"gradcheck: {next(iter(wrong))} is .*, needs a finite number"):
        gradcheck(squared, X, **wrong)


def test_recording_is_switched_on() -> None:
    with mg.no_grad():
        assert gradcheck(squared, X)
        with pytest.raises(GradcheckError, match="wrong derivative"):
            gradcheck(lambda x: x * x.detach(), X)


@pytest.mark.parametrize("result", [None, 1.5, X, "text", (1, 2)], ids=lambda r: type(r).__name__)
def test_results_are_tensors(result: Any) -> None:
    with pytest.raises(GradcheckError, match=r"f returned .*, needs a tensor or a tuple of tensors"):
        gradcheck(lambda x: result, X)


def test_infinite_derivatives_fail_without_warnings() -> None:
    with pytest.raises(GradcheckError, match="wrong derivative"):
        gradcheck(mg.log, np.zeros(2))
    with pytest.raises(GradcheckError, match="wrong derivative"):
        gradcheck(lambda x: mg.exp(x * 1e6), np.ones(2))


def test_right_rules_pass() -> None:
    assert gradcheck(function(squared, lambda g, x, y: 2 * g * x), X, order=3)
    assert gradcheck(function(softmax, lambda g, x, y: y * (g - mg.sum(g * y, axis=-1, keepdims=True))), X)
    assert gradcheck(lambda x, y: (x * y, x + y), [X, np.array(0.7)])
    assert gradcheck(lambda x, n: x * n, [X, np.array([1, 2, 3])])
    assert gradcheck(lambda x: x * 2, mg.tensor([0.5], dtype=mg.float32))


def test_large_inputs_go_by_random_directions() -> None:
    x = np.random.default_rng(0).uniform(0.5, 1.5, (20, 30))
    assert gradcheck(mg.square, x)
    weight = np.ones(x.shape)
    weight[7, 11] = 1.001
    with pytest.raises(GradcheckError, match="random direction"):
        gradcheck(function(squared, lambda g, x, y: 2 * g * x * mg.asarray(weight)), x, order=1)


def test_empty_and_0d_inputs() -> None:
    assert gradcheck(squared, np.zeros((0, 3)))
    assert gradcheck(squared, np.array(1.5))


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("zero", lambda g, x, y: 0 * g * x),
        ("none", lambda g, x, y: None),
        ("one per mille too large", lambda g, x, y: 1.001 * 2 * g * x),
        ("one per mille in one element", lambda g, x, y: 2 * g * x * mg.asarray(np.where(X == 0.8, 1.001, 1.0))),
        ("sign", lambda g, x, y: -2 * g * x),
        ("cotangent forgotten", lambda g, x, y: 2 * x),
        ("value for derivative", lambda g, x, y: g * y),
        ("not a number", lambda g, x, y: 2 * g * x * float("nan")),
        ("transposed", lambda g, x, y: mg.flip(2 * g * x, axis=0)),
    ],
)
def test_wrong_first_derivative(fault: str, rule: Callable[..., Any]) -> None:
    with pytest.raises(GradcheckError, match="order 1: wrong derivative"):
        gradcheck(function(squared, rule), X)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("detached input", lambda g, x, y: 2 * g * x.detach()),
        ("detached cotangent", lambda g, x, y: 2 * g.detach() * x),
        ("detached result", lambda g, x, y: (2 * g * x).detach()),
        ("one per mille", lambda g, x, y: 2 * g * (1.001 * x - 0.001 * x.detach())),
    ],
)
def test_wrong_second_derivative(fault: str, rule: Callable[..., Any]) -> None:
    planted = function(squared, rule)
    assert gradcheck(planted, X, order=1)
    with pytest.raises(GradcheckError, match="order 2: wrong derivative"):
        gradcheck(planted, X)


def test_softmax_with_a_zero_rule() -> None:
    """Under a cotangent of ones the true vjp is zero too, and the fault would pass."""
    planted = function(softmax, lambda g, x, y: 0 * g)
    ones = new(X.copy(), requires_grad=True)
    planted(ones).sum().backward()
    right = new(X.copy(), requires_grad=True)
    softmax(right).sum().backward()
    assert_close(ones.grad.numpy(), right.grad.numpy(), mg.float64, "vjp of ones", floor=1.0)
    with pytest.raises(GradcheckError, match="wrong derivative"):
        gradcheck(planted, X)


def test_wrong_dtype_and_shape_of_a_gradient() -> None:
    with pytest.raises((GradcheckError, TypeError), match="float32"):
        gradcheck(function(squared, lambda g, x, y: (2 * g * x).astype(mg.float32)), X)
    with pytest.raises((GradcheckError, ShapeError), match=r"\(2, 2\)"):
        gradcheck(function(squared, lambda g, x, y: (2 * g * x)[:, :2]), X)


def test_broadcast_of_a_gradient_is_a_wrong_derivative() -> None:
    with pytest.raises(GradcheckError, match="wrong derivative"):
        gradcheck(function(squared, lambda g, x, y: (2 * g * x)[:1]), X)


def test_changed_cotangent() -> None:
    def rule(g: Any, x: Any, y: Any) -> Any:
        g._array.flags.writeable = True  # the engine hands it out read-only; a rule can still break in
        g._array *= 2
        return g * x

    with pytest.raises(GradcheckError, match="changed the cotangent"):
        gradcheck(function(squared, rule), X)


def test_changed_input() -> None:
    def f(x: Any) -> Any:
        x._array[0, 0] = 0.0
        return x * x

    with pytest.raises(GradcheckError, match="input 0 was changed in place"):
        gradcheck(f, X)


def test_not_deterministic() -> None:
    noise = iter(range(1000))
    with pytest.raises(GradcheckError, match="not deterministic"):
        gradcheck(lambda x: x * next(noise), X)


def test_half_in_between() -> None:
    with pytest.raises(GradcheckError, match="output 0 is float32"):
        gradcheck(lambda x: x.astype(mg.float32), X)


@pytest.mark.parametrize("owner", ["cotangent of output 0", "input 0", "gradient of input 0"])
def test_gradients_that_share_memory(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine hands out no shared memory, so one that does is put in its place."""
    arguments: list[Any] = []
    backward = autograd.backward

    def lending(outputs: Any, gradients: Any) -> None:
        backward(outputs, gradients)
        x, y = arguments[-2:]
        target, lent = {
            "cotangent of output 0": (x, gradients[0]._array),
            "input 0": (x, x._array),
            "gradient of input 0": (y, x.grad._array),
        }[owner]
        target._grad = tape.new_tensor(lent)

    def f(x: Any, y: Any) -> Any:
        if x.requires_grad:
            arguments[:] = [x, y]
        return x * y

    assert gradcheck(f, [X, X + 1])
    monkeypatch.setattr(autograd, "backward", lending)
    with pytest.raises(GradcheckError, match=f"memory of the {owner}|memory of {owner}"):
        gradcheck(f, [X, X + 1])


def test_report_shows_what_one_needs() -> None:
    with pytest.raises(GradcheckError) as caught:
        gradcheck(function(squared, lambda g, x, y: -2 * g * x), X)
    for part in ("analytic", "numerical", "allowed", "input 0, element (", "float64 (2, 3)", "cotangent 0", "-1.2"):
        assert part in str(caught.value)


def test_arguments() -> None:
    with pytest.raises(ValueError, match="order"):
        gradcheck(squared, X, order=0)
    with pytest.raises(ValueError, match="at least one floating"):
        gradcheck(squared, np.array([1, 2]))
    with pytest.raises(GradcheckError, match="nothing that is floating"):
        gradcheck(lambda x: x > 0, X)


# --- the contract of ops ----------------------------------------------------------------------------------------------


@pytest.fixture
def plant() -> Iterator[Callable[..., Op[Any]]]:
    """Make an op outside the registry: the square, unless told otherwise."""
    planted: list[str] = []

    def make(body: Any = None, rule: Any = lambda xp, g, x: 2 * g * x, cases: Any = None, **record: Any) -> Op[Any]:
        def _planted(xp: Any, x: Any, /) -> Any:
            return x * x

        made: Op[Any] = op(**{"ref": "numpy.square", "name": "planted", "amp": "widest", **record})(body or _planted)
        planted.append(made.name)
        if rule is not None:
            made.vjp(0)(rule)
        made.samples(*((case(A((2, 3), 0.5, 2.0)), case(A((), 0.5, 2.0))) if cases is None else cases))
        return made

    yield make
    for name in planted:
        del REGISTRY[name]


def test_a_sound_op_passes(plant: Callable[..., Op[Any]]) -> None:
    made = plant(dtype=DTypeRule(kinds=dtypes.FLOATING | dtypes.INTEGER), needs="anything")
    for check in contract.CHECKS:
        check(made)


def forward_fault(xp: Any, x: Any, /) -> Any:
    return 1.001 * x * x


def widening(xp: Any, x: Any, /) -> Any:
    return (x * x).astype(xp.float64)


def handing_through(xp: Any, x: Any, /) -> Any:
    return x


def writing(xp: Any, x: Any, /) -> Any:
    x *= x
    return x.copy()


def layout_dependent(xp: Any, x: Any, /) -> Any:
    return x * x if x.flags.c_contiguous else x * x + 0.01


kept: list[Any] = []


def hoarding(xp: Any, x: Any, /) -> Any:
    kept[:] = [x]
    return x * x


not_same = DTypeRule(same=False)
CHANGES = {
    "forward": (contract.check_forward, {"body": forward_fault}, "output 0 for float64"),
    "widening": (contract.check_dtypes, {"body": widening, "dtype": not_same}, "for float32 inputs is float64"),
    "zero rule": (contract.check_gradients, {"rule": lambda xp, g, x: 0 * g * x}, "wrong derivative"),
    "one per mille": (contract.check_gradients, {"rule": lambda xp, g, x: 2.002 * g * x}, "wrong derivative"),
    "aliasing": (contract.check_memory, {"body": handing_through}, "lies in the memory of input 0"),
    "writing": (contract.check_layouts, {"body": writing}, "input 0 was changed in place"),
    "layout": (contract.check_layouts, {"body": layout_dependent}, "output 0 of F inputs"),
    "hoarding": (contract.check_residuals, {"body": hoarding, "rule": lambda xp, g, x_shape: g}, "outlives"),
    "no samples": (contract.check_record, {"cases": ()}, "no samples"),
    "no refusal": (contract.check_errors, {"cases": [error(ValueError, "", (2,))]}, "should raise ValueError"),
    "wrong text": (
        contract.check_errors,
        {"cases": [error(TypeError, "blue", A((2,), kind="bool"))]},
        "'blue' is not in",
    ),
}


@pytest.mark.parametrize("fault", CHANGES)
def test_contract_finds(fault: str, plant: Callable[..., Op[Any]]) -> None:
    check, change, text = CHANGES[fault]
    made = plant(**{"dtype": DTypeRule(kinds=dtypes.FLOATING), **change})
    with pytest.raises(AssertionError, match=text):
        check(made)


def test_variants_demand_that_kernels_ran() -> None:
    x = np.random.default_rng(0).normal(size=(120, 200))
    apart = np.asarray(x[:, ::2])
    assert_variants(mg.softmax, x)
    assert_variants(mg.softmax, apart)
    assert_variants(mg.sin, x, ran=False)
    with pytest.raises(AssertionError, match="no kernel was called"):
        assert_variants(mg.sin, x)
    with pytest.raises(AssertionError, match=r"left to the generic body by softmax\.softmax"):
        assert_variants(mg.softmax, apart, ran=True)
    with pytest.raises(AssertionError, match=f"{cpu.levels()[-1]}, 1 threads: left to the generic body"):
        assert_variants(mg.softmax, apart, ran=cpu.levels()[-1:])


def test_contract_finds_a_kernel_that_differs(plant: Callable[..., Op[Any]]) -> None:
    made = plant()
    made.kernel("cpu", dtypes.float32)(lambda x: x * x * np.float32(1.001))
    with pytest.raises(AssertionError, match="kernel against generic"):
        contract.check_kernels(made)


def test_contract_finds_a_rule_without_precision(plant: Callable[..., Op[Any]]) -> None:
    def rule(xp: Any, g: Any, x: Any) -> Any:
        return 2 * g * (x.astype("float16").astype(x.dtype) if x.dtype == "float32" else x)

    with pytest.raises(AssertionError, match="gradient of float32 input 0"):
        contract.check_low_precision(plant(rule=rule))


def test_contract_finds_a_missing_example(plant: Callable[..., Op[Any]]) -> None:
    with pytest.raises(AssertionError, match="no example"):
        contract.check_record(plant(body=forward_fault))


# --- tolerances and drawing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [dtypes.float64, dtypes.float32])
def test_one_per_mille_is_never_close(dtype: dtypes.DType) -> None:
    x = np.linspace(0.5, 2.0, 7).astype(dtype)
    assert_close(x, x, dtype, "x")
    with pytest.raises(AssertionError, match="difference"):
        assert_close(x * dtype.type(1.001), x, dtype, "x")


def test_close_knows_nan_inf_and_shapes() -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0])
    assert_close(special, special, mg.float64, "x")
    for place, value in enumerate([0.0, 1e308, np.inf, 1.0]):
        other = special.copy()
        other[place] = value
        with pytest.raises(AssertionError):
            assert_close(other, special, mg.float64, "x")
    with pytest.raises(AssertionError, match="shape"):
        assert_close(np.zeros(2), np.zeros((2, 1)), mg.float64, "x")
    with pytest.raises(AssertionError):
        assert_close(np.array([1, 2]), np.array([1, 3]), mg.int64, "x")


@pytest.mark.parametrize("avoid", [(), (0.0,), (-1.0, 0.0, 1.0)])
@pytest.mark.parametrize("form", ["any", "distinct", "sorted"])
def test_drawn_values_keep_their_distance(form: str, avoid: tuple[float, ...]) -> None:
    for seed in range(20):
        x = drawing.draw(A((4, 5), -2.0, 2.0, avoid, form=form), np.random.default_rng(seed))
        assert x.shape == (4, 5)
        assert all(np.abs(x - point).min() >= 0.1 - 1e-12 for point in avoid)
        assert x.min() >= -2.0
        if form == "any":
            assert x.max() <= 2.0
        else:
            assert np.diff(np.sort(x.ravel())).min() >= 0.1 - 1e-12
        if form == "sorted":
            assert (np.diff(x, axis=-1) > 0).all()


def test_drawn_inputs_do_not_tie() -> None:
    for seed in range(50):
        x, y = drawing.draw_case(case((50,), (50,)), seed)
        assert np.abs(x[:, None] - y[None]).min() > 0.01


def test_drawn_matrices() -> None:
    rng = np.random.default_rng(0)
    spd = drawing.draw(A((2, 4, 4), form="spd"), rng)
    assert np.array_equal(spd, np.swapaxes(spd, -1, -2))
    assert np.linalg.eigvalsh(spd).min() >= 0.5
    symmetric = drawing.draw(A((4, 4), form="symmetric"), rng)
    values = np.linalg.eigvalsh(symmetric)
    assert np.array_equal(symmetric, symmetric.T)
    assert np.diff(values).min() > 0.1
    regular = np.linalg.svd(drawing.draw(A((3, 4, 2), form="regular"), rng), compute_uv=False)
    assert regular.min() >= 0.5
    assert regular.max() <= 2.0
    assert -np.diff(regular, axis=-1).max() > 0.1


def test_a_seed_draws_the_same_numbers_in_every_dtype() -> None:
    wide, narrow = (drawing.draw_case(case((3,)), 5, dtype)[0] for dtype in (dtypes.float64, dtypes.float16))
    assert narrow.dtype == dtypes.float16
    assert np.array_equal(wide.astype(np.float16), narrow)
    assert drawing.seed_of("a", 1) != drawing.seed_of("a", 2)


@pytest.mark.parametrize("layout", drawing.LAYOUTS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)])
def test_layouts_keep_values(layout: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    assert np.array_equal(drawing.relayout(x, layout), x)


@given(strategies.tensors(strategies.dtypes("any"), requires_grad=False))
def test_tensors_of_every_dtype(t: Any) -> None:
    assert t.dtype in dtypes.ALL
    assert t.ndim <= 3
    assert t.numpy().size <= 64


@given(strategies.arrays(strategies.dtypes("floating"), (3, 2), low=0.5, high=1.5))
def test_arrays_keep_their_bounds(x: np.ndarray[Any, Any]) -> None:
    assert x.shape == (3, 2)
    assert x.min() >= 0.5
    assert x.max() <= 1.5


@given(strategies.broadcastable_shapes(3))
def test_shapes_broadcast(shapes: tuple[tuple[int, ...], ...]) -> None:
    assert len(np.broadcast_shapes(*shapes)) <= 3
