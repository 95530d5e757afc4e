"""Knowledge graphs and their files, given what they were not made for."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import knowledge
from minigrad.errors import DTypeError, ShapeError

WIDTHS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
HALF = [mg.float16, mg.bfloat16]


@pytest.mark.parametrize("width", WIDTHS)
def test_ids_of_every_width_ask_for_inverses_that_their_type_cannot_hold(width: str) -> None:
    mg.random.seed(0)
    model = knowledge.ComplEx(5, 200, 4, reciprocal=True)
    narrow = np.array([100], width), np.array([3], width)
    found = model.score_heads(*narrow)
    assert mg.all(found == model.score_queries([[3, 300]]))
    assert not mg.all(found == model.score_tails([3], [300 - 256]))  # what wraps around in eight bits


def test_an_id_out_of_range_is_in_no_set_though_its_key_is() -> None:
    facts = knowledge.TripleSet([[0, 1, 0]], 2, 2)
    assert facts.keys([[0, 0, 2]]) == facts.keys([[0, 1, 0]])
    assert facts.contains([[0, 0, 2], [0, 1, 0], [-1, 5, -2]]).tolist() == [False, True, False]
    assert facts.contains(np.empty((4, 0, 3), np.int8)).shape == (4, 0)
    assert facts.contains([]).shape == (0,)


FACTS = knowledge.TripleSet([[0, 0, 1], [1, 1, 2]], 3, 2)
SCORES = mg.tensor([[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: FACTS.contains([[0.5, 0, 1]]), DTypeError, "integers"),
        (lambda: FACTS.contains([[np.nan, 0, 1]]), DTypeError, "integers"),
        (lambda: FACTS.contains([[0, 0, 1, 7]]), ShapeError, "3 columns"),
        (lambda: knowledge.Queries(FACTS).batch([0.5]), DTypeError, "integers"),
        (lambda: knowledge.Queries(FACTS).batch(np.array([True, False, False, True])), DTypeError, "integers"),
        (lambda: knowledge.Queries(FACTS).batch([4]), IndexError, "an index in [0, 4)"),
        (lambda: knowledge.Queries(FACTS).batch(0), ShapeError, "one axis"),
        (lambda: knowledge.all_entity_cross_entropy(SCORES, [0], [1.7]), DTypeError, "answers"),
        (lambda: knowledge.all_entity_bce(SCORES, [False], [1]), DTypeError, "rows"),
        (lambda: knowledge.ranks(SCORES, [1.7]), DTypeError, "targets"),
        (lambda: knowledge.ranks(SCORES, [-1]), IndexError, "targets is -1"),
        (lambda: knowledge.ranks(SCORES, [3]), IndexError, "targets is 3"),
        (lambda: knowledge.ranks(SCORES, [0], ([0], [-1])), IndexError, "an entity in [0, 3)"),
        (lambda: knowledge.ranks(SCORES, [0], ([1], [0])), IndexError, "a row in [0, 1)"),
        (lambda: knowledge.ranks(SCORES, [0], ([0, 0], [1])), ShapeError, "known"),
        (lambda: knowledge.NegativeSampler(FACTS)([[50, 0, 1]]), IndexError, "an entity in [0, 3)"),
        (lambda: knowledge.NegativeSampler(FACTS)([[0, 0, -1]]), IndexError, "an entity in [0, 3)"),
        (lambda: knowledge.NegativeSampler(FACTS)([[0.5, 0, 1]]), DTypeError, "integers"),
        # of five relations the inverse of the first is not number 0 + 2 but 0 + 5
        (lambda: knowledge.evaluate(knowledge.DistMult(3, 5, 2), FACTS), ShapeError, "5 relations, needs 2"),
        (lambda: knowledge.evaluate(knowledge.DistMult(9, 2, 2), FACTS), ShapeError, "9 entities, needs 3"),
    ],
)  # fmt: skip
def test_ids_that_are_none_are_refused_and_not_rounded(call: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        call()


def test_ranks_take_scores_that_have_a_gradient() -> None:
    assert knowledge.ranks(mg.tensor([[1.0, 2.0]], requires_grad=True), [0]).tolist() == [2.0]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", ["answer", "query", "bce", "softplus", "margin", "adversarial"])
def test_losses_of_many_half_precision_scores_stay_finite(dtype: Any, kind: str) -> None:
    mg.random.seed(0)
    exact = mg.random.normal((1000, 300), dtype=mg.float64)
    rows, answers = np.repeat(np.arange(1000), 20), np.tile(np.arange(20), 1000)

    def loss(scores: mg.Tensor) -> mg.Tensor:
        if kind == "bce":
            return knowledge.all_entity_bce(scores, rows, answers, label_smoothing=0.1)
        if kind in ("answer", "query"):
            return knowledge.all_entity_cross_entropy(scores, rows, answers, label_smoothing=0.1, per=kind)
        names = {"margin": "margin_ranking", "adversarial": "self_adversarial"}
        return getattr(knowledge, f"{names.get(kind, kind)}_loss")(scores[:, 0], scores)

    half = loss(mg.astype(exact, dtype))
    assert half.dtype == dtype
    assert abs(half.item() - loss(exact).item()) < 0.02 * loss(exact).item()


@pytest.mark.parametrize("name", ["margin_ranking_loss", "softplus_loss", "self_adversarial_loss"])
def test_a_loss_of_an_empty_batch_is_zero_and_has_a_gradient(name: str) -> None:
    positive, negative = mg.zeros((0,), requires_grad=True), mg.zeros((0, 3), requires_grad=True)
    loss = getattr(knowledge, name)(positive, negative)
    loss.backward()
    assert loss.item() == 0.0
    assert positive.grad is not None and positive.grad.shape == (0,)


@pytest.mark.parametrize("dtype", [*HALF, mg.float32], ids=str)
@pytest.mark.parametrize("model", ["TransE", "TransH"])
def test_a_distance_of_zero_has_a_derivative_in_half_precision(model: str, dtype: Any) -> None:
    options = {"p": 2} if model == "TransE" else {}
    made = getattr(knowledge, model)(4, 1, 2, dtype=dtype, initializer="zeros", **options)
    (mg.sum(made.score([0, 1], 0, [0, 2])) + mg.sum(made.score_queries([[0, 0], [1, 1]]))).backward()
    for parameter in made.parameters():
        assert np.isfinite(parameter.grad.numpy().astype(np.float64)).all()
