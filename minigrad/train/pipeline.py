"""Pipeline: one step of the optimizer, from batches to weights, in the order that docs/training.md gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from minigrad import amp, ops, optim, random
from minigrad.dtypes import FLOATING, HALF, INTEGER, float32, float64
from minigrad.errors import AxisError, DTypeError, ShapeError, describe, message
from minigrad.nn.module import Module
from minigrad.optim.gradients import agreed, all_finite
from minigrad.tensor import Tensor
from minigrad.train.accumulate import denominator
from minigrad.train.batch import Inputs, StandIn, call, converted, leaves, map_leaves, split
from minigrad.train.diagnosis import NonFinite, find_nonfinite, origin
from minigrad.train.graphed_gradients import GraphedGradients
from minigrad.train.lookup import name_of
from minigrad.train.sums import Sums

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
        self._sums = trainer.sums  # those that this rank adds to, and its metrics
        self._metrics: Sequence[Any] = ()
        self._found: tuple[float, tuple[Inputs, Any, int]] | None = None  # a loss that is not finite, and its part
        self._random: Any = None  # the random state before the batch at hand
        self._graphs: Any = None
        if trainer.graph:
            models = [trainer.model, *([trainer.loss] if isinstance(trainer.loss, Module) else [])]
            self._graphs = GraphedGradients(models, self._compute)

    def run(self, batches: Sequence[Any]) -> bool:
        """One step over batches that stand for one; whether the weights were updated."""
        t = self.trainer
        parts = [self.prepare(batch) for batch in batches]
        counts = [self.count(targets, examples) for _, targets, examples in parts]
        shares = t.ranks.shares(counts, [examples for *_, examples in parts])
        weighted = list(zip(batches, parts, counts, shares, strict=True))
        self._measured, self._metrics = True, t.ranks.parts(t.metrics)
        self._sums = t.sums if t.ranks.size == 1 else Sums()
        if isinstance(t.optimizer, optim.SAM):
            t.optimizer.ascend(lambda: self._all_gradients(weighted))
        else:
            self._all_gradients(weighted)
        done = self._update()
        t.ranks.merge(t.metrics, self._metrics)
        return done

    def prepare(self, batch: Any) -> tuple[Inputs, Any, int]:
        """Inputs, targets and the number of examples, as tensors on the device; none where it only stands in."""
        if isinstance(batch, StandIn):
            return (*self.prepare(batch.batch)[:2], 0)
        return split(converted(batch, self.trainer.device))

    def count(self, targets: Any, examples: int) -> float | None:
        """What the mean of the loss over these targets divides by; nothing counts in a batch that only stands in."""
        found = denominator(self.trainer.loss, targets, examples)
        return found if found is None or examples else 0.0

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision to compute in."""
        dtype = self.trainer.autocast_dtype
        return nullcontext() if dtype is None else amp.autocast(dtype)

    def loss(self, inputs: Inputs, targets: Any) -> tuple[Any, Tensor]:
        """The model's output, and the loss."""
        t = self.trainer
        with self.autocast():
            outputs = call(t.ranks.called if t.model.training else t.model, inputs)
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
        for number, (batch, part, count, share) in enumerate(weighted, 1):
            with self.trainer.ranks.synced(number == len(weighted)):
                self._gradients(batch, part, count, share, number == 1)
        self._measured = False

    def _gradients(
        self, batch: Any, part: tuple[Inputs, Any, int], count: float | None, share: float, first: bool
    ) -> None:
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

        if self._graphs is not None:
            seen[0], loss = self._graphs(first, inputs, targets, *self._factors(share))
            self._check(loss.item(), part)
        elif t.adversary is None:
            loss = compute(inputs)
            backward(loss)
        else:
            alone = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
            loss = t.adversary(compute, alone, backward, self._replay)
        if self._measured and examples:
            self.measure(self._metrics, seen[0], targets)
            value = float(loss.item())
            if t.scaler is None or math.isfinite(value):  # its step is skipped, and the mean of the epoch is not lost
                self._sums.add(value, count, examples)

    def _compute(self, inputs: Inputs, targets: Any, share: Tensor, scale: Tensor | None) -> tuple[Any, Tensor]:
        """Add the gradient of a part of the loss, times a scale; numbers that a graph would freeze are tensors."""
        outputs, loss = self.loss(inputs, targets)
        part = loss * share.astype(loss.dtype)
        if scale is not None:
            part = (part.astype(float32) if part.dtype in HALF else part) * scale
        part.backward()
        return outputs, loss

    def _factors(self, share: float) -> tuple[Tensor, Tensor | None]:
        """A part's share of the loss and the loss scale, on the GPU."""
        t = self.trainer
        device = next(p.device for p in t.model.parameters())
        scale = None if t.scaler is None else t.scaler.scale(ops.ones((), dtype=float32, device=device))
        return ops.full((), share, dtype=float64, device=device), scale

    def _replay(self) -> None:
        """A step between the replays of one batch."""
        self._update()
        self.trainer.optimizer.zero_grad()

    def _clip(self, rule: Any) -> None:
        t = self.trainer
        if t.clip_norm is not None:
            clip = getattr(t.optimizer, "clip_grad_norm_", None)  # that of one whose gradients several ranks hold
            norm = float(clip(t.clip_norm) if clip else optim.clip_grad_norm_(t.trained(), t.clip_norm))
            if t.scaler is None and t.nan == "raise" and not math.isfinite(norm):
                self._fail(f"the norm of the gradient is {norm}")
            if math.isfinite(norm):
                t.sums.norm(norm)
        elif t.scaler is None and t.nan == "raise" and not self._finite(rule):
            self._fail("the gradient is not finite")
        if t.clip_value is not None:
            optim.clip_grad_value_(t.trained(), t.clip_value)

    def _finite(self, rule: Any) -> bool:
        """Whether the gradients are, on all ranks."""
        grads = [p._grad for p in self.trainer.trained()]
        return agreed(rule, all_finite(grad._array for grad in grads if grad is not None))

    def _update(self) -> bool:
        """Gradients to weights; False where an overflow skipped the step, and nothing advances."""
        t = self.trainer
        rule = t.optimizer.optimizer if isinstance(t.optimizer, optim.SAM) else t.optimizer
        self._agree()
        if t.scaler is not None:
            t.scaler.unscale_(rule)
        self._clip(rule)
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
            t.ranks.share_buffers()  # it has copies of them
            t.ema.update()
        return True

    # --- errors -----------------------------------------------------------------------------------------------------

    def _check(self, value: float, part: tuple[Inputs, Any, int]) -> None:
        """Stop at a loss that is not finite, before it reaches the weights; of several ranks all do, in `_agree`."""
        if self.trainer.ranks.size > 1:
            if self._found is None and not math.isfinite(value):
                self._found = (value, part)
        else:
            self._judge(not math.isfinite(value), (value, part))

    def _agree(self) -> None:
        """Add up what the ranks have computed, and stop where the loss of one is not finite."""
        t = self.trainer
        if t.ranks.size == 1:
            return
        (found, self._found), step = (self._found, None), self._sums
        failed, loss, weight = t.ranks.total(found is not None, step.loss, step.weight)
        self._judge(failed > 0, found)
        t.sums.loss, t.sums.weight = t.sums.loss + loss, t.sums.weight + weight

    def _judge(self, failed: bool, found: tuple[float, tuple[Inputs, Any, int]] | None) -> None:
        t = self.trainer
        if not failed:
            self.overflows = 0
        elif t.nan == "raise":
            self.overflows += 1
            if t.scaler is None or self.overflows >= PATIENCE:
                often = f" {self.overflows} times in a row" if t.scaler is not None else ""
                self._fail("" if found is None else f"the loss is {found[0]}{often}", found and found[1])

    def _fail(self, what: str, part: tuple[Inputs, Any, int] | None = None) -> None:
        """Raise, on all ranks what those have found that know of it."""
        t = self.trainer
        where = f"epoch {t.epoch}, batch {t.batch_index}"
        text = what and f"Trainer: {what} in {where}: {self.diagnose(part)}. Trainer.batch has the batch"
        raise NonFinite(origin([found for found in t.ranks.gather(text) if found]))

    def diagnose(self, part: tuple[Inputs, Any, int] | None = None) -> str:
        """Run the batch at hand again, and say where the first NaN or infinity comes from."""
        inputs, targets, _ = self.prepare(self.trainer.batch) if part is None else part
        state = self._random or random.get_state()
        with self.trainer.ranks.apart():
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
