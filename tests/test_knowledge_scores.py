"""Scores of triples: their laws, one triple and all entities alike, and derivatives of order 1 and 2."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import knowledge, nn, optim
from minigrad.errors import DTypeError, ShapeError
from minigrad.knowledge.graphs import distances
from minigrad.knowledge.graphs.bilinear import conjugate, times
from minigrad.knowledge.graphs.rotation import turns
from minigrad.nn import functional as F
from minigrad.testing import gradcheck

Array = np.ndarray[Any, Any]
N, R, D = 5, 3, 4
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "TransE-1": (knowledge.TransE, {"p": 1}),
    "TransE-2": (knowledge.TransE, {"p": 2}),
    "TransH": (knowledge.TransH, {}),
    "DistMult": (knowledge.DistMult, {}),
    "ComplEx": (knowledge.ComplEx, {}),
    "RotatE": (knowledge.RotatE, {}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**32 - 1)


def make(kind: str, **options: Any) -> Any:
    made, more = KINDS[kind]
    return made(N, R, D, dtype=mg.float64, **more, **options)


def tables(kind: str, seed: int, reciprocal: bool = False) -> tuple[Array, Array]:
    """Rows of entities and relations, far from where a score has a kink."""
    rng = np.random.default_rng(seed)
    count = 2 * R if reciprocal else R
    if kind == "RotatE":  # moduli differ from entity to entity, and no angle is near 0
        size = 1.0 + 0.4 * rng.permutation(N)[:, None] + rng.uniform(-0.05, 0.05, (N, D // 2))
        angle = rng.uniform(-np.pi, np.pi, (N, D // 2))
        return np.hstack([size * np.cos(angle), size * np.sin(angle)]), rng.uniform(0.5, 2.5, (count, D // 2))
    if kind.startswith("TransE"):  # h + r - t is 0.3 to 0.7 away from whole numbers
        e = rng.integers(-2, 3, (N, D)) + rng.uniform(-0.05, 0.05, (N, D))
        return e, rng.integers(-2, 3, (count, D)) + rng.uniform(0.4, 0.6, (count, D))
    e = rng.normal(size=(N, D))
    if kind == "TransH":  # a normal is not near 0
        w = rng.uniform(0.5, 1.5, (count, D)) * rng.choice([-1.0, 1.0], (count, D))
        return e, np.hstack([rng.normal(size=(count, D)), w])
    return e, rng.normal(size=(count, D))


def filled(kind: str, seed: int, **options: Any) -> Any:
    model = make(kind, **options)
    e, r = tables(kind, seed, options.get("reciprocal", False))
    model.load_state_dict({"entities.weight": e, "relations.weight": r})
    return model.eval()


def values(t: mg.Tensor) -> Array:
    return t.detach().numpy()


# ---- by hand ---------------------------------------------------------------------------------------------------------


def plain(kind: str, h: Array, r: Array, t: Array) -> float:
    """The formulas of the papers, for one triple, in NumPy's own complex numbers."""
    k = len(h) // 2
    hc, tc = h[:k] + 1j * h[k:], t[:k] + 1j * t[k:]
    if kind == "TransE-1":
        return -np.abs(h + r - t).sum()
    if kind == "TransE-2":
        return -np.linalg.norm(h + r - t)
    if kind == "TransH":
        d, w = r[:D], r[D:] / np.linalg.norm(r[D:])
        return -np.sum(((h - (w @ h) * w) + d - (t - (w @ t) * w)) ** 2)
    if kind == "DistMult":
        return np.sum(h * r * t)
    if kind == "ComplEx":
        return float(np.sum(hc * (r[:k] + 1j * r[k:]) * np.conj(tc)).real)
    return -np.abs(hc * np.exp(1j * r) - tc).sum()


@each_kind
@given(seed=seeds)
def test_score_is_the_formula(kind: str, seed: int) -> None:
    model, (e, r) = filled(kind, seed), tables(kind, seed)
    ids = np.stack(np.meshgrid(range(N), range(R), range(N), indexing="ij"), axis=-1).reshape(-1, 3)
    expected = [plain(kind, e[h], r[x], e[t]) for h, x, t in ids]
    np.testing.assert_allclose(values(model.score(*ids.T)), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        values(model(ids.reshape(5, -1, 3))), np.reshape(expected, (5, -1)), rtol=1e-9, atol=1e-9
    )


