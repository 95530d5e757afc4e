"""Gradient accumulation that equals the large batch, however unequal its parts are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from minigrad.errors import message
from minigrad.nn.checks import extent
from minigrad.train.batch import split

__all__ = ["accumulate", "denominator", "shares"]


def accumulate(
    batches: Iterable[Any], steps: int, loss: Callable[..., Any] | None = None
) -> Iterator[list[tuple[Any, float]]]:
    """Put so many batches together to one step, each with its share of the loss.

    The mean over a large batch of parts i is ``sum(n_i * loss_i) / sum(n_i)``, where n_i is what the mean over part i
    divides by: the number of its targets that count, each by its weight. So the gradient of the large batch is the sum
    of the gradients of ``share_i * loss_i`` with ``share_i = n_i / sum(n_i)``; the plain mean of the losses is another
    number as soon as the parts differ, as with padded sentences.

    Parameters
    ----------
    batches : iterable
        Batches ``(inputs, ..., targets)``, or dicts with ``"targets"``, such as those of a DataLoader.
    steps : int
        How many make one step; the last one may have fewer.
    loss : callable, optional
        It says what its mean divides by in a method ``denominator(targets)``, as the losses of `nn` do (None: it is a
        sum, and every share is 1). Without one each example counts 1.

    Yields
    ------
    list of (batch, share)

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> model, loss = nn.Dense(3, in_features=2), nn.CrossEntropyLoss(ignore_index=-1)
    >>> batches = [(mg.ones((2, 2)), mg.tensor([0, -1])), (mg.ones((3, 2)), mg.tensor([2, 1, 0]))]
    >>> for parts in train.accumulate(batches, 2, loss):
    ...     for (x, y), share in parts:
    ...         (loss(model(x), y) * share).backward()
    ...     print([share for _, share in parts])
    [0.25, 0.75]
    """
    steps = extent("accumulate", "steps", steps)
    iterator = iter(batches)
    while part := list(itertools.islice(iterator, steps)):
        counts = [denominator(loss, *split(batch)[1:]) for batch in part]
        yield list(zip(part, shares(counts), strict=True))


def shares(counts: Sequence[float | None]) -> list[float]:
    """The share of each part in the loss of all, from what the mean of each divides by."""
    if len(counts) == 1 or any(count is None for count in counts):
        return [1.0] * len(counts)
    known = [count for count in counts if count is not None]
    total = sum(known)
    return [count / total if total else 0.0 for count in known]


def denominator(loss: Callable[..., Any] | None, targets: Any, examples: int) -> float | None:
    """What the mean of a loss over these targets divides by; None if the loss is a sum."""
    own = getattr(loss, "denominator", None)
    if own is None:
        return float(examples)
    count = own(targets)
    if count is not None and not count >= 0:
        raise ValueError(message("accumulate", "denominator", f"{count}", "a number of at least 0, or None for a sum"))
    return None if count is None else float(count)
