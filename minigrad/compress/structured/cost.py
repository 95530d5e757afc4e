"""measure: what a forward of a model costs: operations, parameters, bytes, seconds."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

from minigrad.autograd import no_grad
from minigrad.compress.pruning.sparse_dense import SparseDense
from minigrad.compress.quantization.quantized_dense import QuantizedDense
from minigrad.compress.structured.follow import is_convolution
from minigrad.compress.structured.structure import is_linear
from minigrad.compress.structured.units import is_count
from minigrad.errors import describe, message
from minigrad.models.bert import MaskedLMHead
from minigrad.models.language_model import LanguageModel
from minigrad.nn.attention import MultiHeadAttention
from minigrad.nn.module import Module

__all__ = ["Cost", "measure"]


@dataclass(frozen=True)
class Cost:
    """What a forward of a model costs.

    Attributes
    ----------
    flops : int
        Multiplications and additions of its products, two for each pair.
    parameters : int
        How many there are, shared ones once.
    bytes : int
        Their memory, with buffers.
    seconds : float
        The median time of a forward.
    """

    flops: int
    parameters: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.flops / 1e6:.2f} MFLOPs, {self.parameters:,} parameters, {self.bytes / 1e6:.2f} MB, "
            f"{self.seconds * 1e3:.3f} ms"
        )

    def beside(self, before: Cost) -> str:
        """A table: what it was before, what it is now, and the share.

        Examples
        --------
        >>> from minigrad.compress import Cost
        >>> print(Cost(500_000, 300, 1200, 0.001).beside(Cost(2_000_000, 900, 3600, 0.003)))
                        before        now  share
        MFLOPs           2.000      0.500  25.0%
        parameters         900        300  33.3%
        kB               3.600      1.200  33.3%
        ms               3.000      1.000  33.3%
        """
        rows = [f"{'':<12}{'before':>10} {'now':>10}  share"]
        for name, unit, scale in (
            ("flops", "MFLOPs", 1e-6),
            ("parameters", "", 1),
            ("bytes", "kB", 1e-3),
            ("seconds", "ms", 1e3),
        ):
            old, new = getattr(before, name), getattr(self, name)
            texts = [f"{value:,}" if scale == 1 else f"{value * scale:,.3f}" for value in (old, new)]
            share = f"{new / old:.1%}" if old else "-"
            rows.append(f"{unit or name:<12}{texts[0]:>10} {texts[1]:>10} {share:>6}")
        return "\n".join(rows)


def measure(model: Module, *inputs: Any, repeats: int = 5, **options: Any) -> Cost:
    """Count the operations of a forward, and take its time.

    Counted are the products of `Dense` and the other linear maps, quantized ones as they were and sparse ones by the
    weights that are left, convolutions, attention, and the logits of language
    models, two operations for each multiplication and addition; a layer that is called twice counts twice. What is
    linear in the features (biases, activations, norms), embeddings, recurrent layers and products in a forward of your
    own are left out.

    Parameters
    ----------
    model : Module
        Is called in evaluation mode without a graph, and is as before afterwards.
    *inputs, **options
        What it is called with.
    repeats : int
        How many forwards are timed, after a first one that is not.

    Returns
    -------
    Cost

    Raises
    ------
    TypeError
        If the model is no module.
    ValueError
        If `repeats` is not positive.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> model = nn.Sequential([nn.Dense(4, "relu", in_features=3), nn.Dense(2, in_features=4)])
    >>> cost = compress.measure(model, mg.ones((10, 3)))
    >>> cost.flops, cost.parameters, cost.bytes  # 2 * 10 * (3 * 4 + 4 * 2)
    (400, 26, 104)
    """
    given: Any = model
    if not isinstance(given, Module):
        raise TypeError(message("measure", "model", describe(given), "a module"))
    if not is_count(repeats):
        raise ValueError(message("measure", "repeats", describe(repeats), "an int of at least 1"))
    count = [0]
    removes = []

    def note(module: Module, args: tuple[Any, ...], output: Any) -> None:
        count[0] += _operations(module, args, output)

    modes = [(m, m.__dict__.get("training", True)) for m in model.modules()]
    try:
        model.eval()
        with no_grad():
            for m in model.modules():
                removes.append(m.register_forward_hook(note))
            model(*inputs, **options)
            for remove in removes:
                remove()
            removes.clear()
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                model(*inputs, **options)
                times.append(time.perf_counter() - start)
    finally:
        for remove in removes:
            remove()
        for m, mode in modes:
            m.training = mode
    parameters = model.parameters()
    size = sum(t._array.nbytes for t in (*parameters, *model.buffers()))
    return Cost(count[0], sum(p.size for p in parameters), size, statistics.median(times))


def _operations(module: Any, args: tuple[Any, ...], output: Any) -> int:
    """Those of one layer in one call."""
    if is_linear(module):
        return int(2 * output.size * module.weight.shape[0])
    if isinstance(module, QuantizedDense):
        return int(2 * output.size * module.in_features)
    if isinstance(module, SparseDense):
        return int(2 * output.size // module.units * module.values.size)
    if is_convolution(module):
        each = math.prod(module.kernel_size)
        if module.transposed:
            return int(2 * args[0].size * module.weight.shape[1] * each)
        return int(2 * output.size * module.weight.shape[1] * each)
    if isinstance(module, MultiHeadAttention):
        x = args[0]
        keys = args[1] if len(args) > 1 and args[1] is not None else x
        pairs = math.prod(x.shape[:-1]) * keys.shape[-2] * module.num_heads
        last: Any = module.output
        own = last.weight.shape[0] // module.num_heads
        return int(2 * pairs * ((module.head_dim or 0) + own))
    if isinstance(module, (LanguageModel, MaskedLMHead)) and output.ndim:
        features = module.tokens.weight.shape[1] if isinstance(module, LanguageModel) else args[1].shape[1]
        return int(2 * output.size * features)
    return 0