@each_kind
@pytest.mark.parametrize("reciprocal", [False, True])
@given(seed=seeds)
def test_all_entities_get_the_scores_of_triples(kind: str, reciprocal: bool, seed: int) -> None:
    model = filled(kind, seed, reciprocal=reciprocal)
    entity, relation = (part.ravel() for part in np.meshgrid(range(N), range(R), indexing="ij"))
    everyone = np.arange(N)[None, :]
    tails = model.score(entity[:, None], relation[:, None], everyone)
    np.testing.assert_allclose(values(model.score_tails(entity, relation)), values(tails), rtol=1e-9, atol=1e-7)
    if reciprocal:  # the inverse has a row of its own
        rows = model.entities(entity)[:, None], model.relations(relation + R)[:, None], model.entities.weight[None]
        heads = model.interact(*rows)
    else:
        heads = model.score(everyone, relation[:, None], entity[:, None])
    np.testing.assert_allclose(values(model.score_heads(relation, entity)), values(heads), rtol=1e-9, atol=1e-7)
    queries = np.concatenate([np.stack([entity, relation], 1), np.stack([entity, relation + R], 1)])
    order = np.random.default_rng(seed).permutation(len(queries))
    both = np.concatenate([values(tails), values(heads)])
    np.testing.assert_allclose(values(model(queries[order])), both[order], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(values(model(queries)), both, rtol=1e-9, atol=1e-7)


# ---- derivatives -----------------------------------------------------------------------------------------------------


@each_kind
@given(seed=seeds)
def test_derivatives(kind: str, seed: int) -> None:
    model, rng = make(kind), np.random.default_rng(seed)
    h, t = rng.permutation(N)[:2], rng.permutation(N)[:2]
    t = np.where(t == h, (t + 1) % N, t)
    r = rng.integers(0, R, 2)

    def scores(e: mg.Tensor, relations: mg.Tensor) -> tuple[mg.Tensor, ...]:
        head, rel, tail = F.embedding(h, e), F.embedding(r, relations), F.embedding(t, e)
        one = model.interact(head, rel, tail)
        return one, model.against_tails(head, rel, e), model.against_heads(rel, tail, e)

    assert gradcheck(scores, tables(kind, seed), order=2, seed=seed % 1000)


@given(seed=seeds, kind=st.sampled_from(["TransE-1", "RotatE"]), block=st.sampled_from([1, 13, 40]))
def test_blocks_change_nothing(seed: int, kind: str, block: int) -> None:
    """Values, gradients, and those of gradients, of distances that are made a block at a time."""
    found = []
    before = distances.BLOCK
    for size in (before, block):
        model = filled(kind, seed)
        distances.BLOCK = size
        try:
            rng = np.random.default_rng(seed)
            scores = model.score_queries([[0, 1], [2, 0], [4, 2]])
            v = mg.asarray(rng.normal(size=scores.shape))
            first = mg.grad(
                (scores * scores * v).sum(), [model.entities.weight, model.relations.weight], create_graph=True
            )
            total = sum(
                ((g * mg.asarray(rng.normal(size=g.shape))).sum() for g in first), mg.zeros((), dtype=mg.float64)
            )
            second = mg.grad(total, [model.entities.weight, model.relations.weight])
            found.append([values(x) for x in (scores, *first, *second)])
        finally:
            distances.BLOCK = before
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9)


@each_kind
def test_a_score_at_its_best_has_finite_derivatives(kind: str) -> None:
    """Where h + r = t, or h * r = t, a distance is 0 and has no slope; in float32, against all entities too."""
    made, more = KINDS[kind]
    model = made(3, 1, D, initializer="zeros", **more)
    if kind == "TransH":
        model.relations.weight.detach()[...] = 1.0
    for scores in (model.score([0, 1], 0, [1, 1]), model.score_queries([[0, 0], [1, 1]])):
        gradients = mg.grad(scores.sum(), [model.entities.weight, model.relations.weight], create_graph=True)
        again = mg.grad(sum((g * g).sum() for g in gradients) + 0 * scores.sum(), [model.entities.weight])
        assert all(np.isfinite(values(g)).all() for g in (*gradients, *again))


# ---- laws ------------------------------------------------------------------------------------------------------------


