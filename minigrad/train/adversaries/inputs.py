"""FGSM and PGD: inputs moved along the gradient of the loss, once or step by step."""

from __future__ import annotations

from typing import Any

from minigrad import ops, random
from minigrad.autograd import no_grad
from minigrad.errors import describe, message
from minigrad.nn.checks import kept_buffers
from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.train.adversaries.parts import (
    Backward,
    Compute,
    Mask,
    Update,
    bounded,
    check_bounds,
    check_mask,
    check_module,
    check_number,
    check_steps,
    expanded,
    input_gradient,
    loss_of,
    project,
    split,
    unit,
    wide,
)

__all__ = ["FGSM", "PGD"]


class PGD:
    """Projected gradient ascent: steps along the gradient of the loss, each brought back to a ball around the input.

    With ``norm="inf"``, for every example::

        x = clip(x + step_size * sign(gradient), x0 - epsilon, x0 + epsilon)

    and with ``norm=2`` the step is ``step_size * gradient / ||gradient||``, and what leaves the ball of radius
    `epsilon` is brought back along the radius. `random_start` begins at a random point of the ball.

    A. Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018.

    The model is in the mode that it is in; dropout draws the same masks in all steps, those that the training pass
    draws. Only the input's gradient is computed, and of the loss as it is, without a loss scale. Half inputs are moved
    in float32 and rounded at the end.

    Parameters
    ----------
    epsilon : float
        The radius of the ball.
    step_size : float
        The length of a step.
    steps : int
        How many.
    norm : str or int
        ``"inf"`` or ``2``, the latter over all axes of an example but the first.
    random_start : bool
        Whether to begin at a random point of the ball.
    bounds : pair of float, optional
        The least and the largest value of the data, (0, 1) for images: x stays between them.
    mask : callable, optional
        Takes the inputs and gives bools, True for what may be moved, of the shape of the first axes: for padded
        sequences (batch, length).
    clean : float
        The share of the loss of the unmoved inputs in training.
    model : Module, optional
        Whose buffers are put back after the steps. Left out, a model in training mode counts every step in the
        statistics of `BatchNorm`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If an input is no tensor.
    DTypeError
        If it is not floating.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import train
    >>> x = mg.tensor([[0.5, 0.125]])
    >>> pgd = train.PGD(0.25, step_size=0.125, steps=3, random_start=False, bounds=(0.0, 1.0))
    >>> pgd.perturb(lambda x: (x * mg.tensor([1.0, -1.0])).sum(), x)
    tensor([[0.75, 0.  ]])
    """

    def __init__(
        self,
        epsilon: float,
        step_size: float,
        steps: int,
        norm: str | int = "inf",
        *,
        random_start: bool = True,
        bounds: tuple[float, float] | None = None,
        mask: Mask | None = None,
        clean: float = 0.0,
        model: Module | None = None,
    ) -> None:
        who = self._who
        self.epsilon = check_number(who, "epsilon", epsilon)
        self.step_size = check_number(who, "step_size", step_size)
        self.steps = check_steps(who, "steps", steps)
        if norm not in ("inf", 2, "2"):
            raise ValueError(message(who, "norm", describe(norm), "'inf' or 2"))
        self.norm = "inf" if norm == "inf" else "2"
        self.random_start = bool(random_start)
        self.bounds = check_bounds(who, bounds)
        self.mask = check_mask(who, mask)
        self.clean = check_number(who, "clean", clean, 0.0, 1.0)
        self.model = None if model is None else check_module(who, "model", model)

    @property
    def _who(self) -> str:
        return type(self).__name__

    def perturb(self, compute: Compute, inputs: Any) -> Any:
        """The inputs, moved; of a tuple or list the first is.

        Parameters
        ----------
        compute : callable
            Takes inputs and gives the loss, a scalar tensor.
        inputs : Tensor, or tuple or list that begins with one
            A batch, examples along axis 0.

        Returns
        -------
        Tensor, or tuple or list
            Cut from the graph.
        """
        x, put = split(self._who, inputs)
        with no_grad():
            start = wide(x)
            keep = 1.0 if self.mask is None else expanded(self._who, self.mask(inputs), x)
            moved = start
            if self.random_start and self.epsilon:
                moved = bounded(start + self._somewhere(start) * keep, start, self.bounds)
        before = random.get_state()
        with kept_buffers([] if self.model is None else self.model.buffers()):
            for _ in range(self.steps):
                try:
                    g = input_gradient(self._who, compute, put, moved.astype(x.dtype))
                finally:
                    random.set_state(before)
                with no_grad():
                    moved = bounded(self._stepped(moved, start, g, keep), start, self.bounds)
        return put(moved.astype(x.dtype))

    def _somewhere(self, like: Tensor) -> Tensor:
        """A random point of the ball around 0 for each example, uniform in it."""
        if self.norm == "inf":
            return random.uniform(like.shape, -1.0, 1.0, dtype=like.dtype) * self.epsilon
        size = max(like.size // max(like.shape[0], 1), 1)
        radius = random.uniform((like.shape[0], *(1,) * (like.ndim - 1)), dtype=like.dtype) ** (1.0 / size)
        return project(unit(random.normal(like.shape, dtype=like.dtype)) * radius * self.epsilon, self.epsilon)

    def _stepped(self, moved: Tensor, start: Tensor, g: Tensor, keep: Any) -> Tensor:
        """One step from `moved`, back in the ball around `start`."""
        if self.norm == "inf":
            moved = moved + ops.sign(g) * keep * self.step_size
            return ops.minimum(ops.maximum(moved, start - self.epsilon), start + self.epsilon)
        way = moved - start + unit(g * keep) * self.step_size
        return start + project(way, self.epsilon)

    def __call__(self, compute: Compute, inputs: Any, backward: Backward, update: Update | None = None) -> Tensor:
        """Train on a batch: see `minigrad.train.adversaries`; returns the loss of the moved inputs, for the log."""
        moved = self.perturb(compute, inputs)
        if not self.clean:
            loss = loss_of(self._who, compute, moved)
            backward(loss)
            return loss.detach()
        first = loss_of(self._who, compute, inputs)
        backward(first, self.clean)
        second = loss_of(self._who, compute, moved)
        backward(second, 1.0 - self.clean)
        return first.detach() * self.clean + second.detach() * (1.0 - self.clean)

    def __repr__(self) -> str:
        return (
            f"{self._who}(epsilon={self.epsilon:g}, step_size={self.step_size:g}, steps={self.steps}, norm={self.norm})"
        )


class FGSM(PGD):
    """The fast gradient sign method: one step, ``x + epsilon * sign(gradient)``.

    I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and harnessing adversarial examples", 2015, who train with
    ``clean=0.5``.

    Parameters
    ----------
    epsilon : float
        How far.
    bounds, mask, clean, model
        As for `PGD`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import train
    >>> train.FGSM(0.25).perturb(lambda x: (x * mg.tensor([3.0, -1.0, 0.0])).sum(), mg.zeros((1, 3)))
    tensor([[ 0.25, -0.25,  0.  ]])
    """

    def __init__(
        self,
        epsilon: float,
        *,
        bounds: tuple[float, float] | None = None,
        mask: Mask | None = None,
        clean: float = 0.0,
        model: Module | None = None,
    ) -> None:
        super().__init__(epsilon, epsilon, 1, random_start=False, bounds=bounds, mask=mask, clean=clean, model=model)
