"""GradScaler: a loss scale that follows the range of the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.backend.devices import kernels_of
from minigrad.errors import DTypeError, GradError, describe, message
from minigrad.optim.gradients import (
    agreed,
    is_finite,
    kernels_for,
    parameters_of,
    scale,
    values_of,
    with_gradient,
    writable,
)
from minigrad.optim.optimizer import Optimizer
from minigrad.optim.sam import SAM
from minigrad.tensor import Tensor

__all__ = ["GradScaler"]

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-126  # float32's smallest normal number: the inverse of a smaller scale would not be finite


class GradScaler:
    """Multiply the loss by a scale, so that small gradients survive in float16, and divide the gradients by it again.

    ::

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)      # only where something looks at the gradients, such as clipping
        scaler.step(optimizer)
        scaler.update()

    The scale is dynamic. If a gradient of some step is infinite or NaN, the step is skipped and `update` multiplies the
    scale by `backoff_factor`; after `growth_interval` steps in a row without that, by `growth_factor`. A skipped step
    changes neither parameters nor any state of the optimizer. With powers of two, which the defaults are, a step with a
    scale is to the last digit a step without.

    With a loss and gradients on a GPU nothing is read back: the scale, and whether a step was done, stay in its memory,
    where the kernels of optimizers look at it. `get_scale` and `state_dict` wait for the GPU, and so does what asks
    whether a step was done. Optimizers that have no kernel, and parameters that need more than it, wait too.

    P. Micikevicius et al., "Mixed precision training", 2018. The names and the trajectory of the scale are those of
    ``torch.amp.GradScaler``.

    Parameters
    ----------
    init_scale : float
        The first scale.
    growth_factor, backoff_factor : float
        Above 1, and between 0 and 1.
    growth_interval : int
        How many steps without overflow let the scale grow.
    enabled : bool
        False turns every method into one that does nothing, but `step`, which always takes the step.

    Raises
    ------
    ValueError
        For a number out of range.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import amp, nn, optim
    >>> w = nn.Parameter([3.0])
    >>> optimizer, scaler = optim.SGD([w], lr=0.1), amp.GradScaler()
    >>> for factor in (1.0, float("inf")):
    ...     optimizer.zero_grad()
    ...     scaler.scale((w * w).sum() * factor).backward()
    ...     done = scaler.step(optimizer)
    ...     scaler.update()
    ...     print(done, scaler.get_scale(), w.tolist())
    True 65536.0 [2.4000000953674316]
    False 32768.0 [2.4000000953674316]
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self.enabled = bool(enabled)
        self._load(init_scale, growth_factor, backoff_factor, growth_interval, 0, "GradScaler")
        self._forget()

    def _load(self, scale: Any, growth: Any, backoff: Any, interval: Any, tracker: Any, who: str) -> None:
        """Check and set all numbers."""
        for name, value, low, high in (
            ("init_scale", scale, 0.0, LARGEST),
            ("growth_factor", growth, 1.0, np.inf),
            ("backoff_factor", backoff, 0.0, 1.0),
        ):
            if type(value) is bool or not isinstance(value, Real) or not low < float(value) < high:
                need = f"a number above {low:g} and below {high:g}"
                raise ValueError(message(who, name, describe(value), need))
        for name, value, least in (("growth_interval", interval, 1), ("growth_tracker", tracker, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(message(who, name, describe(value), f"an int of at least {least}"))
        self._set(_rounded(scale), tracker)
        self.growth_factor, self.backoff_factor, self.growth_interval = float(growth), float(backoff), interval

    def _set(self, scale: float, tracker: int) -> None:
        self._scale, self._tracker = scale, tracker
        self._there: Any = None  # both, on the GPU of a loss that was scaled: the newer ones

    def _get(self) -> tuple[float, int]:
        """The scale, and the steps since it last changed."""
        if self._there is None:
            return self._scale, self._tracker
        scale, tracker = self._there.tolist()
        return scale, int(tracker)

    def _on_gpu(self, array: Any) -> Any:
        """The state of the scale where an array lies, put there if it is nowhere; None where it is elsewhere."""
        kernels = kernels_of(array, "gradients")
        if kernels is None:
            return None
        if self._there is None:
            with array.device:
                self._there = kernels.state_of_scale(self._scale, self._tracker)
        return self._there if self._there.device.id == array.device.id else None

    def scale(self, outputs: Any) -> Any:
        """The loss, or a list, tuple or dict of losses, times the scale; half ones in float32.

        Parameters
        ----------
        outputs : Tensor, or a list, tuple or dict of them
            What ``backward`` is to be called on.

        Returns
        -------
        Tensor, list, tuple or dict

        Raises
        ------
        DTypeError
            For something that is no floating tensor.
        """
        if not self.enabled:
            return outputs
        scaled = self._times(outputs)
        self._scaled = True
        return scaled

    def _times(self, outputs: Any) -> Any:
        if isinstance(outputs, dict):
            return {key: self._times(value) for key, value in outputs.items()}
        if isinstance(outputs, (list, tuple)):
            scaled = [self._times(value) for value in outputs]
            return type(outputs)(*scaled) if hasattr(outputs, "_fields") else type(outputs)(scaled)
        if not isinstance(outputs, Tensor) or outputs.dtype not in dtypes.FLOATING:
            raise DTypeError(message("GradScaler.scale", "outputs", outputs, "floating tensors"))
        wide = ops.astype(outputs, dtypes.float32) if outputs.dtype in dtypes.HALF else outputs
        there = self._on_gpu(wide._array)
        if there is None:
            return wide * self._get()[0]
        with there.device:  # a copy: a graph that is kept has the scale of its time
            return wide * tape.new_tensor(there[0].astype(wide.dtype))

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer's parameters by the scale, in place, and note whether they are finite.

        `step` does it where it has not been done. It is for code between ``backward`` and ``step`` that looks at the
        gradients: clipping, penalties, norms to report. All of the optimizer's backward passes come before: what a
        later one adds would stay scaled. A parameter that another optimizer has too is unscaled once.

        Raises
        ------
        GradError
            If it was done since the last `update`, the step too, or no loss has been scaled.
        """
        if not self.enabled:
            return
        self._check("unscale_", optimizer)
        if optimizer in self._finite:
            need = "one call of it for an optimizer between two updates"
            raise GradError(message("GradScaler.unscale_", "unscale_", "called twice", need))
        params = with_gradient("GradScaler.unscale_", parameters_of(optimizer))
        fresh = [p for p in params if id(p) not in self._unscaled]  # another optimizer may share some
        kernels = None if self._there is None or hasattr(optimizer, "agree") else kernels_for(params)
        if kernels is not None and self._there.device.id == params[0]._array.device.id:
            others = [p._grad._array for p in params if id(p) in self._unscaled and p._grad is not None]
            self._finite[optimizer] = kernels.unscale(writable(fresh), others, self._there)
            self._unscaled |= {id(p): p for p in fresh}
            return
        scale(fresh, 1.0 / self._get()[0])
        self._unscaled |= {id(p): p for p in fresh}
        finite = all(is_finite(values_of(p._grad._array)) for p in params if p._grad is not None)
        self._finite[optimizer] = agreed(optimizer, finite)

    def step(self, optimizer: Optimizer) -> bool | Tensor:
        """Call the optimizer's step, unless a gradient is infinite or NaN.

        Parameters
        ----------
        optimizer : Optimizer
            Its gradients are unscaled first, where `unscale_` has not done it.

        Returns
        -------
        bool or Tensor
            Whether the step was done; on a GPU a tensor, whose truth is waited for. Schedules, averages and counts of
            steps are the caller's: let them advance only where it was.

        Raises
        ------
        GradError
            If it was called since the last `update`, or no loss has been scaled since.
        """
        if not self.enabled:
            optimizer.step()
            return True
        self._check("step", optimizer)
        if optimizer not in self._finite:
            self.unscale_(optimizer)
        finite = self._finite[optimizer]
        if not isinstance(finite, bool) and type(optimizer).step is Optimizer.step:
            optimizer._finite = finite
            try:
                optimizer.step()
            finally:
                optimizer._finite = None
            finite = tape.new_tensor(finite)
        elif finite:
            optimizer.step()
        self._stepped.add(optimizer)
        return finite if isinstance(finite, Tensor) else bool(finite)

    def _check(self, name: str, optimizer: Optimizer) -> None:
        """Refuse what is no optimizer, and calls that come too early or too late."""
        who = f"GradScaler.{name}"
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(message(who, "optimizer", optimizer, "an optimizer"))
        if name == "step" and isinstance(optimizer, SAM):
            hint = "sam.ascend(closure) with the scaled loss, then scaler.step(sam.optimizer)"
            raise TypeError(message(who, "optimizer", "a SAM", "the optimizer inside", hint))
        if not self._scaled:
            need = "scaler.scale(loss).backward() before it, after each update"
            raise GradError(message(who, "the loss", "not scaled", need))
        if optimizer in self._stepped:
            raise GradError(message(who, "step", "called already", "scaler.update() after the steps of all optimizers"))

    def update(self, new_scale: float | None = None) -> None:
        """Adapt the scale, once the steps of all optimizers are done.

        Parameters
        ----------
        new_scale : float, optional
            Set the scale to it instead.

        Raises
        ------
        GradError
            If no gradients were unscaled since the last update.
        ValueError
            If `new_scale` is not positive and finite.
        """
        if not self.enabled:
            return
        if new_scale is not None:
            own = self.growth_factor, self.backoff_factor, self.growth_interval, self._get()[1]
            self._load(new_scale, *own, "GradScaler.update")
        elif not self._finite:
            need = "step or unscale_ before it, for one optimizer at least"
            raise GradError(message("GradScaler.update", "gradients", "none unscaled", need))
        elif self._there is None or any(isinstance(finite, bool) for finite in self._finite.values()):
            self._adapt(all(self._finite.values()))
        else:
            self._adapt_there([*self._finite.values()])
        self._forget()

    def _adapt(self, finite: bool) -> None:
        scale, tracker = self._get()
        if not finite:
            self._set(_rounded(scale * self.backoff_factor), 0)
        elif tracker + 1 < self.growth_interval:
            self._set(scale, tracker + 1)
        else:
            grown = scale * self.growth_factor
            self._set(_rounded(grown) if grown < LARGEST else scale, 0)

    def _adapt_there(self, found: list[Any]) -> None:
        """The same, on a GPU."""
        finite, *others = found
        factors = self.growth_factor, self.backoff_factor, self.growth_interval
        with self._there.device:
            for other in others:
                finite = finite & other
            kernels_of(self._there, "gradients").adapt(self._there, finite, *factors, SMALLEST, LARGEST)

    def get_scale(self) -> float:
        """The scale of the next loss; 1 where the scaler is not enabled."""
        return self._get()[0] if self.enabled else 1.0

    def state_dict(self) -> dict[str, Any]:
        """The scale, the factors, the interval and the steps since the scale last changed; empty where not enabled.

        Examples
        --------
        >>> from minigrad import amp
        >>> amp.GradScaler(growth_interval=100).state_dict()["growth_interval"]
        100
        """
        if not self.enabled:
            return {}
        scale, tracker = self._get()
        return {
            "scale": scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "growth_tracker": tracker,
        }

    def load_state_dict(self, state: Any) -> None:
        """Go on from what `state_dict` gave; where not enabled, do nothing.

        Raises
        ------
        ValueError
            If it is not what `state_dict` gives, or one of its numbers is out of range; nothing is changed then.
        """
        if not self.enabled:
            return
        who, names = "GradScaler.load_state_dict", list(self.state_dict())
        if not isinstance(state, Mapping) or set(state) != set(names):
            got = f"a dict with {', '.join(map(repr, state))}" if isinstance(state, Mapping) else describe(state)
            hint = ""
            if state == {}:
                got, hint = "empty", "It is that of a scaler that was not enabled"
            raise ValueError(message(who, "state", got, f"one with {', '.join(names)}", hint))
        scale, growth, backoff, interval, tracker = (state[name] for name in names)
        self._load(scale, growth, backoff, interval, tracker, who)
        self._forget()

    def _forget(self) -> None:
        """Start between two steps."""
        self._scaled = False  # whether a loss was, since the last update
        self._finite: dict[Optimizer, Any] = {}  # what was unscaled since then: a bool, here or on a GPU
        self._stepped: set[Optimizer] = set()
        self._unscaled: dict[int, Tensor] = {}  # parameters whose gradient was

    def __repr__(self) -> str:
        return f"GradScaler(scale={self.get_scale():g}, enabled={self.enabled})"


def _rounded(scale: float) -> float:
    """A scale as float32 holds it, for the loss is multiplied in it; not so small that its inverse overflows."""
    return max(float(np.float32(scale)), SMALLEST)
