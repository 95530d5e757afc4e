"""Connectionist temporal classification: the likelihood of labels whose places in a longer sequence are not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigrad import dtypes
from minigrad.errors import DTypeError, ShapeError, describe, message
from minigrad.ops.conversion import as_index, as_operand, astype
from minigrad.ops.creation import full
from minigrad.ops.loss import check_reduction, real
from minigrad.ops.ranges import arange
from minigrad.ops.reduction import sum as total
from minigrad.ops.registry import Array, op
from minigrad.ops.rounding import maximum
from minigrad.ops.samples import A, case, error

if TYPE_CHECKING:
    from minigrad.tensor import Tensor

__all__ = ["ctc_loss"]

NEVER = -1e30  # the logarithm of no probability; finite, so that differences of two of them are numbers
HOPELESS = 1e29  # a loss above belongs to no alignment


class Lattice:
    """The labels with blanks around them, ``(batch, places)``, and how one may go from place to place.

    A step stays where it is, goes on by one place, or by two where that skips a blank between different labels.
    """

    def __init__(
        self, xp: Any, log_probabilities: Array, targets: Array, input_lengths: Array, target_lengths: Array, blank: int
    ) -> None:
        self.xp, self.input_lengths = xp, input_lengths
        batch, self.steps, _ = log_probabilities.shape
        width = targets.shape[1]
        ends = xp.expand_dims(target_lengths, axis=1)
        labels = xp.where(xp.arange(width) < ends, targets, blank)
        pair = xp.stack([xp.full_like(labels, blank), labels], axis=2)
        last = xp.full((batch, 1), blank, dtype=labels.dtype)
        self.labels = xp.concat([xp.reshape(pair, (batch, 2 * width)), last], axis=1)
        self.places = 2 * width + 1
        two = xp.concat([xp.full((batch, 2), blank, dtype=labels.dtype), self.labels[:, :-2]], axis=1)
        self.skips = (self.labels != blank) & (self.labels != two[:, : self.places])
        place = xp.arange(self.places)
        self.final = (place == 2 * ends) | (place == 2 * ends - 1)
        self.first = place == 0
        index = xp.broadcast_to(xp.expand_dims(self.labels, axis=1), (batch, self.steps, self.places))
        found = xp.take_along_axis(log_probabilities, index, axis=2)
        self.scores = xp.where(found > NEVER, found, NEVER)

    def runs(self, t: int) -> Array:
        """Which sequences have a step `t`, as a column."""
        return self.xp.expand_dims(self.input_lengths > t, axis=1)

    def shifted(self, x: Array, by: int) -> Array:
        """Each place gets what is `by` places before it (after it, where `by` is negative)."""
        room = self.xp.full((x.shape[0], min(abs(by), self.places)), NEVER, dtype=x.dtype)
        if by > 0:
            return self.xp.concat([room, x[:, :-by]], axis=1)[:, : self.places]
        return self.xp.concat([x[:, -by:], room], axis=1)[:, : self.places]

    def start(self, where: Array) -> Array:
        """0 at some places and NEVER elsewhere, for each sequence."""
        shape, dtype = (self.scores.shape[0], self.places), self.scores.dtype
        return self.xp.where(self.xp.broadcast_to(where, shape), self.xp.zeros(shape, dtype=dtype), NEVER)

    def forward(self) -> list[Array]:
        """Before the first step and after each: the log-probabilities of all ways to a place."""
        xp = self.xp
        alphas = [self.start(self.first)]
        for t in range(self.steps):
            a = alphas[-1]
            ways = xp.logaddexp(a, self.shifted(a, 1))
            ways = xp.logaddexp(ways, xp.where(self.skips, self.shifted(a, 2), NEVER))
            alphas.append(xp.where(self.runs(t), ways + self.scores[:, t], a))
        return alphas

    def backward(self) -> list[Array]:
        """After each step: the log-probabilities of all ways from a place to the end."""
        xp = self.xp
        betas = [self.start(self.final)]
        for t in range(self.steps - 1, 0, -1):
            b = betas[-1] + self.scores[:, t]
            ways = xp.logaddexp(b, self.shifted(b, -1))
            ways = xp.logaddexp(ways, self.shifted(xp.where(self.skips, b, NEVER), -2))
            betas.append(xp.where(self.runs(t), ways, betas[-1]))
        return betas[::-1]

    def losses(self, alpha: Array) -> Array:
        """Minus the log-probability of all ways to an end."""
        ends = self.xp.where(self.final, alpha, NEVER)
        top = self.xp.max(ends, axis=1, keepdims=True)
        rest = self.xp.log(self.xp.sum(self.xp.exp(ends - top), axis=1))
        return -(self.xp.squeeze(top, axis=1) + rest)


@op(
    dtype=real,
    skip="targets input_lengths target_lengths",
    needs="log-probabilities (batch, length, classes), targets (batch, labels), two lengths a sequence",
    amp="float32",
)
def _ctc_loss(
    xp: Any,
    log_probabilities: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    /,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Array:
    lattice = Lattice(xp, log_probabilities, targets, input_lengths, target_lengths, blank)
    losses = lattice.losses(lattice.forward()[-1])
    return xp.where(losses < HOPELESS, losses, 0.0 if zero_infinity else float("inf"))


@_ctc_loss.vjp(0)
def _(
    xp: Any,
    g: Array,
    log_probabilities: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    *,
    blank: int,
) -> Array:
    if not log_probabilities.shape[1]:
        return xp.zeros_like(log_probabilities)
    lattice = Lattice(xp, log_probabilities, targets, input_lengths, target_lengths, blank)
    alphas, betas = lattice.forward(), lattice.backward()
    losses = lattice.losses(alphas[-1])
    hoped = losses < HOPELESS
    ways = xp.stack(alphas[1:], axis=1) + xp.stack(betas, axis=1)
    ways = ways + xp.expand_dims(xp.where(hoped, losses, NEVER), axis=(1, 2))
    batch, steps, places = ways.shape
    counts = xp.expand_dims(xp.arange(steps) < xp.expand_dims(input_lengths, axis=1), axis=2)
    share = xp.where(counts, -xp.exp(ways) * xp.expand_dims(xp.where(hoped, g, 0.0), axis=(1, 2)), 0.0)
    labels = xp.broadcast_to(xp.expand_dims(lattice.labels, axis=1), (batch, steps, places))
    at = xp.expand_dims(xp.arange(batch), axis=(1, 2)), xp.expand_dims(xp.arange(steps), axis=(0, 2)), labels
    return xp.index_add(log_probabilities.shape, at, share)


LOGS, LABELS = A((2, 4, 3), -3.0, -0.2), A((2, 2), 1, 3, kind="int")
FULL, TWO = A((2,), 4, 5, kind="int"), A((2,), 2, 3, kind="int")
_ctc_loss.samples(
    case(LOGS, LABELS, FULL, TWO),
    case(LOGS, LABELS, A((2,), 3, 5, kind="int"), A((2,), 0, 2, kind="int")),
    case(LOGS, A((2, 2), 0, 2, kind="int"), FULL, TWO, blank=2),
    case(A((1, 5, 2), -3.0, -0.2), A((1, 3), 1, 2, kind="int"), A((1,), 5, 6, kind="int"), A((1,), 3, 4, kind="int")),
    case(LOGS, LABELS, A((2,), 1, 2, kind="int"), TWO, zero_infinity=True),
    case(A((1, 3, 2), -3.0, -0.2), A((1, 0), 0, 1, kind="int"), A((1,), 3, 4, kind="int"), A((1,), 0, 1, kind="int")),
    case((2, 0, 3), LABELS, A((2,), 0, 1, kind="int"), A((2,), 0, 1, kind="int")),
    case((0, 4, 3), A((0, 2), 1, 3, kind="int"), A((0,), 0, 1, kind="int"), A((0,), 0, 1, kind="int")),
    error(ShapeError, "ctc_loss: got log_probabilities float64 (2, 4)", (2, 4), LABELS, FULL, TWO),
)


def ctc_loss(
    log_probabilities: Tensor,
    targets: Any,
    input_lengths: Any = None,
    target_lengths: Any = None,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log-probability that a sequence of predictions reads as the labels.

    It is the sum over all ways to stretch the labels to the length of the predictions: each may be repeated, and blanks
    may stand between (and must, between equal ones). A. Graves, S. Fernandez, F. Gomez, J. Schmidhuber, "Connectionist
    temporal classification", 2006.

    Parameters
    ----------
    log_probabilities : Tensor
        ``(batch, length, classes)``, as from `log_softmax`. PyTorch's has the length first.
    targets : Tensor of int
        Labels ``(batch, labels)``; what stands beyond the length of a target is not read.
    input_lengths, target_lengths : Tensor of int, optional
        ``(batch,)``: how many predictions and labels of each sequence count; all of them by default.
    blank : int
        The class of the blank.
    zero_infinity : bool
        A loss of 0 in place of infinity where there are too few predictions for the labels. The gradient there is 0 in
        both cases.
    reduction : str
        ``"mean"``: of the losses, each divided by the number of its labels (at least 1), as in PyTorch; ``"sum"``;
        ``"none"`` for the loss of each sequence.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If targets or lengths are not integers.
    IndexError
        For a label that is negative, too large, or the blank.
    ValueError
        For a length that is negative or too large, or another reduction.

    Examples
    --------
    >>> import minigrad as mg
    >>> half = mg.log(mg.full((1, 2, 2), 0.5))  # of four readings, "a a", "a -" and "- a" read as "a"
    >>> mg.round(mg.exp(-mg.ctc_loss(half, mg.tensor([[1]]))), 4)
    tensor(0.75)
    """
    who = "ctc_loss"
    check_reduction(who, reduction)
    source, labels = as_operand(who, "log_probabilities", log_probabilities), as_operand(who, "targets", targets)
    if source.ndim != 3:
        raise ShapeError(message(who, "log_probabilities", source, "shape (batch, length, classes)"))
    batch, steps, classes = source.shape
    if labels.dtype not in dtypes.INTEGER:
        raise DTypeError(message(who, "targets", labels, "class indices of an integer dtype"))
    if labels.ndim != 2 or labels.shape[0] != batch:
        need = f"shape ({batch}, labels) for log_probabilities {describe(source)}"
        raise ShapeError(message(who, "targets", labels, need))
    blank = as_index(who, "blank", blank)
    if not 0 <= blank < classes:
        raise ValueError(message(who, "blank", blank, f"one of the {classes} classes"))
    labels = astype(labels, dtypes.int64, copy=False)
    inputs = read_lengths("input_lengths", input_lengths, batch, steps, source.device)
    ends = read_lengths("target_lengths", target_lengths, batch, labels.shape[1], source.device)
    read = labels[arange(labels.shape[1], device=labels.device) < ends.reshape(-1, 1)]
    wrong = (read < 0) | (read >= classes) | (read == blank)
    if wrong.any():
        got = f"{describe(labels)} with the label {read[wrong][0].item()}"
        raise IndexError(message(who, "targets", got, f"classes from 0 to {classes - 1} other than the blank {blank}"))
    losses = _ctc_loss(source, labels, inputs, ends, blank=blank, zero_infinity=bool(zero_infinity))
    if reduction == "none":
        return losses
    return (
        total(losses) if reduction == "sum" else total(losses / astype(maximum(ends, 1), losses.dtype)) / max(batch, 1)
    )


def read_lengths(name: str, lengths: Any, batch: int, most: int, device: str) -> Tensor:
    """The lengths as int64, one a sequence."""
    if lengths is None:
        return full((batch,), most, dtype=dtypes.int64, device=device)
    found = as_operand("ctc_loss", name, lengths)
    if found.dtype not in dtypes.INTEGER:
        raise DTypeError(message("ctc_loss", name, found, "integers"))
    if found.shape != (batch,):
        raise ShapeError(message("ctc_loss", name, found, f"shape {(batch,)}, one length a sequence"))
    wrong = (found < 0) | (found > most)
    if wrong.any():
        raise ValueError(
            message("ctc_loss", name, f"{found[wrong][0].item()} in one place", f"lengths from 0 to {most}")
        )
    return astype(found, dtypes.int64, copy=False)
