"""TripleSet: facts of a graph as ids, with the names that the ids stand for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from minigrad.data.download import DataError
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.knowledge.graphs.ids import as_ids
from minigrad.tensor import Tensor

__all__ = ["Names", "TripleSet"]

Array = np.ndarray[Any, Any]


class Names(Sequence[str]):
    """Names of entities or relations, and the id of each: its place.

    Parameters
    ----------
    names : iterable of str
        Each once.
    what : str
        What they name, for errors.

    Raises
    ------
    TypeError
        A name is no text, or the names are one text.
    ValueError
        A name occurs twice.

    Examples
    --------
    >>> from minigrad.knowledge import Names
    >>> cities = Names(["Bern", "Oslo"], "city")
    >>> cities[1], cities.id("Oslo")
    ('Oslo', 1)
    """

    def __init__(self, names: Iterable[str], what: str = "name") -> None:
        if isinstance(names, str):
            raise TypeError(message("Names", "names", repr(names), "several names, not one text"))
        self.names, self.what = tuple(names), what
        given: tuple[Any, ...] = self.names
        wrong = next((name for name in given if not isinstance(name, str)), "")
        if wrong != "":
            raise TypeError(message("Names", "names", f"{wrong!r} in one place", "texts"))
        self.ids = {name: i for i, name in enumerate(self.names)}
        if len(self.ids) < len(self.names):
            twice = next(name for i, name in enumerate(self.names) if self.ids[name] != i)
            raise ValueError(message("Names", "names", f"{twice!r} twice", "each name once"))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return self.names[index]

    def __contains__(self, name: object) -> bool:
        return name in self.ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:3])
        return f"Names({len(self)}: {shown}{', ...' if len(self) > 3 else ''})"

    def id(self, name: Any) -> int:
        """The id of a name; an id is checked, and given back as it is.

        Raises
        ------
        KeyError
            Nothing has that name; the text says what is alike.
        IndexError
            There is no such id.
        """
        if isinstance(name, str):
            if name not in self.ids:
                import difflib

                close = difflib.get_close_matches(name, self.names, 3)
                hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else ""
                raise KeyError(message(self.what, "name", repr(name), f"one of the {len(self)} known names", hint))
            return self.ids[name]
        if isinstance(name, bool) or not isinstance(name, (int, np.integer)):
            raise TypeError(message(self.what, "name", describe(name), "a name or an id"))
        if not 0 <= name < len(self):
            raise IndexError(message(self.what, "id", f"{name}", f"an id in [0, {len(self)})"))
        return int(name)


class TripleSet(Sequence[tuple[str, str, str]]):
    """Facts ``(head, relation, tail)``: rows of ids, and names. As a sequence it gives the names of each.

    Parameters
    ----------
    triples : array_like of int
        ``(n, 3)``; it may be empty.
    entities, relations : Names, iterable of str, or int
        The names, or how many there are; those are named by their numbers.

    Attributes
    ----------
    triples : numpy.ndarray
        int64 ``(n, 3)``, read-only.
    entities, relations : Names

    Raises
    ------
    ShapeError
        `triples` has not three columns.
    DTypeError
        They are not integers.
    IndexError
        An id has no name.

    Examples
    --------
    >>> from minigrad.knowledge import TripleSet
    >>> facts = TripleSet([[0, 0, 1]], ["Bern", "Switzerland"], ["capital of"])
    >>> facts[0], len(facts), facts.contains([[1, 0, 0], [0, 0, 1]])
    (('Bern', 'capital of', 'Switzerland'), 1, array([False,  True]))
    """

    def __init__(self, triples: Any, entities: Any, relations: Any) -> None:
        self.entities, self.relations = _names(entities, "entity"), _names(relations, "relation")
        found = np.array(triples.detach().to("cpu").numpy() if isinstance(triples, Tensor) else triples)
        if found.size == 0 and found.ndim < 3:
            found = np.empty((0, 3), np.int64)
        if found.ndim != 2 or found.shape[1] != 3:
            raise ShapeError(message("TripleSet", "triples", found, "3 columns: head, relation, tail"))
        if found.dtype.kind not in "iu":
            raise DTypeError(message("TripleSet", "triples", found, "integers", "TripleSet.from_names takes names"))
        for column, (what, names) in enumerate(
            (("head", self.entities), ("relation", self.relations), ("tail", self.entities))
        ):
            wrong = (found[:, column] < 0) | (found[:, column] >= len(names))
            if wrong.any():
                row = int(np.argmax(wrong))
                got = f"{found[row, column]} in row {row}"
                raise IndexError(message("TripleSet", what, got, f"an id in [0, {len(names)})"))
        self.triples: Array = found.astype(np.int64)
        self.triples.flags.writeable = False
        self._keys: Array | None = None

    @classmethod
    def from_names(
        cls,
        rows: Iterable[Sequence[str]],
        entities: Iterable[str] | None = None,
        relations: Iterable[str] | None = None,
    ) -> Self:
        """Make a set of triples of names.

        Parameters
        ----------
        rows : iterable of sequence of str
            Head, relation, tail.
        entities, relations : iterable of str, optional
            The names, in the order of their ids; by default all that occur, sorted.

        Raises
        ------
        KeyError
            A name is not among those given.
        TypeError
            A name is no text.

        Examples
        --------
        >>> from minigrad.knowledge import TripleSet
        >>> TripleSet.from_names([("b", "r", "a"), ("a", "r", "c")]).triples.tolist()
        [[1, 0, 0], [0, 0, 2]]
        """
        known = list(rows)
        wrong = next((row for row in known if isinstance(row, str) or len(row) != 3), None)
        if wrong is not None:
            raise ShapeError(message("TripleSet.from_names", "rows", describe(wrong), "three names in each"))
        e = _names(
            {x for h, _, t in known for x in (h, t)} if entities is None else entities, "entity", entities is None
        )
        r = _names({x for _, x, _ in known} if relations is None else relations, "relation", relations is None)
        return cls([(e.id(h), r.id(x), e.id(t)) for h, x, t in known], e, r)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        entities: Iterable[str] | None = None,
        relations: Iterable[str] | None = None,
        *,
        delimiter: str = "\t",
    ) -> Self:
        r"""Read a file of triples: a line each, head, relation and tail with tabs between.

        Parameters
        ----------
        path : path-like
            UTF-8.
        entities, relations : iterable of str, optional
            As for `from_names`.
        delimiter : str
            What stands between names.

        Raises
        ------
        DataError
            The file is missing or has no triples, a line has not three names, or a name is unknown; with its number.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from minigrad.knowledge import TripleSet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "facts.tsv")
        ...     _ = path.write_text("Bern\tcapital of\tSwitzerland\n")
        ...     TripleSet.read(path)
        TripleSet(1 triples, 2 entities, 1 relations)
        """
        where = os.fspath(path)
        return cls.parse(read_text(path), entities, relations, where=where, delimiter=delimiter)

    @classmethod
    def parse(
        cls,
        text: str,
        entities: Iterable[str] | None = None,
        relations: Iterable[str] | None = None,
        *,
        where: str = "text",
        delimiter: str = "\t",
    ) -> Self:
        r"""Read the text of such a file; `where` names it in errors.

        Examples
        --------
        >>> from minigrad.knowledge import TripleSet
        >>> TripleSet.parse("a\tlikes\tb\nb\tlikes\tc\n")[1]
        ('b', 'likes', 'c')
        """
        rows = list(parse_lines(text, where, delimiter))
        if not rows:
            raise DataError(f"{where}: has no triples")
        e = _names(entities, "entity") if entities is not None else None
        r = _names(relations, "relation") if relations is not None else None
        for line, row in rows:
            for what, name, names in (("head", row[0], e), ("relation", row[1], r), ("tail", row[2], e)):
                if names is not None and name not in names:
                    raise DataError(
                        f"{where}, line {line}: the {what} is {name!r}, which is not among the {len(names)} names"
                    )
        return cls.from_names((row for _, row in rows), e, r)

    def __len__(self) -> int:
        return len(self.triples)

    def __getitem__(self, index: Any) -> Any:
        """The names of a triple; of a slice, those of each."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        h, r, t = self.triples[index]
        return self.entities[h], self.relations[r], self.entities[t]

    def __repr__(self) -> str:
        return f"TripleSet({len(self)} triples, {len(self.entities)} entities, {len(self.relations)} relations)"

    def keys(self, triples: Any) -> Array:
        """One number for each row of ids, in the order of (head, relation, tail)."""
        n, m = len(self.entities), len(self.relations)
        if n * n * m > np.iinfo(np.int64).max:
            raise ValueError(
                message("TripleSet", "entities", f"{n} with {m} relations", "fewer than 2**63 possible facts")
            )
        found = as_ids("TripleSet", "triples", triples)
        if not found.size and found.ndim < 2:
            found = found.reshape(0, 3)
        if not found.ndim or found.shape[-1] != 3:
            raise ShapeError(message("TripleSet", "triples", found, "3 columns: head, relation, tail"))
        made: Array = (found[..., 0] * m + found[..., 1]) * n + found[..., 2]
        return made

    def contains(self, triples: Any) -> Array:
        """Which rows of ids, ``(..., 3)``, are in the set; one with an id that has no name is not."""
        triples = as_ids("TripleSet", "triples", triples)
        if self._keys is None:
            self._keys = np.unique(self.keys(self.triples))
        wanted = self.keys(triples)
        if not self._keys.size:
            return np.zeros(wanted.shape, bool)
        at = np.minimum(np.searchsorted(self._keys, wanted), self._keys.size - 1)
        # an id out of range has the key of another triple
        n, m = len(self.entities), len(self.relations)
        named = ((triples >= 0) & (triples < (n, m, n))).all(axis=-1) if triples.size else True
        found: Array = (self._keys[at] == wanted) & named
        return found

    def union(self, *others: TripleSet) -> TripleSet:
        """All triples of sets with the same names, each once, sorted.

        Raises
        ------
        ValueError
            The names differ.
        """
        for other in others:
            if other.entities != self.entities or other.relations != self.relations:
                raise ValueError(
                    message("TripleSet.union", "others", repr(other), "the names of this set, in its order")
                )
        keys = np.unique(np.concatenate([self.keys(each.triples) for each in (self, *others)]))
        rest, t = np.divmod(keys, max(1, len(self.entities)))
        h, r = np.divmod(rest, max(1, len(self.relations)))
        return TripleSet(np.stack([h, r, t], axis=1), self.entities, self.relations)


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file."""
    where = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    return decoded(data, where)


def decoded(data: bytes, where: str) -> str:
    """The text of bytes in UTF-8, with the ends of lines of any system."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}, line {line}: is not UTF-8 ({error.reason})") from error


def parse_lines(text: str, where: str, delimiter: str = "\t") -> Iterator[tuple[int, tuple[str, str, str]]]:
    """The number of each line that is not empty, and its three names."""
    if not delimiter:
        raise ValueError(message("TripleSet", "delimiter", "empty", "what stands between the names of a line"))
    for number, line in enumerate(text.split("\n"), 1):
        fields = [field.strip() for field in line.rstrip("\r").split(delimiter)]
        if fields == [""]:
            continue
        if len(fields) != 3:
            raise DataError(f"{where}, line {number}: has {len(fields)} fields, needs 3: head, relation, tail")
        if not all(fields):
            what = ("head", "relation", "tail")[fields.index("")]
            raise DataError(f"{where}, line {number}: the {what} is empty, needs a name")
        yield number, (fields[0], fields[1], fields[2])


def _names(given: Any, what: str, order: bool = False) -> Names:
    if isinstance(given, Names):
        return given
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool) and given >= 0:
        return Names(map(str, range(int(given))), what)
    if not isinstance(given, Iterable):
        raise TypeError(message("TripleSet", what, describe(given), "names, or how many there are"))
    return Names(sorted(given) if order else given, what)
