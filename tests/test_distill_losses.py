"""Losses of distillation: derivatives, PyTorch's formulas, and the laws that hold for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import compress, nn
from minigrad.errors import ShapeError
from minigrad.testing import gradcheck

Array = np.ndarray[Any, Any]
SEEDS = st.integers(0, 2**32 - 1)

# name -> (loss of student and teacher, shape of the student's, shape of the teacher's)
LOSSES: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...]]] = {
    "classes": (lambda s, t: compress.soft_target_loss(s, t, 3.0), (4, 5), (4, 5)),
    "classes, reverse": (lambda s, t: compress.soft_target_loss(s, t, 2.0, direction="reverse"), (4, 5), (4, 5)),
    "tokens": (lambda s, t: compress.soft_target_loss(s, t, 1.5), (2, 3, 4), (2, 3, 4)),
    "binary": (lambda s, t: compress.soft_target_loss(s, t, 2.0, kind="binary"), (4, 3), (4, 3)),
    "binary, reverse": (
        lambda s, t: compress.soft_target_loss(s, t, 2.0, kind="binary", direction="reverse"), (4, 3), (4, 3)
    ),
    "regression": (lambda s, t: compress.soft_target_loss(s, t, kind="regression"), (4, 3), (4, 3)),
    "hint": (compress.hint_loss, (2, 3, 4), (2, 3, 4)),
    "hint, cosine": (lambda s, t: compress.hint_loss(s, t, distance="cosine"), (2, 3, 4), (2, 3, 4)),
    "hint of channels": (lambda s, t: compress.hint_loss(s, t, axis=1, distance="cosine"), (2, 4, 3), (2, 4, 3)),
    "attention transfer": (compress.attention_transfer_loss, (2, 3, 2, 2), (2, 5, 2, 2)),
    "attention transfer, p = 4": (
        lambda s, t: compress.attention_transfer_loss(s, t, power=4.0, axis=-1), (2, 4, 3), (2, 4, 2)
    ),
    "attention maps": (compress.attention_map_loss, (2, 2, 3, 3), (2, 2, 3, 3)),
    "attention maps, mean": (
        lambda s, t: compress.attention_map_loss(s, t, mean_heads=True), (2, 2, 3, 3), (2, 4, 3, 3)
    ),
    "distances": (compress.distance_loss, (4, 2), (4, 3)),
    "angles": (compress.angle_loss, (4, 2), (4, 3)),
}  # fmt: skip
SAME = [name for name, (_, own, other) in LOSSES.items() if own == other] + ["distances", "angles"]
each_loss = pytest.mark.parametrize("name", LOSSES)


# points apart from each other, and angles that differ by less than 1, where the Huber loss has a kink
APART = np.array([[0.0, 0.0, 0.0], [2.0, 0.3, 0.5], [0.4, 2.2, 1.0], [2.5, 2.6, -0.5]])


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    """Numbers away from 0."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.3, 1.5, shape) * rng.choice([-1.0, 1.0], shape) for shape in shapes]


