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
from minigrad.knowledge.graphs.triples import Names, TripleSet, decoded, parse_lines, read_text

__all__ = ["Graph", "load_graph", "read_graph"]

PACKAGE = "pykeen==1.11.1"
PARTS = ("train", "valid", "test")
SUMS = {
    "kinships": {
        "train": "738612111a6acf0e39662bde24c7e72a4d1edf20931beea077da367dda689731",
        "valid": "c56f8630a583178b1e569f11a64aa535ae1ce0b0912d8b1e24716be2b37f04da",
        "test": "05e5733265761d55be9c05bfaff5a8d0808df46f9c1e9d66cc3f2fe114e43d88",
    },
    "nations": {
        "train": "0830fa9da8e5bba2ccdaa45b7bdc9130451ba66b09ff2708f35fccaf82473e57",
        "valid": "2b337a62e51a2f45c283eac98a70d21b7e0e102136be1539b2a52c652a7b0530",
        "test": "3971085165b47b6aeaec68058c6d8d98b3005e929db81268410b95ae4db770ab",
    },
    "umls": {
        "train": "873ef4925516b83e7f6f8cc02b4be51d848828710a7f65a956f0ac4a9e452f35",
        "valid": "025c98f8a4891e2a6582ec5b40ee0d904031edad9c52554522f4b7904820c98e",
        "test": "a7eb529a3d2810fcc96341ccc97c625a5e202f8389673aa6bd317eeebbb79014",
    },
}


@dataclasses.dataclass(frozen=True)
class Graph:
    """Three sets of triples with the names in common.

    Parameters
    ----------
    train, valid, test : TripleSet
        To learn from, to choose by, and to report.

    Raises
    ------
    ValueError
        The names differ.

    Examples
    --------
    >>> from minigrad.knowledge import Graph, TripleSet
    >>> Graph(*(TripleSet([[0, 0, tail]], 4, 1) for tail in (1, 2, 3)))
    Graph(4 entities, 1 relations, 1 + 1 + 1 triples)
    """

    train: TripleSet
    valid: TripleSet
    test: TripleSet

    def __post_init__(self) -> None:
        for name in ("valid", "test"):
            part = getattr(self, name)
            if part.entities != self.train.entities or part.relations != self.train.relations:
                raise ValueError(message("Graph", name, repr(part), "the names of train, in its order"))

    def __repr__(self) -> str:
        parts = " + ".join(str(len(part)) for part in (self.train, self.valid, self.test))
        return f"Graph({len(self.entities)} entities, {len(self.relations)} relations, {parts} triples)"

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

    In an archive they may lie in any folder, each once; nothing is unpacked to disk. The names are those that occur in
    any of the files, sorted.

    Parameters
    ----------
    path : path-like
        The folder or archive.
    delimiter : str
        What stands between the names of a line.

    Returns
    -------
    Graph

    Raises
    ------
    DataError
        A file is missing, damaged, no UTF-8, twice in an archive, or has no triples; or a line has not three names;
        with its number.

    Examples
    --------
    >>> from minigrad import knowledge
    >>> knowledge.read_graph("FB15k-237.tar.gz")  # doctest: +SKIP
    Graph(14541 entities, 237 relations, 272115 + 17535 + 20466 triples)
    """
    where = os.fspath(path)
    try:
        texts = _from_folder(where) if os.path.isdir(path) else _from_archive(where)
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
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
    """Load one of three small graphs, which come in the package pykeen (MIT); nothing of it runs.

    They come from the cache, the installed package, or its wheel, fetched by pip; the files are checked against their
    SHA-256 sums and kept in the cache folder.

    Parameters
    ----------
    name : str
        ``"umls"``, medical concepts (135 entities, 46 relations); ``"kinships"``, who calls whom what among the
        Alyawarra (104, 25); ``"nations"``, what countries did to each other (14, 55).

    Returns
    -------
    Graph

    Raises
    ------
    ValueError
        There is none of that name.
    DataError
        Every source failed: the text says for each what went wrong.

    Examples
    --------
    >>> from minigrad import knowledge
    >>> knowledge.load_graph("umls")  # doctest: +SKIP
    Graph(135 entities, 46 relations, 5216 + 652 + 661 triples)
    """
    if name not in SUMS:
        hint = "read_graph reads folders and archives"
        raise ValueError(message("load_graph", "name", repr(name), f"one of {', '.join(SUMS)}", hint))
    files = {f"pykeen/datasets/{name}/{part}.txt": digest for part, digest in SUMS[name].items()}
    texts = {}
    for file, place in package_files(PACKAGE, files).items():
        with open(place, encoding="utf-8") as opened:
            texts[os.path.basename(file).removesuffix(".txt")] = opened.read()
    return parse_graph(texts, name)


def _from_folder(where: str) -> dict[str, str]:
    texts = {}
    for part in PARTS:
        file = os.path.join(where, f"{part}.txt")
        texts[part] = read_text(file)
    return texts


def _from_archive(where: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    places: dict[str, str] = {}
    with tarfile.open(where) as archive:
        for member in archive:
            part, _, ending = os.path.basename(member.name).partition(".")
            if part in PARTS and ending == "txt" and member.isfile():
                place = os.path.normpath(member.name)
                if places.setdefault(part, place) != place:
                    got = f"{where} with {places[part]} and {place}"
                    raise DataError(message("read_graph", "path", got, f"one {part}.txt in the archive"))
                file: Any = archive.extractfile(member)
                texts[part] = decoded(file.read(), f"{where}/{place}")
    missing = [f"{part}.txt" for part in PARTS if part not in texts]
    if missing:
        raise DataError(message("read_graph", "path", where, f"{', '.join(missing)} in the archive"))
    return texts
