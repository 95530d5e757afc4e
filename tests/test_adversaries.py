"""Adversaries: balls, closed forms, plain training as a special case, gradients and statistics left alone."""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim, train
from minigrad.errors import DTypeError, GradError, ShapeError
from minigrad.nn import functional as F


def net(*, dropout=0.0, norm=False, seed=0, dtype=None):
    """A classifier of four features."""
    mg.random.seed(seed)
    layers = [nn.Dense(8, activation="tanh", in_features=4, dtype=dtype)]
    layers += [nn.BatchNorm1D(8, dtype=dtype)] * norm + [nn.Dropout(dropout)] * bool(dropout)
    return nn.Sequential([*layers, nn.Dense(3, in_features=8, dtype=dtype)])


def batch(n=6, seed=0, dtype=mg.float32):
    rng = np.random.default_rng(seed)
    return mg.asarray(rng.uniform(size=(n, 4))).astype(dtype), mg.asarray(rng.integers(0, 3, n))


def loss_of(model, labels):
    return lambda x: F.cross_entropy(model(x), labels)


def snapshot(model):
    return {name: t.numpy().tobytes() for name, t in model.state_dict().items()}


def plain_backward(loss, weight=1.0):
    (loss * weight).backward()


class Text(nn.Module):
    """A classifier of ids, 0 being padding."""

    def __init__(self, sparse=False, padding_idx=0, dropout=0.0, seed=0):
        mg.random.seed(seed)
        self.tokens = nn.Embedding(12, 5, padding_idx=padding_idx, sparse=sparse)
        self.hidden = nn.Dense(7, activation="tanh", in_features=5)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Dense(3, in_features=7)

    def forward(self, ids):
        return self.head(self.dropout(self.hidden(self.tokens(ids))).mean(axis=1))


IDS = mg.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
CLASSES = mg.tensor([0, 1, 2])


# --- FGSM and PGD: where the inputs go --------------------------------------------------------------------------------

attacks = st.fixed_dictionaries(
    {
        "epsilon": st.floats(0.0, 2.0),
        "step_size": st.floats(0.0, 3.0),
        "steps": st.integers(1, 4),
        "norm": st.sampled_from(["inf", 2]),
        "random_start": st.booleans(),
        "bounds": st.sampled_from([None, (0.0, 1.0), (-0.5, 0.3)]),
    }
)


@given(options=attacks, seed=st.integers(0, 1000), dtype=st.sampled_from([mg.float32, mg.float64]))
def test_perturbations_lie_in_the_ball_and_the_range(options, seed, dtype):
    model = net(dtype=dtype)
    x, labels = batch(seed=seed, dtype=dtype)
    moved = train.PGD(**options).perturb(loss_of(model, labels), x)
    assert (moved.dtype, moved.shape, moved.requires_grad) == (dtype, x.shape, False)
    delta = moved.numpy().astype(np.float64) - x.numpy().astype(np.float64)
    rounding = 8 * np.finfo(dtype).eps * (1 + options["epsilon"])
    size = abs(delta).max(1) if options["norm"] == "inf" else np.sqrt((delta**2).sum(1))
    assert (size <= options["epsilon"] + rounding).all()
    if options["bounds"] is not None:
        low, high = options["bounds"]
        assert (moved.numpy() >= np.minimum(low, x.numpy()) - rounding).all()
        assert (moved.numpy() <= np.maximum(high, x.numpy()) + rounding).all()


@given(seed=st.integers(0, 1000), epsilon=st.floats(0.01, 1.0))
def test_fgsm_on_a_linear_model_is_the_closed_form(seed, epsilon):
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=4), rng.normal(size=(5, 4))
    w[1] = 0.0
    moved = train.FGSM(epsilon).perturb(lambda x: (x @ mg.asarray(w)).sum(), mg.asarray(x))
    np.testing.assert_array_equal(moved.numpy(), x + epsilon * np.sign(w))


