"""Ranks against a brute-force evaluator, losses against their formulas, predictions, pictures, and training."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import knowledge, nn, optim, train
from minigrad.errors import ShapeError
from minigrad.testing import gradcheck

Array = np.ndarray[Any, Any]
TEST_DATA = Path(os.environ.get("MINIGRAD_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
N, R = 5, 2
TIES = ["realistic", "optimistic", "pessimistic"]
triples = st.lists(
    st.tuples(st.integers(0, N - 1), st.integers(0, R - 1), st.integers(0, N - 1)), min_size=1, max_size=15
)


def facts(rows: Any) -> knowledge.TripleSet:
    return knowledge.TripleSet(rows, N, R)


# ---- ranks -----------------------------------------------------------------------------------------------------------


def brute_force(scores: list[float], target: int, known: set[int], ties: str) -> float:
    """Sort the candidates, and look at the places of those that have the target's score."""
    candidates = sorted((-score for e, score in enumerate(scores) if e == target or e not in known))
    places = [place for place, score in enumerate(candidates, 1) if score == -scores[target]]
    return {"optimistic": places[0], "pessimistic": places[-1], "realistic": sum(places) / len(places)}[ties]


few = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0, math.inf])  # so that many tie


@given(data=st.data(), n=st.integers(1, 6), entities=st.integers(1, 7), ties=st.sampled_from(TIES))
def test_ranks_are_those_of_brute_force(data: st.DataObject, n: int, entities: int, ties: str) -> None:
    scores = data.draw(st.lists(st.lists(few, min_size=entities, max_size=entities), min_size=n, max_size=n))
    ids = st.integers(0, entities - 1)
    targets = data.draw(st.lists(ids, min_size=n, max_size=n))
    known = data.draw(st.none() | st.lists(st.sets(ids), min_size=n, max_size=n))
    pairs = [(row, e) for row, found in enumerate(known or []) for e in found]
    columns = tuple(np.array(pairs, np.int64).reshape(-1, 2).T)
    given_known = None if known is None else (columns[0], columns[1])
    found = knowledge.ranks(np.array(scores, np.float32), targets, given_known, ties=ties)
    expected = [brute_force(scores[k], targets[k], known[k] if known else set(), ties) for k in range(n)]
    assert found.tolist() == expected
    assert found.dtype == np.float64


class Table:
    """Answers from a table of scores, one for each query and entity, and counts how many queries come at a time."""

    def __init__(self, scores: Array) -> None:
        self.scores, self.largest = scores, 0

    def score_queries(self, queries: Array) -> mg.Tensor:
        assert not mg.zeros((1,), requires_grad=True).exp().requires_grad
        self.largest = max(self.largest, len(queries))
        return mg.asarray(self.scores[queries[:, 0], queries[:, 1]])


@given(
    tested=triples,
    known=st.none() | st.lists(triples, min_size=1, max_size=2),
    seed=st.integers(0, 2**32),
    ties=st.sampled_from(TIES),
    sides=st.sampled_from(["both", "tail", "head"]),
    size=st.none() | st.integers(1, 4),
)
def test_evaluation_is_that_of_brute_force(
    tested: list[Any], known: list[Any] | None, seed: int, ties: str, sides: str, size: int | None
) -> None:
    table = Table(np.random.default_rng(seed).integers(0, 3, (N, 2 * R, N)).astype(np.float32))
    filters = None if known is None else [facts(rows) for rows in known]
    one = filters[0] if filters and len(filters) == 1 else filters
    found = knowledge.evaluate(table, facts(tested), one, ties=ties, sides=sides, batch_size=size)
    true = set() if known is None else {*tested, *(row for rows in known for row in rows)}
    tails = [
        brute_force(table.scores[h, r].tolist(), t, {e for e in range(N) if (h, r, e) in true}, ties)
        for h, r, t in tested
    ]
    heads = [
        brute_force(table.scores[t, r + R].tolist(), h, {e for e in range(N) if (e, r, t) in true}, ties)
        for h, r, t in tested
    ]
    assert found.tail.tolist() == ([] if sides == "head" else tails)
    assert found.head.tolist() == ([] if sides == "tail" else heads)
    ranks = [*found.tail.tolist(), *found.head.tolist()]
    assert found.mrr == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    assert found.mean_rank == pytest.approx(sum(ranks) / len(ranks))
    for k in (1, 3):
        assert found.hits(k) == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks))
    assert f"MRR {found.mrr:.3f}, Hits@1 {found.hits(1):.3f}" in str(found)
    assert table.largest <= (size or len(tested))


def test_evaluation_holds_no_more_scores_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minigrad.knowledge.graphs.ranking.SCORES", 3 * N + 1)
    table = Table(np.zeros((N, 2 * R, N)))
    knowledge.evaluate(table, facts([[h, 0, t] for h in range(N) for t in range(N)]))
    assert table.largest == 3


