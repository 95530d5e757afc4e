"""Relations: a student keeps the distances and angles among the examples of a batch, as the teacher has them."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.compress.distillation.features import Term
from minigrad.compress.distillation.means import wide
from minigrad.errors import ShapeError, message
from minigrad.tensor import Tensor

__all__ = ["RelationAngles", "RelationDistances", "angle_loss", "distance_loss"]


class RelationDistances(Term):
    """Keep the distances among the examples of a batch; see `distance_loss`.

    Parameters
    ----------
    student, teacher, weight
        As for `Term`; they need not have the same features. Axes behind the first are flattened.
    """

    def forward(self, student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
        return distance_loss(student, teacher)


class RelationAngles(Term):
    """Keep the angles among the examples of a batch; see `angle_loss`.

    Parameters
    ----------
    student, teacher, weight
        As for `Term`; they need not have the same features. Axes behind the first are flattened.
    """

    def forward(self, student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
        return angle_loss(student, teacher)


def distance_loss(student: Any, teacher: Any) -> Tensor:
    """The Huber loss of the distances among examples from the teacher's, the mean over pairs.

    Distances are divided by their mean over pairs that are apart. W. Park et al., "Relational knowledge distillation",
    2019.

    Parameters
    ----------
    student, teacher : Tensor
        (batch, ...), at least two examples; the same batch, and any features.

    Raises
    ------
    ShapeError
        If the batches differ, or are too small.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.compress import distance_loss
    >>> points = mg.tensor([[0.0], [1.0], [3.0]])
    >>> distance_loss(2.0 * points, points), mg.round(distance_loss(points * points, points), 4)
    (tensor(0.), tensor(0.037))
    """
    student, teacher = _examples("distance_loss", student, teacher, 2)
    count = student.shape[0]
    total: Tensor = ops.huber_loss(_distances(student), _distances(teacher), reduction="sum")
    return ops.divide(total, count * (count - 1))


def angle_loss(student: Any, teacher: Any) -> Tensor:
    """The Huber loss of the cosines of the angles in triples of examples from the teacher's, the mean over triples.

    The angle of (i, j, k) is that between ``x_i - x_j`` and ``x_k - x_j``. W. Park et al., 2019. It holds all triples,
    so its memory grows with the third power of the batch.

    Parameters
    ----------
    student, teacher : Tensor
        (batch, ...), at least three examples; the same batch, and any features.

    Raises
    ------
    ShapeError
        If the batches differ, or are too small.
    """
    student, teacher = _examples("angle_loss", student, teacher, 3)
    count = student.shape[0]
    total: Tensor = ops.huber_loss(_cosines(student), _cosines(teacher), reduction="sum")
    return ops.divide(total, count * (count - 1) * (count - 2))


def _examples(who: str, student: Any, teacher: Any, least: int) -> tuple[Tensor, Tensor]:
    """Both as (batch, features)."""
    student, teacher = wide(student), wide(teacher)
    for name, x in (("student", student), ("teacher", teacher)):
        if x.ndim < 2 or x.shape[0] < least:
            raise ShapeError(message(who, name, x, f"shape (batch, ...) with at least {least} examples"))
    if student.shape[0] != teacher.shape[0]:
        raise ShapeError(message(who, "student", student, f"{teacher.shape[0]} examples, as the teacher"))
    flat = [ops.reshape(x, (x.shape[0], -1)) for x in (student, teacher)]
    return flat[0], flat[1]


def _lengths(differences: Tensor) -> Tensor:
    """Lengths over the last axis, whose derivative at 0 is 0."""
    total = ops.sum(ops.square(differences), axis=-1)
    apart = total > 0
    return ops.where(apart, ops.sqrt(ops.where(apart, total, 1.0)), 0.0)


def _distances(x: Tensor) -> Tensor:
    """Distances (batch, batch), of mean 1 over those that are not 0."""
    found = _lengths(x[:, None] - x[None])
    apart = int(ops.count_nonzero(found.detach()).item())
    return found / (ops.sum(found) / apart) if apart else found


def _cosines(x: Tensor) -> Tensor:
    """Cosines (batch, batch, batch) of the angles at the first axis's example; 0 where two are the same point."""
    differences = x[None] - x[:, None]  # (j, i): from j to i
    lengths = _lengths(differences)[..., None]
    units = ops.where(lengths > 0, differences / ops.where(lengths > 0, lengths, 1.0), 0.0)
    return ops.matmul(units, units.mT)