@given(seed=st.integers(0, 1000), epsilon=st.floats(0.1, 1.0), steps=st.integers(1, 5))
def test_pgd_on_a_linear_model_reaches_the_worst_point(seed, epsilon, steps):
    """The maximum of w x over the ball is epsilon times the dual norm of w, and enough steps reach it."""
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=4), mg.asarray(rng.normal(size=(5, 4)))

    def compute(x):
        return (x @ mg.asarray(w)).sum()

    for norm, dual in (("inf", abs(w).sum()), (2, np.sqrt((w**2).sum()))):
        # from anywhere in the ball this many steps along the gradient reach its far side, and stay
        pgd = train.PGD(epsilon, 2.0 * epsilon if norm == "inf" else 100.0 * epsilon, steps, norm)
        gain = (compute(pgd.perturb(compute, x)) - compute(x)).item()
        assert gain == pytest.approx(5 * epsilon * dual, rel=1e-3 if norm == 2 else 1e-9)
        one = train.PGD(epsilon, 0.3 * epsilon, 1, norm, random_start=False)
        assert (compute(one.perturb(compute, x)) - compute(x)).item() == pytest.approx(5 * 0.3 * epsilon * dual)


@given(seed=st.integers(0, 1000), norm=st.sampled_from(["inf", 2]))
def test_short_steps_raise_the_loss_every_time(seed, norm):
    """Ascent by less than the curvature allows: the loss of step k is that of perturb with k steps."""
    model = net(dtype=mg.float64, seed=seed)
    x, labels = batch(seed=seed, dtype=mg.float64)
    compute = loss_of(model, labels)
    losses = [
        compute(train.PGD(1.0, 1e-3, k, norm, random_start=False).perturb(compute, x) if k else x).item()
        for k in range(6)
    ]
    assert all(a < b for a, b in itertools.pairwise(losses)), losses


def test_examples_do_not_depend_on_each_other():
    model = net(dtype=mg.float64)
    x, labels = batch(dtype=mg.float64)
    x[2] *= 1e-6  # a gradient of another size
    pgd = train.PGD(0.5, 0.1, 3, 2, random_start=False)
    together = pgd.perturb(loss_of(model, labels), x).numpy()
    for i in range(len(x)):
        alone = pgd.perturb(loss_of(model, labels[i : i + 1]), x[i : i + 1]).numpy()
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-12)


def test_the_random_start_fills_the_ball():
    x = mg.zeros((2000, 3))
    for norm in ("inf", 2):
        pgd = train.PGD(2.0, 0.0, 1, norm)
        delta = pgd.perturb(lambda x: (x * 0.0).sum(), x).numpy()
        if norm == "inf":  # uniform: the mean of squares is epsilon**2 / 3
            assert (delta**2).mean() == pytest.approx(4 / 3, rel=0.05)
        else:  # uniform in three dimensions: the cube of the radius is
            radius = np.sqrt((delta**2).sum(1))
            assert ((radius / 2) ** 3).mean() == pytest.approx(0.5, rel=0.05)
            assert (radius <= 2.0 + 1e-5).all()
        assert not np.array_equal(delta, pgd.perturb(lambda x: (x * 0.0).sum(), x).numpy())


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
def test_half_inputs(dtype):
    """With a gradient that underflows in float16 by itself."""
    x = mg.asarray(np.array([[0.5, 0.25]])).astype(dtype)
    compute = lambda x: (x * mg.tensor([1.0, -1.0], dtype=dtype) * 2.0**-20 * 2.0**-6).sum()  # noqa: E731
    moved = train.FGSM(0.125).perturb(compute, x)
    assert moved.dtype == dtype
    assert moved.astype(mg.float64).tolist() == [[0.625, 0.125]]


@pytest.mark.parametrize("dtype", [mg.float16, mg.bfloat16])
def test_half_models(dtype):
    """What moves keeps the dtype that the model has, and moves all the same."""
    model, text = net(), Text()
    x, labels = batch()
    inputs = x.astype(dtype)
    for m in (model, text):
        m.to(dtype)
    seen = []
    text.hidden.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    for adversary in adversaries(model):
        moved = adversary.perturb(loss_of(model, labels), inputs)
        assert moved.dtype == dtype
        assert np.isfinite(adversary(loss_of(model, labels), inputs, plain_backward, lambda: None).item())
        assert not np.array_equal(moved.astype(mg.float32).numpy(), x.numpy()) or isinstance(adversary, train.Free)
    for adversary in (train.FreeLB(text.tokens, 0.5, 0.1), train.VAT(text, 0.5, embedding=text.tokens, xi=1.0)):
        assert adversary.perturb(loss_of(text, CLASSES), IDS).dtype == mg.float32
        assert np.isfinite(adversary(loss_of(text, CLASSES), IDS, plain_backward).item())
    assert set(seen) == {dtype}


