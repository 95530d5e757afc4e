"""Feature matching: hints, attention transfer and attention maps, between layers of a student and a teacher."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.compress.distillation.means import check_shapes, row_mean, wide
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.checks import finite, integer, positive
from minigrad.nn.module import Module
from minigrad.nn.projection import Projection
from minigrad.tensor import Tensor

__all__ = [
    "AttentionMaps", "AttentionTransfer", "Hint", "Term", "attention_map", "attention_map_loss",
    "attention_transfer_loss", "hint_loss",
]  # fmt: skip

DISTANCES = ("mse", "cosine")


class Term(Module):
    """Base of what is added to a `Distiller`'s loss: it compares two tensors, one of the student, one of the teacher.

    Parameters
    ----------
    student, teacher : str or None
        Where to take them: a tap, see `capture`; None for the outputs of the models. `teacher` is as `student` by
        default.
    weight : float
        What the term is multiplied with.
    """

    def __init__(self, student: str | None = None, teacher: str | None = None, weight: float = 1.0) -> None:
        self.student_tap = student
        self.teacher_tap = student if teacher is None else teacher
        self.weight = finite(type(self).__name__, "weight", weight)

    def complete(self, student: Tensor, teacher: Tensor) -> None:
        """Give parameters that wait for it their shape; subclasses that have some write it."""

    def project(self, student: Tensor) -> Tensor:
        """What of the student is compared, computed in the precision of the model."""
        return student

    def forward(self, student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
        """The loss of what `project` gave; `rows` has the weight of each row, see `row_mean`."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method forward(self, student, teacher, rows)")

    def extra_repr(self) -> str:
        """The taps and the weight."""
        taps = (self.student_tap, self.teacher_tap)
        return f"{taps[0]!r}, {taps[1]!r}" + ("" if self.weight == 1.0 else f", weight={self.weight}")


