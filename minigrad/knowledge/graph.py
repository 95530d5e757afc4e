"""Graph: the facts to train, to validate and to test with, of one set of names; read from files or from a package."""

from __future__ import annotations

import dataclasses
import os
import tarfile
import zlib
from collections.abc import Mapping
from typing import Any

from minigrad.data.download import DataError
from minigrad.data.packages import package_files
from minigrad.errors import message
from minigrad.knowledge.triples import Names, TripleSet, parse_lines

__all__ = ["Graph", "load_graph", "read_graph"]

PACKAGE = "pykeen==1.11.1"
PARTS = ("train", "valid", "test")
SUMS = {}


@dataclasses.dataclass(frozen=True)
class Graph:
    """Three sets of triples with the names in common.

    Parameters
    ----------
    train, valid, test : TripleSet
    """

    train: TripleSet
    valid: TripleSet
    test: TripleSet

    @property
    def entities(self) -> Names:
        """The names of the entities."""
        return self.train.entities

    @property
    def relations(self) -> Names:
        """The names of the relations."""
        return self.train.relations

    @property
    def known(self) -> TripleSet:
        """All that is known to be true: what a filtered evaluation leaves out."""
        return self.train.union(self.valid, self.test)


def read_graph(path: str | os.PathLike[str], *, delimiter: str = "\t") -> Graph:
    """Read ``train.txt``, ``valid.txt`` and ``test.txt`` from a folder or an archive (.tar, .tar.gz, ...).

    The names are those that occur in any of the files, sorted.
    """
    where = os.fspath(path)
    try:
        texts = _from_folder(where) if os.path.isdir(path) else _from_archive(where)
    except (OSError, EOFError, tarfile.TarError, zlib.error, UnicodeDecodeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    return parse_graph(texts, where, delimiter=delimiter)


def parse_graph(texts: Mapping[str, str], where: str, *, delimiter: str = "\t") -> Graph:
    """Make a graph of the texts of three files."""
    rows = {part: [row for _, row in parse_lines(texts[part], f"{where}/{part}.txt", delimiter)] for part in PARTS}
    for part, found in rows.items():
        if not found:
            raise DataError(f"{where}/{part}.txt: has no triples")
    every = [row for found in rows.values() for row in found]
    entities = Names(sorted({name for h, _, t in every for name in (h, t)}), "entity")
    relations = Names(sorted({name for _, name, _ in every}), "relation")
    return Graph(*(TripleSet.from_names(rows[part], entities, relations) for part in PARTS))


def load_graph(name: str) -> Graph:
    """Load a small graph that comes in a package."""
    raise NotImplementedError


def _from_folder(where: str) -> dict[str, str]:
    texts = {}
    for part in PARTS:
        with open(os.path.join(where, f"{part}.txt"), encoding="utf-8-sig") as file:
            texts[part] = file.read()
    return texts


def _from_archive(where: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    with tarfile.open(where) as archive:
        for member in archive:
            part, _, ending = os.path.basename(member.name).partition(".")
            if part in PARTS and ending == "txt" and member.isfile():
                file: Any = archive.extractfile(member)
                texts[part] = file.read().decode("utf-8-sig")
    missing = [f"{part}.txt" for part in PARTS if part not in texts]
    if missing:
        raise DataError(message("read_graph", "path", where, f"{', '.join(missing)} in the archive"))
    return texts
