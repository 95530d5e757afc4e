"""EntityLinker: finds the entities of a dictionary in a text."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from minigrad.errors import describe, message

__all__ = ["EntityLinker", "Mention", "fold", "words"]

JOINERS = "'’-"  # part of a word between two letters


@dataclass(frozen=True)
class Mention:
    """A place in a text that names an entity.

    Attributes
    ----------
    start, stop : int
        The words ``start, ..., stop - 1``, or the characters, as the method says.
    entities : tuple
        Those that have this name, in the order in which the dictionary gave them.
    """

    start: int
    stop: int
    entities: tuple[Hashable, ...]


class Node:
    """A place in the trie: the words that may follow, and the entities whose name ends here."""

    __slots__ = ("entities", "following")

    def __init__(self) -> None:
        self.following: dict[str, Node] = {}
        self.entities: tuple[Hashable, ...] = ()


class EntityLinker:
    """Find names of a dictionary in texts, word by word: from the left, and at each place the longest one.

    Mentions never overlap. Words are compared without regard to case and to the ways that Unicode has to write one
    letter (NFKC of the case-folded text), so ``"STRASSE"`` finds ``"Straße"``; punctuation between them does not count.
    The names are kept in a trie of words (E. Fredkin, "Trie memory", 1960): a text of n words costs at most
    n times the longest name, however many names there are.

    Parameters
    ----------
    names : mapping or iterable of pairs
        The entity of each name. In pairs a name may come again with another entity: a mention then has both.

    Raises
    ------
    TypeError
        If a name is no text.
    ValueError
        If a name has no word.

    Examples
    --------
    >>> from minigrad.knowledge import EntityLinker
    >>> linker = EntityLinker({"New York": "city", "York": "town", "new york times": "paper"})
    >>> linker("Read the New York Times in YORK!")
    [Mention(start=9, stop=23, entities=('paper',)), Mention(start=27, stop=31, entities=('town',))]
    >>> linker.link(["new", "york", "city"])
    [Mention(start=0, stop=2, entities=('city',))]
    """

    def __init__(self, names: Mapping[str, Hashable] | Iterable[tuple[str, Hashable]]) -> None:
        self._root = Node()
        self._count = 0
        for name, entity in names.items() if isinstance(names, Mapping) else names:
            self.add(name, entity)

    def __len__(self) -> int:
        """How many different names there are."""
        return self._count

    def add(self, name: str, entity: Hashable) -> None:
        """Let a name stand for an entity too."""
        if not isinstance(name, str):
            raise TypeError(message("EntityLinker", "name", describe(name), "a text"))
        parts = [fold(word) for word, _, _ in words(name)]
        if not parts:
            raise ValueError(message("EntityLinker", "name", repr(name), "at least one word: letters or digits"))
        node = self._root
        for part in parts:
            node = node.following.setdefault(part, Node())
        self._count += not node.entities
        if entity not in node.entities:
            node.entities = (*node.entities, entity)

    def link(self, tokens: Sequence[str]) -> list[Mention]:
        """Find mentions in a sequence of words; `start` and `stop` count words."""
        if isinstance(tokens, str):
            hint = "A text is for the linker itself: linker(text)"
            raise TypeError(message("EntityLinker.link", "tokens", describe(tokens), "a sequence of words", hint))
        folded = [fold(token) for token in tokens]
        found, start = [], 0
        while start < len(folded):
            mention = self._longest(folded, start)
            if mention is not None:
                found.append(mention)
            start = start + 1 if mention is None else mention.stop
        return found

    def __call__(self, text: str) -> list[Mention]:
        """Find mentions in a text; `start` and `stop` count its characters."""
        places = words(text)
        found = self.link([word for word, _, _ in places])
        return [Mention(places[m.start][1], places[m.stop - 1][2], m.entities) for m in found]

    def _longest(self, folded: Sequence[str], start: int) -> Mention | None:
        node, found = self._root, None
        for i in range(start, len(folded)):
            following = node.following.get(folded[i])
            if following is None:
                break
            node = following
            if node.entities:
                found = Mention(start, i + 1, node.entities)
        return found


def fold(word: str) -> str:
    """A word without the differences that do not count: case, compatibility forms, and the kind of apostrophe.

    Examples
    --------
    >>> from minigrad.knowledge.language.linking import fold
    >>> fold("Straße"), fold("ﬁx"), fold("don’t")
    ('strasse', 'fix', "don't")
    """
    # the Unicode standard's caseless matching, D146: case folding may leave forms that have to be composed again
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
    return folded.casefold().replace("’", "'")


def words(text: str) -> list[tuple[str, int, int]]:
    """The words of a text, each with its first character and the one behind its last.

    A word is a run of letters with their marks, digits and underscores, of any script; apostrophes and hyphens count
    inside of it.

    Examples
    --------
    >>> from minigrad.knowledge import words
    >>> words("Who's there? No-one.")
    [("Who's", 0, 5), ('there', 6, 11), ('No-one', 13, 19)]
    """
    found, start = [], None
    for i, letter in enumerate(text):
        inside = _is_letter(letter) or (letter in JOINERS and start is not None and _is_letter(text[i + 1 : i + 2]))
        if inside and start is None:
            start = i
        elif not inside and start is not None:
            found.append((text[start:i], start, i))
            start = None
    return found if start is None else [*found, (text[start:], start, len(text))]


def _is_letter(text: str) -> bool:
    # re's \w leaves the marks out that Indic scripts and decomposed letters are made of
    return text == "_" or (text != "" and unicodedata.category(text)[0] in "LMN")