def test_masked_positions_do_not_move():
    lengths = mg.tensor([4, 1, 2])
    x = mg.random.normal((3, 4, 2))

    def compute(inputs):
        return (inputs[0] ** 2).sum()

    def mask(inputs):
        return mg.arange(4) < inputs[1][:, None]

    kept = mask((x, lengths)).numpy()
    for adversary in (
        train.FGSM(0.5, mask=mask),
        train.PGD(0.5, 0.1, 2, mask=mask),
        train.PGD(0.5, 0.1, 2, 2, mask=mask),
    ):
        moved, same = adversary.perturb(compute, (x, lengths))
        assert same is lengths
        np.testing.assert_array_equal(moved.numpy()[~kept], x.numpy()[~kept])
        assert (moved.numpy()[kept] != x.numpy()[kept]).all()
    free = train.Free(0.5, 2, mask=mask)
    free(compute, (x, lengths), plain_backward, lambda: None)
    assert (free.delta.numpy()[~kept] == 0).all()
    assert (free.delta.numpy()[kept] != 0).all()


class Pair(NamedTuple):
    x: mg.Tensor
    other: int


def test_of_several_inputs_the_first_is_moved():
    for inputs in ((mg.ones((1, 2)), 3), [mg.ones((1, 2)), 3], Pair(mg.ones((1, 2)), 3)):
        moved = train.FGSM(0.5).perturb(lambda given: given[0].sum() * given[1], inputs)
        assert type(moved) is type(inputs)
        assert moved[0].tolist() == [[1.5, 1.5]]
        assert moved[1] == 3


# --- what is left alone -----------------------------------------------------------------------------------------------


def adversaries(model):
    """One of each for the classifier of features."""
    return [
        train.FGSM(0.1),
        train.PGD(0.1, 0.05, 3),
        train.PGD(0.1, 0.05, 3, 2),
        train.VAT(model, 0.5),
        train.Free(0.1, 2),
    ]


@pytest.mark.parametrize("place", range(5))
def test_perturb_leaves_gradients_weights_and_the_input_alone(place):
    model = net(dropout=0.5)
    x, labels = batch()
    loss_of(model, labels)(x).backward()
    before = [p.grad.numpy().tobytes() for p in model.parameters()], snapshot(model), x.numpy().tobytes()
    adversary = adversaries(model)[place]
    with mg.no_grad():  # it records all the same
        adversary.perturb(loss_of(model, labels), x)
    after = [p.grad.numpy().tobytes() for p in model.parameters()], snapshot(model), x.numpy().tobytes()
    assert after == before
    assert x.grad is None
    assert not model._hooks


@pytest.mark.parametrize("make", [train.FreeLB, train.VAT])
@pytest.mark.parametrize("sparse", [False, True])
def test_perturb_of_an_embedding_leaves_everything_alone(make, sparse):
    model = Text(sparse)
    adversary = make(model.tokens, 0.5, 0.1) if make is train.FreeLB else make(model, 0.5, embedding=model.tokens)
    before = snapshot(model)
    delta = adversary.perturb(loss_of(model, CLASSES), IDS)
    assert delta.shape == (3, 4, 5)
    assert snapshot(model) == before
    assert all(p.grad is None for p in model.parameters())
    assert not model.tokens._hooks
    assert not model._hooks


def test_statistics_can_be_kept_from_the_inner_steps():
    x, labels = batch()
    counts = []
    for kept in (False, True):
        model = net(norm=True)
        adversary = train.PGD(0.1, 0.05, 3, model=model if kept else None)
        adversary(loss_of(model, labels), x, plain_backward)
        counts.append(model[1].num_batches_tracked.item())
    assert counts == [4, 1]
    model = net(norm=True)
    train.VAT(model, 0.5)(loss_of(model, labels), x, plain_backward)
    assert model[1].num_batches_tracked.item() == 1
    plain = net(norm=True)
    loss_of(plain, labels)(x)
    np.testing.assert_array_equal(model[1].running_mean.numpy(), plain[1].running_mean.numpy())
    model.eval()
    before = snapshot(model)
    train.VAT(model, 0.5)(loss_of(model, labels), x, plain_backward)
    assert snapshot(model) == before


