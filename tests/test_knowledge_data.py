"""Triples and graphs read from files and packages, queries, and negative samples."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import knowledge
from minigrad.data import DataError
from minigrad.errors import DTypeError, ShapeError
from minigrad.knowledge.graphs import graph as graph_module

Array = np.ndarray[Any, Any]
N, R = 5, 3
TEST_DATA = Path(os.environ.get("MINIGRAD_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
triples = st.lists(
    st.tuples(st.integers(0, N - 1), st.integers(0, R - 1), st.integers(0, N - 1)), min_size=1, max_size=30
)
names = st.text(
    st.characters(exclude_characters="\t\n\r", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=4
)


def facts(rows: Any) -> knowledge.TripleSet:
    return knowledge.TripleSet(rows, N, R)


# ---- names and triples -----------------------------------------------------------------------------------------------


@given(rows=st.lists(st.tuples(names, names, names), min_size=1, max_size=9))
def test_names_come_back(rows: list[tuple[str, str, str]]) -> None:
    made = knowledge.TripleSet.from_names(rows)
    assert list(made) == rows == made[:]
    assert list(made.entities) == sorted({x for h, _, t in rows for x in (h, t)})
    assert [made.entities.id(name) for name in made.entities] == list(range(len(made.entities)))
    text = "\n".join("\t".join(row) for row in rows)
    for ending in ("", "\n", "\r\n"):
        again = knowledge.TripleSet.parse(text.replace("\n", ending or "\n") + ending)
        assert np.array_equal(again.triples, made.triples)
        assert again.entities == made.entities
        assert hash(again.relations) == hash(made.relations)


@given(rows=triples, asked=triples)
def test_contains_and_union(rows: list[Any], asked: list[Any]) -> None:
    made = facts(rows)
    assert made.contains(asked).tolist() == [row in rows for row in asked]
    both = made.union(facts(asked), facts([]))
    assert sorted(map(tuple, both.triples.tolist())) == sorted({*rows, *asked})
    assert not facts([]).contains(asked).any()


def test_a_graph_may_be_too_large_for_a_key_of_each_fact() -> None:
    made = knowledge.TripleSet.__new__(knowledge.TripleSet)
    made.entities, made.relations = range(2**31), range(2**10)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="fewer than 2\\*\\*63 possible facts"):
        made.keys([[0, 0, 0]])


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: facts([[0, 0]]), ShapeError, "TripleSet: triples is int64 (1, 2), needs 3 columns"),
        (lambda: facts([[0.0, 0, 0]]), DTypeError, "needs integers. TripleSet.from_names takes names"),
        (lambda: facts([[0, 0, 0], [N, 0, 0]]), IndexError, "head is 5 in row 1, needs an id in [0, 5)"),
        (lambda: facts([[0, R, 0]]), IndexError, "relation is 3 in row 0, needs an id in [0, 3)"),
        (lambda: facts([[0, 0, -1]]), IndexError, "tail is -1 in row 0, needs an id in [0, 5)"),
        (lambda: facts([]).entities.id("6"), KeyError, "entity: name is '6', needs one of the 5 known names"),
        (lambda: knowledge.Names(["disease"], "entity").id("diseases"), KeyError, "Did you mean 'disease'?"),
        (lambda: facts([]).relations.id(3), IndexError, "relation: id is 3, needs an id in [0, 3)"),
        (lambda: facts([]).relations.id(True), TypeError, "needs a name or an id"),
        (lambda: knowledge.Names(["a", "b", "a"]), ValueError, "names is 'a' twice, needs each name once"),
        (lambda: facts([]).union(knowledge.TripleSet([], N, R + 1)), ValueError, "needs the names of this set"),
        (lambda: knowledge.TripleSet.from_names([("a", "b")]), ShapeError, "needs three names in each"),
        (lambda: knowledge.TripleSet.from_names([("a", "r", "b")], ["a"]), KeyError, "name is 'b'"),
        (lambda: knowledge.Graph(facts([]), facts([]), knowledge.TripleSet([], 9, R)), ValueError, "test is TripleSet"),
    ],
)
def test_what_is_refused(call: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        call()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a\tr\tb\n\na\tr\n", "facts.txt, line 3: has 2 fields, needs 3: head, relation, tail"),
        ("a r b\n", "facts.txt, line 1: has 1 fields"),
        ("a\tr\tb\na\t \tb", "facts.txt, line 2: the relation is empty, needs a name"),
        ("\n\n", "facts.txt: has no triples"),
        ("", "facts.txt: has no triples"),
        ("a\tr\tb\nb\tr\tc\n", "facts.txt, line 2: the tail is 'c', which is not among the 2 names"),
        ("a\ts\tb\n", "facts.txt, line 1: the relation is 's', which is not among the 1 names"),
    ],
)
def test_lines_that_are_wrong(text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(error)):
        knowledge.TripleSet.read(path, ["a", "b"], ["r"])


def test_files_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "facts.txt"
    with pytest.raises(DataError, match="No such file"):
        knowledge.TripleSet.read(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"facts.txt.*UTF-8"):
        knowledge.TripleSet.read(path)


# ---- graphs ----------------------------------------------------------------------------------------------------------

PARTS = {"train": "a\tr\tb\nb\ts\ta\n", "valid": "b\tr\tc\n", "test": "d\tr\ta\n"}


def archive(path: Path, parts: dict[str, str], mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        for part, text in parts.items():
            info = tarfile.TarInfo(f"folder/{part}.txt")
            info.size = len(text.encode())
            file.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("source", ["folder", "w:gz", "w"])
def test_read_graph(source: str, tmp_path: Path) -> None:
    if source == "folder":
        for part, text in PARTS.items():
            (tmp_path / f"{part}.txt").write_text(text)
        made = knowledge.read_graph(tmp_path)
    else:
        made = knowledge.read_graph(archive(tmp_path / "graph.tar", PARTS, source))
    assert repr(made) == "Graph(4 entities, 2 relations, 2 + 1 + 1 triples)"
    assert list(made.valid) == [("b", "r", "c")]
    assert made.test.triples.tolist() == [[3, 0, 0]]
    assert sorted(made.known) == sorted([*made.train, *made.valid, *made.test])


def test_graphs_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.tar.gz: No such file"):
        knowledge.read_graph(tmp_path / "none.tar.gz")
    short = archive(tmp_path / "short.tar.gz", {"train": PARTS["train"]})
    with pytest.raises(DataError, match=r"needs valid.txt, test.txt in the archive"):
        knowledge.read_graph(short)
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(archive(tmp_path / "graph.tar.gz", PARTS).read_bytes()[:60])
    with pytest.raises(DataError, match=r"damaged.tar.gz"):
        knowledge.read_graph(damaged)
    with pytest.raises(DataError, match=r"empty.tar.gz/test.txt: has no triples"):
        knowledge.read_graph(archive(tmp_path / "empty.tar.gz", {**PARTS, "test": "\n"}))
    with pytest.raises(DataError, match=r"bad.tar.gz/valid.txt, line 1: has 2 fields"):
        knowledge.read_graph(archive(tmp_path / "bad.tar.gz", {**PARTS, "valid": "a\tb\n"}))
    with pytest.raises(ValueError, match="load_graph: name is 'freebase', needs one of kinships, nations, umls"):
        knowledge.load_graph("freebase")


def test_load_graph_is_checked_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache; what is damaged there, and cannot be had anew, is refused."""
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path))
    monkeypatch.setitem(
        graph_module.SUMS, "nations", {part: hashlib.sha256(text.encode()).hexdigest() for part, text in PARTS.items()}
    )
    folder = tmp_path / "pykeen==1.11.1" / "pykeen" / "datasets" / "nations"
    folder.mkdir(parents=True)
    for part, text in PARTS.items():
        (folder / f"{part}.txt").write_text(text)
    assert repr(knowledge.load_graph("nations")) == "Graph(4 entities, 2 relations, 2 + 1 + 1 triples)"
    (folder / "test.txt").write_text("changed")
    monkeypatch.setattr("minigrad.data.packages._from_sources", lambda *_: (_ for _ in ()).throw(DataError("offline")))
    with pytest.warns(RuntimeWarning, match="damaged"), pytest.raises(DataError, match="offline"):
        knowledge.load_graph("nations")


