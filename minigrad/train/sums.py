"""Sums: what the logs of an epoch are the means of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Sums"]


class Sums:
    """Loss and norm of the gradient of an epoch so far; the loss is the mean over the targets that count.

    Of a loss that is a sum it is the mean over the examples.
    """

    def __init__(self) -> None:
        self.loss = self.weight = self.norms = 0.0
        self.normed = 0

    def add(self, loss: float, count: float | None, examples: int) -> None:
        """One batch: its loss, what it was divided by (None: it is a sum), and how many examples it has."""
        self.loss += loss if count is None else loss * count
        self.weight += examples if count is None else count

    def norm(self, norm: float) -> None:
        """The norm of the gradient in one step."""
        self.norms += norm
        self.normed += 1

    def means(self) -> dict[str, float]:
        """The logs."""
        found = {"loss": self.loss / self.weight if self.weight else 0.0}
        if self.normed:
            found["grad_norm"] = self.norms / self.normed
        return found

    def state_dict(self) -> dict[str, float]:
        """All of it."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        vars(self).update(state)
