"""Mode: whether layers work as in training or as in evaluation."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["evaluation", "is_evaluation"]

# a variable of the context: the flags of a module belong to every thread that uses it
_evaluation: contextvars.ContextVar[bool] = contextvars.ContextVar("minigrad_evaluation", default=False)


def is_evaluation() -> bool:
    """Whether this context is inside `evaluation`."""
    return _evaluation.get()


@contextmanager
def evaluation() -> Iterator[None]:
    """Let every module work in evaluation mode in this block, in this thread only; nothing is written to a module.

    Inside, `Module.training` is False, whatever `train` and `eval` set; afterwards it is what they set.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> from minigrad.nn.mode import evaluation
    >>> layer = nn.Dropout(0.5)
    >>> with evaluation():
    ...     layer(mg.ones((3,))), layer.training
    (tensor([1., 1., 1.]), False)
    >>> layer.training
    True
    """
    token = _evaluation.set(True)
    try:
        yield
    finally:
        _evaluation.reset(token)