@pytest.mark.parametrize(
    ("name", "package", "sizes"),
    [
        ("umls", "umls", (135, 46, 5216, 652, 661)),
        ("kinship", "kinships", (104, 25, 8544, 1068, 1074)),
        ("nations", "nations", (14, 55, 1592, 199, 201)),
        ("FB15k-237", "", (14541, 237, 272115, 17535, 20466)),
    ],
)
def test_real_graphs(name: str, package: str, sizes: tuple[int, ...]) -> None:
    path = TEST_DATA / "kg" / f"{name}.tar.gz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    made = knowledge.read_graph(path)
    parts = (made.train, made.valid, made.test)
    assert (len(made.entities), len(made.relations), *map(len, parts)) == sizes
    assert len(made.known) == len(np.unique(np.concatenate([part.triples for part in parts]), axis=0))
    if package:  # what the package has is the same
        with tarfile.open(path) as file:
            for part, digest in graph_module.SUMS[package].items():
                opened: Any = file.extractfile(f"{part}.txt")
                assert hashlib.sha256(opened.read()).hexdigest() == digest


# ---- queries ---------------------------------------------------------------------------------------------------------


@given(rows=triples, sides=st.sampled_from(["both", "tail", "head"]), size=st.integers(1, 8), shuffle=st.booleans())
def test_queries_say_what_the_triples_say(rows: list[Any], sides: str, size: int, shuffle: bool) -> None:
    asked = knowledge.Queries(facts(rows), sides)
    expected: dict[tuple[int, int], set[int]] = {}
    for h, r, t in rows:
        if sides != "head":
            expected.setdefault((h, r), set()).add(t)
        if sides != "tail":
            expected.setdefault((t, r + R), set()).add(h)
    found: dict[tuple[int, int], list[int]] = {}
    for batch in asked.batches(size, shuffle=shuffle):
        assert len(batch.queries) <= size
        assert (np.diff(batch.queries[:, 1] >= R) >= 0).all()
        assert np.bincount(batch.rows, minlength=len(batch.queries)).tolist() == batch.counts.tolist()
        for row, answer in zip(batch.rows, batch.answers, strict=True):
            e, r = batch.queries[row]
            found.setdefault((int(e), int(r)), []).append(int(answer))
    assert {query: set(answers) for query, answers in found.items()} == expected
    assert all(len(answers) == len(expected[query]) for query, answers in found.items())
    every = np.stack(np.meshgrid(range(N), range(2 * R), indexing="ij"), -1).reshape(-1, 2)
    at, answers = asked.find(every)
    for k, (e, r) in enumerate(every):
        assert answers[at == k].tolist() == sorted(expected.get((e, r), ()))


