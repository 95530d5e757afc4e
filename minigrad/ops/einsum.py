"""einsum: sums of products by index notation, brought down to matmul."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.ops.registry import Array, op, promote
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["einsum"]

Label = str | int  # a letter, or the place from the right of an axis that an ellipsis stands for
Term = tuple[Label, ...]


def einsum(subscripts: str, *operands: Tensor) -> Tensor:
    """Sum of products after Einstein's convention.

    Every axis has a letter. Operands are multiplied where letters meet, and summed over the letters that the output
    lacks. Pairs of operands are contracted by :func:`matmul`, the pair that shrinks the data most first, so gradients
    of any order and the speed are those of matmul.

    Parameters
    ----------
    subscripts : str
        ``"ij,jk->ik"``: the letters of each operand, and of the output. Without ``->`` the output has the letters that
        occur once, in alphabetical order. ``...`` stands for any number of axes, which broadcast. A letter twice in one
        operand takes the diagonal. Axes of extent 1 broadcast.
    *operands : Tensor
        As many as there are terms.

    Returns
    -------
    Tensor
        With the axes of the output; a view where nothing has to be computed.

    Raises
    ------
    ShapeError
        If the subscripts cannot be read or do not fit the operands.

    Examples
    --------
    >>> import minigrad as mg
    >>> x = mg.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> mg.einsum("ij,kj->ik", x, x)
    tensor([[ 5., 11.],
            [11., 25.]])
    >>> mg.einsum("ii", x)
    tensor(5.)
    """
    if not isinstance(subscripts, str):
        raise DTypeError(message("einsum", "subscripts", subscripts, "a str such as 'ij,jk->ik' before the operands"))
    if not operands:
        raise ShapeError(message("einsum", "operands", "empty", "at least one"))
    return _einsum(*operands, subscripts=subscripts)


@op(dtype=promote.but(kinds=dtypes.ALL - dtypes.BOOL), view=True, needs="subscripts that fit the operands")
def _einsum(xp: Any, *operands: Array, subscripts: str) -> Array:
    terms, output = parse(subscripts, tuple(x.ndim for x in operands))
    extents = _extents(subscripts, terms, [x.shape for x in operands])
    todo = [_simplify(xp, x, term, extents) for x, term in zip(operands, terms, strict=True)]
    while len(todo) > 1:
        i, j = _cheapest([term for _, term in todo], output, extents)
        y, x = todo.pop(j), todo.pop(i)
        keep = set(output).union(*(term for _, term in todo))
        todo.append(_contract(xp, *x, *y, keep, extents))
    x, term = _sum_out(xp, *todo[0], set(output))
    return _arrange(xp, x, term, output)


@lru_cache(maxsize=1024)
def parse(subscripts: str, ndims: tuple[int, ...]) -> tuple[tuple[Term, ...], Term]:
    """The labels of the axes of each operand and of the output."""
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ndims):
        raise _unreadable(subscripts, f"{len(ndims)} terms for {len(ndims)} operands")
    terms = tuple(_term(subscripts, part, n) for part, n in zip(parts, ndims, strict=True))
    dots = -min((label for term in terms for label in term if isinstance(label, int)), default=0)
    letters = [label for term in terms for label in term if isinstance(label, str)]
    if not arrow:
        once = sorted(label for label in set(letters) if letters.count(label) == 1)
        return terms, (*range(-dots, 0), *once)
    if dots and "..." not in right:
        raise _unreadable(subscripts, "... in the output too, for the axes that it stands for")
    output = _term(subscripts, right, dots + len(right.replace("...", "")))
    for label in output:
        if output.count(label) > 1 or (isinstance(label, str) and label not in letters):
            raise _unreadable(subscripts, f"{label!r} once in the output and in some operand")
    return terms, output


def _term(subscripts: str, part: str, ndim: int) -> Term:
    """The labels of one operand; the axes of an ellipsis are numbered from the right: ..., -2, -1."""
    before, ellipsis, after = part.partition("...")
    named = len(before) + len(after)
    if not all(c.isascii() and c.isalpha() for c in before + after):
        raise _unreadable(subscripts, "letters, commas, one -> and at most one ... a term")
    if named > ndim or (named < ndim and not ellipsis):
        raise _unreadable(subscripts, f"one letter for each of the {ndim} axes where it says {part!r}")
    return (*before, *range(named - ndim, 0), *after)


def _unreadable(subscripts: str, need: str) -> ShapeError:
    return ShapeError(message("einsum", "subscripts", repr(subscripts), need))


def _extents(subscripts: str, terms: tuple[Term, ...], shapes: list[tuple[int, ...]]) -> dict[Label, int]:
    """The extent of each label; 1 gives way to any other."""
    extents: dict[Label, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        own: dict[Label, int] = {}
        for label, n in zip(term, shape, strict=True):
            known = extents.setdefault(label, n)
            if known == 1:
                extents[label] = n
            if (n not in (1, known) and known != 1) or own.setdefault(label, n) != n:
                place = repr(label) if isinstance(label, str) else "..."
                got = ", ".join(str(tuple(shape)) for shape in shapes)
                raise ShapeError(message("einsum", "operands", got, f"one extent for {place} of {subscripts!r}, or 1"))
    return extents


def _simplify(xp: Any, x: Array, term: Term, extents: dict[Label, int]) -> tuple[Array, Term]:
    """Take the diagonal of labels that occur twice; drop the axes of extent 1 that other operands stretch."""
    kept = tuple(label for label, n in zip(term, x.shape, strict=True) if n == extents[label])
    if kept != term:
        x = xp.reshape(x, tuple(n for label, n in zip(term, x.shape, strict=True) if n == extents[label]))
    while len(set(kept)) < len(kept):
        label = next(label for label in kept if kept.count(label) > 1)
        i = kept.index(label)
        j = kept.index(label, i + 1)
        rest = [k for k in range(len(kept)) if k not in (i, j)]
        x = xp.linalg.diagonal(xp.permute_dims(x, (*rest, i, j)))
        kept = (*(kept[k] for k in rest), label)
    return x, kept


def _cheapest(terms: list[Term], output: Term, extents: dict[Label, int]) -> tuple[int, int]:
    """The pair whose contraction shrinks the data most."""
    if len(terms) == 2:
        return 0, 1

    def growth(pair: tuple[int, int]) -> int:
        rest = set(output).union(*(term for k, term in enumerate(terms) if k not in pair))
        both = set(terms[pair[0]]) | set(terms[pair[1]])
        size, first, second = (math.prod(extents[k] for k in t) for t in (both & rest, terms[pair[0]], terms[pair[1]]))
        return size - first - second

    return min(combinations(range(len(terms)), 2), key=growth)


def _contract(
    xp: Any, x: Array, x_term: Term, y: Array, y_term: Term, keep: set[Label], extents: dict[Label, int]
) -> tuple[Array, Term]:
    """Multiply two operands and sum over the labels that nobody needs any more."""
    x, x_term = _sum_out(xp, x, x_term, keep | set(y_term))
    y, y_term = _sum_out(xp, y, y_term, keep | set(x_term))
    right = tuple(label for label in y_term if label not in x_term)
    summed = tuple(label for label in y_term if label in x_term and label not in keep)
    if not summed:
        both = tuple(label for label in x_term if label in y_term)
        beside = tuple(extents[label] if label in y_term else 1 for label in x_term + right)
        y = xp.reshape(_arrange(xp, y, y_term, both + right), beside)
        return xp.reshape(x, x.shape + (1,) * len(right)) * y, x_term + right
    batch = tuple(label for label in x_term if label in y_term and label in keep)
    left = tuple(label for label in x_term if label not in y_term)
    outer, rows, inner, columns = (tuple(extents[label] for label in labels) for labels in (batch, left, summed, right))
    x, y = _arrange(xp, x, x_term, batch + left + summed), _arrange(xp, y, y_term, batch + summed + right)
    k = math.prod(inner)
    if not left and not right:
        return xp.vecdot(xp.reshape(x, (*outer, k)), xp.reshape(y, (*outer, k))), batch
    z = xp.matmul(xp.reshape(x, (*outer, math.prod(rows), k)), xp.reshape(y, (*outer, k, math.prod(columns))))
    return xp.reshape(z, outer + rows + columns), batch + left + right


def _sum_out(xp: Any, x: Array, term: Term, keep: set[Label]) -> tuple[Array, Term]:
    """Sum over the labels that are not in `keep`."""
    axes = tuple(i for i, label in enumerate(term) if label not in keep)
    if not axes:
        return x, term
    # integers stay as narrow as they are, as in matmul
    dtype = None if x.dtype in dtypes.FLOATING else x.dtype
    return xp.sum(x, axis=axes, dtype=dtype), tuple(label for label in term if label in keep)


def _arrange(xp: Any, x: Array, term: Term, order: Term) -> Array:
    """Reorder the axes from `term` to `order`."""
    return x if term == order else xp.permute_dims(x, tuple(term.index(label) for label in order))


_einsum.samples(
    case((2, 3), (3, 4), subscripts="ij,jk->ik"),
    case((2, 3), (3, 4), subscripts="ij,jk"),
    case((2, 3), subscripts="ij->ji"),
    case((2, 3), subscripts="ba"),
    case((2, 3), subscripts="ij->"),
    case((3, 3), subscripts="ii"),
    case((3, 3), subscripts="ii->i"),
    case((2, 3, 2, 3), subscripts="ijij->ji"),
    case((3, 3, 3), subscripts="iii->i"),
    case((3,), (3,), subscripts="i,i"),
    case((2,), (3,), subscripts="i,j"),
    case((2, 3), (2, 3), subscripts="ij,ij->ij"),
    case((2, 3), (2, 3), subscripts="ij,ij->i"),
    case((2, 3), (4,), subscripts="ij,k->k"),
    case((2, 3, 3), (3,), subscripts="bii,i->b"),
    case((2, 2, 3), (3, 2), subscripts="...ij,jk->...ik"),
    case((2, 1, 2, 3), (3, 3, 2), subscripts="...ij,...jk"),
    case((2, 3), (3, 2), (2, 2), subscripts="ij,jk,kl->il"),
    case((2,), (2, 3, 2), (2,), subscripts="i,ijk,k->j"),
    case((1, 3), (2, 3), subscripts="ij,ij->ij"),
    case((2, 1), (3, 2), subscripts="ij,jk->ik"),
    case((), (2,), subscripts=",i->i"),
    case((0, 3), (3, 2), subscripts="ij,jk->ik"),
    case((2, 0), (0, 2), subscripts="ij,jk->ik"),
    case(A((2, 3), kind="int", low=-3, high=3), A((3, 2), kind="int", low=-3, high=3), subscripts="ij,jk->ik"),
    error(ShapeError, "einsum: subscripts is 'ij,jk', needs 1 terms for 1 operands", (2, 3), subscripts="ij,jk"),
    error(ShapeError, "one letter for each of the 2 axes where it says 'ijk'", (2, 3), subscripts="ijk"),
    error(ShapeError, "'k' once in the output and in some operand", (2, 3), subscripts="ij->ik"),
    error(ShapeError, "'i' once in the output", (2, 3), subscripts="ij->ii"),
    error(ShapeError, "... in the output too", (2, 3), subscripts="...j->j"),
    error(ShapeError, "letters, commas, one -> and at most one ...", (2, 3), subscripts="i1"),
    error(ShapeError, "needs one extent for 'j' of 'ij,jk', or 1", (2, 3), (4, 2), subscripts="ij,jk"),
    error(ShapeError, "needs one extent for 'i' of 'ii', or 1", (1, 2), subscripts="ii"),
)
