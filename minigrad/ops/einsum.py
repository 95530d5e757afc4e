"""einsum: sums of products by index notation, brought down to matmul."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, message
from minigrad.ops.registry import Array, op, promote
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["einsum"]

Label = str | int  # a letter, or the place from the right of an axis that an ellipsis stands for
Term = tuple[Label, ...]


def einsum(subscripts: str, *operands: Tensor | Array) -> Tensor:
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
    *operands : Tensor or array
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


class Move(NamedTuple):
    """What is done to a tensor before a product: sum over axes, reorder them, reshape; None where nothing is to do."""

    axes: tuple[int, ...] | None
    order: tuple[int, ...] | None
    shape: tuple[int, ...] | None


class Step(NamedTuple):
    """A product of two of the tensors at hand; the result is appended to them."""

    first: int
    second: int
    x: Move
    y: Move
    how: str  # a function of the namespace
    shape: tuple[int, ...] | None


class Plan(NamedTuple):
    """All that is known from the subscripts and shapes alone."""

    shapes: tuple[tuple[int, ...] | None, ...]  # of each operand, without axes of extent 1 that others stretch
    diagonals: tuple[tuple[Move, ...], ...]  # of each operand
    steps: tuple[Step, ...]
    last: Move


@op(dtype=promote.but(kinds=dtypes.ALL - dtypes.BOOL), view=True, needs="subscripts that fit the operands", amp="half")
def _einsum(xp: Any, *operands: Array, subscripts: str) -> Array:
    todo = list(operands)
    plan = make_plan(subscripts, tuple(x.shape for x in operands))
    for i, (shape, moves) in enumerate(zip(plan.shapes, plan.diagonals, strict=True)):
        todo[i] = todo[i] if shape is None else xp.reshape(todo[i], shape)
        for move in moves:
            todo[i] = xp.linalg.diagonal(_apply(xp, todo[i], move))
    for first, second, x, y, how, shape in plan.steps:
        b, a = todo.pop(second), todo.pop(first)
        out = getattr(xp, how)(_apply(xp, a, x), _apply(xp, b, y))
        todo.append(out if shape is None else xp.reshape(out, shape))
    out = _apply(xp, todo[0], plan.last)
    # an operand that needs no work comes back as a view, not as the operand itself
    return xp.reshape(out, out.shape) if out is operands[0] else out


def _apply(xp: Any, x: Array, move: Move) -> Array:
    axes, order, shape = move
    if axes is not None:
        # integers stay as narrow as they are, as in matmul
        x = xp.sum(x, axis=axes, dtype=None if x.dtype in dtypes.FLOATING else x.dtype)
    if order is not None:
        x = xp.permute_dims(x, order)
    return x if shape is None else xp.reshape(x, shape)


@lru_cache(maxsize=1024)
def make_plan(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> Plan:
    """Read the subscripts and order the products."""
    terms, output = parse(subscripts, tuple(map(len, shapes)))
    extents = _extents(subscripts, terms, shapes)
    squeezed, diagonals, todo, steps = [], [], [], []
    for term, shape in zip(terms, shapes, strict=True):
        kept = tuple(label for label, n in zip(term, shape, strict=True) if n == extents[label])
        squeezed.append(None if kept == term else tuple(extents[label] for label in kept))
        moves, left = _diagonals(kept)
        diagonals.append(moves)
        todo.append(left)
    while len(todo) > 1:
        i, j = _cheapest(todo, output, extents)
        y, x = todo.pop(j), todo.pop(i)
        step, made = _step(i, j, x, y, set(output).union(*todo), extents)
        steps.append(step)
        todo.append(made)
    return Plan(tuple(squeezed), tuple(diagonals), tuple(steps), _move(todo[0], set(output), output, extents))


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


def _extents(subscripts: str, terms: tuple[Term, ...], shapes: tuple[tuple[int, ...], ...]) -> dict[Label, int]:
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


def _diagonals(term: Term) -> tuple[tuple[Move, ...], Term]:
    """The moves before each diagonal that labels which occur twice call for, and the labels that are left."""
    moves: list[Move] = []
    while len(set(term)) < len(term):
        label = next(label for label in term if term.count(label) > 1)
        i = term.index(label)
        j = term.index(label, i + 1)
        rest = [k for k in range(len(term)) if k not in (i, j)]
        moves.append(Move(None, (*rest, i, j), None))
        term = (*(term[k] for k in rest), label)
    return tuple(moves), term


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


def _move(term: Term, keep: set[Label], order: Term, extents: dict[Label, int], *groups: Term) -> Move:
    """Sum over what is not in `keep`, bring the rest in `order`, and make each of `groups`, if given, one axis."""
    axes = tuple(i for i, label in enumerate(term) if label not in keep)
    left = tuple(label for label in term if label in keep)
    flat = tuple(math.prod(extents[label] for label in group) for group in groups)
    return Move(
        axes or None,
        None if left == order else tuple(left.index(label) for label in order),
        None if not groups or all(len(group) == 1 for group in groups) else flat,
    )


def _step(first: int, second: int, x: Term, y: Term, keep: set[Label], extents: dict[Label, int]) -> tuple[Step, Term]:
    """Multiply two operands and sum over the labels that nobody needs any more."""
    x_keep, y_keep = keep | set(y), keep | set(x)
    x_left, y_left = (tuple(k for k in term if k in kept) for term, kept in ((x, x_keep), (y, y_keep)))
    both = tuple(label for label in x_left if label in y_left)
    left = tuple(label for label in x_left if label not in y_left)
    right = tuple(label for label in y_left if label not in x_left)
    summed = tuple(label for label in y_left if label in both and label not in keep)
    batch = tuple(label for label in both if label in keep)
    if not summed:
        made = x_left + right
        beside = [(label,) if label in y_left else () for label in made]
        a = _move(x, x_keep, x_left, extents, *((label,) if label in x_left else () for label in made))
        return Step(first, second, a, _move(y, y_keep, both + right, extents, *beside), "multiply", None), made
    each = [(label,) for label in batch]
    if not left and not right:
        a, b = (_move(t, kept, batch + summed, extents, *each, summed) for t, kept in ((x, x_keep), (y, y_keep)))
        return Step(first, second, a, b, "vecdot", None), batch
    a = _move(x, x_keep, batch + left + summed, extents, *each, left, summed)
    b = _move(y, y_keep, batch + summed + right, extents, *each, summed, right)
    made = batch + left + right
    shape = None if len(left) == len(right) == 1 else tuple(extents[label] for label in made)
    return Step(first, second, a, b, "matmul", shape), made


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