def test_the_order_of_queries_is_of_the_seed() -> None:
    asked = knowledge.Queries(facts(np.random.default_rng(0).integers(0, [N, R, N], (40, 3))))

    def order(seed: int) -> list[Any]:
        generator = mg.random.Generator(seed)
        return [batch.queries.tolist() for batch in asked.batches(4, generator=generator)]

    assert order(1) == order(1) != order(2)
    with pytest.raises(ValueError, match="at least one triple"):
        knowledge.Queries(facts([]))
    with pytest.raises(ValueError, match="sides is 'tails', needs one of both, tail, head"):
        knowledge.Queries(facts([[0, 0, 0]]), "tails")


# ---- negative samples ------------------------------------------------------------------------------------------------


@given(
    rows=triples,
    more=triples,
    k=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from(["uniform", "bernoulli"]),
    filtered=st.booleans(),
)
def test_negatives(rows: list[Any], more: list[Any], k: int, seed: int, strategy: str, filtered: bool) -> None:
    """One of head and tail is exchanged, never for itself; filtered nothing known comes; a seed says which."""
    made, known = facts(rows), facts(more)
    options: dict[str, Any] = {"strategy": strategy, "filtered": filtered, "known": known}
    found = []
    for _ in range(2):
        sampler = knowledge.NegativeSampler(made, k, generator=mg.random.Generator(seed), **options)
        try:
            found.append(sampler(made.triples))
        except ValueError:  # all that can be made of a triple is true
            every = np.arange(N)
            assert filtered
            assert any(
                made.union(known).contains([[e, r, t] for e in every if e != h]).all()
                and made.union(known).contains([[h, r, e] for e in every if e != t]).all()
                for h, r, t in rows
            )
            return
    assert np.array_equal(*found)
    assert found[0].shape == (len(rows), k, 3)
    right = made.triples[:, None]
    changed = found[0] != right
    assert (changed.sum(axis=2) == 1).all()
    assert not changed[..., 1].any()
    assert found[0].min() >= 0
    assert found[0][..., ::2].max() < N
    if filtered:
        assert not made.union(known).contains(found[0]).any()


