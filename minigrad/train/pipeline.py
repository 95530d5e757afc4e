"""Pipeline: one step of the optimizer, from batches to weights, in the order that docs/training.md gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from minigrad import amp, optim, random
from minigrad.dtypes import FLOATING, INTEGER, float32
from minigrad.errors import AxisError, DTypeError, ShapeError, describe, message
from minigrad.tensor import Tensor
from minigrad.train.accumulate import denominator, shares
from minigrad.train.batch import Inputs, call, converted, leaves, map_leaves, split
from minigrad.train.diagnosis import NonFinite, find_nonfinite
from minigrad.train.lookup import name_of

if TYPE_CHECKING:
    from minigrad.train.trainer import Trainer

__all__ = ["Pipeline"]

PATIENCE = 25  # losses in a row that overflow before fp16 gives up: the loss scale does not help a loss that is NaN
SAME = (ShapeError, AxisError, DTypeError, ValueError, TypeError, IndexError)  # errors that a text alone makes


class Pipeline:
    """What a `Trainer` does in one step: loss, scaled backward, unscale, clip, update, schedule, average."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.overflows = 0  # losses that were not finite, in a row
        self._measured = True  # whether the logs count what is computed now
        self._random: Any = None  # the random state before the batch at hand

    def run(self, batches: Sequence[Any]) -> bool:
        """One step over batches that stand for one; whether the weights were updated."""
        t = self.trainer
        parts = [self.prepare(batch) for batch in batches]
        counts = [denominator(t.loss, targets, examples) for _, targets, examples in parts]
        weighted = list(zip(batches, parts, counts, shares(counts), strict=True))
        self._measured = True
        if isinstance(t.optimizer, optim.SAM):
            t.optimizer.ascend(lambda: self._all_gradients(weighted))
        else:
            self._all_gradients(weighted)
        return self._update()

    def prepare(self, batch: Any) -> tuple[Inputs, Any, int]:
        """Inputs, targets and the number of examples, as tensors on the device."""
        return split(converted(batch, self.trainer.device))

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision to compute in."""
        dtype = self.trainer.autocast_dtype
        return nullcontext() if dtype is None else amp.autocast(dtype)

    def loss(self, inputs: Inputs, targets: Any) -> tuple[Any, Tensor]:
        """The model's output, and the loss."""
        t = self.trainer
        with self.autocast():
            outputs = call(t.model, inputs)
            try:
                loss = t.loss(outputs, targets)
            except SAME as error:
                raise self._named(error, outputs, targets) from error
        if not isinstance(loss, Tensor) or loss.ndim:
            need = "a tensor without axes"
            raise ShapeError(message("Trainer", f"what the loss {name_of(t.loss)} gives", loss, need, "Take its mean"))
        return outputs, loss

    def measure(self, metrics: Sequence[Any], outputs: Any, targets: Any) -> None:
        """Let metrics see a batch; targets that the loss ignores weigh nothing."""
        if not metrics:
            return
        arrays, wanted = map_leaves(_array, outputs), map_leaves(_array, targets)
        ignored, weight = getattr(self.trainer.loss, "ignore_index", None), None
        if ignored is not None and getattr(wanted, "dtype", None) in INTEGER:
            weight = (wanted != ignored).astype(float32)
        for metric in metrics:
            metric.update(arrays, wanted, weight)

    # --- the parts of a step ----------------------------------------------------------------------------------------

    def _all_gradients(self, weighted: Sequence[Any]) -> None:
        """The gradient of all parts together; where it is asked for again, the logs do not count it again."""
        self.trainer.optimizer.zero_grad()
        for part in weighted:
            self._gradients(*part)
        self._measured = False

    def _gradients(self, batch: Any, part: tuple[Inputs, Any, int], count: float | None, share: float) -> None:
        """Add the gradient of one part to those of the parameters."""
        t = self.trainer
        t.batch = batch
        inputs, targets, examples = part
        seen: list[Any] = [None]
        self._random = random.get_state()

        def compute(given: Any) -> Tensor:
            outputs, loss = self.loss(given if isinstance(given, (tuple, dict)) else (given,), targets)
            self._check(loss.item(), part)
            seen[0] = outputs
            return loss

        def backward(loss: Tensor, weight: float = 1.0) -> None:
            factor = weight * share
            if factor != 1.0:
                loss = loss * factor
            (loss if t.scaler is None else t.scaler.scale(loss)).backward()

        if t.adversary is None:
            loss = compute(inputs)
            backward(loss)
        else:
            alone = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
            loss = t.adversary(compute, alone, backward, self._replay)
        if self._measured:
            self.measure(t.metrics, seen[0], targets)
            t.sums.add(float(loss.item()), count, examples)

    def _replay(self) -> None:
        """A step between the replays of one batch."""
        self._update()
        self.trainer.optimizer.zero_grad()

    def _clip(self) -> None:
        t = self.trainer
        if t.clip_norm is not None:
            clip = getattr(t.optimizer, "clip_grad_norm_", None)  # that of one whose gradients several ranks hold
            norm = float(clip(t.clip_norm) if clip else optim.clip_grad_norm_(t.trained(), t.clip_norm))
            if t.scaler is None and t.nan == "raise" and not math.isfinite(norm):
                self._fail(f"the norm of the gradient is {norm}", self.prepare(t.batch))
            if math.isfinite(norm):
                t.sums.norm(norm)
        if t.clip_value is not None:
            optim.clip_grad_value_(t.trained(), t.clip_value)

    def _update(self) -> bool:
        """Gradients to weights; False where an overflow skipped the step, and nothing advances."""
        t = self.trainer
        rule = t.optimizer.optimizer if isinstance(t.optimizer, optim.SAM) else t.optimizer
        if t.scaler is not None:
            t.scaler.unscale_(rule)
        self._clip()
        t.callbacks.on_before_update(t.logs)
        if t.scaler is None:
            rule.step()
        else:
            done = t.scaler.step(rule)
            t.scaler.update()
            if not done:
                t.skipped += 1
                return False
        t.step += 1
        if t.schedule is not None and t.schedule_per == "step":
            t.schedule.step()
        if t.ema is not None:
            t.ema.update()
        return True

    # --- errors -----------------------------------------------------------------------------------------------------

    def _check(self, value: float, part: tuple[Inputs, Any, int]) -> None:
        """Stop at a loss that is not finite, before it reaches the weights."""
        t = self.trainer
        if math.isfinite(value):
            self.overflows = 0
        elif t.nan == "raise":
            self.overflows += 1
            if t.scaler is None or self.overflows >= PATIENCE:
                often = f" {self.overflows} times in a row" if t.scaler is not None else ""
                self._fail(f"the loss is {value}{often}", part)

    def _fail(self, what: str, part: tuple[Inputs, Any, int]) -> None:
        t = self.trainer
        where = f"epoch {t.epoch}, batch {t.batch_index}"
        raise NonFinite(f"Trainer: {what} in {where}: {self.diagnose(part)}. Trainer.batch has the batch")

    def diagnose(self, part: tuple[Inputs, Any, int] | None = None) -> str:
        """Run the batch at hand again, and say where the first NaN or infinity comes from."""
        inputs, targets, _ = self.prepare(self.trainer.batch) if part is None else part
        state = self._random or random.get_state()
        return find_nonfinite(self.trainer.model, inputs, targets, lambda: self.loss(inputs, targets)[1], state)

    def _named(self, error: Exception, outputs: Any, targets: Any) -> Exception:
        """The same error, which says too what the loss was given and by which layer."""
        t = self.trainer
        path, layer = t.model.named_modules()[-1]
        last = f", whose last layer is {path} ({type(layer).__name__})" if path else ""
        kinds = [", ".join(describe(leaf) for leaf in leaves(nest)) for nest in (outputs, targets)]
        kind = type(error) if type(error) in SAME else ValueError
        return kind(
            f"Trainer: the loss {name_of(t.loss)} does not fit. It was given the output of {type(t.model).__name__}"
            f"{last}: {kinds[0]}; and the targets: {kinds[1]}. {error}"
        )


def _array(leaf: Any) -> Any:
    """The array of a tensor, a half one in float32: counts and means need the digits."""
    if not isinstance(leaf, Tensor):
        return leaf
    array = leaf._array
    return array.astype(float32) if array.dtype in FLOATING and array.dtype.itemsize == 2 else array