@given(seed=seeds)
def test_distmult_is_symmetric(seed: int) -> None:
    model = filled("DistMult", seed)
    one, other = model.score_tails(range(N), [1] * N), model.score_heads([1] * N, range(N))
    np.testing.assert_allclose(values(one), values(one).T, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(values(one), values(other), rtol=1e-12, atol=1e-14)


@given(seed=seeds)
def test_complex_without_imaginary_parts_is_distmult(seed: int) -> None:
    rng = np.random.default_rng(seed)
    e, r = rng.normal(size=(N, D)), rng.normal(size=(R, D))
    real = knowledge.DistMult(N, R, D, dtype=mg.float64)
    full = knowledge.ComplEx(N, R, 2 * D, dtype=mg.float64)
    real.load_state_dict({"entities.weight": e, "relations.weight": r})
    full.load_state_dict({"entities.weight": np.hstack([e, 0 * e]), "relations.weight": np.hstack([r, 0 * r])})
    queries = rng.integers(0, [N, 2 * R], (6, 2))
    np.testing.assert_allclose(values(full(queries)), values(real(queries)), rtol=1e-12, atol=1e-14)


@given(seed=seeds, real=st.booleans())
def test_complex_is_symmetric_for_real_relations_and_antisymmetric_for_imaginary_ones(seed: int, real: bool) -> None:
    model = filled("ComplEx", seed)
    r = values(model.relations.weight).copy()
    r[:, (D // 2) * int(real) : D // 2 + (D // 2) * int(real)] = 0.0
    model.load_state_dict({"relations.weight": r}, strict=False)
    scores = values(model.score_tails(range(N), [2] * N))
    np.testing.assert_allclose(scores, scores.T if real else -scores.T, rtol=1e-9, atol=1e-12)


@given(seed=seeds, kind=st.sampled_from(["TransE-1", "TransE-2", "TransH"]))
def test_moving_all_entities_leaves_translations_alone(seed: int, kind: str) -> None:
    model = filled(kind, seed)
    queries = np.random.default_rng(seed).integers(0, [N, 2 * R], (6, 2))
    before = values(model(queries))
    shift = np.random.default_rng(seed + 1).normal(size=D)
    model.load_state_dict({"entities.weight": values(model.entities.weight) + shift}, strict=False)
    np.testing.assert_allclose(values(model(queries)), before, rtol=1e-7, atol=1e-7)


@given(seed=seeds, kind=st.sampled_from(["TransE-1", "TransE-2", "RotatE"]))
def test_the_tail_that_the_relation_leads_to_is_best(seed: int, kind: str) -> None:
    model, (e, r) = filled(kind, seed), tables(kind, seed)
    moved = mg.asarray(e[:1] + r[:1]) if kind != "RotatE" else times(mg.asarray(e[:1]), turns(mg.asarray(r[:1])))
    e[1] = values(moved)[0]
    model.load_state_dict({"entities.weight": e}, strict=False)
    scores = values(model.score_tails([0], [0]))[0]
    assert scores.argmax() == 1
    assert -1e-6 < scores[1] <= 0.0
    assert (scores[np.arange(N) != 1] < scores[1]).all()


@given(seed=seeds, entity=st.integers(0, N - 1), step=st.floats(-5, 5))
def test_transh_does_not_see_what_lies_along_the_normal(seed: int, entity: int, step: float) -> None:
    model, (e, r) = filled("TransH", seed), tables("TransH", seed)
    before = values(model.score_tails(range(N), [1] * N))
    e[entity] += step * r[1, D:]
    model.load_state_dict({"entities.weight": e}, strict=False)
    np.testing.assert_allclose(values(model.score_tails(range(N), [1] * N)), before, rtol=1e-7, atol=1e-7)


@given(angles=st.lists(st.floats(-100, 100), min_size=1, max_size=5))
def test_rotations_have_modulus_one(angles: list[float]) -> None:
    turned = values(turns(mg.tensor(angles, dtype=mg.float64)))
    np.testing.assert_allclose(np.hypot(turned[: len(angles)], turned[len(angles) :]), 1.0, rtol=1e-14)


@given(seed=seeds)
def test_rotations_are_undone_and_follow_one_another(seed: int) -> None:
    model, (e, r) = filled("RotatE", seed), tables("RotatE", seed)
    rows = [mg.asarray(e[i]) for i in range(3)]
    a, b = mg.asarray(r[0]), mg.asarray(r[1])
    forth, back = model.interact(rows[0], a, rows[1]), model.interact(rows[1], -a, rows[0])
    np.testing.assert_allclose(values(forth), values(back), rtol=1e-10)
    once, twice = model.interact(rows[0], a + b, rows[2]), model.interact(times(rows[0], turns(a)), b, rows[2])
    np.testing.assert_allclose(values(once), values(twice), rtol=1e-10)
    np.testing.assert_allclose(values(times(turns(a), conjugate(turns(a)))), [1.0, 1.0, 0.0, 0.0], atol=1e-15)


# ---- training --------------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("rule", [optim.SGD, optim.Adagrad])
def test_row_sparse_gradients_train_as_full_ones(kind: str, rule: Any) -> None:
    """On triples and their negatives; with a penalty on the rows used, and a constraint."""
    facts = knowledge.TripleSet(np.random.default_rng(0).integers(0, [N, R, N], (20, 3)), N, R)
    found = []
    for sparse in (False, True):
        model = filled(kind, 1, sparse=sparse, entity_constraint=nn.UnitNorm(axis=1)).train()
        optimizer = rule(model.parameters(), lr=0.05)
        sampler = knowledge.NegativeSampler(facts, 3, generator=mg.random.Generator(7))
        for _ in range(4):
            optimizer.zero_grad()
            loss = knowledge.softplus_loss(model(facts.triples), model(sampler(facts.triples)))
            (loss + 0.1 * model.penalty(knowledge.Queries(facts).batch([0, 3]))).backward()
            optimizer.step()
        found.append([values(p).copy() for p in model.parameters()])
    for full, rows in zip(*found, strict=True):
        np.testing.assert_allclose(rows, full, rtol=1e-12, atol=1e-14)


@each_kind
def test_a_sparse_step_leaves_other_rows_alone(kind: str) -> None:
    model = filled(kind, 2, sparse=True)
    before = values(model.entities.weight).copy()
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    knowledge.margin_ranking_loss(model.score([0], [0], [3]), model.score([[0]], [[0]], [[1]]), 9.0).backward()
    optimizer.step()
    moved = (values(model.entities.weight) != before).any(axis=1)
    assert not moved[[2, 4]].any()
    assert moved.any()


@each_kind
@given(seed=seeds, power=st.sampled_from([2.0, 3.0, 2.5]))
def test_penalty(kind: str, seed: int, power: float) -> None:
    model, (e, r) = filled(kind, seed), tables(kind, seed)
    triples = np.random.default_rng(seed).integers(0, [N, R, N], (7, 3))
    facts = knowledge.TripleSet(np.unique(triples, axis=0), N, R)

    def size(x: Array, is_complex: bool) -> float:
        k = x.shape[-1] // 2
        return float(np.sum(np.abs(x[..., :k] + 1j * x[..., k:] if is_complex else x) ** power))

    is_complex = kind in ("ComplEx", "RotatE")
    relation = 0.0 if kind == "RotatE" else 1.0
    expected = np.mean(
        [
            size(e[h], is_complex) + size(e[t], is_complex) + relation * size(r[x], is_complex)
            for h, x, t in facts.triples
        ]
    )
    queries = knowledge.Queries(facts)
    batch = queries.batch(np.arange(len(queries)))  # asks for each triple twice
    assert model.penalty(batch, power).item() == pytest.approx(expected, rel=1e-9)


def test_dropout_is_for_training() -> None:
    model = filled("ComplEx", 0, dropout=0.5)
    assert np.array_equal(values(model([[0, 0]])), values(filled("ComplEx", 0)([[0, 0]])))
    mg.random.seed(1)
    assert not np.array_equal(values(model.train()([[0, 0]])), values(model.train()([[0, 0]])))


# ---- what is refused -------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize(
    ("call", "kind_of_error", "text"),
    [
        (lambda m: m.score(N, 0, 0), IndexError, "h is 5, needs an entity in [0, 5)"),
        (lambda m: m.score(0, 0, -1), IndexError, "t is -1, needs an entity in [0, 5)"),
        (lambda m: m.score_tails([0], [R]), IndexError, "r is 3, needs a relation in [0, 3)"),
        (lambda m: m([[0, 2 * R]]), IndexError, "queries is 6, needs a relation or its inverse in [0, 6)"),
        (lambda m: m.score(0.5, 0, 0), DTypeError, "h is float32 (), needs integers, each an entity"),
        (lambda m: m.score_tails(0, 0), ShapeError, "h is int64 (), needs one axis of ids"),
        (lambda m: m.score_heads([0, 1], [0]), ShapeError, "r is int64 (2,), needs shape (1,), that of t"),
        (lambda m: m([[0, 1, 2, 3]]), ShapeError, "queries is int64 (1, 4), needs 2 columns"),
        (lambda m: m.penalty(None, 0.5), ValueError, "power is 0.5, needs a number of at least 1"),
    ],
)
def test_what_a_model_refuses(kind: str, call: Any, kind_of_error: Any, text: str) -> None:
    model = make(kind)
    with pytest.raises(kind_of_error, match=re.escape(f"{type(model).__name__}: {text}")):
        call(model)


@pytest.mark.parametrize(
    ("make_it", "kind_of_error", "text"),
    [
        (lambda: knowledge.ComplEx(2, 1, 3), ShapeError, "ComplEx: features is 3, needs an even number"),
        (lambda: knowledge.RotatE(2, 1, 3), ShapeError, "RotatE: features is 3, needs an even number"),
        (lambda: knowledge.TransE(2, 1, 3, p=3), ValueError, "TransE: p is 3, needs 1 or 2"),
        (lambda: knowledge.DistMult(0, 1, 3), ShapeError, "DistMult: num_entities is 0, needs at least 1"),
        (lambda: knowledge.DistMult(1, 1, 2.0), TypeError, "DistMult: features is 2.0, needs an int"),
    ],
)
def test_what_is_no_model(make_it: Any, kind_of_error: Any, text: str) -> None:
    with pytest.raises(kind_of_error, match=re.escape(text)):
        make_it()