@pytest.mark.parametrize("strategy", ["uniform", "bernoulli"])
def test_frequencies(strategy: str) -> None:
    """Relation 0 has 4 tails for a head and 1 head for a tail, so that the head is exchanged in 4 of 5 cases."""
    made = knowledge.TripleSet([[0, 0, 1], [0, 0, 2], [0, 0, 3], [0, 0, 4], [1, 1, 0], [2, 1, 0]], 6, 3)
    sampler = knowledge.NegativeSampler(made, 20000, strategy=strategy, generator=mg.random.Generator(3))
    expected = [0.8, 1 / 3, 0.5] if strategy == "bernoulli" else [0.5] * 3
    np.testing.assert_allclose(sampler.head_probability, expected)
    for triple in ([0, 0, 1], [1, 1, 0], [5, 2, 5]):
        wrong = sampler([triple])[0]
        p = expected[triple[1]]
        heads = wrong[:, 0] != triple[0]
        assert abs(heads.mean() - p) < 4 * np.sqrt(p * (1 - p) / len(wrong))
        for column, chosen in ((0, heads), (2, ~heads)):  # the others are alike
            counts = np.bincount(wrong[chosen, column], minlength=6)
            assert counts[triple[column]] == 0
            share = counts[np.arange(6) != triple[column]] / chosen.sum()
            assert np.abs(share - 0.2).max() < 4 * np.sqrt(0.16 / chosen.sum())


def test_where_nearly_all_is_true() -> None:
    """Only (1, 0, 1) is wrong, and only triples with its head or its tail can be made into it."""
    every = [[h, 0, t] for h in range(2) for t in range(2)]
    made = knowledge.TripleSet(every[:3], 2, 1)
    sampler = knowledge.NegativeSampler(made, 50, filtered=True)
    assert np.unique(sampler([[0, 0, 1], [1, 0, 0]]).reshape(-1, 3), axis=0).tolist() == [[1, 0, 1]]
    with pytest.raises(ValueError, match=r"\(0, 0, 0\), of which any other head and any other tail is true too"):
        sampler([[0, 0, 0]])


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: knowledge.NegativeSampler(facts([]), strategy="all"), ValueError, "one of uniform, bernoulli"),
        (lambda: knowledge.NegativeSampler(knowledge.TripleSet([], 1, 1)), ValueError, "at least 2 entities"),
        (lambda: knowledge.NegativeSampler(facts([]), 0), ShapeError, "negatives is 0, needs at least 1"),
        (lambda: knowledge.NegativeSampler(facts([]))([0, 0, 0]), ShapeError, "needs 3 columns"),
        (lambda: knowledge.NegativeSampler(facts([]))([[0, R, 0]]), IndexError, "3, needs a relation in"),
    ],
)
def test_what_a_sampler_refuses(call: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        call()