def test_hooks_are_gone_after_an_error():
    model = Text()

    def fail(inputs):
        model(inputs)
        raise ArithmeticError

    for adversary in (
        train.FreeLB(model.tokens, 0.5, 0.1),
        train.VAT(model, 0.5, embedding=model.tokens),
    ):
        state = mg.random.get_state()
        for call in (adversary.perturb, functools.partial(adversary, backward=plain_backward)):
            with pytest.raises(ArithmeticError):
                call(fail, IDS)
            assert not model.tokens._hooks
            assert not model._hooks
        mg.random.set_state(state)


# --- plain training as a special case ---------------------------------------------------------------------------------


def trained(model, inputs, labels, adversary, steps=4):
    """The weights after some steps, adversarial ones or (None) plain."""
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    compute = loss_of(model, labels)
    losses = []

    def update():
        optimizer.step()
        optimizer.zero_grad()

    mg.random.seed(7)
    for _ in range(steps):
        optimizer.zero_grad()
        if adversary is None:
            loss = compute(inputs)
            loss.backward()
        else:
            loss = adversary(compute, inputs, lambda loss: loss.backward(), update)
        losses.append(loss.item())
        optimizer.step()
    return losses, snapshot(model)


@pytest.mark.parametrize(
    "adversary",
    [
        train.Free(0.0, 1),
        train.Free(0.0, 1, bounds=(0.0, 1.0)),
        train.FGSM(0.0),
        train.PGD(0.0, 0.1, 2),
        train.PGD(0.0, 0.1, 2, 2, bounds=(0.0, 1.0)),
    ],
    ids=str,
)
def test_without_a_radius_it_is_plain_training_bit_for_bit(adversary):
    x, labels = batch()
    expected = trained(net(dropout=0.3), x, labels, None)
    assert trained(net(dropout=0.3), x, labels, adversary) == expected


def test_freelb_with_one_step_and_no_radius_is_plain_training_bit_for_bit():
    for sparse in (False, True):
        model = Text(sparse, dropout=0.3)
        expected = trained(Text(sparse, dropout=0.3), IDS, CLASSES, None)
        assert trained(model, IDS, CLASSES, train.FreeLB(model.tokens, 0.0, 0.1, 1)) == expected


def test_all_passes_of_a_step_drop_the_same_units_and_the_next_step_others():
    x, labels = batch()
    model, text = net(dropout=0.5), Text(dropout=0.5)
    cases = [(a, model[1], loss_of(model, labels), x) for a in adversaries(model) if not isinstance(a, train.Free)]
    embedded = (train.FreeLB(text.tokens, 0.5, 0.1), train.VAT(text, 0.5, embedding=text.tokens, steps=2))
    cases += [(a, text.dropout, loss_of(text, CLASSES), IDS) for a in embedded]
    for adversary, layer, compute, inputs in cases:
        dropped = []
        remove = layer.register_forward_hook(lambda m, args, out, seen=dropped: seen.append((out == 0).numpy()))
        adversary(compute, inputs, plain_backward)
        count = len(dropped)
        assert count >= 2
        assert all(np.array_equal(mask, dropped[0]) for mask in dropped), adversary
        adversary(compute, inputs, plain_backward)
        assert not np.array_equal(dropped[count], dropped[0]), adversary
        remove()


# --- what training adds up --------------------------------------------------------------------------------------------


def test_pgd_trains_on_the_moved_inputs_and_shares_with_the_clean_ones():
    model = net()
    x, labels = batch()
    compute = loss_of(model, labels)
    moved = train.FGSM(0.2).perturb(compute, x)
    grads = {}
    for name, point in (("clean", x), ("moved", moved)):
        model.zero_grad()
        grads[name] = compute(point).item(), *[g.numpy() for g in mg.grad(compute(point), model.parameters())]
    for clean in (0.0, 0.25, 1.0):
        model.zero_grad()
        loss = train.FGSM(0.2, clean=clean)(compute, x, plain_backward)
        assert not loss.requires_grad
        found = [loss.item(), *[p.grad.numpy() for p in model.parameters()]]
        for got, a, b in zip(found, grads["clean"], grads["moved"], strict=True):
            np.testing.assert_allclose(got, clean * a + (1 - clean) * b, rtol=1e-5, atol=1e-7)