@each_loss
@settings(max_examples=max(5, settings.default.max_examples // 5))
@given(seed=SEEDS)
def test_derivatives_of_two_orders(name: str, seed: int) -> None:
    loss, own, other = LOSSES[name]
    student, teacher = drawn(seed, own, other)
    if name in ("distances", "angles"):
        student, teacher = (APART[:, : x.shape[1]] + 0.1 * x for x in (student, teacher))
    # the scalar is weighed by the checker's random cotangent; the teacher is an input too, as ensembles may be trained
    assert gradcheck(loss, [student, teacher], order=2)


@pytest.mark.parametrize("name", SAME)
@given(seed=SEEDS)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(name: str, seed: int) -> None:
    loss, own, _ = LOSSES[name]
    (x,) = drawn(seed, own)
    student = mg.tensor(x, requires_grad=True)
    value = loss(student, mg.tensor(x))
    assert abs(value.item()) < 1e-14
    value.backward()
    assert np.abs(student.grad.numpy()).max() < 1e-14


@pytest.mark.parametrize("name", SAME)
@given(seed=SEEDS)
def test_another_student_has_a_loss_and_a_gradient(name: str, seed: int) -> None:
    loss, own, _ = LOSSES[name]
    x, y = drawn(seed, own, own)
    student = mg.tensor(x, requires_grad=True)
    value = loss(student, mg.tensor(y))
    assert value.item() > 1e-6
    value.backward()
    assert np.abs(student.grad.numpy()).max() > 1e-6


@given(seed=SEEDS, classes=st.integers(2, 6), direction=st.sampled_from(["forward", "reverse"]))
def test_a_high_temperature_matches_logits(seed: int, classes: int, direction: str) -> None:
    """The gradient of T^2 KL tends to that of the squared difference of centred logits, over 2 classes."""
    student, teacher = (x - x.mean(-1, keepdims=True) for x in drawn(seed, (3, classes), (3, classes)))
    wanted = (student - teacher) / classes / 3
    gaps = []
    for temperature in (1e3, 1e4):
        s = mg.tensor(student, requires_grad=True)
        compress.soft_target_loss(s, mg.tensor(teacher), temperature, direction=direction).backward()
        gaps.append(np.abs(s.grad.numpy() - wanted).max())
    assert gaps[0] < 1e-2
    assert gaps[1] < 1e-3


@given(seed=SEEDS, kind=st.sampled_from(["classes", "binary"]), temperature=st.floats(0.5, 20.0))
def test_two_classes_are_one_question(seed: int, kind: str, temperature: float) -> None:
    """Logits (z, 0) of two classes say what the logit z of a question says."""
    student, teacher = drawn(seed, (5, 1), (5, 1))
    one = compress.soft_target_loss(student, teacher, temperature, kind="binary")
    pairs = [np.concatenate([x, np.zeros_like(x)], axis=1) for x in (student, teacher)]
    two = compress.soft_target_loss(*pairs, temperature)
    np.testing.assert_allclose(one.item(), two.item(), rtol=1e-10, atol=1e-14)


@given(seed=SEEDS, keep=st.lists(st.booleans(), min_size=6, max_size=6).filter(any))
def test_rows_without_weight_do_not_count(seed: int, keep: list[bool]) -> None:
    student, teacher = drawn(seed, (2, 3, 4), (2, 3, 4))
    mask = np.reshape(keep, (2, 3))
    rows = mg.tensor(mask / mask.sum())
    kept = student[mask], teacher[mask]
    for loss in (compress.soft_target_loss, compress.hint_loss):
        np.testing.assert_allclose(loss(student, teacher, rows=rows).item(), loss(*kept).item(), rtol=1e-12)


@given(seed=SEEDS, shift=st.floats(-3, 3), scale=st.floats(0.2, 5.0))
def test_relations_know_no_place_no_turn_and_no_size(seed: int, shift: float, scale: float) -> None:
    points, turn = drawn(seed, (5, 3), (3, 3))
    turned = (points @ np.linalg.qr(turn)[0] + shift) * scale
    for loss in (compress.distance_loss, compress.angle_loss):
        assert abs(loss(turned, points).item()) < 1e-12


def test_relations_of_points_that_coincide() -> None:
    """Their distance has no direction: the gradient is 0, not NaN."""
    x = mg.tensor(np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0], [3.0, 1.0]]), requires_grad=True)
    teacher = mg.tensor(drawn(0, (4, 2))[0])
    (compress.distance_loss(x, teacher) + compress.angle_loss(x, teacher)).backward()
    assert np.isfinite(x.grad.numpy()).all()
    same = mg.tensor(np.ones((4, 2)), requires_grad=True)
    compress.distance_loss(same, teacher).backward()
    assert (same.grad.numpy() == 0).all()


def test_half_inputs_are_computed_in_float32() -> None:
    student, teacher = drawn(3, (8, 10), (8, 10))
    for dtype in (mg.float16, mg.bfloat16):
        halves = [mg.tensor(x).astype(dtype) for x in (student, teacher)]
        found = compress.soft_target_loss(*halves, 4.0)
        assert found.dtype == mg.float32
        wanted = compress.soft_target_loss(*(x.astype(mg.float64) for x in halves), 4.0)
        np.testing.assert_allclose(found.item(), wanted.item(), rtol=1e-5)


@given(
    seed=SEEDS,
    kind=st.sampled_from(["classes", "binary", "regression"]),
    average=st.sampled_from(["probabilities", "logits"]),
    weights=st.lists(st.floats(0.1, 3.0), min_size=3, max_size=3),
    temperature=st.floats(0.5, 8.0),
)
def test_an_ensemble_gives_the_mean(
    seed: int, kind: str, average: str, weights: list[float], temperature: float
) -> None:
    logits = drawn(seed, (4, 3), (4, 3), (4, 3))
    teachers = [nn.Lambda(lambda x, z=z: mg.tensor(z)) for z in logits]
    made = compress.Ensemble(teachers, weights, average=average, temperature=temperature, kind=kind)
    found = made(mg.zeros((4, 1))).numpy()
    shares = np.array(weights) / sum(weights)
    if average == "logits" or kind == "regression":
        np.testing.assert_allclose(found, np.tensordot(shares, logits, 1), rtol=1e-12, atol=1e-12)
        return
    squash: Any = mg.softmax if kind == "classes" else mg.sigmoid
    wanted = sum(w * squash(mg.tensor(z / temperature)).numpy() for w, z in zip(shares, logits))
    np.testing.assert_allclose(squash(mg.tensor(found / temperature)).numpy(), wanted, rtol=1e-12)


