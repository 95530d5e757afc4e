"""FreeLB: embeddings moved step by step, with the gradients of all steps for the weights."""

from __future__ import annotations

from typing import Any

from minigrad import ops, random
from minigrad.autograd import enable_grad, no_grad
from minigrad.errors import GradError, message
from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.train.adversaries.parts import (
    Backward,
    Compute,
    Mask,
    Shift,
    Update,
    check_mask,
    check_module,
    check_number,
    check_steps,
    finite,
    gradients,
    leaf,
    loss_of,
    project,
    unit,
    wide,
)

__all__ = ["FreeLB"]


class FreeLB:
    """Move what an embedding gives, and train on every point of the way.

    For each example, a sequence of n positions that are no padding with d features each::

        delta = uniform(-epsilon, epsilon) / sqrt(n * d)
        k times:  the gradient of the loss at embedding + delta, divided by k, is added to that of the weights;
                  delta = project(delta + step_size * g / ||g||, epsilon)          g the gradient by delta

    Norm and projection are Euclidean, over the whole example. C. Zhu et al., "FreeLB: enhanced adversarial training for
    natural language understanding", 2020.

    Dropout draws the same masks in all steps, as in the paper. A forward hook on the layer moves its output, and is
    gone afterwards, also when something raises. A loss scale does not matter, as the gradient is divided by its norm.

    Parameters
    ----------
    embedding : Module
        The layer whose output is moved, an `nn.Embedding` of the model.
    epsilon : float
        The radius.
    step_size : float
        The length of a step.
    steps : int
        How many passes, forward and backward.
    mask : callable, optional
        Takes the ids and gives bools, True for positions that may be moved; by default those that are not the
        embedding's ``padding_idx``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If the embedding is no module.
    GradError
        If the model does not call it.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> tokens = nn.Embedding(10, 4, padding_idx=0)
    >>> model = nn.Sequential([tokens, nn.Flatten(), nn.Dense(2)])
    >>> ids, labels = mg.tensor([[1, 2, 0]]), mg.tensor([1])
    >>> adversary = train.FreeLB(tokens, epsilon=0.5, step_size=0.2)
    >>> compute = lambda ids: mg.cross_entropy(model(ids), labels)
    >>> loss = adversary(compute, ids, lambda loss, weight: (loss * weight).backward())
    >>> adversary.perturb(compute, ids).shape
    (1, 3, 4)
    """

    def __init__(
        self, embedding: Module, epsilon: float, step_size: float, steps: int = 3, *, mask: Mask | None = None
    ) -> None:
        self.embedding = check_module("FreeLB", "embedding", embedding)
        self.epsilon = check_number("FreeLB", "epsilon", epsilon)
        self.step_size = check_number("FreeLB", "step_size", step_size)
        self.steps = check_steps("FreeLB", "steps", steps)
        self.mask = check_mask("FreeLB", mask)

    def perturb(self, compute: Compute, inputs: Any) -> Any:
        """What is added to the embedding after all steps, (batch, length, features); the weights get no gradient.

        Returns
        -------
        Tensor or list of Tensor
            A list where the layer is called several times in one pass.
        """
        shift, start = self._begin()
        state = random.get_state()
        with shift.move(start):
            for _ in range(self.steps):
                shift.begin()
                try:
                    with enable_grad():
                        loss = loss_of("FreeLB", compute, inputs)
                finally:
                    random.set_state(state)
                shift.check()
                self._step(shift, gradients("FreeLB", loss, shift.deltas))
        found = [delta.detach() for delta in shift.deltas]
        return found[0] if len(found) == 1 else found

    def __call__(self, compute: Compute, inputs: Any, backward: Backward, update: Update | None = None) -> Tensor:
        """Train on a batch: see `minigrad.train.adversaries`; returns the mean loss of all steps, for the log."""
        shift, start = self._begin()
        state, losses = random.get_state(), []
        with shift.move(start):
            for k in range(self.steps):
                if k:
                    random.set_state(state)
                shift.begin()
                loss = loss_of("FreeLB", compute, inputs)
                shift.check()
                if self.steps == 1:
                    backward(loss)
                else:
                    backward(loss, 1.0 / self.steps)
                losses.append(loss.detach())
                if k + 1 < self.steps:
                    missing = any(delta.grad is None for delta in shift.deltas)
                    if missing:
                        need = "backward() of the loss, which reaches the embedding too"
                        raise GradError(message("FreeLB", "the gradient of the embedding", None, need))
                    self._step(shift, [delta.grad for delta in shift.deltas])
        return losses[0] if self.steps == 1 else ops.mean(ops.stack(losses))

    def _begin(self) -> tuple[Shift, Any]:
        """The shift, and what it starts from; its numbers come from a generator of its own, apart from dropout's."""
        source = random.Generator(int(random.integers(0, 2**31 - 1))) if self.epsilon else None

        def start(output: Tensor, keep: Tensor | None) -> Tensor:
            like = wide(output)
            if source is None:
                return leaf(ops.zeros_like(like))
            size = like.size // max(like.shape[0], 1)
            count: Any = size
            if keep is not None:
                axes = tuple(range(1, keep.ndim))
                full = ops.broadcast_to(keep, like.shape)
                count = ops.maximum(ops.sum(full, axis=axes, keepdims=True), 1.0)
            noise = source.uniform(like.shape, -1.0, 1.0, dtype=like.dtype) * self.epsilon / count**0.5
            return leaf(noise if keep is None else noise * keep)

        return Shift("FreeLB", self.embedding, self.mask), start

    def _step(self, shift: Shift, found: list[Any]) -> None:
        """Move what is added along its gradients."""
        with no_grad():
            for i, (delta, keep, g) in enumerate(zip(shift.deltas, shift.keeps, found, strict=True)):
                way = finite(g) if keep is None else finite(g) * keep
                moved = delta.detach() + unit(way) * self.step_size
                shift.deltas[i] = leaf(project(moved, self.epsilon))

    def __repr__(self) -> str:
        return f"FreeLB(epsilon={self.epsilon:g}, step_size={self.step_size:g}, steps={self.steps})"
