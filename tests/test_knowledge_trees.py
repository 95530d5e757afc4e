"""Sentences with facts as branches: soft positions, the visible matrix, and BERT over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, ShapeError
from minigrad.knowledge import KBert, SentenceTree, pad_trees, sentence_tree
from minigrad.models import Bert, BertConfig
from minigrad.testing import gradcheck

Array = np.ndarray[Any, Any]
Branch = tuple[int, int, list[int]]
VOCABULARY = 12
TOKENS = st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=5)


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[int], list[Branch]]:
    """A sentence, and facts on any of its places."""
    tokens = draw(TOKENS)
    branches = []
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(tokens) - 1))
        stop = draw(st.integers(start + 1, len(tokens)))
        branches.append((start, stop, draw(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=3))))
    return tokens, branches


def make(layers: int = 1, seed: int = 0) -> KBert:
    """A model in float64 with all parameters random."""
    config = BertConfig(
        vocab_size=VOCABULARY, max_length=10, features=4, num_layers=layers, num_heads=2, hidden_features=3,
        type_vocab_size=2,
    )  # fmt: skip
    model = KBert(config, pooler=False, dtype=mg.float64).eval()
    for i, p in enumerate(model.parameters()):
        nn.init.normal(p, std=0.6, generator=mg.random.Generator(100 * seed + i))
    return model


def encoded(model: KBert, *trees: SentenceTree) -> Array:
    ids, positions, visible = pad_trees(trees)
    with mg.no_grad():
        return model(ids, positions=positions, visible=visible).numpy()


# --- trees ------------------------------------------------------------------------------------------------------------


@given(sentences())
def test_a_tree_against_its_definition(given_: tuple[list[int], list[Branch]]) -> None:
    tokens, branches = given_
    tree = sentence_tree(tokens, branches)
    trunk = tree.branch == -1
    assert [tree.tokens[i] for i in np.flatnonzero(trunk)] == tokens
    assert tree.positions[trunk].tolist() == list(range(len(tokens)))
    for number, (_, stop, part) in enumerate(branches):
        own = np.flatnonzero(tree.branch == number)
        assert [tree.tokens[i] for i in own] == part
        assert own.tolist() == list(range(own[0], own[0] + len(part)))
        assert tree.positions[own].tolist() == list(range(stop, stop + len(part)))
    for i in range(len(tree)):
        for j in range(len(tree)):
            a, b = sorted((i, j), key=lambda k: tree.branch[k])
            if tree.branch[a] == tree.branch[b]:
                sees = True
            elif tree.branch[a] != -1:
                sees = False
            else:
                start, stop, _ = branches[tree.branch[b]]
                sees = start <= tree.positions[a] < stop
            assert tree.visible[i, j] == sees


@given(TOKENS)
def test_without_branches_it_is_the_sentence(tokens: list[int]) -> None:
    tree = sentence_tree(tokens)
    assert tree.tokens == tuple(tokens)
    assert tree.positions.tolist() == list(range(len(tokens)))
    assert tree.visible.all()


def test_the_example_of_the_paper() -> None:
    branches = [(0, 2, ["CEO", "Apple"]), (4, 5, ["capital", "China"]), (4, 5, ["is_a", "City"])]
    tree = sentence_tree(["Tim", "Cook", "is", "visiting", "Beijing", "now"], branches)
    assert tree.tokens == (
        "Tim",
        "Cook",
        "CEO",
        "Apple",
        "is",
        "visiting",
        "Beijing",
        "capital",
        "China",
        "is_a",
        "City",
        "now",
    )
    assert tree.positions.tolist() == [0, 1, 2, 3, 2, 3, 4, 5, 6, 5, 6, 5]
    seen = {tree.tokens[i]: {tree.tokens[j] for j in np.flatnonzero(tree.visible[i])} for i in range(len(tree))}
    assert seen["Apple"] == {"Tim", "Cook", "CEO", "Apple"}
    assert seen["City"] == {"Beijing", "is_a", "City"}
    assert seen["now"] == {"Tim", "Cook", "is", "visiting", "Beijing", "now"}


@pytest.mark.parametrize("branch", [(0, 0, [1]), (1, 3, [1]), (-1, 1, [1]), (1, 0, [1])])
def test_places_that_are_none(branch: Branch) -> None:
    with pytest.raises(IndexError, match=r"sentence_tree: branches is .* needs 0 <= start < stop <= 2"):
        sentence_tree([1, 2], [branch])


def test_what_is_empty() -> None:
    with pytest.raises(ShapeError, match="at least one token in each"):
        sentence_tree([1, 2], [(0, 1, [])])
    assert len(sentence_tree([])) == 0
    for trees in ([], [sentence_tree([])]):
        with pytest.raises(ShapeError, match="pad_trees: trees is"):
            pad_trees(trees)


# --- the encoder ------------------------------------------------------------------------------------------------------


@given(tokens=TOKENS, seed=st.integers(0, 99))
def test_without_branches_it_is_bert(tokens: list[int], seed: int) -> None:
    model = make(2, seed)
    plain = Bert(model.config, pooler=False, dtype=mg.float64).eval()
    plain.load_state_dict(model.state_dict())
    ids = mg.tensor([tokens])
    kinds = mg.tensor([[i % 2 for i in range(len(tokens))]])
    expected = plain(ids, token_types=kinds).detach().numpy()
    tree = pad_trees([sentence_tree(tokens)])
    own = [model(ids, token_types=kinds), model(ids, token_types=kinds, positions=tree[1], visible=tree[2])]
    for found in own:
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-11, atol=1e-11)


@given(given_=sentences(), seed=st.integers(0, 99), data=st.data())
def test_branches_that_are_not_seen_do_not_count(
    given_: tuple[list[int], list[Branch]], seed: int, data: st.DataObject
) -> None:
    """In one layer a token's result depends on what it sees, exactly; a sentence's on its branches only by entities."""
    tokens, branches = given_
    tree, model = sentence_tree(tokens, branches), make(1, seed)
    here = encoded(model, tree)[0]
    place = data.draw(st.integers(0, len(tree) - 1))
    changed = list(tree.tokens)
    changed[place] = changed[place] % (VOCABULARY - 1) + 1
    there = encoded(model, SentenceTree(tuple(changed), tree.positions, tree.visible, tree.branch))[0]
    same = ~tree.visible[:, place]
    assert np.array_equal(here[same], there[same])
    assert not np.array_equal(here[place], there[place])
    alone = encoded(model, sentence_tree(tokens))[0]
    named = {i for start, stop, _ in branches for i in range(start, stop)}
    free = [i for i in range(len(tokens)) if i not in named]
    np.testing.assert_allclose(here[tree.branch == -1][free], alone[free], rtol=1e-11, atol=1e-11)


@given(given_=sentences(), seed=st.integers(0, 99), data=st.data())
def test_the_order_of_branches_does_not_count(
    given_: tuple[list[int], list[Branch]], seed: int, data: st.DataObject
) -> None:
    tokens, branches = given_
    order = data.draw(st.permutations(range(len(branches))))
    tree, moved, model = (
        sentence_tree(tokens, branches),
        sentence_tree(tokens, [branches[i] for i in order]),
        make(3, seed),
    )
    a, b = encoded(model, tree)[0], encoded(model, moved)[0]
    np.testing.assert_allclose(a[tree.branch == -1], b[moved.branch == -1], rtol=1e-10, atol=1e-10)
    for new, old in enumerate(order):
        np.testing.assert_allclose(a[tree.branch == old], b[moved.branch == new], rtol=1e-10, atol=1e-10)


@given(first=sentences(), second=sentences(), seed=st.integers(0, 99))
def test_padding_does_not_count(
    first: tuple[list[int], list[Branch]], second: tuple[list[int], list[Branch]], seed: int
) -> None:
    trees, model = [sentence_tree(*first), sentence_tree(*second)], make(2, seed)
    both = encoded(model, *trees)
    for row, tree in zip(both, trees):
        np.testing.assert_allclose(row[: len(tree)], encoded(model, tree)[0], rtol=1e-11, atol=1e-11)


@settings(max_examples=6)
@given(given_=sentences(), seed=st.integers(0, 99))
def test_derivatives_through_the_mask(given_: tuple[list[int], list[Branch]], seed: int) -> None:
    """Of the embeddings of all tokens and positions, and of one weight; two orders."""
    model = make(2, seed)
    ids, positions, visible = pad_trees([sentence_tree(*given_)])
    query: Any = model.encoder.layers[0].self_attention.query

    def run(table: mg.Tensor, places: mg.Tensor, weight: mg.Tensor) -> mg.Tensor:
        vars(model.token_embedding)["weight"] = table
        vars(model.position_embedding)["weight"] = places
        vars(query)["weight"] = weight
        return model(ids, positions=positions, visible=visible)

    parts = [model.token_embedding.weight, model.position_embedding.weight, query.weight]
    assert gradcheck(run, [p.detach().numpy().copy() for p in parts], order=2, seed=seed, step=2e-4)


def test_the_model_refuses() -> None:
    model = make()
    ids, positions, visible = pad_trees([sentence_tree([1, 2], [(0, 1, [3])])])
    for name, value, error, text in [
        ("positions", positions[:, :2], ShapeError, r"positions is int64 \(1, 2\), needs shape \(1, 3\)"),
        ("positions", positions.astype(mg.float32), DTypeError, "positions is float32"),
        ("positions", positions + 9, ShapeError, r"from 9 to 10, needs positions in \[0, 10\)"),
        ("positions", positions - 1, ShapeError, r"from -1 to 0, needs positions in \[0, 10\)"),
        ("visible", visible[:, 0], ShapeError, r"visible is bool \(1, 3, 3\), needs shape \(1, 1, 3, 3\)"),
    ]:
        with pytest.raises(error, match=text):
            model(ids, **({"positions": positions, "visible": visible} | {name: value}))
    with pytest.raises(ShapeError, match=r"KBert: ids is int64 \(3,\)"):
        model(ids[0])


def test_weights_of_bert_load(tmp_path: Any) -> None:
    pytest.importorskip("safetensors")
    config = BertConfig(vocab_size=9, features=4, num_layers=1, num_heads=2, hidden_features=3, max_length=8)
    plain = Bert(config).eval()
    plain.save_pretrained(tmp_path)
    model = KBert.from_pretrained(tmp_path)
    assert isinstance(model, KBert)
    assert np.array_equal(model(mg.tensor([[1, 2]])).detach().numpy(), plain(mg.tensor([[1, 2]])).detach().numpy())
