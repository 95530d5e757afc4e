"""Tokenizers of our own: bytes, and characters. For others there is the library `tokenizers`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from minigrad.data.download import DataError
from minigrad.errors import message

__all__ = ["ByteTokenizer", "CharacterTokenizer"]

Ids = np.ndarray[Any, np.dtype[np.int64]]


class ByteTokenizer:
    """A token for each of the 256 bytes of UTF-8: every text has its tokens, and nothing is learned.

    Examples
    --------
    >>> from minigrad.models import ByteTokenizer
    >>> ids = ByteTokenizer().encode("né")
    >>> ids, ByteTokenizer().decode(ids)
    (array([110, 195, 169]), 'né')
    """

    vocab_size = 256

    def encode(self, text: str) -> Ids:
        """The tokens of a text."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8, such as a part of a character, become U+FFFD.

        Raises
        ------
        ValueError
            If an id is no byte.
        """
        return bytes(_checked(ids, 256).astype(np.uint8)).decode("utf-8", errors="replace")


class CharacterTokenizer:
    """A token for each character of an alphabet, and before them those of special texts.

    Parameters
    ----------
    characters : iterable of str
        The alphabet, in the order of the ids.
    specials : sequence of str
        Names such as ``"<end>"``: the first ids. They come from `id` alone, and are left out of a decoded text.

    Raises
    ------
    ValueError
        If a character or a name is there twice, or an entry is no single character.

    Examples
    --------
    >>> from minigrad.models import CharacterTokenizer
    >>> tokenizer = CharacterTokenizer.from_text("banana", specials=["<end>"])
    >>> ids = tokenizer.encode("nab")
    >>> ids, tokenizer.decode([*ids, tokenizer.id("<end>")]), tokenizer.vocab_size
    (array([3, 1, 2]), 'nab', 4)
    """

    def __init__(self, characters: Iterable[str], *, specials: Sequence[str] = ()) -> None:
        self.characters, self.specials = tuple(characters), tuple(specials)
        for c in self.characters:
            if len(c) != 1:
                raise ValueError(message("CharacterTokenizer", "characters", repr(c), "single characters"))
        entries = (*self.specials, *self.characters)
        if len(set(entries)) != len(entries):
            twice = next(e for i, e in enumerate(entries) if e in entries[:i])
            raise ValueError(message("CharacterTokenizer", "characters", f"{twice!r} twice", "each entry once"))
        self._special = {name: i for i, name in enumerate(self.specials)}
        points = np.array([ord(c) for c in self.characters], np.int64)
        order = np.argsort(points)
        self._points, self._ids = points[order], order + len(self.specials)

    @classmethod
    def from_text(cls, text: str, *, specials: Sequence[str] = ()) -> Self:
        """The alphabet of a text, sorted."""
        return cls(sorted(set(text)), specials=specials)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.specials) + len(self.characters)

    def id(self, special: str) -> int:
        """The token of a special text."""
        if special not in self._special:
            need = f"one of {', '.join(map(repr, self.specials)) or 'none, as there are no specials'}"
            raise ValueError(message("CharacterTokenizer", "special", repr(special), need))
        return self._special[special]

    def encode(self, text: str) -> Ids:
        """The tokens of a text.

        Raises
        ------
        ValueError
            If a character is not in the alphabet.
        """
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
        places = np.minimum(np.searchsorted(self._points, points), max(len(self._points) - 1, 0))
        known = self._points[places] == points if len(self._points) else np.zeros(len(points), np.bool_)
        if not known.all():
            unknown = "".join(dict.fromkeys(text[i] for i in np.flatnonzero(~known)[:1000]))[:10]
            need = f"characters of the alphabet ({len(self.characters)})"
            raise ValueError(message("CharacterTokenizer", "text", f"with {unknown!r}", need))
        return self._ids[places] if len(points) else points

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens, without the special ones.

        Raises
        ------
        ValueError
            If an id is no token.
        """
        first = len(self.specials)
        return "".join(self.characters[i - first] for i in _checked(ids, self.vocab_size).tolist() if i >= first)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the alphabet as JSON."""
        held = {"type": "characters", "characters": list(self.characters), "specials": list(self.specials)}
        Path(path).write_text(json.dumps(held), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            If the file holds something else.
        """
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            if held["type"] != "characters":
                raise ValueError(f"of type {held['type']!r}")
            return cls(held["characters"], specials=held["specials"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                message("CharacterTokenizer", str(path), f"malformed ({error})", "what save wrote")
            ) from error


def _checked(ids: Iterable[int], count: int) -> Ids:
    """Ids as an array, all of them tokens."""
    found = np.asarray(ids.tolist() if hasattr(ids, "tolist") else list(ids))
    if not found.size:
        return np.zeros(0, np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= count:
        raise ValueError(message("decode", "ids", ids, f"a flat list of integers from 0 to {count - 1}"))
    return found.astype(np.int64)
