"""Distiller: a student and its teacher as one model to train."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

from minigrad import nn, ops
from minigrad.autograd import no_grad
from minigrad.compress.distillation.distillation_loss import OUTPUT, Call, DistillationLoss, taken_at
from minigrad.compress.distillation.features import Term
from minigrad.compress.distillation.soft_targets import check_kind
from minigrad.compress.distillation.taps import capture, check_tap, pick
from minigrad.compress.distillation.teacher_cache import Indexed, TeacherCache, checksum, code_of
from minigrad.compress.distillation.teachers import EMATeacher, Ensemble
from minigrad.errors import describe, layer_path, message
from minigrad.io.files import FilePath
from minigrad.nn.checks import kept_buffers, number, positive
from minigrad.nn.mode import evaluation
from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.train.lookup import find_loss, name_of

__all__ = ["Distiller"]

NAME = "Distiller"
# what a loss says of its targets
KIND_OF: list[tuple[tuple[type, ...], str]] = [
    ((nn.CrossEntropyLoss, nn.SoftmaxFocalLoss, nn.NLLLoss), "classes"),
    ((nn.BCEWithLogitsLoss, nn.SigmoidFocalLoss), "binary"),
    ((nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss), "regression"),
]


class Box:
    """Holds the teacher so that the walk over the tree does not find it."""

    def __init__(self, module: Module) -> None:
        self.module = module


class Distiller(Module):
    """Train a student to do as a teacher does: the model, and the loss, that a `Trainer` or a loop is given.

    Called, it gives what the student gives, and remembers what the loss needs:

        loss = (1 - alpha) hard(student, targets) + alpha soft(student, teacher) + sum_k weight_k term_k

    where `hard` is the loss of the labels and `soft` is `soft_target_loss` at the temperature, T^2 included. The
    teacher runs without a graph and in evaluation mode, whatever its own mode, and nothing of it changes; it is no part
    of the tree, so it is neither trained nor saved. Only training and a loss call it; a prediction does not.

    Parameters
    ----------
    student : Module
        What is trained.
    teacher : Module, EMATeacher or iterable of Module
        What it learns from. Several teachers become an `Ensemble` that averages probabilities at the temperature.
    temperature : float
        T of the soft targets.
    alpha : float
        From 0 (labels alone) to 1 (the teacher alone: the targets are not looked at).
    loss : str, callable or None
        That of the labels, as for `Trainer`; a mean. None with alpha=1.
    terms : iterable of Term
        What is added: `Hint`, `AttentionTransfer`, `AttentionMaps`, `RelationDistances`, `RelationAngles`,
        `tinybert_terms`.
    kind : str, optional
        What the outputs are, see `soft_target_loss`; by default what the loss says, else ``"classes"``.
    direction : str
        See `soft_target_loss`.
    output : int, str or callable, optional
        Which tensor of what a model gives is compared, for models that give several: a number, a name, or a function
        of the output. It counts for both models and for the loss of the labels.
    mask : callable, optional
        Of the same inputs as the model, the tokens that count: (batch, length) bools. In terms (and in soft targets,
        where the loss of the labels does not ignore any itself) an example then counts as the mean over its tokens. By
        default all count, or those that the loss does not ignore.

    Attributes
    ----------
    student : Module
        The student; save it by ``student.state_dict()``.
    terms : list of Term
        With the projections, which are trained too and belong to the distiller's state.
    loss : DistillationLoss
        ``loss(outputs, targets)``, of the call before.
    parts : dict of str to Tensor
        What the last loss was made of: ``"hard"``, ``"soft"``, and each term by its number and class, before weights.

    Raises
    ------
    TypeError
        If the student or the teacher is no module.
    ValueError
        If the two share parameters, an option is out of range, or a tap does not exist.

    Notes
    -----
    A loss that ignores targets or weighs classes counts rows of logits and of features alike, so k accumulated
    batches make the step of the large one. Relations are an exception: they are those of the batch at hand.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn, train
    >>> mg.random.seed(0)
    >>> x = mg.random.normal((64, 2))
    >>> y = (x[:, 0] > x[:, 1]).astype(mg.int64)
    >>> teacher = nn.Sequential([nn.Dense(64, activation="relu", in_features=2), nn.Dense(2, in_features=64)])
    >>> distiller = compress.Distiller(nn.Dense(2, in_features=2), teacher, temperature=2.0, alpha=0.9)
    >>> trainer = train.Trainer(distiller, distiller.loss, "adam", ["accuracy"], lr=0.05, seed=1)
    >>> history = trainer.fit((x, y), epochs=10, verbose=0)
    >>> history["loss"][-1] < history["loss"][0], list(distiller.student.state_dict())
    (True, ['weight', 'bias'])
    """

    def __init__(
        self,
        student: Module,
        teacher: Module | EMATeacher | Iterable[Module],
        temperature: float = 4.0,
        alpha: float = 0.5,
        *,
        loss: Any = "cross_entropy",
        terms: Iterable[Term] = (),
        kind: str | None = None,
        direction: str = "forward",
        output: Any = None,
        mask: Callable[..., Any] | None = None,
    ) -> None:
        if not isinstance(student, Module):
            raise TypeError(message(NAME, "student", describe(student), "a Module"))
        self.temperature = positive(NAME, "temperature", temperature)
        self.alpha = number(NAME, "alpha", alpha)
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(message(NAME, "alpha", f"{alpha}", "a number from 0 to 1"))
        if loss is None and self.alpha < 1.0:
            raise ValueError(message(NAME, "loss", None, "a loss of the labels", "alpha=1 does without"))
        self._hard = Box(None if loss is None else find_loss(loss))  # type: ignore[arg-type]
        if getattr(self._hard.module, "reduction", "mean") == "sum":
            raise ValueError(message(NAME, "loss", "a sum", "a mean", "Soft targets and terms are means over examples"))
        self.kind = self._kind_of(self._hard.module) if kind is None else kind
        check_kind(NAME, self.kind, direction)
        self.direction, self.output, self.mask = direction, output, mask
        if not (mask is None or callable(mask)):
            raise TypeError(message(NAME, "mask", describe(mask), "a function of the model's inputs"))
        if isinstance(terms, Module) or not isinstance(terms, Iterable):
            raise TypeError(message(NAME, "terms", describe(terms), "a list of terms"))
        self.student = student
        self.terms = list(terms)
        self.follows = isinstance(teacher, EMATeacher)
        self._box = Box(self._one_teacher(teacher))
        self._check()
        self.parts: dict[str, Tensor] = {}
        self._call: Call | None = None
        self._cache: TeacherCache | None = None

    def _kind_of(self, loss: Any) -> str:
        kinds = [kind for classes, kind in KIND_OF if isinstance(loss, classes)]
        if not kinds and self.alpha and loss is not None and loss is not nn.functional.cross_entropy:
            need = "one of those whose outputs are known to be logits or numbers"
            raise ValueError(message(NAME, "loss", name_of(loss), need, "Say kind= what the outputs are"))
        return kinds[0] if kinds else "classes"

    def _one_teacher(self, teacher: Any) -> Module:
        if isinstance(teacher, EMATeacher):
            return teacher.model
        if isinstance(teacher, Module):
            return teacher
        if not isinstance(teacher, Iterable):
            raise TypeError(message(NAME, "teacher", describe(teacher), "a Module, several, or an EMATeacher"))
        return Ensemble(teacher, temperature=self.temperature, kind=self.kind, output=self.output)

    def _check(self) -> None:
        """Raise where the models, or what is taken of them, do not fit together."""
        shared = {id(p) for p in self.teacher.parameters()} & {id(p) for p in self.student.parameters()}
        if shared:
            got = f"{len(shared)} parameters of the student too"
            raise ValueError(message(NAME, "teacher", got, "parameters of its own", "copy.deepcopy(model) makes them"))
        for name, p in self.teacher.named_parameters():
            if not p.is_initialized:
                got = f"{name} waits for its first batch"
                raise ValueError(message(NAME, "teacher", got, "a trained model"))
        for term in self.terms:
            if not isinstance(term, Term):
                raise TypeError(message(NAME, "terms", describe(term), "objects such as Hint(...)"))
            if term.student_tap is not None:
                check_tap(f"{NAME}: student", self.student, term.student_tap, recorded=True)
            if term.teacher_tap is not None:
                check_tap(f"{NAME}: teacher", self.teacher, term.teacher_tap)

    @property
    def teacher(self) -> Module:
        """The teacher, several as an `Ensemble`."""
        return self._box.module

    @property
    def loss(self) -> DistillationLoss:
        """The loss of the call before, as a function of outputs and targets."""
        return DistillationLoss(self)

    def to(self, target: Any = None, *, dtype: Any = None, device: Any = None) -> Self:
        """As `Module.to`; the teacher follows to the device and keeps its dtype."""
        super().to(target, dtype=dtype, device=device)
        place = device if device is not None else target
        if isinstance(place, str) and place.split(":")[0] in ("cpu", "cuda"):
            for module in (self.teacher, self._hard.module):
                if isinstance(module, Module):
                    module.to(device=place)
        return self

    # --- a step -----------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the student gives. With a cache the first argument, or ``index``, is the numbers of the examples.

        Raises
        ------
        ValueError
            If there is a cache and no such numbers while training; in evaluation the teacher then runs.
        """
        index = None
        if self._cache is not None:
            index, args, kwargs = _taken(self._cache, args, kwargs)
            if index is None and self.training:
                need = "batches of the dataset that cache() gave"
                raise ValueError(message(NAME, "index", "missing", need, "Train on what it returns"))
        self._call = None
        call = Call(args, kwargs, index)
        with capture(self.student, self._taps("student_tap")) as call.features:
            call.output = self.student(*args, **kwargs)
        if self.training or not all(p.is_initialized for term in self.terms for p in term.parameters()):
            call.teacher = self._teach(call)
        if any(term.student_tap is None for term in self.terms):
            call.features[OUTPUT] = pick(NAME, call.output, self.output)
        for term in self.terms:
            features = taken_at(call.features, term.student_tap, "student")
            if call.teacher is not None:
                term.complete(features, taken_at(call.teacher, term.teacher_tap, "teacher"))
            call.projected.append(term.project(features))
        self._call = call
        return call.output

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are without the last call and its graph."""
        return {**vars(self), "_call": None}

    def _taps(self, which: str) -> list[str]:
        return [tap for term in self.terms if (tap := getattr(term, which)) is not None]

    def _teach(self, call: Call) -> dict[str, Tensor]:
        """The output and features of the teacher."""
        if self._cache is not None and call.index is not None:
            return self._cache.read(call.index, call.args, call.kwargs)
        return self._run_teacher(call.args, call.kwargs)

    def _run_teacher(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
        teacher = self.teacher
        own = None if isinstance(teacher, Ensemble) else self.output
        taps = self._taps("teacher_tap")
        token = layer_path.set("teacher")  # what an error says
        try:
            with no_grad(), evaluation(), kept_buffers(teacher.buffers()), capture(teacher, taps) as found:
                found[OUTPUT] = pick(f"{NAME}: teacher", teacher(*args, **kwargs), own).detach()
        finally:
            layer_path.reset(token)
        return found

    # --- the teacher on disk ----------------------------------------------------------------------------------------

    def cache(
        self, path: FilePath, dataset: Any, *, batch_size: int = 64, collate: Any = None, refresh: bool = False
    ) -> Indexed:
        """Let the teacher say once what it makes of every example, keep that in a file, and read it from now on.

        The file holds the outputs, and the features that the terms need, with a checksum of the teacher and of each
        example's inputs. It is written in batches, appears whole or not at all, and is mapped into memory, not read.
        One that is there already is used if it is of this teacher and these examples.

        Parameters
        ----------
        path : path
            The file.
        dataset : Dataset
            What is trained on; items are ``(inputs, ..., target)`` or dicts with ``"targets"``.
        batch_size : int
            How many examples go through the teacher at once.
        collate : callable, optional
            As for `DataLoader`; the examples must come out of one shape, in training as here.
        refresh : bool
            Write it anew.

        Returns
        -------
        Indexed
            The dataset whose items begin with their number: what the loader for training is made of.

        Raises
        ------
        DataError
            If the file is damaged, or of another teacher or other examples.
        ValueError
            If the teacher follows the student. Later, if an example is not what the teacher has seen: what is
            augmented cannot be cached.
        """
        if self.follows:
            raise ValueError(message(f"{NAME}.cache", "teacher", "an EMATeacher, which changes", "one that does not"))
        indexed = Indexed(dataset)
        self._cache = None
        taps = list(dict.fromkeys([OUTPUT, *self._taps("teacher_tap")]))
        key = checksum(self.teacher, [*taps, code_of(self.output) if callable(self.output) else str(self.output)])
        self._cache = TeacherCache.make(
            path, indexed, key, self._run_teacher, batch_size=batch_size, collate=collate, refresh=refresh
        )
        return indexed


def _taken(
    cache: TeacherCache, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor | None, tuple[Any, ...], dict[str, Any]]:
    """The numbers of the examples, None where there are none, and the other arguments."""
    if "index" in kwargs:
        kwargs = dict(kwargs)
        return ops.asarray(kwargs.pop("index")), args, kwargs
    if args and len(args) == cache.positional + 1:
        return ops.asarray(args[0]), args[1:], kwargs
    return None, args, kwargs
