"""DistillationLoss: what a student is to lower, and what one call of the distiller leaves for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigrad import amp, dtypes, nn, ops
from minigrad.compress.distillation.means import wide
from minigrad.compress.distillation.soft_targets import soft_target_loss
from minigrad.compress.distillation.taps import pick
from minigrad.errors import message
from minigrad.tensor import Tensor
from minigrad.train.accumulate import denominator
from minigrad.train.batch import length

if TYPE_CHECKING:
    from minigrad.compress.distillation.distiller import Distiller

__all__ = ["OUTPUT", "Call", "DistillationLoss", "taken_at"]

NAME = "Distiller"
OUTPUT = "(output)"  # the name of a model's output among what is kept of it; no tap has it


class Call:
    """One call of the distiller, until its loss is asked for."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], index: Tensor | None) -> None:
        self.args, self.kwargs, self.index = args, kwargs, index
        self.output: Any = None
        self.features: dict[str, Tensor] = {}  # of the student, by tap
        self.projected: list[Tensor] = []  # what each term compares
        self.teacher: dict[str, Tensor] | None = None  # output and features of the teacher, None until it ran


class DistillationLoss:
    """The loss of a `Distiller`: that of its last call, from what that gave and the targets."""

    def __init__(self, distiller: Distiller) -> None:
        self.distiller = distiller

    @property
    def hard(self) -> Any:
        """The loss of the labels."""
        return self.distiller._hard.module

    @property
    def ignore_index(self) -> int | None:
        """The target that does not count, if the loss of the labels has one."""
        return getattr(self.hard, "ignore_index", None) if self.distiller.alpha < 1.0 else None

    def denominator(self, targets: Any) -> float | None:
        """What the mean divides by: that of the loss of the labels, or the number of examples."""
        hard = self.hard if self.distiller.alpha < 1.0 else None
        return denominator(hard, targets, length(targets))

    def __call__(self, outputs: Any, targets: Any = None) -> Tensor:
        """The loss, a tensor without axes."""
        d = self.distiller
        call, d._call = d._call, None
        if call is None or call.output is not outputs:
            got = "no outputs of the last call"
            hint = "loss(distiller(x), y); to compare something else than what the student gives, see output="
            raise ValueError(message(f"{NAME}.loss", "outputs", got, "what the distiller gave just before", hint))
        if call.teacher is None:
            call.teacher = d._teach(call)
        parts: dict[str, Tensor] = {}
        own = pick(NAME, outputs, d.output)
        total: Tensor | None = None
        if d.alpha < 1.0:
            parts["hard"] = self.hard(own, targets)
            total = parts["hard"] * (1.0 - d.alpha)
        with amp.autocast(enabled=False):
            rows = self._rows(targets, own)
            tokens = None if d.mask is None else _masked(d.mask(*call.args, **call.kwargs))
            if d.alpha:
                options: dict[str, Any] = {"kind": d.kind, "direction": d.direction}
                options["rows"] = tokens if rows is None else rows
                parts["soft"] = soft_target_loss(own, call.teacher[OUTPUT], d.temperature, **options)
                total = _plus(total, parts["soft"] * d.alpha)
            for i, (term, features) in enumerate(zip(d.terms, call.projected)):
                wanted = taken_at(call.teacher, term.teacher_tap, "teacher")
                value = term(wide(features), wide(wanted), rows if tokens is None else tokens)
                parts[f"{i}: {type(term).__name__}"] = value
                total = _plus(total, value * term.weight)
        d.parts = {name: value.detach() for name, value in parts.items()}
        assert total is not None  # alpha is more than 0 or less than 1
        return total

    def _rows(self, targets: Any, output: Tensor) -> Tensor | None:
        """The weight that the loss of the labels gives each row of logits, None where all weigh the same."""
        hard, ignored = self.hard, self.ignore_index
        weight = getattr(hard, "weight", None) if isinstance(hard, (nn.CrossEntropyLoss, nn.NLLLoss)) else None
        if self.distiller.alpha == 1.0 or (ignored is None and weight is None):
            return None
        labels = ops.asarray(targets)
        if labels.dtype not in dtypes.INTEGER:
            return None
        counted = ops.ones_like(labels, dtype=dtypes.bool) if ignored is None else labels != ignored
        rows = ops.astype(counted, wide(output).dtype)
        if weight is not None:
            places = ops.reshape(ops.where(counted, labels, 0), (-1,))
            rows = rows * ops.reshape(ops.take(weight, places, axis=0), rows.shape)
        total = ops.sum(rows)
        return ops.divide(rows, ops.where(total > 0, total, 1.0))


def _plus(total: Tensor | None, value: Tensor) -> Tensor:
    """The sum so far with one part more."""
    return value if total is None else total + value


def _masked(mask: Any) -> Tensor:
    """The weights of rows whose examples all weigh the same, and their tokens too."""
    counted = ops.astype(ops.asarray(mask), dtypes.float32)
    examples = counted.shape[0]
    tokens = ops.maximum(ops.sum(ops.reshape(counted, (examples, -1)), axis=1), 1.0)
    return ops.divide(counted, ops.reshape(tokens * examples, (examples, *[1] * (counted.ndim - 1))))


def taken_at(found: dict[str, Tensor], tap: str | None, who: str) -> Tensor:
    """What a tap has taken."""
    name = OUTPUT if tap is None else tap
    if name not in found:
        got = f"{who}: {tap!r}, a module that did not run"
        raise ValueError(message(NAME, "tap", got, "one that every call of the model runs"))
    return found[name]
