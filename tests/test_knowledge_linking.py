"""Entity linking, triples of entities, and facts that an answer states."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.data import DataError
from minigrad.data.chatterbot import parse_chatterbot
from minigrad.knowledge import EntityLinker, Mention, TripleLookup, words
from minigrad.knowledge.language.linking import fold
from minigrad.knowledge.language.stated_facts import SELF, stated_facts

WORD = st.sampled_from(["a", "b", "c", "New", "york", "été"])
NAME = st.lists(WORD, min_size=1, max_size=4).map(tuple)


def found_by_trial(names: dict[tuple[str, ...], int], tokens: list[str]) -> list[Mention]:
    """From the left, and at each place the longest name, found by comparing with all of them."""
    folded = {tuple(map(fold, name)): entity for name, entity in names.items()}
    found, start = [], 0
    while start < len(tokens):
        stops = [k for k in range(len(tokens), start, -1) if tuple(map(fold, tokens[start:k])) in folded]
        if stops:
            entity = folded[tuple(map(fold, tokens[start : stops[0]]))]
            found.append(Mention(start, stops[0], (entity,)))
        start = stops[0] if stops else start + 1
    return found


@given(names=st.lists(NAME, unique_by=lambda n: tuple(map(fold, n)), max_size=12), tokens=st.lists(WORD, max_size=12))
def test_links_are_those_that_trying_every_name_finds(names: list[tuple[str, ...]], tokens: list[str]) -> None:
    numbered = {name: i for i, name in enumerate(names)}
    linker = EntityLinker({" ".join(name): i for name, i in numbered.items()})
    assert len(linker) == len(names)
    assert linker.link(tokens) == found_by_trial(numbered, tokens)


@given(names=st.lists(NAME, max_size=8), tokens=st.lists(WORD, max_size=12), data=st.data())
def test_neither_case_nor_the_order_of_names_counts(
    names: list[tuple[str, ...]], tokens: list[str], data: st.DataObject
) -> None:
    pairs = [(" ".join(name), fold(" ".join(name))) for name in names]
    linker, other = EntityLinker(pairs), EntityLinker([(n.upper(), e) for n, e in data.draw(st.permutations(pairs))])
    assert linker.link(tokens) == other.link([token.swapcase() for token in tokens])


@given(
    names=st.lists(NAME, max_size=8), tokens=st.lists(WORD, max_size=12), between=st.sampled_from([" ", ", ", " (!) "])
)
def test_places_in_a_text_are_those_of_its_words(names: list[tuple[str, ...]], tokens: list[str], between: str) -> None:
    linker, text = EntityLinker((" ".join(name), name) for name in names), between.join(tokens)
    mentions = linker(text)
    assert [m.entities for m in mentions] == [m.entities for m in linker.link(tokens)]
    for before, after in pairwise(mentions):
        assert before.stop <= after.start
    for m, own in zip(mentions, linker.link(tokens)):
        assert text[m.start : m.stop] == between.join(tokens[own.start : own.stop])


@given(text=st.text(max_size=30))
def test_words_of_any_text(text: str) -> None:
    """Their places are right, they do not touch, and every letter and digit is in one of them."""
    places = words(text)
    assert all(text[start:stop] == word for word, start, stop in places)
    assert all(before[2] < after[1] for before, after in pairwise(places))
    inside = {i for _, start, stop in places for i in range(start, stop)}
    assert all(i in inside for i, letter in enumerate(text) if letter.isalnum())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Straße", "die STRASSE!"),
        ("café", unicodedata.normalize("NFD", "Le Café")),
        ("Ａｐｐｌｅ", "an apple"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("हिन्दी", "यह हिन्दी है"),
        ("don't", "I DON’T"),
        ("Москва", "в МОСКВА."),
    ],
)
def test_forms_of_one_name(name: str, text: str) -> None:
    (mention,) = EntityLinker({name: 1})(text)
    assert fold(text[mention.start : mention.stop]) == fold(name)
    assert mention.stop - mention.start <= len(text.strip("!."))


def test_a_name_of_several_entities() -> None:
    linker = EntityLinker([("Paris", "city"), ("paris", "hero"), ("PARIS", "city")])
    assert linker("to Paris") == [Mention(3, 8, ("city", "hero"))]
    assert len(linker) == 1


def test_a_prefix_that_leads_nowhere_hides_nothing() -> None:
    linker = EntityLinker({"a b c d": 1, "b c": 2, "a": 3})
    assert linker.link(["a", "b", "c", "e"]) == [Mention(0, 1, (3,)), Mention(1, 3, (2,))]


@pytest.mark.parametrize(("name", "error"), [("...", ValueError), ("", ValueError), (3, TypeError)])
def test_names_that_are_none(name: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="EntityLinker: name"):
        EntityLinker([(name, 1)])  # type: ignore[list-item]


TRIPLE = st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 4))


@given(triples=st.lists(TRIPLE, max_size=20), asked=st.lists(st.integers(0, 6), max_size=4), both=st.booleans())
def test_triples_of_entities(triples: list[tuple[int, int, int]], asked: list[int], both: bool) -> None:
    lookup = TripleLookup(triples, both=both)
    assert list(lookup) == list(dict.fromkeys(triples))
    found = lookup.about(asked)
    wanted = {t for t in triples if t[0] in asked or (both and t[2] in asked)}
    assert len(found) == len(set(found)) == len(wanted)
    assert set(found) == wanted
    first = asked[0] if asked else None
    own = [t for t in dict.fromkeys(triples) if t[0] == first or (both and t[2] == first)]
    assert found[: len(own)] == own
    for limit in range(3):
        assert lookup.about(asked, limit) == found[:limit]


def test_lookup_refuses() -> None:
    with pytest.raises(ValueError, match=r"triples is \(1, 2\), needs \(head, relation, tail\)"):
        TripleLookup([(1, 2)])
    with pytest.raises(ValueError, match="triples"):
        TripleLookup(["abc"])
    with pytest.raises(ValueError, match="limit is -1"):
        TripleLookup([]).about([], -1)


@pytest.mark.parametrize(
    ("question", "answer", "facts"),
    [
        ("Who wrote  the Hobbit?", "The Hobbit was written by J. Tolkien.", [("hobbit", "written by", "j. tolkien")]),
        ("what is cytology", "the study of cells.", [("cytology", "is", "the study of cells")]),
        ("What is the national dish of Spain?", "Paella", [("spain", "national dish of", "paella")]),
        ("how far is the moon", "the moon is about 250,000 miles away.", [("moon", "far", "about 250,000 miles away")]),
        ("hi", "Vineland is a novel.", [("vineland", "is", "a novel")]),
        ("what is vineland", "Vineland is a novel.", [("vineland", "is", "a novel")]),
        ("Do you sleep?", "I don't eat hay. I like it.", [(SELF, "i don't eat", "hay"), (SELF, "i like", "it")]),
        ("what is it", "a dog", []),
        ("what is chemistry", "I love chemistry!", [(SELF, "i love", "chemistry")]),
        ("what is chemistry", "what is chemistry?", []),
        ("who are you", "the best.", [(SELF, "is", "the best")]),
        ("hi", "You are the best.", []),
        ("what is the very long name of all things", "42", []),
        ("", "", []),
    ],
)  # fmt: skip
def test_facts_that_are_stated(question: str, answer: str, facts: list[tuple[str, str, str]]) -> None:
    assert stated_facts(question, answer) == facts


def test_a_tail_is_cut() -> None:
    ((_, _, tail),) = stated_facts("what is x1", " ".join(f"w{i}" for i in range(30)))
    assert tail.split() == [f"w{i}" for i in range(16)]


def test_chatterbot_format() -> None:
    pytest.importorskip("yaml")
    text = "categories:\n- tea\nconversations:\n- - 'Tea: now?'\n  - |\n    Yes,\n    please.\n- lost\n  - '1'\n"
    assert parse_chatterbot(text) == [["Tea: now?", "Yes,\nplease.\n"]]
    for wrong in ("conversations: 3", "a: [", "- 1", "conversations:\n- - 5\n", "conversations:\n- []\n"):
        with pytest.raises(DataError, match=r"a file of conversations|each of the conversations"):
            parse_chatterbot(wrong)