class Hint(Term):
    """Match the features of a layer with those of a layer of the teacher, through a learned projection.

    A. Romero et al., "FitNets: hints for thin deep nets", 2015; with the distance of cosines V. Sanh et al.,
    "DistilBERT", 2019. The loss is that of `hint_loss`.

    Parameters
    ----------
    student, teacher, weight
        As for `Term`.
    projection : bool or Module
        True for a linear map from the student's features to the teacher's, whose sizes are read from the first batch;
        False where they are equal; or a module of one's own, such as a convolution.
    distance : str
        ``"mse"`` or ``"cosine"``.
    axis : int
        The axis of the features: -1 for Dense layers and Transformers, 1 for convolutions.

    Attributes
    ----------
    projection : Module or None
        It is trained with the student and belongs to the `Distiller`, not to the student.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.compress import Hint
    >>> hint = Hint("encoder.layers.0", "encoder.layers.3")
    >>> student, teacher = mg.ones((2, 5, 8)), mg.ones((2, 5, 16))
    >>> hint.complete(student, teacher)
    >>> hint.projection
    Projection(8 -> 16)
    >>> hint(hint.project(student), teacher).shape
    ()
    """

    def __init__(
        self,
        student: str | None = None,
        teacher: str | None = None,
        weight: float = 1.0,
        *,
        projection: bool | Module = True,
        distance: str = "mse",
        axis: int = -1,
    ) -> None:
        super().__init__(student, teacher, weight)
        if not isinstance(projection, (bool, Module)):
            raise TypeError(message("Hint", "projection", describe(projection), "True, False or a module"))
        self.projection: Module | None = projection if isinstance(projection, Module) else None
        if projection is True:
            self.projection = Projection()
        self.distance, self.axis = _known_distance("Hint", distance), integer("Hint", "axis", axis)

    def complete(self, student: Tensor, teacher: Tensor) -> None:
        if isinstance(self.projection, Projection) and not self.projection.weight.is_initialized:
            self.projection.complete(student.shape[self.axis], teacher.shape[self.axis])

    def project(self, student: Tensor) -> Tensor:
        if not isinstance(self.projection, Projection):
            return student if self.projection is None else self.projection(student)
        projected = self.projection(ops.moveaxis(student, self.axis, -1))
        return ops.moveaxis(projected, -1, self.axis)

    def forward(self, student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
        return hint_loss(student, teacher, distance=self.distance, axis=self.axis, rows=rows)


class AttentionTransfer(Term):
    """Match where the features of a layer are large; see `attention_transfer_loss`.

    Parameters
    ----------
    student, teacher, weight
        As for `Term`.
    power : float
        The exponent p.
    axis : int
        The axis of the features: 1 for convolutions, -1 for Transformers.
    """

    def __init__(
        self,
        student: str | None = None,
        teacher: str | None = None,
        weight: float = 1.0,
        *,
        power: float = 2.0,
        axis: int = 1,
    ) -> None:
        super().__init__(student, teacher, weight)
        self.power = positive("AttentionTransfer", "power", power)
        self.axis = integer("AttentionTransfer", "axis", axis)

    def forward(self, student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
        return attention_transfer_loss(student, teacher, power=self.power, axis=self.axis, rows=rows)


class AttentionMaps(Term):
    """Match the weights of attention layers, (batch, heads, queries, keys); see `attention_map_loss`.

    Parameters
    ----------
    student, teacher, weight
        As for `Term`; the taps end in ``":weights"``.
    mean_heads : bool
        Compare the means over heads, as models with other numbers of heads need it.
    """

    def __init__(
        self,
        student: str | None = None,
        teacher: str | None = None,
        weight: float = 1.0,
        *,
        mean_heads: bool = False,
    ) -> None:
        super().__init__(student, teacher, weight)
        self.mean_heads = bool(mean_heads)

    def forward(self, student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
        return attention_map_loss(student, teacher, mean_heads=self.mean_heads, rows=rows)


def hint_loss(
    student: Any, teacher: Any, *, distance: str = "mse", axis: int = -1, rows: Tensor | None = None
) -> Tensor:
    """The distance of features from the teacher's, the mean over their rows.

    ``"mse"`` is the mean over features of the squared difference, ``"cosine"`` is 1 less the cosine of the two.

    Parameters
    ----------
    student, teacher : Tensor
        Of one shape, (batch, ..., features) or with the features on another axis.
    distance : str
        ``"mse"`` or ``"cosine"``.
    axis : int
        That of the features.
    rows : Tensor, optional
        The weights of rows, adding up to 1; by default all weigh the same.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.compress import hint_loss
    >>> hint_loss(mg.tensor([[1.0, 3.0]]), mg.tensor([[0.0, 0.0]]))
    tensor(5.)
    """
    student, teacher = wide(student), wide(teacher)
    check_shapes("hint_loss", student, teacher, "Hint(projection=True) learns a map from one to the other")
    if _known_distance("hint_loss", distance) == "mse":
        values = ops.mean(ops.square(student - teacher), axis=axis)
    else:
        products = ops.sum(student * teacher, axis=axis)
        values = 1.0 - products / ops.maximum(_norm(student, axis) * _norm(teacher, axis), 1e-12)
    return row_mean("hint_loss", values, rows)


def attention_map(features: Any, power: float = 2.0, axis: int = 1) -> Tensor:
    """Where features are large: ``sum_c |features_c|^power`` at each place, of length 1 for each example.

    Parameters
    ----------
    features : Tensor
        (batch, channels, *places), or with the channels on another axis.
    power : float
        The exponent p.
    axis : int
        That of the channels.

    Returns
    -------
    Tensor
        (batch, places).

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.compress import attention_map
    >>> attention_map(mg.tensor([[[1.0, 2.0], [1.0, 2.0]]]))
    tensor([[0.24253564, 0.97014254]])
    """
    features = wide(features)
    if features.ndim < 3:
        raise ShapeError(message("attention_map", "features", features, "axes for batch, channels and places"))
    size = ops.square(features) if power == 2.0 else ops.abs(features) ** power
    total = ops.sum(size, axis=axis)
    flat = ops.reshape(total, (total.shape[0], -1))
    return flat / ops.maximum(_norm(flat, -1, keepdims=True), 1e-12)


def attention_transfer_loss(
    student: Any, teacher: Any, *, power: float = 2.0, axis: int = 1, rows: Tensor | None = None
) -> Tensor:
    """The squared distance of the attention maps of features, the mean over examples.

    S. Zagoruyko, N. Komodakis, "Paying more attention to attention: improving the performance of convolutional neural
    networks via attention transfer", 2017, whose code squares the distance too. The channels may be as many as they
    like, the places must be the same.

    Parameters
    ----------
    student, teacher : Tensor
        (batch, channels, *places), or with the channels on another axis.
    power, axis
        As for `attention_map`.
    rows : Tensor, optional
        The weights of examples, adding up to 1; those of several rows of one count together.

    Raises
    ------
    ShapeError
        If the places differ.
    """
    maps = attention_map(student, power, axis), attention_map(teacher, power, axis)
    check_shapes("attention_transfer_loss", *maps, "Take layers of the same resolution")
    values = ops.sum(ops.square(maps[0] - maps[1]), axis=-1)
    if rows is not None and rows.ndim > 1:
        rows = ops.sum(ops.reshape(rows, (rows.shape[0], -1)), axis=1)
    return row_mean("attention_transfer_loss", values, rows)


def attention_map_loss(student: Any, teacher: Any, *, mean_heads: bool = False, rows: Tensor | None = None) -> Tensor:
    """The squared difference of the weights of attention: a sum over keys, the mean over heads and queries.

    X. Jiao et al., "TinyBERT: distilling BERT for natural language understanding", 2020, which compares the scores
    before softmax. Weights are what attention layers with masks, biases and rotary positions have in common, and the
    sum over keys does not change with padding, whose weight is 0 on both sides.

    Parameters
    ----------
    student, teacher : Tensor
        (batch, heads, queries, keys).
    mean_heads : bool
        Compare the means over heads.
    rows : Tensor, optional
        The weights of queries, (batch, queries), adding up to 1.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.compress import attention_map_loss
    >>> attention_map_loss(mg.tensor([[[[1.0, 0.0]]]]), mg.tensor([[[[0.5, 0.5]]]]))
    tensor(0.5)
    """
    student, teacher = wide(student), wide(teacher)
    for name, x in (("student", student), ("teacher", teacher)):
        if x.ndim != 4:
            raise ShapeError(message("attention_map_loss", name, x, "shape (batch, heads, queries, keys)"))
    if mean_heads:
        student, teacher = ops.mean(student, axis=1, keepdims=True), ops.mean(teacher, axis=1, keepdims=True)
    check_shapes("attention_map_loss", student, teacher, "mean_heads=True compares other numbers of heads")
    values = ops.mean(ops.sum(ops.square(student - teacher), axis=-1), axis=1)
    return row_mean("attention_map_loss", values, rows)


def _norm(x: Tensor, axis: int, *, keepdims: bool = False) -> Tensor:
    """Euclidean lengths, whose derivative at 0 is 0."""
    total = ops.sum(ops.square(x), axis=axis, keepdims=keepdims)
    present = total > 0
    return ops.where(present, ops.sqrt(ops.where(present, total, 1.0)), 0.0)


def _known_distance(who: str, distance: Any) -> str:
    if distance not in DISTANCES:
        raise ValueError(message(who, "distance", f"{distance!r}", f"one of {', '.join(map(repr, DISTANCES))}"))
    return str(distance)