def test_shapes_that_differ_are_refused() -> None:
    x, y = mg.ones((3, 4)), mg.ones((3, 5))
    with pytest.raises(ShapeError, match=r"soft_target_loss: student .* needs the shape of the teacher's, \(3, 5\)"):
        compress.soft_target_loss(x, y)
    with pytest.raises(ShapeError, match=r"hint_loss.*projection=True"):
        compress.hint_loss(x, y)
    with pytest.raises(ShapeError, match="same resolution"):
        compress.attention_transfer_loss(mg.ones((2, 3, 4)), mg.ones((2, 3, 5)))
    with pytest.raises(ShapeError, match="mean_heads=True"):
        compress.attention_map_loss(mg.ones((2, 2, 3, 3)), mg.ones((2, 4, 3, 3)))
    with pytest.raises(ShapeError, match="at least 3 examples"):
        compress.angle_loss(mg.ones((2, 3)), mg.ones((2, 3)))
    with pytest.raises(ShapeError, match="3 examples, as the teacher"):
        compress.distance_loss(mg.ones((4, 3)), x)
    with pytest.raises(ShapeError, match="rows"):
        compress.hint_loss(x, x, rows=mg.ones((2,)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "class"}, "kind is 'class', needs one of 'classes', 'binary', 'regression'"),
        ({"direction": "back"}, "direction is 'back'"),
        ({"temperature": 0.0}, "temperature is 0.0, needs a positive number"),
    ],
)
def test_options_that_there_are_not(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        compress.soft_target_loss(mg.ones((2, 2)), mg.ones((2, 2)), **options)


# --- PyTorch's formulas -----------------------------------------------------------------------------------------------


def compare(loss: Callable[..., Any], formula: Callable[..., Any], seed: int, *shapes: tuple[int, ...]) -> None:
    """Value and gradient, in float64."""
    torch = pytest.importorskip("torch")
    student, teacher = drawn(seed, *shapes)
    own, theirs = mg.tensor(student, requires_grad=True), torch.tensor(student, requires_grad=True)
    factor = 0.7 + seed % 5
    found, wanted = loss(own, mg.tensor(teacher)) * factor, formula(theirs, torch.tensor(teacher)) * factor
    found.backward()
    wanted.backward()
    np.testing.assert_allclose(found.item(), wanted.item(), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(own.grad.numpy(), theirs.grad.numpy(), rtol=1e-9, atol=1e-12)


@given(seed=SEEDS, temperature=st.floats(0.5, 10.0))
def test_soft_targets_as_in_torch(seed: int, temperature: float) -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def classes(s: Any, t: Any) -> Any:
        p, q = F.log_softmax(s / temperature, -1), F.softmax(t / temperature, -1)
        return F.kl_div(p, q, reduction="batchmean") * temperature**2

    def reverse(s: Any, t: Any) -> Any:
        p, q = F.log_softmax(s / temperature, -1), F.log_softmax(t / temperature, -1)
        return F.kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2

    def binary(s: Any, t: Any) -> Any:  # the cross-entropy, less what the teacher's own is
        q = torch.sigmoid(t / temperature)
        own = F.binary_cross_entropy_with_logits(t / temperature, q)
        return (F.binary_cross_entropy_with_logits(s / temperature, q) - own) * temperature**2

    soft = compress.soft_target_loss
    shapes = (4, 5), (4, 5)
    compare(lambda s, t: soft(s, t, temperature), classes, seed, *shapes)
    compare(lambda s, t: soft(s, t, temperature, direction="reverse"), reverse, seed, *shapes)
    compare(lambda s, t: soft(s, t, temperature, kind="binary"), binary, seed, *shapes)
    compare(lambda s, t: soft(s, t, kind="regression"), F.mse_loss, seed, *shapes)


@given(seed=SEEDS)
def test_features_as_in_torch(seed: int) -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def transfer(s: Any, t: Any) -> Any:
        maps = [F.normalize(x.pow(2).sum(1).flatten(1)) for x in (s, t)]
        return (maps[0] - maps[1]).pow(2).sum(1).mean()

    compare(compress.hint_loss, F.mse_loss, seed, (2, 3, 4), (2, 3, 4))
    cosine = lambda s, t: (1 - F.cosine_similarity(s, t, -1)).mean()  # noqa: E731
    compare(lambda s, t: compress.hint_loss(s, t, distance="cosine"), cosine, seed, (2, 3, 4), (2, 3, 4))
    compare(compress.attention_transfer_loss, transfer, seed, (2, 3, 4, 4), (2, 5, 4, 4))
    keys = 3  # a sum over keys, where mse_loss takes the mean
    shape = (2, 2, keys, keys)
    compare(compress.attention_map_loss, lambda s, t: F.mse_loss(s, t) * keys, seed, shape, shape)


@given(seed=SEEDS)
def test_relations_as_in_torch(seed: int) -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    n = 5
    off = ~torch.eye(n, dtype=torch.bool)

    def distances(x: Any) -> Any:
        found = torch.stack([(x[i] - x[j]).norm() for i in range(n) for j in range(n) if i != j])
        return found / found.mean()

    def angles(x: Any) -> Any:
        found = []
        for j in range(n):
            units = F.normalize(x - x[j], dim=-1)[off[j]]
            found.append((units @ units.T)[~torch.eye(n - 1, dtype=torch.bool)])
        return torch.cat(found)

    shapes = (n, 3), (n, 4)
    compare(compress.distance_loss, lambda s, t: F.smooth_l1_loss(distances(s), distances(t)), seed, *shapes)
    compare(compress.angle_loss, lambda s, t: F.smooth_l1_loss(angles(s), angles(t)), seed, *shapes)
