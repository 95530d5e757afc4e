"""Pruning: weights to 0, by magnitude or another score; masks hold them there."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad import dtypes
from minigrad.compress.pruning.masks import need_memory, set_mask
from minigrad.compress.pruning.scores import Score, find_score
from minigrad.compress.pruning.selection import count_of, lowest, pattern_gone
from minigrad.compress.pruning.sparsity import Sparsity, sparsity
from minigrad.compress.pruning.targets import Target, find_targets, ranks_of
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.checks import number
from minigrad.nn.masks import mask_of, pack, unpack
from minigrad.tensor import Tensor

__all__ = ["check_plan", "prune", "prune_targets"]

Array = np.ndarray[Any, Any]


def prune(
    model: Any,
    amount: float | None = None,
    *,
    threshold: float | None = None,
    scope: str = "global",
    scores: str | Score = "magnitude",
    exclude: Any = (),
    pattern: tuple[int, int] | None = None,
) -> Sparsity:
    """Set the weights with the lowest scores to 0, and hold them there.

    Each parameter gets a mask (``p.mask``, bools, True where a weight is kept), which every optimizer heeds; see
    docs/pruning.md. Weights that a mask leaves out already stay out, and count: pruning to 50 % twice is doing it once.
    Biases and other parameters of fewer than two axes are left alone.

    Parameters
    ----------
    model : Module
        What to prune, in place. A `DataParallel` is pruned alike on all its ranks.
    amount : float or int, optional
        The share of the weights that is gone afterwards, or as an int their number; 0.5 where nothing else is given.
    threshold : float, optional
        In place of an amount: weights whose score is below it go.
    scope : str
        ``"global"``: all weights of the model together; ``"layer"``: each parameter by itself.
    scores : str or Score
        ``"magnitude"``, ``"movement"``, ``"taylor"``, ``"random"``, or such as ``compress.Taylor()``, which has seen
        several steps. By name the gradients at hand are used where there must be some.
    exclude : str, Module, type, Parameter, or iterable of them
        What is left alone: names of parameters or layers, with ``*``; layers; classes of layers.
    pattern : (int, int), optional
        In place of an amount: (2, 4) leaves 2 of each 4 weights in a row along the input axis.

    Returns
    -------
    Sparsity
        The report of `sparsity`.

    Raises
    ------
    ValueError
        If an argument is out of range, two exclude each other, or a score is NaN.
    GradError
        If a score needs a gradient that is not there.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> layer = nn.Dense(2, in_features=2)
    >>> with mg.no_grad():
    ...     layer.weight[...] = [[0.1, -0.4], [0.3, -0.2]]
    >>> report = compress.prune(layer, 0.5)
    >>> layer.weight
    tensor([[ 0. , -0.4],
            [ 0.3,  0. ]], requires_grad=True)
    """
    targets = find_targets("prune", model, exclude)
    amount, threshold, found = check_plan("prune", amount, threshold, scope, pattern)
    score = find_score("prune", scores)
    prune_targets(targets, amount, threshold, scope, score, found, ranks_of(model))
    return sparsity(model)


def check_plan(
    who: str, amount: Any, threshold: Any, scope: Any, pattern: Any
) -> tuple[Any, float | None, tuple[int, int] | None]:
    """The arguments that say how much goes, of which there may be one; the amount is 0.5 where there is none."""
    if scope not in ("global", "layer"):
        raise ValueError(message(who, "scope", repr(scope), "'global' or 'layer'"))
    given = [n for n, v in (("amount", amount), ("threshold", threshold), ("pattern", pattern)) if v is not None]
    if len(given) > 1:
        raise ValueError(message(who, " and ".join(given), "given", "one of them"))
    if pattern is not None:
        try:
            n, m = (operator.index(value) for value in pattern)
        except (TypeError, ValueError):
            raise TypeError(message(who, "pattern", repr(pattern), "two ints, such as (2, 4)")) from None
        if not 0 < n < m:
            raise ValueError(message(who, "pattern", repr(pattern), "n of m, with 0 < n < m"))
        return None, None, (n, m)
    if threshold is not None:
        edge = number(who, "threshold", threshold)
        if edge != edge:
            raise ValueError(message(who, "threshold", "nan", "a number"))
        return None, edge, None
    amount = 0.5 if amount is None else amount
    count_of(who, amount)
    return amount, None, None


def prune_targets(
    targets: Sequence[Target],
    amount: Any,
    threshold: float | None,
    scope: str,
    score: Score,
    pattern: tuple[int, int] | None,
    communicator: Any = None,
) -> None:
    """Give the targets their masks; with several ranks those of rank 0, by the scores of all."""
    for target in targets:
        need_memory(target.parameter, f"prune: {target.name}")
    keeps = [mask_of(target.parameter, f"prune: {target.name}") for target in targets]
    found = [
        _checked(target, values, keep)
        for target, values, keep in zip(targets, score.total(targets, communicator), keeps, strict=True)
    ]
    if pattern is not None:
        gone = [pattern_gone(s, pattern, t.axis, t.name) for t, s in zip(targets, found, strict=True)]
    elif threshold is not None:
        gone = [s < threshold for s in found]
    elif scope == "layer":
        gone = [lowest(s, count_of("prune", amount, s.size)) for s in found]
    else:
        flat = np.concatenate([s.reshape(-1) for s in found])
        every = lowest(flat, count_of("prune", amount, flat.size))
        ends = np.cumsum([s.size for s in found])[:-1]
        gone = [part.reshape(s.shape) for part, s in zip(np.split(every, ends), found, strict=True)]
    for target, keep, out in zip(targets, keeps, gone, strict=True):
        left = ~out if keep is None else keep & ~out
        if communicator is not None and communicator.size > 1:
            left = unpack(communicator.broadcast(pack(left)), left.shape)
        if keep is not None or not left.all():
            set_mask(target.parameter, left, f"prune: {target.name}")


def _checked(target: Target, scores: Any, keep: Array | None) -> Array:
    """Scores in which what is gone already is the lowest."""
    given = scores.detach().to("cpu").numpy() if isinstance(scores, Tensor) else np.asarray(scores)
    if given.dtype not in dtypes.ALL or given.dtype in dtypes.COMPLEX:
        raise TypeError(message("prune", f"scores of {target.name}", describe(scores), "real numbers"))
    whole = given.dtype in dtypes.INTEGER or given.dtype == dtypes.bool  # which have no -inf
    found = np.array(given, dtype=np.float64 if whole else None)
    if found.shape != target.parameter.shape:
        raise ShapeError(message("prune", f"scores of {target.name}", describe(found), f"{target.parameter.shape}"))
    if keep is not None:
        np.copyto(found, -np.inf, where=~keep)
    if np.isnan(found).any():
        raise ValueError(message("prune", f"scores of {target.name}", "NaN", "numbers", "Are its weights finite?"))
    return found
