"""Sparsity: what pruning has left of a model, layer by layer, as a table and a picture."""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import numpy as np

from minigrad.autograd import no_grad
from minigrad.backend.devices import to_numpy
from minigrad.compress.pruning.forms import pattern_of, smallest
from minigrad.errors import describe, message
from minigrad.io.files import FilePath
from minigrad.nn.checks import extent, kept_buffers
from minigrad.nn.masks import mask_of
from minigrad.nn.mode import evaluation
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter

__all__ = ["Row", "Sparsity", "sparsity"]

HEADINGS = ("Parameter", "Shape", "Weights", "Zeros", "Sparsity", "Dense", "Sparse", "Form", "Time")


class Row(NamedTuple):
    """One parameter: how many weights, how many are 0, how many a mask leaves out, bytes, and the layer's time."""

    name: str
    layer: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    masked: int
    dense_bytes: int
    sparse_bytes: int
    form: str
    seconds: float | None

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        return self.zeros / self.weights if self.weights else 0.0


class Sparsity(NamedTuple):
    """What `sparsity` gives: printed, a table; `plot` draws it."""

    rows: list[Row]

    @property
    def weights(self) -> int:
        """The number of all weights, biases among them."""
        return sum(row.weights for row in self.rows)

    @property
    def zeros(self) -> int:
        """How many are 0."""
        return sum(row.zeros for row in self.rows)

    @property
    def total(self) -> float:
        """The share of zeros in the whole model."""
        return self.zeros / self.weights if self.weights else 0.0

    @property
    def pruned(self) -> float:
        """The share that masks leave out, of the parameters that have a mask."""
        rows = [row for row in self.rows if row.masked]
        return sum(row.masked for row in rows) / sum(row.weights for row in rows) if rows else 0.0

    @property
    def dense_bytes(self) -> int:
        """Bytes of all values."""
        return sum(row.dense_bytes for row in self.rows)

    @property
    def sparse_bytes(self) -> int:
        """Bytes of what `save_sparse` writes of them."""
        return sum(row.sparse_bytes for row in self.rows)

    def plot(self, path: FilePath, *, dpi: int = 120) -> None:
        """Draw it: the sparsity, the bytes and, if it was measured, the time of each parameter's layer.

        Parameters
        ----------
        path : path
            The image; its ending says what kind (``.png``, ``.svg``, ``.pdf``).
        dpi : int
            Dots an inch.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        from minigrad.compress.pruning.sparsity_plot import plot

        plot(self, path, dpi)

    def __repr__(self) -> str:
        timed = any(row.seconds is not None for row in self.rows)
        table = [HEADINGS]
        for row in self.rows:
            seconds = "" if row.seconds is None else f"{row.seconds * 1e3:.3f} ms"
            table.append(
                (row.name, str(row.shape), f"{row.weights:,}", f"{row.zeros:,}", f"{row.sparsity:.1%}",
                 f"{row.dense_bytes:,} B", f"{row.sparse_bytes:,} B", row.form, seconds)
            )  # fmt: skip
        if not timed:
            table = [line[:-1] for line in table]  # type: ignore[misc]
        count = len(table[0])
        widths = [max(len(line[i]) for line in table) for i in range(count)]
        lines = [
            "  ".join(
                line[i].ljust(widths[i]) if i in (0, 1, 7) else line[i].rjust(widths[i]) for i in range(count)
            ).rstrip()
            for line in table
        ]
        rule = "-" * (sum(widths) + 2 * (count - 1))
        lines[1:1] = [rule]
        ratio = self.dense_bytes / self.sparse_bytes if self.sparse_bytes else 1.0
        lines += [
            rule,
            f"Weights: {self.weights:,}, of which {self.zeros:,} are 0 ({self.total:.2%})",
            f"Bytes: {self.dense_bytes:,} dense, {self.sparse_bytes:,} sparse: {ratio:.1f} times smaller",
        ]
        return "\n".join(lines)


def sparsity(model: Module, *inputs: Any, repeats: int = 5) -> Sparsity:
    """Count the zeros of a model, and what it takes dense and sparse.

    Parameters
    ----------
    model : Module
        The model; a shared parameter is counted once.
    *inputs
        What to call the model with to measure the time of its layers: in evaluation mode, without a graph.
    repeats : int
        How many calls; the median is given, after one that does not count.

    Returns
    -------
    Sparsity

    Examples
    --------
    >>> from minigrad import compress, nn
    >>> compress.prune(nn.Dense(64, in_features=64), 0.75)
    Parameter  Shape     Weights  Zeros  Sparsity     Dense   Sparse  Form
    ----------------------------------------------------------------------
    weight     (64, 64)    4,096  3,072     75.0%  16,384 B  4,608 B  bits
    bias       (64,)          64     64    100.0%     256 B      8 B  bits
    ----------------------------------------------------------------------
    Weights: 4,160, of which 3,136 are 0 (75.38%)
    Bytes: 16,640 dense, 4,616 sparse: 3.6 times smaller
    """
    given: Any = model
    if not isinstance(given, Module):
        raise TypeError(message("sparsity", "model", describe(given), "a module"))
    seconds = _times(model, inputs, extent("sparsity", "repeats", repeats)) if inputs else {}
    owner: dict[int, Module] = {}
    for module in model.modules():
        for _, member in module._members():
            if isinstance(member, Parameter):
                owner.setdefault(id(member), module)
    rows = []
    for name, p in model.named_parameters():
        x, layer = to_numpy(p._array), owner[id(p)]
        keep = mask_of(p, f"sparsity: {name}")
        pattern = pattern_of(x)
        if keep is not None and not (pattern & ~keep).any():
            stored = keep  # a kept weight that happens to be 0 is stored, so that the mask comes for nothing
        else:
            stored = pattern
        form, size = smallest(x.shape, x.dtype.itemsize, int(np.count_nonzero(stored)))
        if keep is not None and (form == "dense" or stored is pattern):
            size += -(-x.size // 8)
        masked = 0 if keep is None else int(x.size - np.count_nonzero(keep))
        zeros = int(x.size - np.count_nonzero(x))
        kind = type(layer).__name__
        rows.append(Row(name, kind, x.shape, x.size, zeros, masked, x.nbytes, size, form, seconds.get(id(layer))))
        seconds.pop(id(layer), None)  # beside the layer's first parameter
    return Sparsity(rows)


class _Clock:
    """Hooks that measure the calls of layers; one that is called several times has the sum."""

    def __init__(self) -> None:
        self.spent: dict[int, float] = {}
        self.begun: dict[int, float] = {}

    def start(self, module: Module, args: tuple[Any, ...]) -> None:
        self.begun[id(module)] = time.perf_counter()

    def stop(self, module: Module, args: tuple[Any, ...], output: Any) -> None:
        now = time.perf_counter()
        self.spent[id(module)] = self.spent.get(id(module), 0.0) + now - self.begun[id(module)]


def _times(model: Module, inputs: tuple[Any, ...], repeats: int) -> dict[int, float]:
    """The median time of each layer that has parameters of its own."""
    layers = [m for m in model.modules() if any(isinstance(member, Parameter) for _, member in m._members())]
    runs: list[dict[int, float]] = []
    with kept_buffers(model.buffers()), no_grad(), evaluation():
        for _ in range(repeats + 1):
            clock = _Clock()
            undo = [m.register_forward_pre_hook(clock.start) for m in layers]
            undo += [m.register_forward_hook(clock.stop) for m in layers]
            try:
                model(*inputs)
            finally:
                for remove in undo:
                    remove()
            runs.append(clock.spent)
    return {key: statistics.median(run.get(key, 0.0) for run in runs[1:]) for key in runs[-1]}
