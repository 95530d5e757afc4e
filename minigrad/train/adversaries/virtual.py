"""VAT: the prediction kept where it is, whatever the input is moved to nearby."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minigrad import ops, random
from minigrad.autograd import enable_grad, no_grad
from minigrad.errors import GradError, describe, message
from minigrad.nn.checks import kept_buffers
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
    expanded,
    finite,
    gradients,
    leaf,
    loss_of,
    split,
    unit,
    wide,
)

__all__ = ["VAT"]


class VAT:
    """Virtual adversarial training: a penalty for predictions that change nearby. It needs no labels.

    ::

        penalty = KL(p(x) || p(x + r)),      r = epsilon * d,     ||d|| = 1,   the d that makes it large

    d is found by power iteration: from a random direction, `steps` times ``d = g / ||g||`` with g the gradient of the
    divergence by r at ``r = xi * d``. p(x) counts as constant. Norms are Euclidean, over each example. The divergence
    is the mean over examples (and positions that are no padding). T. Miyato et al., "Virtual adversarial training: a
    regularization method for supervised and semi-supervised learning", 2018; on embeddings: T. Miyato, A. Dai,
    I. Goodfellow, "Adversarial training methods for semi-supervised text classification", 2017.

    Predictions are read by a hook on the model, whose output is logits, classes along the last axis. Dropout draws the
    same masks in all passes, and `BatchNorm` counts the first one alone, so that at radius 0 the penalty is 0.

    Parameters
    ----------
    model : Module
        What gives the logits when `compute` runs.
    epsilon : float
        The radius.
    embedding : Module, optional
        A layer of the model whose output is moved, in place of the inputs.
    xi : float
        The radius at which the gradient is taken. It has to be small; in half precision 1 is.
    steps : int
        Steps of power iteration.
    weight : float
        Of the penalty beside the loss.
    mask : callable, optional
        Takes the inputs, or the ids that the embedding gets, and gives bools, True for what may be moved. By default
        positions that are not the embedding's ``padding_idx``.
    logits : callable, optional
        Takes the model's output and gives the logits.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If a module is none, or there are no logits.
    GradError
        If `compute` calls neither.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> model = nn.Sequential([nn.Dense(8, activation="tanh"), nn.Dense(3)])
    >>> x, labels = mg.random.normal((5, 4)), mg.tensor([0, 1, 2, 0, 1])
    >>> vat = train.VAT(model, epsilon=0.5)
    >>> compute = lambda x: mg.cross_entropy(model(x), labels)
    >>> plain = compute(x).item()
    >>> vat(compute, x, lambda loss, weight=1.0: (loss * weight).backward()).item() > plain
    True
    """

    def __init__(
        self,
        model: Module,
        epsilon: float,
        *,
        embedding: Module | None = None,
        xi: float = 1e-2,
        steps: int = 1,
        weight: float = 1.0,
        mask: Mask | None = None,
        logits: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self.model = check_module("VAT", "model", model)
        self.embedding = None if embedding is None else check_module("VAT", "embedding", embedding)
        self.epsilon = check_number("VAT", "epsilon", epsilon)
        self.xi = check_number("VAT", "xi", xi)
        if not self.xi:
            raise ValueError(message("VAT", "xi", describe(xi), "a number above 0"))
        self.steps = check_steps("VAT", "steps", steps, 0)
        self.weight = check_number("VAT", "weight", weight)
        self.mask, self.logits = check_mask("VAT", mask), logits

    def perturb(self, compute: Compute, inputs: Any) -> Any:
        """The inputs at ``x + r``; with an embedding r itself, (batch, length, features)."""
        source, before = _source(), random.get_state()
        try:
            with kept_buffers(self.model.buffers()), enable_grad():
                way = _Way(self, compute, inputs)
                clean = way.first()[1].detach()
                found = self._worst(way, clean, source, before)
        finally:
            random.set_state(before)
        return way.result(found)

    def __call__(self, compute: Compute, inputs: Any, backward: Backward, update: Update | None = None) -> Tensor:
        """Train on a batch: see `minigrad.train.adversaries`; returns loss and penalty together, for the log."""
        source, before = _source(), random.get_state()
        way = _Way(self, compute, inputs)
        loss, clean = way.first()
        after, clean = random.get_state(), clean.detach()
        backward(loss)
        try:
            with kept_buffers(self.model.buffers()):
                found = self._worst(way, clean, source, before)
                random.set_state(before)
                penalty = way.divergence(clean, found)
        finally:
            random.set_state(after)
        backward(penalty, self.weight)
        return loss.detach() + penalty.detach() * self.weight

    def _worst(self, way: _Way, clean: Tensor, source: random.Generator, before: dict[str, int | str]) -> list[Tensor]:
        """The r of each place: power iteration from a random direction."""
        with no_grad():
            towards = [way.kept(i, source.normal(like.shape, dtype=like.dtype)) for i, like in enumerate(way.places)]
            towards = [unit(d) for d in towards]
        for _ in range(self.steps):
            with no_grad():
                points = [leaf(d * self.xi) for d in towards]
            random.set_state(before)
            with enable_grad():
                divergence = way.divergence(clean, points)
            found = gradients("VAT", divergence, points)
            with no_grad():
                towards = [unit(way.kept(i, finite(g))) for i, g in enumerate(found)]
        with no_grad():
            return [d * self.epsilon for d in towards]

    def __repr__(self) -> str:
        return f"VAT(epsilon={self.epsilon:g}, xi={self.xi:g}, steps={self.steps}, weight={self.weight:g})"


class _Way:
    """From something added to the inputs, or to the embedding, to the divergence of the prediction."""

    def __init__(self, vat: VAT, compute: Compute, inputs: Any) -> None:
        self.vat, self.compute, self.inputs = vat, compute, inputs
        self.shift = None if vat.embedding is None else Shift("VAT", vat.embedding, vat.mask)
        self.places: list[Tensor] = []  # zeros like what is moved
        self.keeps: list[Tensor | None] = []
        if self.shift is None:
            self.x, self.put = split("VAT", inputs)
            with no_grad():
                self.places = [ops.zeros_like(wide(self.x))]
                self.keeps = [None if vat.mask is None else expanded("VAT", vat.mask(inputs), self.x)]

    def first(self) -> tuple[Tensor, Tensor]:
        """The loss and the logits of the inputs as they are; the places that are moved are found by the way."""
        with self._seen() as outputs:
            if self.shift is None:
                loss = loss_of("VAT", self.compute, self.inputs)
            else:
                with self.shift.move(lambda output, keep: ops.zeros_like(wide(output))):
                    loss = loss_of("VAT", self.compute, self.inputs)
                self.shift.check()
                self.places, self.keeps = list(self.shift.deltas), self.shift.keeps
        return loss, self._logits(outputs)

    def divergence(self, clean: Tensor, added: list[Tensor]) -> Tensor:
        """The mean of KL(clean || prediction with something added)."""
        with self._seen() as outputs:
            if self.shift is None:
                moved = wide(self.x) + added[0]
                loss_of("VAT", self.compute, self.put(moved.astype(self.x.dtype)))
            else:
                self.shift.deltas = list(added)
                self.shift.begin()
                with self.shift.move(_never):
                    loss_of("VAT", self.compute, self.inputs)
        log_p = ops.log_softmax(wide(clean), axis=-1)
        log_q = ops.log_softmax(wide(self._logits(outputs)), axis=-1)
        each = ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)
        counted = self._counted(each)
        if counted is None:
            return ops.mean(each)
        return ops.sum(each * counted) / ops.maximum(ops.sum(counted), 1.0)

    def _counted(self, each: Tensor) -> Tensor | None:
        """Which divergences count: those at padding do not, where there is one for each position."""
        keep = self.keeps[0] if len(self.keeps) == 1 else None
        if keep is None or each.ndim < 2 or keep.ndim != each.ndim + 1 or keep.shape[:-1] != each.shape:
            return None
        return keep[..., 0].astype(each.dtype)

    def kept(self, place: int, d: Tensor) -> Tensor:
        """With 0 where nothing may be moved."""
        keep = self.keeps[place]
        return d if keep is None else d * keep

    def result(self, added: list[Tensor]) -> Any:
        """What `VAT.perturb` gives."""
        with no_grad():
            if self.shift is None:
                return self.put((wide(self.x) + added[0]).astype(self.x.dtype))
        return added[0] if len(added) == 1 else added

    @contextmanager
    def _seen(self) -> Iterator[list[Any]]:
        """What the model gives while a block runs."""
        outputs: list[Any] = []
        remove = self.vat.model.register_forward_hook(lambda module, args, output: outputs.append(output))
        try:
            yield outputs
        finally:
            remove()

    def _logits(self, outputs: list[Any]) -> Tensor:
        if not outputs:
            hint = "compute has to call the model itself, not its forward"
            raise GradError(message("VAT", "model", "not called by compute", "what gives the logits", hint))
        found = outputs[-1] if self.vat.logits is None else self.vat.logits(outputs[-1])
        if not isinstance(found, Tensor) or found.ndim < 2:
            need = "logits, (batch, ..., classes)"
            raise TypeError(message("VAT", "the model's output", found, need, "Pass logits=, which takes them from it"))
        return found


def _source() -> random.Generator:
    """A generator of its own for the directions: whatever the passes draw, it gives others in each step."""
    return random.Generator(int(random.integers(0, 2**31 - 1)))


def _never(output: Tensor, keep: Tensor | None) -> Tensor:
    """The layer is called once more than in the first pass."""
    got = "called more often than in the first pass"
    raise GradError(message("VAT", "embedding", got, "the same calls in every pass"))
