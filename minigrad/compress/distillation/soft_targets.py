"""Soft targets: a student learns the distribution that a teacher gives, not the label alone."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.compress.distillation.means import check_shapes, row_mean, wide
from minigrad.errors import message
from minigrad.nn.checks import positive
from minigrad.tensor import Tensor

__all__ = ["DIRECTIONS", "KINDS", "soft_target_loss"]

KINDS = ("classes", "binary", "regression")
DIRECTIONS = ("forward", "reverse")


def soft_target_loss(
    student: Any,
    teacher: Any,
    temperature: float = 4.0,
    *,
    kind: str = "classes",
    direction: str = "forward",
    rows: Any = None,
) -> Tensor:
    """How far the student's predictions are from the teacher's, at a temperature T.

    For ``"classes"`` it is the Kullback-Leibler divergence of each row of logits,

        T^2 sum_c q_c (log q_c - log p_c),    q = softmax(teacher / T),    p = softmax(student / T)

    or with ``direction="reverse"`` that of p from q, which seeks one mode of the teacher where the other one covers
    all. For ``"binary"`` each logit is a question of its own, with sigmoids in place of the softmax. For
    ``"regression"`` it is the squared difference, and has no temperature. T^2 keeps the gradient's size: for large T
    it is that of ``sum_c (student_c - teacher_c)^2 / (2 classes)`` where the logits of each row have mean 0.

    G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015; J. Ba, R. Caruana, "Do deep
    nets really need to be deep?", 2014, for matching outputs; Y. Gu et al., "MiniLLM", 2024, for the reverse.

    Parameters
    ----------
    student, teacher : Tensor
        Logits (..., classes), or predictions, of one shape. Half ones are computed in float32.
    temperature : float
        T.
    kind : str
        ``"classes"``, ``"binary"`` or ``"regression"``.
    direction : str
        ``"forward"`` or ``"reverse"``.
    rows : Tensor, optional
        The weight of each row, (batch,) or (batch, length), adding up to 1; by default all weigh the same.

    Returns
    -------
    Tensor
        The mean over rows; of ``"binary"`` and ``"regression"`` over all elements.

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        If an option is none of those named.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.compress import soft_target_loss
    >>> teacher = mg.tensor([[4.0, 0.0, 0.0]])
    >>> mg.round(soft_target_loss(mg.zeros((1, 3)), teacher, 2.0), 3)
    tensor(1.732)
    >>> soft_target_loss(teacher, teacher, 2.0)
    tensor(0.)
    """
    check_kind("soft_target_loss", kind, direction)
    t = positive("soft_target_loss", "temperature", temperature)
    student, teacher = wide(student), wide(teacher)
    check_shapes("soft_target_loss", student, teacher, "Both need the same classes")
    rows = None if rows is None else ops.asarray(rows)
    if kind == "regression":
        return row_mean("soft_target_loss", _by_row(ops.square(student - teacher), rows), rows)
    own, wanted = student / t, teacher / t
    if direction == "reverse":
        own, wanted = wanted, own
    if kind == "classes":
        own, wanted = ops.log_softmax(own, axis=-1), ops.log_softmax(wanted, axis=-1)
        values = ops.sum(ops.exp(wanted) * (wanted - own), axis=-1)
    else:
        yes = ops.log_sigmoid(wanted)
        no = ops.log_sigmoid(-wanted)
        values = ops.exp(yes) * (yes - ops.log_sigmoid(own)) + ops.exp(no) * (no - ops.log_sigmoid(-own))
        values = _by_row(values, rows)
    return row_mean("soft_target_loss", values, rows) * (t * t)


def _by_row(values: Tensor, rows: Tensor | None) -> Tensor:
    """The mean over the outputs of a row, where rows have weights."""
    return values if rows is None or values.ndim < 2 else ops.mean(values, axis=-1)


def check_kind(who: str, kind: Any, direction: Any) -> None:
    """Raise for a kind or direction that there is not."""
    for name, value, known in (("kind", kind, KINDS), ("direction", direction, DIRECTIONS)):
        if value not in known:
            raise ValueError(message(who, name, f"{value!r}", f"one of {', '.join(map(repr, known))}"))