def test_a_loss_scale_changes_nothing():
    """Free and FreeLB take the gradient of the scaled pass, the others their own."""
    x, labels = batch()
    results = []
    for scale in (1.0, 2.0**16):
        found = []
        for place in range(5):
            model = net()
            adversary = adversaries(model)[place]
            mg.random.seed(1)
            adversary(loss_of(model, labels), x, lambda loss, w=1.0, s=scale: (loss * (w * s)).backward(), lambda: None)
            found += [(p.grad / scale).numpy().tobytes() for p in model.parameters()]
        model = Text()
        mg.random.seed(1)
        adversary = train.FreeLB(model.tokens, 0.5, 0.2, 2)  # a half is exact
        adversary(loss_of(model, CLASSES), IDS, lambda loss, w=1.0, s=scale: (loss * (w * s)).backward())
        found += [(p.grad / scale).numpy().tobytes() for p in model.parameters()]
        results.append(found)
    assert results[0] == results[1]


def test_free_moves_by_the_gradient_of_each_replay():
    """Its twin, written out for a linear loss: delta goes by the sign of w, and w by x + delta."""
    w, x = nn.Parameter(np.array([0.5, -0.05])), mg.asarray(np.array([[1.0, 2.0], [0.0, -1.0]]))
    optimizer, free = optim.SGD([w], lr=0.1), train.Free(0.3, 3, step_size=0.2)
    expected_w, delta = w.detach().numpy().copy(), np.zeros((2, 2))

    def update():
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        free(lambda x: (x * w).sum(), x, lambda loss: loss.backward(), update)
        update()
        for _ in range(3):
            moved = x.numpy() + delta
            delta = np.clip(delta + 0.2 * np.sign(expected_w), -0.3, 0.3)
            expected_w = expected_w - 0.1 * moved.sum(0)
    np.testing.assert_allclose(w.detach().numpy(), expected_w, rtol=1e-12)
    np.testing.assert_allclose(free.delta.numpy(), delta, rtol=1e-12)
    np.testing.assert_allclose(free.perturb(None, x).numpy(), x.numpy() + delta)


def test_free_carries_its_change_over_smaller_batches_and_checkpoints():
    w = nn.Parameter([1.0, -1.0])
    free = train.Free(0.5, 1, step_size=0.25)

    def run(adversary, n):
        adversary(lambda x: (x * w).sum(), mg.zeros((n, 2)), lambda loss: loss.backward())
        return adversary.delta.tolist()

    assert run(free, 3) == [[0.25, -0.25]] * 3
    assert run(free, 2) == [[0.5, -0.5]] * 2 + [[0.25, -0.25]]
    state = free.state_dict()
    assert run(free, 3) == [[0.5, -0.5]] * 3
    resumed = train.Free(0.5, 1, step_size=0.25)
    resumed.load_state_dict({"delta": state["delta"].numpy()})
    assert run(resumed, 3) == [[0.5, -0.5]] * 3
    resumed.load_state_dict(train.Free(0.5, 1).state_dict())
    assert resumed.delta is None


def freelb_twin(model, epsilon, step_size, steps, start):
    """Its formulas in the open, from the same random start."""
    keep = (IDS.numpy() != 0)[:, :, None]
    delta, losses = start, []
    for _ in range(steps):
        point = mg.asarray(delta.astype(np.float32)).clone().requires_grad_()
        hidden = model.hidden(model.tokens(IDS) + point).mean(axis=1)
        loss = F.cross_entropy(model.head(hidden), CLASSES)
        (loss / steps).backward()
        losses.append(loss.item())
        g = point.grad.numpy().astype(np.float64) * keep
        delta = delta + step_size * g / np.sqrt((g**2).sum((1, 2), keepdims=True))
        size = np.sqrt((delta**2).sum((1, 2), keepdims=True))
        delta = np.where(size > epsilon, delta * epsilon / size, delta)
    return np.mean(losses)


