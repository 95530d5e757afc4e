"""Evaluation and prediction: the model without training, over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from minigrad import ops
from minigrad.autograd import no_grad
from minigrad.data import DataLoader
from minigrad.errors import message
from minigrad.tensor import Tensor
from minigrad.train.batch import call, converted, inputs_of, length
from minigrad.train.source import Source, is_dataset, plain
from minigrad.train.sums import Sums

if TYPE_CHECKING:
    from minigrad.train.trainer import Trainer

__all__ = ["evaluate", "evaluating", "predict"]


@contextmanager
def evaluating(trainer: Trainer) -> Iterator[None]:
    """Evaluation mode, no graph, and the averaged weights where there are some; all as before afterwards."""
    modes = [(module, module.training) for module in trainer.model.modules()]
    averaged = trainer.ema.average() if trainer.ema is not None and trainer.ema.updates else nullcontext()
    trainer.model.eval()
    try:
        with no_grad(), averaged:
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    trainer: Trainer, source: Source, check: Callable[[], None] | None = None, steps: int | None = None
) -> dict[str, Any]:
    """Loss and metrics over one pass, or so many batches, in which a last, smaller one weighs what it holds.

    Several ranks share each batch, and all of them get what all have found; `check` is called after each.
    """
    pipeline, metrics, sums = trainer.pipeline, trainer.test_metrics, Sums()
    for metric in metrics:
        metric.reset()
    parts = trainer.ranks.parts(metrics)
    taken = 0
    with evaluating(trainer):
        while (steps is None or taken < steps) and (batches := source.take(1)):
            taken += 1
            inputs, targets, examples = pipeline.prepare(batches[0])
            if examples:
                outputs, loss = pipeline.loss(inputs, targets)
                sums.add(loss.item(), pipeline.count(targets, examples), examples)
                pipeline.measure(parts, outputs, targets)
            if check is not None:
                check()
    if steps is not None:
        source.rewind()
    sums.loss, sums.weight = trainer.ranks.total(sums.loss, sums.weight)
    trainer.ranks.merge(metrics, parts)
    return sums.means() | {metric.name: metric.result() for metric in metrics}


def predict(trainer: Trainer, x: Any, batch_size: int) -> Any:
    """The model's outputs for all of `x`, put together along axis 0."""
    parts = []
    with evaluating(trainer):
        for inputs in _input_batches(x, batch_size, trainer.dtype):
            with trainer.pipeline.autocast():
                parts.append(call(trainer.model, converted(inputs, trainer.device)))
    if not parts:
        raise ValueError(message("Trainer.predict", "x", "empty", "at least one example"))
    return _joined(parts)


def _input_batches(x: Any, batch_size: int, dtype: Any) -> Iterator[Any]:
    if hasattr(x, "shape"):
        x = (x,)
    if isinstance(x, Mapping) or (isinstance(x, tuple) and x and all(hasattr(part, "shape") for part in x)):
        arrays = {
            key: plain(part, dtype) for key, part in (x if isinstance(x, Mapping) else dict(enumerate(x))).items()
        }
        lengths = {length(part) for part in arrays.values()}
        if len(lengths) != 1:
            got = f"of {', '.join(str(length(part)) for part in arrays.values())} examples"
            raise ValueError(message("Trainer.predict", "x", got, "inputs of as many examples each"))
        for start in range(0, lengths.pop(), batch_size):
            part = {key: array[start : start + batch_size] for key, array in arrays.items()}
            yield part if isinstance(x, Mapping) else tuple(part.values())
        return
    if is_dataset(x):
        x = DataLoader(x, batch_size, seed=0)
    source = Source(x, "x")
    while batches := source.take(1):
        yield inputs_of(batches[0])


def _joined(parts: Sequence[Any]) -> Any:
    """Nests of one form as one nest, its leaves joined along axis 0."""
    first = parts[0]
    if isinstance(first, Tensor):
        return first if len(parts) == 1 else ops.concat(list(parts))
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        joined = [_joined(column) for column in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    if first is None:
        return None
    raise TypeError(message("Trainer.predict", "the model's output", first, "tensors, in tuples, lists or dicts"))
