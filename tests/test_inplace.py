"""In-place changes: what works, what raises at once, what backward finds."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import DTypeError, GradError, ShapeError


def leaf(values):
    return mg.tensor(values, dtype=mg.float64, requires_grad=True)


def test_plain_tensors_change_in_place_and_stay_the_same_object():
    t = mg.tensor([1.0, 2.0, 3.0])
    alias = t
    view = t[1:]
    t += 1
    t[0] = 10
    t *= mg.tensor([1.0, 2.0, 3.0])
    assert alias is t
    assert t.tolist() == [10.0, 6.0, 12.0]
    assert view.tolist() == [6.0, 12.0]
    u = mg.tensor([7, 8])
    u -= 1
    u //= 2
    u %= 3
    u **= 2
    u <<= 1
    u >>= 1
    u |= 4
    u &= 7
    u ^= 1
    assert u.tolist() == [5, 5]


def test_an_array_under_the_tensor_changes_with_it():
    a = np.zeros(3)
    t = mg.asarray(a)
    t[1] = 5
    assert a.tolist() == [0.0, 5.0, 0.0]


def test_recorded_values_that_nobody_saved_may_change():
    x = leaf([1.0, 2.0])
    h = x * 3
    h += x
    h *= 2
    h[0] = 0.0
    h.sum().backward()
    assert x.grad.tolist() == [0.0, 8.0]


def test_a_constant_takes_recorded_values():
    x = leaf([1.0, 2.0])
    table = mg.zeros((2, 2), dtype=mg.float64)
    table[1] = x * x
    assert table.requires_grad
    (table * mg.tensor([[1.0, 1.0], [3.0, 5.0]], dtype=mg.float64)).sum().backward()
    assert x.grad.tolist() == [6.0, 20.0]


def test_a_product_in_place_keeps_the_old_factor_for_backward():
    x = leaf([2.0, 3.0])
    h = x + 0
    h *= x
    h.sum().backward()
    assert x.grad.tolist() == [4.0, 6.0]


@pytest.mark.parametrize(
    "change",
    [lambda h: h.__iadd__(1), lambda h: h.__setitem__(0, 5.0), lambda h: h.__imul__(2.0)],
    ids=["iadd", "setitem", "imul"],
)
@pytest.mark.parametrize("saver", [mg.square, mg.exp], ids=["input", "output"])
def test_changing_a_saved_value_is_found_in_backward(saver, change):
    x = leaf([1.0, 2.0])
    h = x * 1
    y = saver(h)
    change(y if saver is mg.exp else h)
    name = "exp" if saver is mg.exp else "square"
    with pytest.raises(
        GradError, match=rf"{name}: a value that {name} saved .* changed in place at .*test_inplace\.py:\d+"
    ):
        y.sum().backward()


def test_changing_a_saved_constant_is_found():
    x, c = leaf([1.0, 2.0]), mg.tensor([3.0, 4.0], dtype=mg.float64)
    y = x * c
    c[0] = 0
    with pytest.raises(GradError, match="multiply"):
        y.sum().backward()


def test_changing_a_view_or_the_base_of_a_saved_value_is_found():
    for first, second in [
        (lambda c: c, lambda c: c[:1]),
        (lambda c: c[:1], lambda c: c),
        (lambda c: c, lambda c: c.detach()),
    ]:
        x, c = leaf([1.0]), mg.tensor([3.0, 4.0], dtype=mg.float64)
        other = second(c)
        y = x * first(c)
        other += 1
        with pytest.raises(GradError, match="multiply"):
            y.sum().backward()


def test_an_op_that_saved_only_the_other_factor_does_not_mind():
    x, c = leaf([1.0, 2.0]), mg.tensor([3.0, 4.0], dtype=mg.float64)
    h = x + 0
    y = h * c
    with mg.no_grad():
        h += 1
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 4.0]


def test_leaves_change_under_no_grad_only():
    x = leaf([1.0, 2.0])
    with pytest.raises(GradError, match="in-place change of a leaf that requires grad"):
        x += 1
    with pytest.raises(GradError, match="no_grad"):
        x[0] = 1
    with mg.no_grad():
        x -= 0.5
        x[0] = 7
    assert x.tolist() == [7.0, 1.5]
    assert x.is_leaf
    assert x.requires_grad


def test_recorded_views_are_refused():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    h = x * 2
    row = h[0]
    for t in (row, h):
        with pytest.raises(GradError, match="shares its memory"):
            t += 1
    copy = h[0].clone()
    copy += 1
    copy.sum().backward()
    assert x.grad.tolist() == [[2.0, 2.0], [0.0, 0.0]]


def test_shapes_and_dtypes_must_stay():
    t = mg.tensor([1, 2])
    with pytest.raises(DTypeError, match=r"in-place add: result is float32 \(2,\), needs int64"):
        t += 0.5
    with pytest.raises(ShapeError, match=r"in-place add: result is int64 \(3, 2\), needs shape \(2,\)"):
        t += mg.ones((3, 2), dtype=mg.int64)
    with pytest.raises(DTypeError, match="setitem: value"):
        t[0] = mg.tensor(1.5)
    f = mg.ones(3)
    with pytest.raises(ValueError, match=r"index_put|setitem|broadcast"):
        f[:2] = mg.ones(3)
    with pytest.raises(IndexError):
        f[5] = 1.0
    with pytest.raises(TypeError, match="cannot be deleted"):
        del f[0]
    assert f.tolist() == [1.0, 1.0, 1.0]


def test_read_only_memory_is_refused():
    a = np.ones(3)
    a.flags.writeable = False
    t = mg.asarray(a)
    with pytest.raises(ValueError, match="read-only"):
        t += 1
    with pytest.raises(ValueError, match="read-only"):
        t[0] = 1
    assert a.tolist() == [1.0, 1.0, 1.0]


def test_python_numbers_are_weak_when_assigned():
    t = mg.zeros(3)
    t[0] = 1
    t[1] = True
    t[2] = np.float64(0.5)
    assert t.tolist() == [1.0, 1.0, 0.5]
    h = mg.zeros(2, dtype=mg.bfloat16)
    h += 1.5
    assert h.dtype == mg.bfloat16
    assert h.tolist() == [1.5, 1.5]


def test_a_view_that_is_gone_does_not_forbid_a_change():
    x = leaf([1.0, 2.0])
    h = x * 3
    assert float(h[0]) == 3.0
    h += 1
    h[0] = h[1].clone()
    h.sum().backward()
    assert x.grad.tolist() == [0.0, 6.0]


def test_under_no_grad_a_recorded_tensor_keeps_its_place():
    x = leaf([1.0, 2.0])
    h, k = x * 3, x * 3
    with mg.no_grad():
        h += 1
        k[0] = 4.0
    (h + k).sum().backward()
    assert x.grad.tolist() == [6.0, 6.0]


def test_accumulating_into_grad_counts_as_a_change():
    x, w = leaf([1.0]), leaf([3.0])
    (x * 2).sum().backward()
    y = (w * x.grad).sum()
    (x * 2).sum().backward()
    with pytest.raises(GradError, match=r"accumulation into \.grad"):
        y.backward()


def test_half_assignment_is_silent():
    t = mg.zeros(2, dtype=mg.float16)
    t[0] = 1e10
    assert t.tolist() == [np.inf, 0.0]