@pytest.mark.parametrize("epsilon", [0.15, 10.0])
def test_freelb_is_its_twin(epsilon):
    model, twin = Text(), Text()
    seen = []
    adversary = train.FreeLB(model.tokens, epsilon, 0.2, 3)
    remove = model.hidden.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().numpy()))
    loss = adversary(loss_of(model, CLASSES), IDS, plain_backward)
    remove()
    start = seen[0] - model.tokens(IDS).detach().numpy()
    counts = (IDS.numpy() != 0).sum(1)[:, None, None] * 5
    assert (abs(start) <= epsilon / np.sqrt(counts) + 1e-6).all()
    assert (start[IDS.numpy() == 0] == 0).all()
    assert loss.item() == pytest.approx(freelb_twin(twin, epsilon, 0.2, 3, start), rel=1e-5)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-3, atol=1e-6)


@given(epsilon=st.floats(0.0, 2.0), step_size=st.floats(0.0, 2.0), steps=st.integers(1, 3), seed=st.integers(0, 99))
def test_freelb_stays_in_the_ball_and_off_the_padding(epsilon, step_size, steps, seed):
    model = Text(seed=seed)
    delta = train.FreeLB(model.tokens, epsilon, step_size, steps).perturb(loss_of(model, CLASSES), IDS).numpy()
    spacing = float(np.finfo(np.float32).smallest_subnormal)  # of numbers that no longer have all their bits
    bound = epsilon * (1 + 1e-5) + spacing * math.sqrt(delta[0].size)
    assert (np.sqrt((delta.astype(np.float64) ** 2).sum((1, 2))) <= bound).all()
    assert (delta[IDS.numpy() == 0] == 0).all()


def test_freelb_starts_from_a_uniform_point_by_the_number_of_free_elements():
    ids = mg.zeros((400, 4), dtype=mg.int64)
    ids[:, 0] = 3  # five elements that may move, of twenty
    model = Text()
    start = train.FreeLB(model.tokens, 2.0, 0.0, 1).perturb(lambda x: (model(x) * 0.0).sum(), ids).numpy()
    assert (start[:, 1:] == 0).all()
    assert 0.99 < abs(start[:, 0]).max() / (2.0 / 5**0.5) <= 1.0
    assert (start[:, 0] ** 2).mean() == pytest.approx(4.0 / 5 / 3, rel=0.1)


def test_a_mask_of_ones_own_and_ids_without_padding():
    model = Text(padding_idx=None)
    compute = loss_of(model, CLASSES)
    delta = train.FreeLB(model.tokens, 0.5, 0.1, mask=lambda ids: ids % 2 == 1).perturb(compute, IDS).numpy()
    odd = IDS.numpy() % 2 == 1
    assert (delta[~odd] == 0).all()
    assert (delta[odd] != 0).all()
    assert (train.VAT(model, 0.5, embedding=model.tokens).perturb(compute, IDS).numpy() != 0).all()


def test_an_embedding_that_is_called_twice_gets_a_change_for_each():
    model = Text()

    def compute(ids):
        return F.cross_entropy(
            model.head(
                model.hidden(model.tokens(ids)).mean(axis=1) * model.hidden(model.tokens(ids[:, :2])).mean(axis=1)
            ),
            CLASSES,
        )

    found = train.FreeLB(model.tokens, 0.5, 0.1).perturb(compute, IDS)
    assert [delta.shape for delta in found] == [(3, 4, 5), (3, 2, 5)]
    train.FreeLB(model.tokens, 0.5, 0.1)(compute, IDS, plain_backward)


# --- VAT --------------------------------------------------------------------------------------------------------------


def penalty(model, compute, x, **options):
    """The penalty alone, at weight 1."""
    return train.VAT(model, **options)(compute, x, lambda loss, weight=1.0: None).item() - compute(x).item()


@given(seed=st.integers(0, 1000), epsilon=st.floats(0.0, 5.0), steps=st.integers(0, 2))
def test_the_penalty_is_not_negative(seed, epsilon, steps):
    model = net(dtype=mg.float64, seed=seed)
    x, labels = batch(seed=seed, dtype=mg.float64)
    assert penalty(model, loss_of(model, labels), x, epsilon=epsilon, steps=steps) >= -1e-13


