"""Teachers: several as one, an average of the student itself, and generations of students."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from minigrad import ops, optim
from minigrad.compress.distillation.means import wide
from minigrad.compress.distillation.soft_targets import KINDS
from minigrad.compress.distillation.taps import pick
from minigrad.errors import ShapeError, describe, message
from minigrad.nn.checks import extent, number, positive
from minigrad.nn.containers import ModuleList
from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.train.callbacks import Callback

__all__ = ["EMATeacher", "Ensemble", "born_again"]

AVERAGES = ("probabilities", "logits")


class Ensemble(Module):
    """Several teachers as one: it gives the logits of the mean of their probabilities, or the mean of their logits.

    With probabilities the result z is such that its softmax at the temperature T is the mean of the teachers',

        z = T log(sum_k w_k softmax(z_k / T))

    and so for sigmoids. G. Hinton et al., 2015; for generations of students T. Furlanello et al., "Born again neural
    networks", 2018.

    Parameters
    ----------
    teachers : iterable of Module
        At least one; all are called with the same inputs.
    weights : iterable of float, optional
        How much each counts, scaled to a sum of 1; equal by default.
    average : str
        ``"probabilities"`` or ``"logits"``.
    temperature : float
        T.
    kind : str
        ``"classes"``, ``"binary"`` or ``"regression"``, whose outputs are averaged as they are.
    output : int, str or callable, optional
        Which tensor of a teacher's output to take; see `Distiller`.

    Attributes
    ----------
    teachers : list of Module
        The teachers.

    Raises
    ------
    ValueError
        If there are none, or the weights do not fit.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> from minigrad.compress import Ensemble
    >>> certain = [nn.Lambda(lambda x, sign=sign: x * 0.0 + mg.tensor([20.0 * sign, 0.0])) for sign in (1, -1)]
    >>> mg.round(mg.softmax(Ensemble(certain, weights=[3, 1])(mg.zeros((1, 2)))), 4)
    tensor([[0.75, 0.25]])
    """

    def __init__(
        self,
        teachers: Iterable[Module],
        weights: Iterable[float] | None = None,
        *,
        average: str = "probabilities",
        temperature: float = 1.0,
        kind: str = "classes",
        output: Any = None,
    ) -> None:
        given: Any = teachers
        if (isinstance(given, Module) and not isinstance(given, ModuleList)) or not isinstance(given, Iterable):
            raise TypeError(message("Ensemble", "teachers", describe(given), "several modules, in a list"))
        self.teachers = list(teachers)
        if not self.teachers:
            raise ValueError(message("Ensemble", "teachers", "empty", "at least one"))
        for teacher in self.teachers:
            if not isinstance(teacher, Module):
                raise TypeError(message("Ensemble", "teachers", describe(teacher), "modules"))
        for name, value, known in (("average", average, AVERAGES), ("kind", kind, KINDS)):
            if value not in known:
                raise ValueError(message("Ensemble", name, f"{value!r}", f"one of {', '.join(map(repr, known))}"))
        given = [1.0] * len(self.teachers) if weights is None else [number("Ensemble", "weights", w) for w in weights]
        if len(given) != len(self.teachers) or not all(0 <= w < np.inf for w in given) or not sum(given):
            need = f"{len(self.teachers)} numbers of at least 0, and not all of them 0"
            raise ValueError(message("Ensemble", "weights", f"{given}", need))
        self.weights = [w / sum(given) for w in given]
        self.average, self.kind, self.output = average, kind, output
        self.temperature = positive("Ensemble", "temperature", temperature)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the teachers say of some inputs together."""
        outputs = [wide(pick("Ensemble", teacher(*args, **kwargs), self.output)) for teacher in self.teachers]
        if len({x.shape for x in outputs}) > 1:
            shapes = ", ".join(str(tuple(x.shape)) for x in outputs)
            raise ShapeError(message("Ensemble", "outputs", f"of shapes {shapes}", "one shape"))
        parts = [(w, x) for w, x in zip(self.weights, outputs) if w]
        if self.average == "logits" or self.kind == "regression":
            total: Tensor = parts[0][1] * parts[0][0]
            for w, x in parts[1:]:
                total = total + x * w
            return total
        t = self.temperature
        if self.kind == "classes":
            return _log_mean([(w, ops.log_softmax(x / t, axis=-1)) for w, x in parts]) * t
        yes, no = (_log_mean([(w, ops.log_sigmoid(x * (sign / t))) for w, x in parts]) for sign in (1.0, -1.0))
        return (yes - no) * t

    def extra_repr(self) -> str:
        """How they are averaged."""
        shown = ", ".join(f"{w:.4g}" for w in self.weights)
        return f"average={self.average!r}, temperature={self.temperature}, kind={self.kind!r}, weights=[{shown}]"


