"""EMA and SWA: averages of the weights over the steps of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.autograd import no_grad
from minigrad.errors import message
from minigrad.nn.batch_norm import BatchNorm
from minigrad.nn.deferred import check_initialized
from minigrad.nn.masks import mask_beside
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.optim.schedules import checks
from minigrad.tensor import Tensor

__all__ = ["EMA", "SWA", "Average", "update_bn"]

Array = Any  # an array of the parameter's backend


class Average:
    """Base of the averages: a copy of each parameter that moves towards it, ``average += share * (weight - average)``.

    A subclass says how large the share is. The first update copies the weights, so it may come before the first batch
    or after many. Half parameters are averaged in float32. A parameter that is shared is averaged once. Where a
    parameter has a mask, its average is 0 too. Buffers, such as the statistics of `BatchNorm`, are copied at each
    update.

    Parameters
    ----------
    model : Module
        Whose weights are averaged.

    Attributes
    ----------
    updates : int
        The number of updates so far.

    Raises
    ------
    TypeError
        If the model is none.
    """

    def __init__(self, model: Module) -> None:
        if not isinstance(model, Module):
            raise TypeError(message(self._who, "model", model, "a module"))
        self.model = model
        self.updates = 0
        self._weights: dict[str, Array] = {}
        self._buffers: dict[str, Array] = {}

    @property
    def _who(self) -> str:
        return type(self).__name__

    def share(self, updates: int) -> float:
        """How far the average moves towards the weights, after so many updates, of which there was one at least."""
        raise NotImplementedError(f"{self._who}: needs a method share(self, updates)")

    def update(self) -> None:
        """Take in the weights as they are now.

        Raises
        ------
        ShapeError
            If a parameter still waits for its first batch.
        ValueError
            If the model has other parameters, or shapes, than at the update before.
        """
        weights, buffers = _tensors(self._who, self.model)
        if self.updates:
            self._fit("update", weights, self._weights)
            share = self.share(self.updates)
            for name, p in weights.items():
                average = self._weights[name]
                moved = p._array.astype(average.dtype)  # a copy, which becomes the way to go
                moved -= average
                moved *= share
                average += moved
        else:
            self._weights = {name: p._array.astype(_working(p)) for name, p in weights.items()}
        self._leave_out(weights)
        self._buffers = {name: t._array.copy() for name, t in buffers.items()}
        self.updates += 1

    @contextmanager
    def average(self) -> Iterator[Module]:
        """The model with the averages in place of its weights, until the end of the block, whatever happens there.

        Afterwards the weights and buffers are bit for bit what they were. What the block did to the buffers, such as
        `update_bn`, stays with the averages; what it did to the weights is dropped.

        Yields
        ------
        Module
            The model.

        Raises
        ------
        ValueError
            Before the first update, or if the model has other parameters than then.
        """
        weights, buffers = self._ready("average", self.model)
        own = {name: t._array.copy() for name, t in (weights | buffers).items()}
        try:
            self._write(weights, buffers)
            yield self.model
        finally:
            for name, t in buffers.items():
                self._buffers[name] = t._array.copy()
            for name, t in (weights | buffers).items():
                t._array[...] = own[name]
                tape.mark_changed(t)

    def copy_to(self, model: Module) -> None:
        """Write averages and buffers into a model like the one that is averaged; its own masks leave out what they do.

        Parameters
        ----------
        model : Module
            With the same names and shapes; values are cast to its dtypes.

        Raises
        ------
        ValueError
            Before the first update, or if the model does not fit.
        """
        self._write(*self._ready("copy_to", model))

    def _leave_out(self, weights: Mapping[str, Parameter]) -> None:
        """Set the averages of what the masks of the model leave out to 0."""
        for name, p in weights.items():
            keep = mask_beside(p, f"{self._who}: {name}")
            own = self._weights.get(name)
            if keep is not None and own is not None and own.shape == keep.shape:
                np.copyto(own, 0, where=~keep)

    def _ready(self, call: str, model: Module) -> tuple[dict[str, Parameter], dict[str, Tensor]]:
        if not self.updates:
            raise ValueError(message(f"{self._who}.{call}", "updates", "0", "at least one", "Call update() first"))
        weights, buffers = _tensors(self._who, model)
        self._fit(call, weights, self._weights)
        self._fit(call, buffers, self._buffers)
        # a mask may have come after the last update; those of another model are its own
        self._leave_out(weights if model is self.model else dict(self.model.named_parameters()))
        return weights, buffers

    def _write(self, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        for tensors, values in ((weights, self._weights), (buffers, self._buffers)):
            for name, t in tensors.items():
                t._array[...] = values[name].astype(t.dtype, copy=False)
                keep = mask_beside(t, f"{self._who}: {name}")
                if keep is not None:
                    np.copyto(t._array, 0, where=~keep)
                tape.mark_changed(t)

    def _fit(self, call: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        found, need = ({name: tuple(v.shape) for name, v in values.items()} for values in (given, own))
        if found != need:
            name = next(name for name in [*need, *found] if found.get(name) != need.get(name))
            got = f"{found[name]}" if name in found else "missing"
            raise ValueError(
                message(f"{self._who}.{call}", f"shape of {name!r}", got, f"{need.get(name, 'no tensor of this name')}")
            )

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A snapshot: the number of updates, and copies of the averages and the buffers by name."""
        weights, buffers = (
            {name: tape.new_tensor(a.copy()) for name, a in arrays.items()} for arrays in (self._weights, self._buffers)
        )
        return {"average": self._who, "updates": self.updates, "weights": weights, "buffers": buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; all of it fits, or nothing is changed.

        Parameters
        ----------
        state : mapping
            Its tensors may be arrays.

        Raises
        ------
        TypeError
            If it is no mapping.
        ValueError
            If it is of another kind of average, or of a model with other names or shapes.
        """
        who = f"{self._who}.load_state_dict"
        if not isinstance(state, Mapping):
            raise TypeError(message(who, "state", state, "what state_dict gives"))
        keys = ["average", "buffers", "updates", "weights"]
        if sorted(map(str, state)) != keys:
            raise ValueError(message(who, "keys of the state", f"{sorted(map(str, state))}", f"{keys}"))
        if state["average"] != self._who:
            raise ValueError(message(who, "average", f"{state['average']!r}", f"{self._who!r}"))
        weights, buffers = dict(state["weights"]), dict(state["buffers"])
        if state["updates"]:
            own_weights, own_buffers = _tensors(self._who, self.model)
            self._fit("load_state_dict", weights, own_weights)
            self._fit("load_state_dict", buffers, own_buffers)
            weights = {k: ops.tensor(v, dtype=_working(own_weights[k]))._array for k, v in weights.items()}
            buffers = {k: ops.tensor(v, dtype=own_buffers[k].dtype)._array for k, v in buffers.items()}
        self._weights, self._buffers, self.updates = weights, buffers, int(state["updates"])

    def __repr__(self) -> str:
        return f"{self._who}({type(self.model).__name__}, updates={self.updates})"


class EMA(Average):
    """An exponential moving average of the weights.

    The first update copies the weights; from then on ``average = d * average + (1 - d) * weight`` with d = `decay`, in
    update t + 1 after t updates with

    - `warmup`: ``d = min(decay, (1 + t) / (10 + t))``, so that early weights are forgotten soon;
    - `bias_correction`: ``d = decay * (1 - decay**t) / (1 - decay ** (t + 1))``, which is the average that starts from
      0, divided by the sum of its shares, as the moments of Adam are.

    B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by averaging", 1992. Statistics of
    `BatchNorm`, which are running averages already, are copied.

    Parameters
    ----------
    model : Module
        Whose weights are averaged.
    decay : float
        From 0 to 1.
    warmup, bias_correction : bool
        At most one of them.

    Raises
    ------
    TypeError
        If the model is none.
    ValueError
        If the decay is no share, or both options are set.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim
    >>> model = nn.Dense(1, bias=False, in_features=1, kernel_initializer="ones")
    >>> ema = optim.EMA(model, decay=0.75)
    >>> ema.update()
    >>> with mg.no_grad():
    ...     model.weight[...] = 5.0
    >>> ema.update()
    >>> with ema.average():
    ...     model.weight.item()
    2.0
    >>> model.weight.item()
    5.0
    """

    def __init__(
        self, model: Module, decay: float = 0.999, *, warmup: bool = False, bias_correction: bool = False
    ) -> None:
        super().__init__(model)
        self.decay = checks.real("EMA", "decay", decay, 0.0, 1.0)
        if warmup and bias_correction:
            raise ValueError(message("EMA", "bias_correction", "True", "warmup=False: one of the two"))
        self.warmup, self.bias_correction = bool(warmup), bool(bias_correction)

    def share(self, updates: int) -> float:
        """How far the average moves towards the weights."""
        if self.warmup:
            return 1.0 - min(self.decay, (1.0 + updates) / (10.0 + updates))
        if self.bias_correction and self.decay < 1.0:
            return (1.0 - self.decay) / (1.0 - self.decay ** (updates + 1))
        return 1.0 / (updates + 1) if self.bias_correction else 1.0 - self.decay  # the limit for a decay of 1


class SWA(Average):
    """The plain mean of the weights at all updates: stochastic weight averaging.

    Call `update` at the end of each epoch (or cycle of the rate) once the weights are good already, with a rate that
    stays high. The statistics of `BatchNorm` are not those of the mean weights: let `update_bn` compute them, inside
    `average`, or after `copy_to`.

    P. Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018.

    Parameters
    ----------
    model : Module
        Whose weights are averaged.

    Raises
    ------
    TypeError
        If the model is none.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim
    >>> model = nn.Dense(1, bias=False, in_features=1, kernel_initializer="ones")
    >>> swa = optim.SWA(model)
    >>> for value in (1.0, 2.0, 6.0):
    ...     with mg.no_grad():
    ...         model.weight[...] = value
    ...     swa.update()
    >>> with swa.average():
    ...     model.weight.item()
    3.0
    """

    def share(self, updates: int) -> float:
        """How far the average moves towards the weights."""
        return 1.0 / (updates + 1)


def update_bn(model: Module, loader: Iterable[Any]) -> None:
    """Compute the statistics of every `BatchNorm` of a model anew, as means over all batches.

    The model runs in training mode without recording; afterwards its modes and momenta are as before. The variance is
    the mean of the batches' variances.

    Parameters
    ----------
    model : Module
        With the weights that the statistics are for.
    loader : iterable
        Batches: the model's input, or a tuple or list that has it first.

    Raises
    ------
    TypeError
        If the model or the loader is none.
    ValueError
        If there are no batches. After any error the statistics are what they were.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim
    >>> model = nn.BatchNorm1D(affine=False)
    >>> optim.update_bn(model, [mg.tensor([[1.0], [3.0]]), mg.tensor([[5.0], [7.0]])])
    >>> model.running_mean.tolist(), model.running_var.tolist()
    ([4.0], [2.0])
    """
    given: Any = loader
    if not isinstance(model, Module):
        raise TypeError(message("update_bn", "model", model, "a module"))
    if not isinstance(given, Iterable) and not hasattr(given, "__getitem__"):
        raise TypeError(message("update_bn", "loader", given, "an iterable of batches"))
    modes = [(module, module.training) for module in model.modules()]
    layers = [m for m, _ in modes if isinstance(m, BatchNorm) and m.running_mean is not None]
    momenta = [layer.momentum for layer in layers]
    if not layers:
        return
    kept_values = [(t, t._array.copy()) for layer in layers for t in layer.buffers()]
    done = False
    try:
        model.train()
        for layer in layers:
            layer.momentum = None  # the mean of all batches, counted from the first
            for buffer in (layer.running_mean, layer.num_batches_tracked):
                if buffer is not None:
                    buffer._array[...] = 0  # of an infinite mean nothing is left either
                    tape.mark_changed(buffer)
            if layer.running_var is not None:
                layer.running_var._array[...] = 1
                tape.mark_changed(layer.running_var)
        with no_grad():
            for batch in loader:
                model(batch[0] if isinstance(batch, (tuple, list)) else batch)
                done = True
            if not done:
                hint = "An iterator that was used up has none"
                raise ValueError(message("update_bn", "loader", "without batches", "one at least", hint))
    except BaseException:
        for t, values in kept_values:
            if t._array.shape == values.shape:  # else the first batch has completed it
                t._array[...] = values
                tape.mark_changed(t)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training


def _tensors(who: str, model: Module) -> tuple[dict[str, Parameter], dict[str, Tensor]]:
    """The parameters and the buffers of a model, by name, each once."""
    weights = dict(model.named_parameters())
    for name, p in weights.items():
        check_initialized(who, name, p)
    return weights, dict(model.named_buffers())


def _working(p: Tensor) -> Any:
    """The dtype in which a parameter is averaged."""
    return dtypes.float32 if p.dtype.itemsize == 2 else p.dtype