@pytest.mark.parametrize("kind", ["inputs", "embedding"])
def test_the_penalty_is_0_at_radius_0_with_dropout_and_batch_norm_too(kind):
    weights = []

    def backward(loss, weight=1.0):
        weights.append((loss.item(), weight))

    if kind == "inputs":
        model = net(dropout=0.5, norm=True)
        x, labels = batch()
        train.VAT(model, 0.0, weight=0.5)(loss_of(model, labels), x, backward)
    else:
        model = Text(dropout=0.5)
        train.VAT(model, 0.0, embedding=model.tokens, weight=0.5)(loss_of(model, CLASSES), IDS, backward)
    assert weights[1] == (0.0, 0.5)


def test_the_direction_is_the_one_that_changes_the_prediction_most():
    """Softmax of x A: the divergence is quadratic near 0, and power iteration finds its largest eigenvector."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 3))
    model = nn.Dense(3, bias=False, in_features=4, dtype=mg.float64)
    with mg.no_grad():
        model.weight[...] = a
    x = rng.normal(size=(1, 4))
    p = np.exp(x @ a) / np.exp(x @ a).sum()
    fisher = a @ (np.diag(p[0]) - p.T @ p) @ a.T
    values, vectors = np.linalg.eigh(fisher)
    vat = train.VAT(model, 1e-3, xi=1e-4, steps=60)
    r = vat.perturb(loss_of(model, mg.tensor([0])), mg.asarray(x)).numpy() - x
    assert np.sqrt((r**2).sum()) == pytest.approx(1e-3, rel=1e-9)
    assert abs(r @ vectors[:, -1]) == pytest.approx(1e-3, rel=1e-4)
    found = penalty(model, loss_of(model, mg.tensor([0])), mg.asarray(x), epsilon=1e-3, xi=1e-4, steps=60)
    assert found == pytest.approx(0.5e-6 * values[-1], rel=1e-2)


def test_other_directions_in_every_step():
    model = net()
    x, labels = batch()
    vat = train.VAT(model, 0.5, steps=0)
    first, second = (vat.perturb(loss_of(model, labels), x).numpy() for _ in range(2))
    assert not np.array_equal(first, second)


def test_vat_keeps_padding_where_it_is_and_reads_other_outputs():
    class Tagger(Text):
        def forward(self, ids):
            return {"logits": self.head(self.hidden(self.tokens(ids)))}

    model = Tagger()
    targets = mg.tensor([[0, 1, 2, 0], [1, 1, -100, -100], [2, -100, -100, -100]])

    def compute(ids):
        return F.cross_entropy(model(ids)["logits"], targets, ignore_index=-100)

    vat = train.VAT(model, 0.5, embedding=model.tokens, logits=lambda output: output["logits"])
    delta = vat.perturb(compute, IDS).numpy()
    assert (delta[IDS.numpy() == 0] == 0).all()
    np.testing.assert_allclose(np.sqrt((delta**2).sum((1, 2))), 0.5, rtol=1e-5)
    seen = []
    vat(compute, IDS, lambda loss, weight=1.0: seen.append(loss.item()))
    with mg.no_grad():  # the mean of the divergences at what is no padding
        mg.random.seed(3)
        delta = vat.perturb(compute, IDS)
        p = F.log_softmax(model(IDS)["logits"])
        q = F.log_softmax(model.head(model.hidden(model.tokens(IDS) + delta)))
        each = (mg.exp(p) * (p - q)).sum(axis=-1).numpy()
    mg.random.seed(3)
    vat(compute, IDS, lambda loss, weight=1.0: seen.append(loss.item()))
    assert seen[-1] == pytest.approx(each[IDS.numpy() != 0].mean(), rel=1e-4)
    with pytest.raises(TypeError, match=r"VAT: the model's output is a dict, needs logits"):
        train.VAT(model, 0.5, embedding=model.tokens).perturb(compute, IDS)


# --- what is refused --------------------------------------------------------------------------------------------------

MODEL, X = net(), mg.ones((2, 4))
REFUSED = [
    (lambda: train.PGD(-1, 0.1, 3), ValueError, "PGD: epsilon is -1, needs a finite number of at least 0"),
    (lambda: train.PGD(0.1, "a", 3), ValueError, "PGD: step_size is 'a'"),
    (lambda: train.PGD(0.1, 0.1, 0), ValueError, "PGD: steps is 0, needs an int of at least 1"),
    (lambda: train.PGD(0.1, 0.1, 1, 1), ValueError, "PGD: norm is 1, needs 'inf' or 2"),
    (lambda: train.FGSM(0.1, bounds=(1, 0)), ValueError, r"FGSM: bounds is \(1, 0\), needs the least and the largest"),
    (lambda: train.FGSM(0.1, clean=2), ValueError, "FGSM: clean is 2, needs a number from 0 to 1"),
    (lambda: train.FGSM(0.1, model=3), TypeError, "FGSM: model is 3, needs a module"),
    (lambda: train.FGSM(0.1).perturb(MODEL, {"x": X}), TypeError, "inputs is a dict, needs a tensor, or"),
    (lambda: train.FGSM(0.1).perturb(MODEL, IDS), DTypeError, r"inputs is int64 \(3, 4\), needs a floating dtype"),
    (lambda: train.FGSM(0.1).perturb(MODEL, mg.ones(())), ShapeError, "needs a batch"),
    (lambda: train.FGSM(0.1).perturb(MODEL, X), ShapeError, r"what compute gives is float32 \(2, 3\), needs a scalar"),
    (lambda: train.FGSM(0.1).perturb(lambda x: 3, X), TypeError, "what compute gives is 3"),
    (lambda: train.FGSM(0.1).perturb(lambda x: mg.ones(()), X), GradError, "the loss is without a graph"),
    (lambda: train.FGSM(0.1, mask=lambda x: x).perturb(MODEL, X), DTypeError, "what mask gives is float32"),
    (
        lambda: train.FGSM(0.1, mask=lambda x: mg.ones((3,), dtype=mg.bool)).perturb(MODEL, X),
        ShapeError,
        r"what mask gives is bool \(3,\), needs the first axes of \(2, 4\)",
    ),
    (lambda: train.Free(0.1, 0), ValueError, "Free: replays is 0"),
    (lambda: train.Free(0.1, 2)(lambda x: x.sum(), X, plain_backward), TypeError, "Free: update is None"),
    (lambda: train.Free(0.1, 1)(lambda x: x.sum(), X, lambda loss: None), GradError, "of the inputs is None"),
    (lambda: train.Free(0.1, 1).load_state_dict({}), ValueError, r"state is with the keys \[\]"),
    (lambda: train.FreeLB("tokens", 0.1, 0.1), TypeError, "FreeLB: embedding is tokens, needs a module"),
    (
        lambda: train.FreeLB(MODEL[0], 0.1, 0.1).perturb(lambda x: x.sum(), mg.ones((2,), requires_grad=True)),
        GradError,
        "FreeLB: embedding is not called by compute",
    ),
    (
        lambda: train.FreeLB(MODEL[0], 0.1, 0.1)(lambda x: MODEL(x).sum(), X, lambda loss, weight: None),
        GradError,
        "the gradient of the embedding is None",
    ),
    (lambda: train.VAT(3, 0.1), TypeError, "VAT: model is 3"),
    (lambda: train.VAT(MODEL, 0.1, xi=0), ValueError, "VAT: xi is 0, needs a number above 0"),
    (lambda: train.VAT(MODEL, 0.1).perturb(lambda x: x.sum(), X), GradError, "VAT: model is not called by compute"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refused(make, kind, text):
    with pytest.raises(kind, match=text):
        make()


def test_they_show_their_arguments():
    assert repr(train.PGD(0.3, 0.1, 7)) == "PGD(epsilon=0.3, step_size=0.1, steps=7, norm=inf)"
    assert repr(train.Free(0.3, 4)) == "Free(epsilon=0.3, replays=4)"
    assert repr(train.FreeLB(MODEL[0], 0.3, 0.1)) == "FreeLB(epsilon=0.3, step_size=0.1, steps=3)"
    assert repr(train.VAT(MODEL, 0.3)) == "VAT(epsilon=0.3, xi=0.01, steps=1, weight=1)"
