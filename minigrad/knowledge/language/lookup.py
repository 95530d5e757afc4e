"""TripleLookup: the triples that are known of an entity."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

from minigrad.errors import describe, message

__all__ = ["Triple", "TripleLookup"]

Triple = tuple[Hashable, Hashable, Hashable]


class TripleLookup:
    """Triples (head, relation, tail) by the entities that they are about.

    Parameters
    ----------
    triples : iterable of tuple
        (head, relation, tail) each; one that comes again counts once.
    both : bool
        Whether a triple is found by its tail too, not by its head alone.

    Raises
    ------
    ValueError
        If one has not three parts.

    Examples
    --------
    >>> from minigrad.knowledge import TripleLookup
    >>> triples = [("Dune", "is", "a novel"), ("Dune", "written by", "Herbert"), ("Solaris", "is", "a film")]
    >>> lookup = TripleLookup(triples)
    >>> lookup.about(["Solaris", "Dune"], limit=2)
    [('Solaris', 'is', 'a film'), ('Dune', 'is', 'a novel')]
    >>> len(lookup), sorted(lookup.entities)
    (3, ['Dune', 'Solaris'])
    """

    def __init__(self, triples: Iterable[Sequence[Hashable]], *, both: bool = False) -> None:
        self._triples: dict[Triple, None] = {}
        self._about: dict[Hashable, list[Triple]] = {}
        for given in triples:
            if isinstance(given, str) or len(given) != 3:
                raise ValueError(message("TripleLookup", "triples", describe(given), "(head, relation, tail) each"))
            head, relation, tail = given
            triple = (head, relation, tail)
            if triple in self._triples:
                continue
            self._triples[triple] = None
            for entity in (head, tail) if both and tail != head else (head,):
                self._about.setdefault(entity, []).append(triple)

    def __len__(self) -> int:
        """How many triples there are."""
        return len(self._triples)

    def __iter__(self) -> Iterator[Triple]:
        """The triples, in the order in which they came."""
        return iter(self._triples)

    @property
    def entities(self) -> Iterable[Hashable]:
        """Those that something is known of."""
        return self._about.keys()

    def about(self, entities: Iterable[Hashable], limit: int | None = None) -> list[Triple]:
        """The triples of some entities, each once, those of the first entity first; at most `limit`."""
        if isinstance(entities, str):
            got = repr(entities)
            raise TypeError(message("TripleLookup.about", "entities", got, "several entities, such as a list of one"))
        if limit is not None and limit < 0:
            raise ValueError(message("TripleLookup", "limit", limit, "None or a number that is not negative"))
        found: dict[Triple, None] = {}
        for entity in dict.fromkeys(entities):
            found.update(dict.fromkeys(self._about.get(entity, ())))
        return list(found)[:limit]