@pytest.mark.parametrize("kind", ["ComplEx", "DistMult"])
def test_a_model_that_knows_the_answers_has_rank_one(kind: str) -> None:
    """And evaluation leaves its mode as it is, and has no dropout."""
    model = getattr(knowledge, kind)(N, R, 2 * N, initializer="zeros", dropout=0.9)
    e = np.hstack([np.eye(N), np.zeros((N, N))]) if kind == "ComplEx" else np.eye(N, 2 * N)
    model.load_state_dict(
        {"entities.weight": e.astype(np.float32), "relations.weight": 1 + 0 * e[:R].astype(np.float32)}
    )
    found = knowledge.evaluate(model, facts([[e, r, e] for e in range(N) for r in range(R)]))
    assert found.mrr == 1.0 == found.hits(1)
    assert model.training


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: knowledge.ranks([1.0], [0]), ShapeError, "needs a matrix (queries, entities)"),
        (lambda: knowledge.ranks([[1.0]], [0, 0]), ShapeError, "targets is int64 (2,), needs shape (1,)"),
        (lambda: knowledge.ranks([[1.0]], [0], ties="mean"), ValueError, "ties is 'mean', needs one of realistic, opt"),
        (lambda: knowledge.ranks([[1.0, math.nan]], [0]), ValueError, "needs numbers, as NaN has no rank"),
        (lambda: knowledge.evaluate(None, facts([])), ValueError, "at least one triple"),
        (lambda: knowledge.evaluate(None, facts([[0, 0, 0]]), sides="left"), ValueError, "sides is 'left'"),
        (lambda: knowledge.evaluate(None, facts([[0, 0, 0]]), batch_size=0), ShapeError, "batch_size is 0"),
        (
            lambda: knowledge.evaluate(None, facts([[0, 0, 0]]), knowledge.TripleSet([], N + 1, R)),
            ValueError,
            "needs the names of this set",
        ),
    ],
)
def test_what_is_refused(call: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        call()


# ---- losses ----------------------------------------------------------------------------------------------------------


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


@given(seed=st.integers(0, 2**32), smooth=st.sampled_from([0.0, 0.3]), per=st.sampled_from(["answer", "query"]))
def test_all_entity_losses(seed: int, smooth: float, per: str) -> None:
    """Against targets that are written out, in float64; and their derivatives."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, N))
    y = rng.uniform(size=x.shape) < 0.5
    y[np.arange(4), rng.integers(0, N, 4)] = True
    rows, answers = np.nonzero(y)
    logs = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    each = -(1 - smooth) * logs[rows, answers] - smooth * logs[rows].mean(axis=1)
    expected = each.mean() if per == "answer" else np.mean([each[rows == row].mean() for row in range(4)])
    options: dict[str, Any] = {"label_smoothing": smooth}
    found = knowledge.all_entity_cross_entropy(mg.asarray(x), rows, answers, per=per, **options)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    soft = (1 - smooth) * y + smooth / N
    found = knowledge.all_entity_bce(mg.asarray(x), rows, answers, **options)
    assert found.item() == pytest.approx(np.mean(softplus(x) - soft * x), rel=1e-12)
    assert gradcheck(
        lambda s: (
            knowledge.all_entity_cross_entropy(s, rows, answers, per=per, **options),
            knowledge.all_entity_bce(s, rows, answers, **options),
        ),
        x,
        seed=seed % 1000,
    )


@given(seed=st.integers(0, 2**32), margin=st.floats(0, 5), alpha=st.floats(0, 2))
def test_losses_of_negatives(seed: int, margin: float, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    right, wrong = rng.normal(size=4), rng.normal(size=(4, 3))
    p, n = mg.asarray(right), mg.asarray(wrong)
    expected = np.mean(np.maximum(0, margin - right[:, None] + wrong))
    assert knowledge.margin_ranking_loss(p, n, margin).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    expected = np.concatenate([softplus(-right), softplus(wrong).ravel()]).mean()
    assert knowledge.softplus_loss(p, n).item() == pytest.approx(expected, rel=1e-12)
    share = np.exp(alpha * wrong) / np.exp(alpha * wrong).sum(axis=1, keepdims=True)
    expected = np.mean(softplus(-margin - right) + (share * softplus(margin + wrong)).sum(axis=1))
    assert knowledge.self_adversarial_loss(p, n, margin, alpha).item() == pytest.approx(expected, rel=1e-12)
    gap = margin - right[:, None] + wrong
    smooth = [knowledge.softplus_loss, lambda p, n: knowledge.self_adversarial_loss(p, n, margin, 0.0)]
    if np.abs(gap).min() > 0.05:  # away from the kink
        smooth.append(lambda p, n: knowledge.margin_ranking_loss(p, n, margin))
    for loss in smooth:
        assert gradcheck(loss, [right, wrong], seed=seed % 1000)


def test_the_weights_of_negatives_are_constant() -> None:
    n = mg.tensor([[0.5, -1.0, 2.0]], dtype=mg.float64, requires_grad=True)
    knowledge.self_adversarial_loss(mg.tensor([0.0], dtype=mg.float64), n, 1.0, 2.0).backward()
    x = n.detach().numpy()
    share = np.exp(2 * x) / np.exp(2 * x).sum()
    assert n.grad is not None
    np.testing.assert_allclose(n.grad.numpy(), share / (1 + np.exp(-1 - x)), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: knowledge.all_entity_bce(mg.zeros((2,)), [0], [0]), ShapeError, "scores is float32 (2,)"),
        (lambda: knowledge.all_entity_bce(mg.zeros((2, 3)), [0], [0, 1]), ShapeError, "answers is int64 (2,)"),
        (
            lambda: knowledge.all_entity_cross_entropy(mg.zeros((2, 3)), [2], [0]),
            IndexError,
            "rows is 2, needs an id in",
        ),
        (lambda: knowledge.all_entity_cross_entropy(mg.zeros((2, 3)), [0], [-1]), IndexError, "answers is -1"),
        (lambda: knowledge.all_entity_cross_entropy(mg.zeros((2, 3)), [0], [0], per="row"), ValueError, "per is 'row'"),
        (
            lambda: knowledge.all_entity_bce(mg.zeros((2, 3)), [0], [0], label_smoothing=2),
            ValueError,
            "label_smoothing is 2.0, needs a number from 0 to 1",
        ),
        (lambda: knowledge.softplus_loss(mg.zeros((2, 1)), mg.zeros((2, 1))), ShapeError, "positive is float32 (2, 1)"),
        (
            lambda: knowledge.softplus_loss(mg.zeros((2,)), mg.zeros((2,))),
            ShapeError,
            "negative is float32 (2,), needs",
        ),
        (lambda: knowledge.self_adversarial_loss([0.0], [[0.0]], math.inf), ValueError, "margin is inf"),
    ],
)
def test_what_losses_refuse(call: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        call()


# ---- predictions and pictures ----------------------------------------------------------------------------------------

WORLD = [("Bern", "in", "Switzerland"), ("Oslo", "in", "Norway"), ("Basel", "in", "Switzerland")]


def guesser() -> knowledge.LinkPredictor:
    known = knowledge.TripleSet.from_names(WORLD)
    mg.random.seed(0)
    return knowledge.LinkPredictor(knowledge.ComplEx(5, 1, 4, dropout=0.5), known)


def test_predictions_are_the_best_scores_that_are_not_known() -> None:
    guess = guesser()
    scores = guess.model.eval().score_tails([guess.entities.id("Bern")], [0]).detach().numpy()[0]
    guess.model.train()
    found = guess.predict_tails("Bern", "in", k=9)
    names = [guess.entities[i] for i in np.argsort(-scores)]
    assert [name for name, _ in found] == [name for name in names if name != "Switzerland"]
    assert dict(found) == {name: pytest.approx(scores[guess.entities.id(name)]) for name, _ in found}
    assert guess.predict_tails(guess.entities.id("Bern"), 0, k=2) == found[:2]
    assert {name for name, _ in guess.predict_heads("in", "Switzerland")} == {"Norway", "Oslo", "Switzerland"}


def test_nearest() -> None:
    guess = guesser()
    x = np.array([[3.0, 0, 0, 0], [1.0, 1, 0, 0], [0, 0, 1, 0], [30, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    guess.model.load_state_dict({"entities.weight": x}, strict=False)
    first = guess.entities[0]
    assert [name for name, _ in guess.nearest(first)][:2] == [guess.entities[3], guess.entities[1]]
    assert guess.nearest(first, k=1, metric="euclidean") == [(guess.entities[1], pytest.approx(math.sqrt(5)))]
    assert first not in dict(guess.nearest(first))
    assert dict(guess.nearest(4)) == dict.fromkeys(guess.entities[:4], 0.0)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda g: g.predict_tails("Berne", "in"), KeyError, "Did you mean 'Bern'?"),
        (lambda g: g.predict_heads("on", "Bern"), KeyError, "relation: name is 'on'"),
        (lambda g: g.nearest(5), IndexError, "entity: id is 5"),
        (lambda g: g.nearest("Bern", metric="l1"), ValueError, "metric is 'l1'"),
        (lambda g: g.nearest("Bern", k=0), ShapeError, "k is 0, needs at least 1"),
        (lambda g: knowledge.LinkPredictor(g.model, facts([])), ShapeError, "model is of 1 relations, needs 2"),
    ],
)
def test_what_a_predictor_refuses(call: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        call(guesser())


@given(seed=st.integers(0, 2**32), n=st.integers(2, 9), features=st.integers(2, 6))
def test_principal_components(seed: int, n: int, features: int) -> None:
    """They are uncorrelated, keep their share of the variance, and do not depend on where the vectors lie."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features))
    found, shares = knowledge.principal_components(x, 2)
    covariance = np.cov(x.T, bias=True)
    largest = np.sort(np.linalg.eigvalsh(covariance))[::-1][:2]
    np.testing.assert_allclose(found.T @ found / n, np.diag(largest), atol=1e-9)
    np.testing.assert_allclose(shares, largest / np.trace(covariance), atol=1e-9)
    if largest[1] > 1e-6 and largest[0] - largest[1] > 1e-6:
        moved, _ = knowledge.principal_components(mg.asarray(x + rng.normal(size=features)), 2)
        np.testing.assert_allclose(moved, found, atol=1e-6)


def test_plot_embedding(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    x = np.random.default_rng(0).normal(size=(30, 4))
    path = tmp_path / "vectors.png"
    knowledge.plot_embedding(
        x, path, names=list(map(str, range(30))), groups=["even", "odd"] * 15, label=[0, 7], title="x"
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    knowledge.plot_embedding(x, tmp_path / "plain.svg", names=[f"name {k}" for k in range(30)], label=[3])
    text = (tmp_path / "plain.svg").read_text()
    assert "<!-- name 3 -->" in text
    assert "<!-- name 4 -->" not in text
    with pytest.raises(ValueError, match=r"path is 'vectors.txt', needs an ending of"):
        knowledge.plot_embedding(x, tmp_path / "vectors.txt")
    with pytest.raises(ShapeError, match="groups is of length 2, needs one for each of the 30 vectors"):
        knowledge.plot_embedding(x, path, groups=["a", "b"])
    with pytest.raises(ShapeError, match="a matrix of at least 2 rows and columns"):
        knowledge.plot_embedding(x[:, :1], path)


# ---- training --------------------------------------------------------------------------------------------------------


def graph(name: str) -> knowledge.Graph:
    path = TEST_DATA / "kg" / f"{name}.tar.gz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return knowledge.read_graph(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "published"),
    [
        ("DistMult", "umls", 0.739),
        ("ComplEx", "umls", 0.749),
        ("DistMult", "kinship", 0.640),
        ("ComplEx", "kinship", 0.762),
    ],
)
def test_published_figures(kind: str, name: str, published: float) -> None:
    """Filtered MRR of the test triples, both sides: 32 features, Adam from 0.1 down to 0, 1024 queries, 256 epochs."""
    facts = graph(name)
    mg.random.seed(0)
    model = getattr(knowledge, kind)(len(facts.entities), len(facts.relations), 32, reciprocal=True)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    queries = knowledge.Queries(facts.train)
    for epoch in range(256):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - epoch / 256)
        for batch in queries.batches(1024):
            optimizer.zero_grad()
            scores = model.score_queries(batch.queries)
            knowledge.all_entity_cross_entropy(scores, batch.rows, batch.answers).backward()
            optimizer.step()
    assert knowledge.evaluate(model, facts.test, facts.known).mrr >= published


def test_the_trainer_takes_queries_and_triples() -> None:
    """One query for each triple with the cross entropy of classes; and triples with the answer yes or no."""
    facts = graph("nations")
    h, r, t = facts.train.triples.T
    queries = np.concatenate([np.stack([h, r], 1), np.stack([t, r + len(facts.relations)], 1)])
    mg.random.seed(0)
    model = knowledge.DistMult(len(facts.entities), len(facts.relations), 16, reciprocal=True)
    before = knowledge.evaluate(model, facts.test, facts.known).mrr
    trainer = train.Trainer(model, "cross_entropy", "adam", lr=0.05, seed=0)
    history = trainer.fit((queries, np.concatenate([t, h])), epochs=4, batch_size=256, verbose=0)
    assert history["loss"][-1] < history["loss"][0]
    assert knowledge.evaluate(model, facts.test, facts.known).mrr > before + 0.2
    wrong = knowledge.NegativeSampler(facts.train, 2, filtered=True)(facts.train.triples).reshape(-1, 3)
    asked = np.concatenate([facts.train.triples, wrong])
    answer = (np.arange(len(asked)) < len(h)).astype(np.float32)
    mg.random.seed(0)
    model = knowledge.ComplEx(len(facts.entities), len(facts.relations), 16)
    trainer = train.Trainer(model, nn.BCEWithLogitsLoss(), "adam", metrics=[], lr=0.05, seed=0)
    history = trainer.fit((asked, answer), epochs=4, batch_size=512, verbose=0)
    assert history["loss"][-1] < 0.8 * history["loss"][0]
