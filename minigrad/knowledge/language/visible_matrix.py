"""SentenceTree: a sentence with facts as branches, laid out flat with soft positions and a visible matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.nn.checks import integer
from minigrad.tensor import Tensor

__all__ = ["Branch", "SentenceTree", "pad_trees", "sentence_tree"]

Array = np.ndarray[Any, Any]
Branch = tuple[int, int, Sequence[Any]]


@dataclass(frozen=True)
class SentenceTree:
    """A sentence and its branches, one after the other.

    Attributes
    ----------
    tokens : tuple
        Those of the sentence, with each branch behind the entity that it hangs on.
    positions : numpy.ndarray
        (length,) integers, the soft positions.
    visible : numpy.ndarray
        (length, length) bools, True where a token attends another.
    branch : numpy.ndarray
        (length,) integers: the branch that a token is of, -1 for the sentence itself.
    """

    tokens: tuple[Any, ...]
    positions: Array
    visible: Array
    branch: Array

    def __len__(self) -> int:
        """How many tokens there are, those of branches too."""
        return len(self.tokens)


def sentence_tree(tokens: Sequence[Any], branches: Iterable[Branch] = ()) -> SentenceTree:
    """Hang facts on the entities of a sentence, and lay the tree out flat.

    The tokens of a branch stand behind their entity, and their positions go on from its last token, as if the sentence
    ended there; the sentence's own positions are those that it has without branches. Tokens of the sentence see one
    another; a branch sees itself and its entity, and is seen by these alone. W. Liu et al., "K-BERT: enabling language
    representation with knowledge graph", 2020.

    Parameters
    ----------
    tokens : sequence
        The tokens of the sentence: ids, or words.
    branches : iterable of tuple
        ``(start, stop, tokens)`` each: the entity is ``tokens[start:stop]`` of the sentence, and relation and tail of
        the fact are the tokens of the branch. Several may hang on one entity; they keep their order.

    Returns
    -------
    SentenceTree

    Raises
    ------
    IndexError
        If the sentence has no such place.
    ShapeError
        If a branch has no token.
    TypeError
        If a place is not of ints, or a branch's tokens are one text.

    Examples
    --------
    >>> from minigrad.knowledge import sentence_tree
    >>> facts = [(0, 2, ["CEO", "Apple"]), (3, 4, ["capital", "China"])]
    >>> tree = sentence_tree(["Tim", "Cook", "visits", "Beijing"], facts)
    >>> tree.tokens
    ('Tim', 'Cook', 'CEO', 'Apple', 'visits', 'Beijing', 'capital', 'China')
    >>> tree.positions.tolist()
    [0, 1, 2, 3, 2, 3, 4, 5]
    >>> tree.visible[2].astype(int).tolist()
    [1, 1, 1, 1, 0, 0, 0, 0]
    """
    given = tuple(tokens)
    hanging: dict[int, list[tuple[int, int, int, tuple[Any, ...]]]] = {}
    for number, branch in enumerate(branches):
        start, stop, part = branch
        start, stop = (integer("sentence_tree", "branches", end) for end in (start, stop))
        if isinstance(part, str):
            raise TypeError(message("sentence_tree", "branches", repr(part), "a sequence of tokens, not one text"))
        if not 0 <= start < stop <= len(given):
            need = f"0 <= start < stop <= {len(given)}, a place in the sentence"
            raise IndexError(message("sentence_tree", "branches", f"({start}, {stop}, ...) in one place", need))
        if not len(part):
            raise ShapeError(message("sentence_tree", "branches", describe(branch), "at least one token in each"))
        hanging.setdefault(stop - 1, []).append((number, start, stop, tuple(part)))
    flat: list[Any] = []
    positions: list[int] = []
    owner: list[int] = []
    entities: dict[int, tuple[int, int]] = {}
    for i, token in enumerate(given):
        flat.append(token)
        positions.append(i)
        owner.append(-1)
        for number, start, stop, part in hanging.get(i, ()):
            flat.extend(part)
            positions.extend(range(i + 1, i + 1 + len(part)))
            owner.extend([number] * len(part))
            entities[number] = start, stop
    branch_of, place = np.array(owner, np.int64), np.array(positions, np.int64)
    visible = branch_of[:, None] == branch_of
    for number, (start, stop) in entities.items():
        named = (branch_of == -1) & (place >= start) & (place < stop)
        pair = np.outer(named, branch_of == number)
        visible |= pair | pair.T
    return SentenceTree(tuple(flat), place, visible, branch_of)


def pad_trees(trees: Sequence[SentenceTree], padding_id: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Put trees, whose tokens are ids, into one batch.

    Parameters
    ----------
    trees : sequence of SentenceTree
        The trees.
    padding_id : int
        What fills the shorter ones up.

    Returns
    -------
    tuple of Tensor
        Ids (batch, length), soft positions (batch, length), and the mask (batch, 1, length, length): True = attend,
        the same for all heads. Padding attends nothing, and nothing attends it.

    Raises
    ------
    ShapeError
        If there is no tree, or no token.
    DTypeError
        If tokens are not ids.

    Examples
    --------
    >>> from minigrad.knowledge import pad_trees, sentence_tree
    >>> ids, positions, visible = pad_trees([sentence_tree([5, 6], [(0, 1, [8, 9])]), sentence_tree([7])])
    >>> ids.tolist(), positions.tolist(), visible.shape
    ([[5, 8, 9, 6], [7, 0, 0, 0]], [[0, 1, 2, 1], [0, 0, 0, 0]], (2, 1, 4, 4))
    """
    longest = max(map(len, trees), default=0)
    if not longest:
        raise ShapeError(message("pad_trees", "trees", f"{len(trees)} trees without a token", "at least one token"))
    ids = np.full((len(trees), longest), padding_id, np.int64)
    positions = np.zeros_like(ids)
    visible = np.zeros((len(trees), 1, longest, longest), np.bool_)
    for i, tree in enumerate(trees):
        n = len(tree)
        given = np.asarray(tree.tokens)
        if n and given.dtype.kind not in "iu":
            raise DTypeError(message("pad_trees", "trees", f"with {describe(given)} as tokens", "ids, which are ints"))
        ids[i, :n], positions[i, :n], visible[i, 0, :n, :n] = tree.tokens, tree.positions, tree.visible
    return ops.asarray(ids), ops.asarray(positions), ops.asarray(visible)
