"""SAM: steps by the gradient at the worst point nearby."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minigrad._core import tape
from minigrad.autograd import enable_grad
from minigrad.backend.rows import RowSparse
from minigrad.errors import message
from minigrad.nn.masks import mask_beside
from minigrad.optim.lbfgs import LBFGS
from minigrad.optim.optimizer import Array, Optimizer
from minigrad.optim.schedules import checks
from minigrad.tensor import Tensor

__all__ = ["SAM"]


class SAM:
    """Sharpness-aware minimization around another optimizer.

    With g the gradient at the weights w, a step goes::

        e = rho * g / ||g||                        adaptive:  e = rho * w**2 * g / || |w| * g ||
        w = optimizer(w, gradient at w + e)

    the norm being that over all parameters. P. Foret et al., "Sharpness-aware minimization for efficiently improving
    generalization", 2021; adaptive: J. Kwon et al., "ASAM: adaptive sharpness-aware minimization for scale-invariant
    learning of deep neural networks", 2021.

    The closure runs twice, so a step costs twice as much, dropout draws two masks, and `BatchNorm` counts the batch
    twice. Before the optimizer's step the weights are put back from a copy, bit for bit, also where the second run
    raises. e does not depend on the scale of the loss; with a scaled one unscale the gradients between `ascend` and
    the optimizer's step. Of a table with a row-sparse gradient the rows that were used move; a masked weight does not.

    Parameters
    ----------
    optimizer : Optimizer
        What takes the step.
    rho : float
        How far away the gradient is taken.
    adaptive : bool
        Whether the distance of a weight grows with its size.

    Attributes
    ----------
    param_groups, state
        Those of the optimizer, so that schedules work.

    Raises
    ------
    TypeError
        If the optimizer is none.
    ValueError
        If `rho` is no number of at least 0.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> w = nn.Parameter([3.0, 4.0])
    >>> sam = optim.SAM(optim.SGD([w], lr=0.1), rho=0.5)
    >>> def closure():
    ...     sam.zero_grad()
    ...     loss = (w * w).sum()
    ...     loss.backward()
    ...     return loss
    >>> sam.step(closure).item()
    25.0
    >>> w
    tensor([2.34, 3.12], requires_grad=True)
    """

    def __init__(self, optimizer: Any, rho: float = 0.05, adaptive: bool = False) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(message("SAM", "optimizer", optimizer, "an optimizer", "SAM(optim.SGD(...))"))
        if isinstance(optimizer, LBFGS):
            raise TypeError(message("SAM", "optimizer", "an LBFGS", "one whose step needs no closure"))
        radius = checks.real("SAM", "rho", rho, 0.0)
        self.optimizer, self.rho, self.adaptive = optimizer, radius, bool(adaptive)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimizer."""
        return self.optimizer.param_groups

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """The state of the optimizer."""
        return self.optimizer.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any]) -> Any:
        """Take a step.

        Parameters
        ----------
        closure : callable
            Zeroes the gradients, computes the loss, calls its ``backward`` and returns it.

        Returns
        -------
        Tensor
            The loss at the weights themselves.

        Raises
        ------
        TypeError
            Without a closure.
        """
        loss = self.ascend(closure)
        self.optimizer.step()
        return loss

    def ascend(self, closure: Callable[[], Any]) -> Any:
        """The first part of `step`: afterwards the gradients are those at w + e, and the weights what they were.

        Parameters
        ----------
        closure : callable
            As for `step`.

        Returns
        -------
        Tensor
            The loss at the weights themselves.
        """
        given: Any = closure
        if not callable(given):
            hint = "def closure(): zero_grad, loss, backward, return the loss"
            raise TypeError(message("SAM.step", "closure", given, "a function that computes the loss twice", hint))
        with enable_grad():
            loss = closure()
            kept: list[tuple[Tensor, Any, Array]] = []
            try:
                self._perturb(kept)
                closure()
            finally:
                for p, rows, values in kept:
                    p._array[rows] = values
                tape.mark_updated([p for p, _, _ in kept], "SAM.step")
        return loss

    def _perturb(self, kept: list[tuple[Tensor, Any, Array]]) -> None:
        """Add e to the weights; `kept` gets the parameters, the rows that are changed, and their values."""
        moves: list[tuple[Tensor, Any, Array]] = []
        total = 0.0
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p._grad is None:
                    continue
                given = p._grad._array
                sparse = isinstance(given, RowSparse)
                rows: Any = given.ids if sparse else ...
                g = _wide(given.values if sparse else given)
                keep = mask_beside(p, "SAM.step")
                if keep is not None:
                    g = np.where(keep[rows], g, 0)
                if self.adaptive:
                    w = abs(_wide(p._array[rows]))
                    g = g * w
                    total += _squared(g)
                    g = g * w
                else:
                    total += _squared(g)
                moves.append((p, rows, g))
        scale = self.rho / math.sqrt(total) if total else 0.0
        for p, rows, g in moves:
            values = p._array[rows]
            kept.append((p, rows, values.copy()))
            p._array[rows] = (_wide(values) + scale * g).astype(p.dtype)
        tape.mark_updated([p for p, _, _ in moves], "SAM.step")

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer: nothing outlives a step here."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.optimizer.load_state_dict(state)

    def __repr__(self) -> str:
        return f"SAM({self.optimizer!r}, rho={self.rho}, adaptive={self.adaptive})"


def _wide(array: Array) -> Array:
    """Half values as float32."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def _squared(g: Array) -> float:
    """The sum of squares, in float64: with a scaled loss those in float32 may overflow."""
    return float(np.square(g, dtype=np.float64).sum())
