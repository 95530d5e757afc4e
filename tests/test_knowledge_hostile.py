"""Knowledge graphs, their files, and the layers that read them, given what they were not made for."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import knowledge
from minigrad.data import DataError
from minigrad.errors import DTypeError, ShapeError
from minigrad.models import Seq2SeqConfig

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
    assert positive.grad is not None
    assert positive.grad.shape == (0,)


@pytest.mark.parametrize("dtype", [*HALF, mg.float32], ids=str)
@pytest.mark.parametrize("model", ["TransE", "TransH"])
def test_a_distance_of_zero_has_a_derivative_in_half_precision(model: str, dtype: Any) -> None:
    options = {"p": 2} if model == "TransE" else {}
    made = getattr(knowledge, model)(4, 1, 2, dtype=dtype, initializer="zeros", **options)
    (mg.sum(made.score([0, 1], 0, [0, 2])) + mg.sum(made.score_queries([[0, 0], [1, 1]]))).backward()
    for parameter in made.parameters():
        assert np.isfinite(parameter.grad.numpy().astype(np.float64)).all()


GOOD = b"a\tr\tb\n"
THREE = {"x/train.txt": GOOD, "x/valid.txt": GOOD, "x/test.txt": GOOD}


def archive(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:xz") as made:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_an_error_names_the_file_that_is_missing_or_no_text(tmp_path: Path, name: str) -> None:
    for part in {"train", "valid", "test"} - {name}:
        (tmp_path / f"{part}.txt").write_bytes(GOOD)
    with pytest.raises(DataError, match=rf"{name}\.txt: No such file"):
        knowledge.read_graph(tmp_path)
    (tmp_path / f"{name}.txt").write_bytes(GOOD + b"a\t\xff\tb\n")
    for read in (lambda: knowledge.read_graph(tmp_path), lambda: knowledge.TripleSet.read(tmp_path / f"{name}.txt")):
        with pytest.raises(DataError, match=rf"{name}\.txt, line 2: is not UTF-8") as caught:
            read()
        assert str(caught.value).count(str(tmp_path)) == 1


def test_an_archive_has_each_file_once_and_is_not_unpacked(tmp_path: Path) -> None:
    other = b"q\tr\tz\n"
    with pytest.raises(DataError, match=re.escape("x/train.txt and y/train.txt, needs one train.txt")):
        knowledge.read_graph(archive(tmp_path / "two.tar", [*THREE.items(), ("y/train.txt", other)]))
    again = archive(tmp_path / "again.tar", [*THREE.items(), ("./x/train.txt", other)])  # as tar --update writes it
    assert list(knowledge.read_graph(again).train) == [("q", "r", "z")]
    inner = tmp_path / "in" / "ner"
    inner.mkdir(parents=True)
    outside = [(f"../../{name}", data) for name, data in THREE.items()]
    assert len(knowledge.read_graph(archive(inner / "out.tar", outside)).train) == 1
    assert not list(tmp_path.rglob("*.txt"))
    with pytest.raises(DataError, match=re.escape("x/test.txt, line 1: is not UTF-8")):
        knowledge.read_graph(archive(tmp_path / "bad.tar", list((THREE | {"x/test.txt": b"\xff"}).items())))


def test_a_damaged_archive_is_an_error_or_read_right(tmp_path: Path) -> None:
    data = archive(tmp_path / "good.tar", list(THREE.items())).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "bad.tar").write_bytes(damaged[: rng.integers(len(data) // 2, len(data) + 1)])
        with contextlib.suppress(DataError):
            assert list(knowledge.read_graph(tmp_path / "bad.tar").train) == [("a", "r", "b")]


TREE = knowledge.sentence_tree(["a"])


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: knowledge.read_graph("a\0b"), DataError, "null"),
        (lambda: knowledge.TripleSet.parse("a r b", delimiter=""), ValueError, "delimiter is empty"),
        (lambda: knowledge.Names("abc"), TypeError, "not one text"),
        (lambda: knowledge.Names(["a", 1]), TypeError, "1 in one place"),
        (lambda: knowledge.TripleSet([], 3.0, 1), TypeError, "how many there are"),
        (lambda: knowledge.TripleSet([], -5, 1), TypeError, "how many there are"),
        (lambda: knowledge.TripleSet.from_names(["abc"]), ShapeError, "three names in each"),
        (lambda: knowledge.TripleSet.from_names([(1, "r", 5)]), TypeError, "needs texts"),
        (lambda: knowledge.EntityLinker({"a": 1}).link("a"), TypeError, "linker(text)"),
        (lambda: knowledge.TripleLookup([("Dune", "is", "a novel")]).about("Dune"), TypeError, "a list of one"),
        (lambda: knowledge.sentence_tree([1, 2], [(0.5, 1.5, [3])]), TypeError, "an int"),
        (lambda: knowledge.sentence_tree(["Tim"], [(0, 1, "CEO")]), TypeError, "not one text"),
        (lambda: knowledge.pad_trees([TREE]), DTypeError, "ids, which are ints"),
        (lambda: knowledge.pad_trees([knowledge.sentence_tree(["5"])]), DTypeError, "ids"),
        (lambda: knowledge.pad_trees([knowledge.sentence_tree([1.7])]), DTypeError, "ids"),
    ],
)  # fmt: skip
def test_what_would_be_read_letter_by_letter_or_rounded_is_refused(call: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        call()


@pytest.mark.parametrize("width", WIDTHS)
def test_entities_of_tokens_come_in_every_width(width: str) -> None:
    mg.random.seed(0)
    layer = knowledge.KnowledgeEmbedding(300, 4, 8, padding_id=299)
    x, ids = mg.random.normal((1, 3, 8)), np.array([[0, 120, 5]])
    assert mg.all(layer(x, mg.asarray(ids.astype(width))) == layer(x, mg.asarray(ids)))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_triple_that_is_not_there_has_no_influence_whatever_is_in_its_place(poison: float) -> None:
    mg.random.seed(0)
    layer, x = knowledge.TripleAttention(2, 8, 4), mg.random.normal((2, 5, 8))
    clean, there = mg.random.normal((3, 2, 6, 4)), np.ones((2, 6), bool)
    there[0, 3:], there[1] = False, False
    dirty = mg.tensor(np.where(there[None, :, :, None], clean.numpy(), poison), dtype=mg.float32, requires_grad=True)
    found = layer(x, *dirty, mask=mg.asarray(there))
    assert mg.all(found == layer(x, *clean, mask=mg.asarray(there)))
    mg.sum(found * mg.random.normal(found.shape)).backward()
    assert dirty.grad is not None
    assert (dirty.grad.numpy()[:, ~there] == 0.0).all()
    assert all(np.isfinite(p.grad.numpy()).all() for p in layer.parameters())


@pytest.mark.parametrize(
    ("facts", "chosen", "kind"),
    [
        (0, [[0]], IndexError), (2, [[-5]], IndexError), (2, [[2]], IndexError), (2, [[True]], DTypeError),
        (2, [[0.0]], DTypeError),
    ],
)  # fmt: skip
def test_facts_that_are_none_are_refused(facts: int, chosen: Any, kind: Any) -> None:
    config = Seq2SeqConfig(20, features=8, num_encoder_layers=1, num_decoder_layers=1, num_heads=2)
    model = knowledge.DialogueModel(config)
    with pytest.raises(kind, match="DialogueModel: chosen"):
        model.read(mg.zeros((facts, 3, 2), dtype=mg.int64), mg.tensor(chosen))


def test_a_picture_writes_names_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dollars begin no formula, and an underscore hides no group."""
    figure = pytest.importorskip("matplotlib.figure")
    made = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path, **_: (made.append(self), Path(path).touch()))
    names, groups = ["$\\bad$", "a$b$c", "_x", "y"], ["_hidden", "$\\no$", "", "_hidden"]
    points = np.random.default_rng(0).normal(size=(4, 3))
    picture = tmp_path / "a.png"
    knowledge.plot_embedding(points, picture, names=names, groups=groups, label=range(4), title="$\\what$")
    monkeypatch.undo()
    (axes,) = made[0].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["_hidden", "$\\no$"]
    assert {text.get_text() for text in axes.texts} == set(names)
    made[0].savefig(picture, format="png")  # which parses formulas
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_numbers_that_a_model_lost_are_an_error() -> None:
    model = knowledge.DistMult(3, 2, 2, initializer=lambda t: mg.nn.init.constant(t, float("nan")))
    guess = knowledge.LinkPredictor(model, FACTS)
    for call in (lambda: guess.predict_tails(0, 0), lambda: guess.nearest(0)):
        with pytest.raises(ValueError, match="NaN"):
            call()
    with pytest.raises(ValueError, match="NaN or infinite"):
        knowledge.principal_components(model.entities.weight)
