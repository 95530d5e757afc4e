"""Free adversarial training: one backward pass for the weights and for the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad import ops
from minigrad.autograd import no_grad
from minigrad.errors import GradError, describe, message
from minigrad.tensor import Tensor
from minigrad.train.adversaries.parts import (
    Backward,
    Compute,
    Mask,
    Update,
    bounded,
    check_bounds,
    check_mask,
    check_number,
    check_steps,
    expanded,
    finite,
    leaf,
    loss_of,
    split,
    wide,
)

__all__ = ["Free"]


class Free:
    """Train several times in a row on each batch, and move it by the gradient that comes along.

    Each backward pass gives the gradient of the weights, for a step of the optimizer, and that of the inputs, for
    ``delta = clip(delta + step_size * sign(gradient), -epsilon, epsilon)``. delta goes on from batch to batch. With m
    replays an epoch costs m plain ones, so train for 1/m as many.

    A. Shafahi et al., "Adversarial training for free!", 2019.

    Between two replays of a batch it calls ``update()``; the step after the last one is the caller's, as for every
    adversary. So gradients of several batches cannot be accumulated.

    Parameters
    ----------
    epsilon : float
        The largest change of an element.
    replays : int
        How often each batch is trained on.
    step_size : float, optional
        How far the inputs move in one replay; `epsilon` by default.
    bounds : pair of float, optional
        The least and the largest value of the data.
    mask : callable, optional
        Takes the inputs and gives bools, True for what may be moved; see `PGD`.

    Attributes
    ----------
    delta : Tensor or None
        The change as it is now, for a whole batch.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim, train
    >>> w = nn.Parameter([1.0, -1.0])
    >>> optimizer, free = optim.SGD([w], lr=0.5), train.Free(0.25, replays=2)
    >>> def update():
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> loss = free(lambda x: (x * w).sum(), mg.zeros((1, 2)), lambda loss: loss.backward(), update)
    >>> update()
    >>> free.delta, w
    (tensor([[ 0.25, -0.25]]), tensor([ 0.875, -0.875], requires_grad=True))
    """

    def __init__(
        self,
        epsilon: float,
        replays: int,
        *,
        step_size: float | None = None,
        bounds: tuple[float, float] | None = None,
        mask: Mask | None = None,
    ) -> None:
        self.epsilon = check_number("Free", "epsilon", epsilon)
        self.replays = check_steps("Free", "replays", replays)
        self.step_size = self.epsilon if step_size is None else check_number("Free", "step_size", step_size)
        self.bounds = check_bounds("Free", bounds)
        self.mask = check_mask("Free", mask)
        self.delta: Tensor | None = None

    def perturb(self, compute: Compute, inputs: Any) -> Any:
        """The inputs with the change as it is now; `compute` is not called."""
        x, put = split("Free", inputs)
        with no_grad():
            start = wide(x)
            return put(bounded(start + self._current(start, inputs), start, self.bounds).astype(x.dtype))

    def __call__(self, compute: Compute, inputs: Any, backward: Backward, update: Update | None = None) -> Tensor:
        """Train on a batch: see `minigrad.train.adversaries`; returns the loss of the last replay, for the log."""
        x, put = split("Free", inputs)
        if update is None and self.replays > 1:
            raise TypeError(message("Free", "update", None, "a function that steps and drops the gradients"))
        with no_grad():
            start = wide(x)
            delta = self._current(start, inputs)
            keep = 1.0 if self.mask is None else expanded("Free", self.mask(inputs), x)
        for replay in range(self.replays):
            if replay and update is not None:
                update()
            with no_grad():
                point = leaf(bounded(start + delta, start, self.bounds).astype(x.dtype))
            loss = loss_of("Free", compute, put(point))
            backward(loss)
            if point.grad is None:
                need = "backward() of it, which reaches the inputs too"
                raise GradError(message("Free", "the gradient of the inputs", None, need))
            with no_grad():
                moved = delta + ops.sign(finite(point.grad)) * keep * self.step_size
                delta = ops.clip(moved, -self.epsilon, self.epsilon)
        self._keep(delta)
        return loss.detach()

    def _current(self, start: Tensor, inputs: Any) -> Tensor:
        """The change for a batch, of which the last may be smaller, and which begins at 0."""
        delta = self.delta
        if delta is None or delta.shape[1:] != start.shape[1:] or len(delta) < len(start) or delta.dtype != start.dtype:
            return ops.zeros_like(start)
        delta = delta[: len(start)]
        return delta if self.mask is None else delta * expanded("Free", self.mask(inputs), start)

    def _keep(self, delta: Tensor) -> None:
        """Remember the change; of a smaller batch that of its examples."""
        whole = self.delta
        if (
            whole is None
            or whole.shape[1:] != delta.shape[1:]
            or len(whole) <= len(delta)
            or whole.dtype != delta.dtype
        ):
            self.delta = delta
        else:
            self.delta = ops.concat([delta, whole[len(delta) :]])

    def state_dict(self) -> dict[str, Any]:
        """A snapshot: a copy of the change."""
        return {"delta": None if self.delta is None else self.delta.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises
        ------
        ValueError
            If it is something else.
        """
        given: Any = state
        keys = sorted(map(str, given)) if isinstance(given, Mapping) else None
        if keys != ["delta"]:
            got = describe(given) if keys is None else f"with the keys {keys}"
            raise ValueError(message("Free.load_state_dict", "state", got, "what state_dict gives"))
        delta = state["delta"]
        self.delta = None if delta is None else ops.tensor(delta)

    def __repr__(self) -> str:
        return f"Free(epsilon={self.epsilon:g}, replays={self.replays})"