class EMATeacher(Callback):
    """A teacher that follows its student: the exponential average of its weights, which this callback updates.

    It begins as a copy. A. Tarvainen, H. Valpola, "Mean teachers are better role models", 2017.

    Parameters
    ----------
    student : Module
        Whose parameters have their shapes.
    decay : float
        As for `optim.EMA`.

    Attributes
    ----------
    model : Module
        The teacher.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn, optim
    >>> student = nn.Dense(3, in_features=2)
    >>> teacher = compress.EMATeacher(student, decay=0.9)
    >>> distiller = compress.Distiller(student, teacher)
    >>> optimizer = optim.SGD(distiller.parameters(), lr=0.1)
    >>> distiller.loss(distiller(mg.ones((4, 2))), mg.tensor([0, 1, 2, 0])).backward()
    >>> optimizer.step()
    >>> teacher.update()  # in a loop of one's own; in a Trainer callbacks=[teacher] does it
    """

    def __init__(self, student: Module, decay: float = 0.999) -> None:
        if not isinstance(student, Module):
            raise TypeError(message("EMATeacher", "student", describe(student), "a Module"))
        self.average = optim.EMA(student, decay)
        student.state_dict()  # raises for parameters without a shape
        self.model = copy.deepcopy(student).requires_grad_(False)
        for p in self.model.parameters():
            p.mask = None  # the averages are 0 where the student's masks of now say so
        self._step = 0

    def update(self) -> None:
        """Take in the student's weights as they are now; once after each step."""
        self.average.update()
        self.average.copy_to(self.model)

    def on_train_begin(self, logs: dict[str, Any]) -> None:
        self._step = self.trainer.step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        if self.trainer.step != self._step:  # an overflow may have skipped the step
            self._step = self.trainer.step
            self.update()

    def state_dict(self) -> dict[str, Any]:
        """The average, and the step that it has seen last."""
        return {"average": self.average.state_dict(), "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.average.load_state_dict(state["average"])
        self._step = int(state["step"])
        if self.average.updates:
            self.average.copy_to(self.model)


def born_again(
    make: Callable[[], Module], fit: Callable[[Module, Module | None], Any], generations: int = 2
) -> list[Module]:
    """Train generations of one architecture, each with the one before as its teacher.

    Often the later ones are better than the first, and an `Ensemble` of all is better still. T. Furlanello et al.,
    "Born again neural networks", 2018.

    Parameters
    ----------
    make : callable
        Makes a student.
    fit : callable
        ``fit(student, teacher)`` trains it in place; the first generation has None for a teacher.
    generations : int
        How many.

    Returns
    -------
    list of Module
        The generations, in evaluation mode.

    Examples
    --------
    >>> from minigrad import nn
    >>> from minigrad.compress import born_again
    >>> seen = []
    >>> made = born_again(lambda: nn.Dense(2), lambda student, teacher: seen.append(teacher), 3)
    >>> seen[0], seen[1] is made[0], seen[2] is made[1]
    (None, True, True)
    """
    for name, given in (("make", make), ("fit", fit)):
        if not callable(given):
            raise TypeError(message("born_again", name, describe(given), "a function"))
    students: list[Module] = []
    student: Any
    for _ in range(extent("born_again", "generations", generations)):
        student = make()
        if not isinstance(student, Module) or any(student is earlier for earlier in students):
            raise TypeError(message("born_again", "what make gives", describe(student), "a new Module each time"))
        fit(student, students[-1] if students else None)
        students.append(student.eval())
    return students


def _log_mean(parts: list[tuple[float, Tensor]]) -> Tensor:
    """The logarithm of the weighted mean of the exponentials."""
    return ops.logsumexp(ops.stack([x + float(np.log(w)) for w, x in parts]), axis=0)
