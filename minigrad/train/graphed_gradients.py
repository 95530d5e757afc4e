"""GraphedGradients: the forward and backward passes of a `Trainer` as CUDA graphs, one for each kind of batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.train.batch import leaves
from minigrad.train.graphed_step import GraphedStep
from minigrad.train.host_state import Stale

__all__ = ["GraphedGradients"]

MOST = 8  # graphs, each of which has the memory of a step


class GraphedGradients:
    """Gradients of batches; those of shapes that have come a few times are captured.

    A batch whose gradient is added to that of others goes by a graph of its own, which adds to the memory that the
    graph of the first one has written.

    Parameters
    ----------
    models : list of Module
        What is trained.
    compute : callable
        ``compute(inputs, targets, ...)`` adds the gradient of the loss, and returns outputs and loss.
    """

    def __init__(self, models: list[Module], compute: Callable[..., Any]) -> None:
        self.models, self.compute = models, compute
        self.steps: dict[Any, GraphedStep] = {}
        self.first: Any = None  # the kind of the first batch of this step, where it went by a graph

    def __call__(self, first: bool, *batch: Any) -> Any:
        """Outputs and loss of a batch; gradients are there afterwards. `first`: there are none before."""
        kind = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves(batch))
        key = kind, None if first else self.first
        step = self.steps.get(key)
        if step is None:
            if len(self.steps) >= MOST or (self.first is None and not first):
                return self.compute(*batch)
            step = self.steps[key] = GraphedStep(self.compute, self.models)
        try:
            found = step(*batch)
        except Stale:  # a callback has frozen a layer, for example
            step.reset()
            found = step(*batch)
        if first:
            self.first = kind if step.captured else None
        return found
